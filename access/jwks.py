"""The public keys of the token issuer, from a pinned file or from its JWKS address."""

import asyncio
import http.client
import json
import logging
import time
import urllib.request
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from jwt import PyJWK
from jwt.exceptions import PyJWTError

from errors import SetupError

log = logging.getLogger(__name__)

_LEAST_PAUSE_S: Final = 30.0
_REFRESH_S: Final = 600.0  # so that a withdrawn key stops being trusted
_UNKNOWN_FOR_S: Final = 120.0
_MOST_UNKNOWN: Final = 1000
_MOST_KEYS: Final = 100
_LARGEST_JWKS_BYTES: Final = 256 * 1024
_LONGEST_FETCH_S: Final = 10.0


class KeySource(Protocol):
    """Where keys are found."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def key(self, key_id: str) -> PyJWK | None:
        """The key of this id, the same object as long as it is the same key, or None.

        Must not fetch at a caller's pace.
        """
        ...


def parse_keys(text: str) -> Mapping[str, PyJWK]:
    """The RS256 signing keys of a JWKS. Raises SetupError when it isn't one."""
    try:
        entries = json.loads(text)["keys"]
        usable = [e for e in entries if e.get("kty") == "RSA" and e.get("use", "sig") == "sig" and "kid" in e]
        return {entry["kid"]: PyJWK(entry, algorithm="RS256") for entry in usable[:_MOST_KEYS]}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, PyJWTError) as error:
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

    async def open(self) -> None:
        return

    async def close(self) -> None:
        return

    async def key(self, key_id: str) -> PyJWK | None:
        return self._keys.get(key_id)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Keys come from the configured address or not at all."""

    def redirect_request(self, *_arguments: Any) -> None:
        return None


_opener: Final = urllib.request.build_opener(_NoRedirect)


def fetch(url: str) -> str:
    """GET a JWKS of at most 256 KiB within 10 s. Raises OSError or HTTPException."""
    deadline = time.monotonic() + _LONGEST_FETCH_S
    body = bytearray()
    with _opener.open(url, timeout=5) as answer:
        while part := answer.read1(65_536):
            body += part
            if len(body) > _LARGEST_JWKS_BYTES or time.monotonic() > deadline:
                raise OSError("The JWKS is too large or comes too slowly.")
    return body.decode("utf-8")


class FetchedKeys:
    """Keys of an address, fetched every ten minutes, and at need.

    Never more than once in 30 seconds, however many unknown ids are asked for. A failed fetch leaves what is known.
    """

    def __init__(
        self,
        url: str,
        *,
        fetch: Callable[[str], str] = fetch,
        clock: Callable[[], float] = time.monotonic,
        refresh_s: float = _REFRESH_S,
    ) -> None:
        # The whole host is compared: a name before an @ is not one.
        parts = urlsplit(url)
        loopback = parts.scheme == "http" and parts.hostname in {"127.0.0.1", "localhost", "::1"}
        if "@" in parts.netloc or not parts.hostname or not (parts.scheme == "https" or loopback):
            raise SetupError("COGNITO_JWKS_URL must be https.")
        self._url = url
        self._fetch = fetch
        self._clock = clock
        self._refresh_s = refresh_s
        self._keys: Mapping[str, PyJWK] = {}
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._fetched_at = float("-inf")
        self._fetching = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Fetch from now on. A first failure is no reason not to start: tokens are refused until it succeeds."""
        await self._refresh_if_due(_LEAST_PAUSE_S)
        self._task = asyncio.create_task(self._follow(), name="jwks")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def key(self, key_id: str) -> PyJWK | None:
        found = self._keys.get(key_id)
        if found is not None or self._is_unknown(key_id):
            return found
        await self._refresh_if_due(_LEAST_PAUSE_S)
        found = self._keys.get(key_id)
        if found is None:
            self._unknown[key_id] = self._clock()
            if len(self._unknown) > _MOST_UNKNOWN:
                self._unknown.popitem(last=False)
        return found

    def _is_unknown(self, key_id: str) -> bool:
        """Whether this id was asked for in vain a moment ago: it alone makes nobody fetch again."""
        asked_at = self._unknown.get(key_id)
        return asked_at is not None and self._clock() - asked_at < _UNKNOWN_FOR_S

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_s)
            await self._refresh_if_due(min(_LEAST_PAUSE_S, self._refresh_s))

    async def _refresh_if_due(self, pause_s: float) -> None:
        async with self._fetching:
            if self._clock() - self._fetched_at >= pause_s:
                self._fetched_at = self._clock()
                await self._refresh()

    async def _refresh(self) -> None:
        try:
            fetched = parse_keys(await asyncio.to_thread(self._fetch, self._url))
        except (OSError, http.client.HTTPException, UnicodeDecodeError, SetupError) as error:
            log.warning("jwks: not fetched (%s), the known keys stay good", type(error).__name__)
            return
        if not fetched:
            log.warning("jwks: no signing key in it, the known keys stay good")
            return
        known = self._keys
        self._keys = {
            key_id: known[key_id] if key_id in known and known[key_id].key == key.key else key
            for key_id, key in fetched.items()
        }
