"""Access tokens as AWS Cognito issues them: RS256, checked claim by claim, verified once and remembered.

Stricter than a JWT library must be: no padding, no name twice in one object, 15 minutes at most, to the digit.
"""

import hashlib
import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import jwt

from access.jwks import KeySource
from access.principal import ANONYMOUS, Principal, Role
from database.subjects import canonical_subject
from errors import Unauthenticated

LONGEST_LIFETIME_S: Final = 900  # 45 CFR 164.312(a)(2)(iii): who leaves is logged off
_LEEWAY_S: Final = 30
_LONGEST_TOKEN: Final = 8192
_LONGEST_KEY_ID: Final = 256
_REMEMBERED: Final = 10_000
_MOST_GROUPS: Final = 100
_YEAR_10000: Final = 253_402_300_800
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_.:\-]{1,128}")  # also what a patient's id looks like
_WORDS: Final = "The token is not valid."
_ROLES: Final = frozenset(Role) - {Role.SERVICE}  # that one is no group: a person in it would be let in as a service


class _Refused(Exception):
    """Not what the issuer makes, or not for us; the message is a slug."""


@dataclass(frozen=True, slots=True)
class _Good:
    principal: Principal
    key_id: str
    key: jwt.PyJWK


class TokenVerifier:
    """Turns a bearer token into a principal.

    Only the header's `kid` is used, to pick a key that we already trust; `jku`, `jwk` and `x5u` are never looked at.
    `service_scope` is what makes the token of a client-credentials grant, which knows no groups, a service.
    """

    def __init__(
        self,
        keys: KeySource,
        *,
        issuer: str,
        client_ids: Collection[str],
        service_scope: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._client_ids = frozenset(client_ids)
        self._service_scope = service_scope
        self._clock = clock
        # An RSA check costs more than the small model: a token that was good stays good until it expires or its key is
        # withdrawn.
        self._good: OrderedDict[bytes, _Good] = OrderedDict()

    async def verify(self, token: str) -> Principal:
        """Raises Unauthenticated, always with the same words, whatever is wrong; its `reason` is for the log."""
        if len(token) > _LONGEST_TOKEN:
            raise Unauthenticated(_WORDS, reason="too-long")
        fingerprint = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._good.get(fingerprint)
        if known is not None:
            expired = self._clock() >= known.principal.expires_at + _LEEWAY_S
            if not expired and await self._keys.key(known.key_id) is known.key:
                return known.principal
            self._good.pop(fingerprint, None)
        try:
            good = await self._check(token)
        except (_Refused, jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise Unauthenticated(_WORDS, reason=_reason(error)) from error
        self._good[fingerprint] = good
        if len(self._good) > _REMEMBERED:
            self._good.popitem(last=False)
        return good.principal

    async def _check(self, token: str) -> _Good:
        if not _COMPACT.fullmatch(token):
            raise _Refused("malformed")
        header = _object(jwt.utils.base64url_decode(token.partition(".")[0]))
        key_id = header.get("kid")
        if header.get("alg") != "RS256" or not header.keys().isdisjoint({"crit", "b64", "cty", "zip", "enc"}):
            raise _Refused("algorithm")  # RFC 7515, 4.1.11: what must be understood and is not
        if not isinstance(key_id, str) or not 0 < len(key_id) <= _LONGEST_KEY_ID:
            raise _Refused("unknown-key")
        key = await self._keys.key(key_id)
        if key is None:
            raise _Refused("unknown-key")
        signed = jwt.PyJWS(algorithms=["RS256"]).decode_complete(token, key, algorithms=["RS256"])
        claims = _object(signed["payload"])
        self._check_audience(claims)
        self._check_times(claims)
        return _Good(self._principal(claims), key_id, key)

    def _check_audience(self, claims: Mapping[str, Any]) -> None:
        """Cognito's access tokens carry no `aud`: the app client is named instead."""
        if claims.get("iss") != self._issuer:
            raise _Refused("issuer")
        if claims.get("token_use") != "access":
            raise _Refused("id-token" if claims.get("token_use") == "id" else "token-use")
        client_id = claims.get("client_id")
        if not isinstance(client_id, str) or client_id not in self._client_ids:
            raise _Refused("audience")

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        """Clocks may differ for `exp`, `iat` and `nbf`, and for nothing else. Reckoned exactly: floats would round."""
        now = Fraction(self._clock())
        issued, expires = _moment(claims.get("iat")), _moment(claims.get("exp"))
        not_before = _moment(claims["nbf"]) if "nbf" in claims else issued
        signed_in = _signed_in(claims)
        if type(signed_in) is not int:  # whole: it names a login
            raise _Refused("times")
        if expires <= now - _LEEWAY_S:
            raise _Refused("expired")
        if issued > now + _LEEWAY_S or not_before > now + _LEEWAY_S:
            raise _Refused("not-yet-valid")
        if expires < issued or expires < not_before:  # within the leeway of now, each by itself would pass
            raise _Refused("ends-before-it-begins")
        if expires - issued > LONGEST_LIFETIME_S:
            raise _Refused("too-long-lived")
        if not 0 < signed_in <= max(issued, now):
            raise _Refused("times")

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        subject, client_id, token_id = claims.get("sub"), claims["client_id"], claims.get("jti")
        login, groups = claims.get("origin_jti"), claims.get("cognito:groups", [])
        well_formed = (
            _is_identifier(subject)
            and subject != ANONYMOUS.subject  # who has no token has that name on record
            and _is_identifier(token_id)
            and ("origin_jti" not in claims or _is_identifier(login))
            and isinstance(claims.get("scope", ""), str)
            and isinstance(claims.get("username", ""), str)
            and isinstance(groups, list)
            and len(groups) <= _MOST_GROUPS
            and all(isinstance(group, str) for group in groups)
        )
        if not well_formed:
            raise _Refused("claims")
        assert isinstance(subject, str) and isinstance(token_id, str)
        signed_in = _signed_in(claims)
        subject, token_id = canonical_subject(subject), canonical_subject(token_id)
        if self._is_service(claims):
            login, roles = None, frozenset({Role.SERVICE})
        else:
            # An app client without token revocation issues no origin_jti; the moment of signing in names it as well.
            login = canonical_subject(login or f"{subject}@{signed_in}")
            roles = frozenset(Role(group) for group in groups if group in _ROLES)
        return Principal(subject, roles, client_id, float(claims["exp"]), token_id, login, signed_in)

    def _is_service(self, claims: Mapping[str, Any]) -> bool:
        """A client-credentials token: about the client itself, nobody signed in.

        A person's token may carry the same scope.
        """
        return (
            bool(self._service_scope)
            and claims["sub"] == claims["client_id"]
            and claims.keys().isdisjoint({"cognito:groups", "username", "origin_jti"})
            and self._service_scope in claims.get("scope", "").split(" ")
        )


def _reason(error: Exception) -> str:
    if isinstance(error, _Refused):
        return str(error)
    return "signature" if isinstance(error, jwt.InvalidSignatureError) else "malformed"


def _is_identifier(value: Any) -> bool:
    return isinstance(value, str) and _IDENTIFIER.fullmatch(value) is not None


def _moment(value: Any) -> Fraction:
    """A NumericDate (RFC 7519, 2), which may have a fraction. Raises _Refused."""
    # The range comes first: a fraction made of 1e-999999 would fill the memory.
    if type(value) not in (int, Decimal) or not 1 <= value < _YEAR_10000:
        raise _Refused("times")
    return Fraction(value)


def _signed_in(claims: Mapping[str, Any]) -> Any:
    """When somebody signed in, in whole seconds where the token does not say it itself."""
    return claims["auth_time"] if "auth_time" in claims else int(claims["iat"])


def _object(text: bytes) -> dict[str, Any]:
    """A JSON object in which no name comes twice: parsers disagree on which one counts. Raises ValueError."""
    document = json.loads(
        text.decode("utf-8"), object_pairs_hook=_distinct, parse_constant=_refuse_constant, parse_float=_decimal
    )
    if not isinstance(document, dict):
        raise _Refused("malformed")
    return document


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise _Refused("malformed")
    return document


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except ArithmeticError as error:  # an exponent that is no number any more
        raise _Refused("malformed") from error


def _refuse_constant(_name: str) -> Any:
    raise _Refused("malformed")
