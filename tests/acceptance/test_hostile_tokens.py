"""A corpus of hostile tokens: none is let in, by the verifier itself or by the server, and all hear the same words.

HOSTILE_TOKENS sets how many; the same seed makes the same kinds in the same order.
"""

import asyncio
import os
import random
import string
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from access.dev_issuer import CLIENT_ID, ISSUER, KEY_ID, DevIssuer
from access.jwks import FetchedKeys, PinnedKeys
from access.tokens import TokenVerifier
from errors import Unauthenticated
from tests.acceptance.hostile_tokens import MAKERS, Attacker, corpus
from tests.server import BASE, Server

SIZE = int(os.environ.get("HOSTILE_TOKENS", "500"))
SEED = 20260101
THROUGH_THE_SERVER = 300


@pytest.fixture
def attacker(issuer: DevIssuer, home: Path) -> Attacker:
    return Attacker(issuer, home / "issuer", random.Random(SEED))


@pytest.fixture
def verifier(issuer: DevIssuer) -> TokenVerifier:
    return TokenVerifier(
        PinnedKeys(issuer.jwks_file), issuer=ISSUER, client_ids=[CLIENT_ID], service_scope="followup-ml/predict"
    )


@pytest.mark.requirement("S7")
async def test_no_hostile_token_is_accepted(attacker: Attacker, verifier: TokenVerifier) -> None:
    # Without this the corpus could be refused for a reason that has nothing to do with it.
    assert (await verifier.verify(attacker.good())).roles
    accepted: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    words = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PyJWT on short secrets, while the corpus is made
        for name, token in corpus(attacker, SIZE):
            try:
                await verifier.verify(token)
            except Unauthenticated as error:
                refused[name] += 1
                words.add(error.detail)
            else:
                accepted[name] += 1
    assert accepted == Counter()
    assert sum(refused.values()) == SIZE
    assert words == {"The token is not valid."}
    if len(MAKERS) <= SIZE:
        assert set(refused) == {make.__name__ for make in MAKERS}
    assert (await verifier.verify(attacker.good())).roles


def _fits_a_header(token: str) -> bool:
    """What an HTTP client can send at all."""
    allowed = string.ascii_letters + string.digits + string.punctuation + " "
    return 0 < len(token.strip()) < 20_000 and all(c in allowed for c in token) and token == token.strip()


@pytest.mark.requirement("S7")
def test_the_server_answers_all_of_them_with_the_same_401(attacker: Attacker, server: Server) -> None:
    path = f"{server.url}{BASE}/models"
    with httpx.Client(timeout=30) as client, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        genuine = {"Authorization": f"Bearer {attacker.good()}"}
        assert client.get(path, headers=genuine).status_code == 200
        said = set()
        sent = 0
        for name, token in corpus(attacker, 10 * THROUGH_THE_SERVER):
            if sent == THROUGH_THE_SERVER:
                break
            if not _fits_a_header(token):
                continue
            answer = client.get(path, headers={"Authorization": f"Bearer {token}"})
            sent += 1
            assert answer.status_code == 401, name
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["www-authenticate"] == "Bearer"
            problem = answer.json()
            said.add((problem["type"], problem["title"], problem["status"], problem["detail"]))
        assert sent == THROUGH_THE_SERVER
        assert len(said) == 1
        assert client.get(path, headers=genuine).status_code == 200


class _Jwks(BaseHTTPRequestHandler):
    """Serves a JWKS and counts."""

    server: "_Counting"

    def do_GET(self) -> None:
        self.server.fetches += 1
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/jwks.json")
            self.end_headers()
            return
        if self.path == "/nonsense":
            self.wfile.write(b"this is not HTTP\r\n\r\n")
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b" " * 300_000 if self.path == "/huge" else self.server.body)

    def log_message(self, *_arguments: object) -> None:
        return


class _Counting(ThreadingHTTPServer):
    fetches = 0
    body = b""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def jwks(issuer: DevIssuer) -> Iterator[_Counting]:
    with _Counting(("127.0.0.1", 0), _Jwks) as server:
        server.body = issuer.jwks_file.read_bytes()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.requirement("S7")
async def test_a_thousand_random_key_ids_make_one_fetch(jwks: _Counting, attacker: Attacker) -> None:
    keys = FetchedKeys(f"{jwks.url}/jwks.json")
    verifier = TokenVerifier(keys, issuer=ISSUER, client_ids=[CLIENT_ID])
    await keys.open()

    async def attack(key_id: str) -> None:
        with pytest.raises(Unauthenticated):
            await verifier.verify(attacker.sign(attacker.claims(), {"alg": "RS256", "kid": key_id}))

    await asyncio.gather(*(attack(attacker.rng.randbytes(8).hex()) for _ in range(1000)))
    assert jwks.fetches == 1
    assert (await verifier.verify(attacker.good())).roles
    assert jwks.fetches == 1
    await keys.close()


@pytest.mark.requirement("S7")
async def test_a_withdrawn_key_stops_being_trusted_with_all_its_tokens(jwks: _Counting, attacker: Attacker) -> None:
    keys = FetchedKeys(f"{jwks.url}/jwks.json", refresh_s=0.05)
    verifier = TokenVerifier(keys, issuer=ISSUER, client_ids=[CLIENT_ID])
    await keys.open()
    token = attacker.good()
    assert (await verifier.verify(token)).roles
    first = await keys.key(KEY_ID)
    await asyncio.sleep(0.3)
    assert await keys.key(KEY_ID) is first  # fetched anew, the same key
    assert jwks.fetches > 2
    jwks.body = jwks.body.replace(KEY_ID.encode(), b"the-next-one")
    await asyncio.sleep(0.3)
    with pytest.raises(Unauthenticated):
        await verifier.verify(token)
    await keys.close()


@pytest.mark.parametrize("path", ["/redirect", "/huge", "/nonsense"])
async def test_a_jwks_from_elsewhere_too_large_or_not_http_leaves_the_known_keys(
    jwks: _Counting, attacker: Attacker, path: str
) -> None:
    now = [0.0]
    keys = FetchedKeys(f"{jwks.url}{path}", clock=lambda: now[0])
    assert await keys.key(KEY_ID) is None
    assert jwks.fetches == 1  # the redirect was not followed
    keys._url = f"{jwks.url}/jwks.json"
    now[0] += 31
    assert await keys.key(KEY_ID) is None  # asked for in vain a moment ago
    assert await keys.key("another") is None
    assert await keys.key(KEY_ID) is not None
    keys._url = f"{jwks.url}{path}"
    now[0] += 31
    assert await keys.key("a third") is None
    assert await keys.key(KEY_ID) is not None
    assert jwks.fetches == 3
