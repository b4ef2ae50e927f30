"""Access tokens as AWS Cognito issues them: RS256, checked claim by claim, verified once and remembered."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import jwt

from access.jwks import KeySource
from access.principal import Principal, Role
from errors import Unauthenticated

_LEEWAY_S: Final = 30
_LONGEST_TOKEN: Final = 8192
_LONGEST_SUBJECT: Final = 128
_REMEMBERED: Final = 10_000
_REQUIRED: Final = ["exp", "iat", "iss", "sub", "token_use", "client_id", "jti"]


class TokenVerifier:
    """Turns a bearer token into a principal.

    Only the header's `kid` is used, to pick a key that we already trust; `jku`, `jwk` and `x5u` are never looked at.
    """

    def __init__(
        self,
        keys: KeySource,
        *,
        issuer: str,
        client_ids: Collection[str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._client_ids = frozenset(client_ids)
        self._clock = clock
        # An RSA check costs more than the small model: a token that was good stays good until it expires.
        self._good: OrderedDict[bytes, Principal] = OrderedDict()

    async def verify(self, token: str) -> Principal:
        """Raises Unauthenticated, always with the same words, whatever is wrong."""
        if len(token) > _LONGEST_TOKEN:
            raise Unauthenticated("The token is not valid.")
        fingerprint = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._good.get(fingerprint)
        if known is not None and self._clock() < known.expires_at:
            return known
        principal = await self._check(token)
        self._good[fingerprint] = principal
        if len(self._good) > _REMEMBERED:
            self._good.popitem(last=False)
        return principal

    async def _check(self, token: str) -> Principal:
        try:
            header = jwt.get_unverified_header(token)
            key_id = header.get("kid")
            if header.get("alg") != "RS256" or not isinstance(key_id, str):
                raise Unauthenticated("The token is not valid.")
            key = await self._keys.key(key_id)
            if key is None:
                raise Unauthenticated("The token is not valid.")
            claims = jwt.decode(
                token,
                key,
                algorithms=["RS256"],
                issuer=self._issuer,
                leeway=_LEEWAY_S,
                options={"require": _REQUIRED, "verify_aud": False},  # Cognito's access tokens carry no audience
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise Unauthenticated("The token is not valid.") from error
        return self._principal(claims)

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        subject, groups = claims["sub"], claims.get("cognito:groups", [])
        well_formed = (
            claims["token_use"] == "access"  # noqa: S105 - a kind of token, not one
            and isinstance(claims["client_id"], str)
            and claims["client_id"] in self._client_ids
            and isinstance(subject, str)
            and 0 < len(subject) <= _LONGEST_SUBJECT
            and subject.isprintable()
            and isinstance(groups, list)
            and all(isinstance(group, str) for group in groups)
            and isinstance(claims["jti"], str)
        )
        if not well_formed:
            raise Unauthenticated("The token is not valid.")
        roles = frozenset(Role(group) for group in groups if group in set(Role))
        return Principal(subject, roles, claims["client_id"], int(claims["exp"]), claims["jti"])
