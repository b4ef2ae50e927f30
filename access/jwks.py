"""The public keys of the token issuer, from a pinned file or from its JWKS address."""

import asyncio
import json
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from jwt import PyJWK
from jwt.exceptions import PyJWTError

from errors import SetupError

_LEAST_PAUSE_S: Final = 30.0
_LARGEST_JWKS_BYTES: Final = 256 * 1024


class KeySource(Protocol):
    """Where keys are found."""

    async def key(self, key_id: str) -> PyJWK | None:
        """The key of this id, or None. Must not fetch at a caller's pace."""
        ...


def parse_keys(text: str) -> Mapping[str, PyJWK]:
    """The RS256 signing keys of a JWKS. Raises SetupError when it isn't one."""
    try:
        entries = json.loads(text)["keys"]
        usable = [e for e in entries if e.get("kty") == "RSA" and e.get("use", "sig") == "sig" and "kid" in e]
        return {entry["kid"]: PyJWK(entry, algorithm="RS256") for entry in usable}
    except (ValueError, KeyError, TypeError, AttributeError, PyJWTError) as error:
        raise SetupError("The JWKS has not the form of RFC 7517.") from error


class PinnedKeys:
    """Keys of a file, read once."""

    def __init__(self, path: Path) -> None:
        try:
            self._keys = parse_keys(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SetupError("COGNITO_JWKS_FILE names a file that cannot be read.") from error
        if not self._keys:
            raise SetupError("COGNITO_JWKS_FILE holds no RSA signing key.")

    async def key(self, key_id: str) -> PyJWK | None:
        return self._keys.get(key_id)


def fetch(url: str) -> str:
    """GET a JWKS; https, or http on loopback. Raises OSError."""
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - the scheme is checked by FetchedKeys
        return bytes(answer.read(_LARGEST_JWKS_BYTES)).decode("utf-8")


class FetchedKeys:
    """Keys of an address, fetched at need but at most once in 30 seconds, however many unknown ids are asked for."""

    def __init__(
        self, url: str, *, fetch: Callable[[str], str] = fetch, clock: Callable[[], float] = time.monotonic
    ) -> None:
        loopback = url.startswith(("http://127.0.0.1:", "http://localhost:", "http://[::1]:"))
        if not url.startswith("https://") and not loopback:
            raise SetupError("COGNITO_JWKS_URL must be https.")
        self._url = url
        self._fetch = fetch
        self._clock = clock
        self._keys: Mapping[str, Any] = {}
        self._fetched_at = float("-inf")
        self._fetching = asyncio.Lock()

    async def key(self, key_id: str) -> PyJWK | None:
        if key_id not in self._keys:
            async with self._fetching:
                if key_id not in self._keys and self._clock() - self._fetched_at >= _LEAST_PAUSE_S:
                    self._fetched_at = self._clock()
                    await self._refresh()
        return self._keys.get(key_id)

    async def _refresh(self) -> None:
        try:
            self._keys = parse_keys(await asyncio.to_thread(self._fetch, self._url))
        except (OSError, UnicodeDecodeError, SetupError):
            return  # the keys we have stay good; an unknown one stays unknown until the next attempt
