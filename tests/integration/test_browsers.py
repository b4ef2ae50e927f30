"""Pages of listed origins may call the API from a browser (CORS), all others may not."""

import httpx
import pytest

from api.gate import _shared_with
from tests.server import BASE, Server

LISTED, OTHER = "https://app.example", "https://evil.example"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


def test_a_preflight_is_answered_for_a_listed_origin_only(server: Server) -> None:
    address = f"{server.url}{BASE}/predict"
    allowed = httpx.options(address, headers={"Origin": LISTED, **PREFLIGHT})
    assert (allowed.status_code, allowed.headers["Access-Control-Allow-Origin"]) == (200, LISTED)
    assert "Access-Control-Allow-Credentials" not in allowed.headers
    refused = httpx.options(address, headers={"Origin": OTHER, **PREFLIGHT})
    assert refused.status_code == 400
    assert "Access-Control-Allow-Origin" not in refused.headers
    assert OTHER not in refused.text


@pytest.mark.parametrize(("origin", "shown"), [(LISTED, LISTED), (OTHER, None), ("null", None)])
def test_answers_and_problems_name_a_listed_origin_only(
    server: Server, clinician: dict[str, str], origin: str, shown: str | None
) -> None:
    for headers, status in ((clinician, 200), ({}, 401)):
        answer = httpx.get(f"{server.url}{BASE}/models", headers={**headers, "Origin": origin})
        assert answer.status_code == status
        assert answer.headers.get("Access-Control-Allow-Origin") == shown


def test_without_listed_origins_nothing_is_added() -> None:
    async def app(*_: object) -> None: ...

    assert _shared_with((), app) is app
