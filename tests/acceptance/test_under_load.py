"""Many at once, killed in the middle, and with its servers gone: nothing is mixed up and nothing is lost."""

import asyncio
import os
import random
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from access.dev_issuer import DevIssuer
from database.engine import libpq_url
from embedded.postgres import EmbeddedPostgres
from embedded.valkey import EmbeddedValkey
from registry.store import StoredModel
from tests.conftest import bearer
from tests.server import BASE, Server

WORDS = ["fever", "cough", "nausea", "headache", "rash", "dizziness", "sore throat", "back pain", "fatigue"]


@pytest.fixture
def own_servers(
    tmp_path: Path, issuer: DevIssuer, ner_model: StoredModel, deterioration_model: StoredModel
) -> Iterator[tuple[Server, EmbeddedPostgres, EmbeddedValkey]]:
    """A server with a PostgreSQL and a Valkey that nobody else uses, so that a test may stop them."""
    postgres, valkey = EmbeddedPostgres(tmp_path), EmbeddedValkey(tmp_path)
    owner = postgres.start()
    app = postgres.url_as("followup_app", owner)
    server = Server(owner, app, issuer, tmp_path / "server.log", {"REDIS_SOCKET": valkey.start()})
    server.register([ner_model, deterioration_model])
    server.start()
    yield server, postgres, valkey
    server.stop()
    valkey.stop()
    postgres.stop()


def rows(server: Server) -> set[str]:
    with psycopg.connect(libpq_url(server.database_url)) as connection:
        return {str(row[0]) for row in connection.execute("SELECT id FROM ml_predictions")}


def request(number: int) -> tuple[str, dict[str, Any], Any]:
    """The n-th of a mixed series: path, body, and what tells its answer from the others'."""
    draw = random.Random(number)
    kind = number % 4
    if kind == 0:
        text = f"Visit {number}: {draw.choice(WORDS)} and {draw.choice(WORDS)}"
        return "/predict/symptom-analysis", {"text": text}, text
    if kind == 1:
        text = f"Patient has {WORDS[number % len(WORDS)]}"  # repeats: from the cache after the first
        return "/predict", {"model_name": "clinical_ner", "input_data": {"text": text}}, text
    day = {
        "pain_score_facial": draw.randint(0, 10),
        "pain_score_self_reported": draw.randint(0, 10),
        "respiratory_rate": draw.randint(10, 30),
        "symptom_severity_score": draw.randint(0, 10),
    }
    if kind == 2:
        return "/predict/deterioration", {"measurements": [day] * 7}, None
    items = [{"id": f"{number}-{n}", "input_data": {"text": f"{WORDS[n]} {number}"}} for n in range(3)]
    return "/predict/batch", {"model_name": "clinical_ner", "items": items}, [item["id"] for item in items]


def check(expected: Any, answer: dict[str, Any]) -> list[str]:
    """Asserts that an answer belongs to its request. Returns its prediction ids."""
    if isinstance(expected, list):
        assert [item["id"] for item in answer["items"]] == expected
        return [item["prediction_id"] for item in answer["items"]]
    if isinstance(expected, str):
        groups = answer.get("entities") or answer["result"]["entities"]
        for entity in (entity for entities in groups.values() for entity in entities):
            assert expected[entity["start"] : entity["end"]] == entity["text"]
    return [answer["prediction_id"]]


async def send(
    server: Server, headers: dict[str, str], numbers: range, *, at_once: int, stop: asyncio.Event | None = None
) -> tuple[list[str], list[int]]:
    """Prediction ids that came back, and the statuses that were not 200."""
    ids: list[str] = []
    failed: list[int] = []
    waiting = iter(numbers)
    limits = httpx.Limits(max_connections=at_once)

    async def caller(client: httpx.AsyncClient) -> None:
        for number in waiting:
            if stop is not None and stop.is_set():
                return
            path, body, expected = request(number)
            mine = str(uuid.uuid4())
            try:
                try:
                    response = await client.post(BASE + path, json=body, headers={"X-Request-ID": mine})
                except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
                    print(type(error).__name__, error)
                    # The server closed an idle connection just then. Had it taken the request, its row would be one
                    # too many in the end.
                    response = await client.post(BASE + path, json=body, headers={"X-Request-ID": mine})
            except httpx.TransportError:
                failed.append(0)
                continue
            if response.status_code != 200:
                failed.append(response.status_code)
                continue
            assert response.headers["X-Request-ID"] == mine
            assert response.json()["metadata"]["request_id"] == mine
            ids.extend(check(expected, response.json()))

    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60, limits=limits) as client:
        await asyncio.gather(*(caller(client) for _ in range(at_once)))
    return ids, failed


async def test_two_thousand_mixed_requests_are_answered_right_and_recorded_exactly(
    own_servers: tuple[Server, EmbeddedPostgres, EmbeddedValkey], issuer: DevIssuer
) -> None:
    server, _, _ = own_servers
    ids, failed = await send(server, bearer(issuer, "clinician"), range(2000), at_once=64)
    assert failed == []
    assert len(ids) == len(set(ids)) == 2000 + 2 * 500
    assert rows(server) == set(ids)


async def test_without_the_cache_no_request_fails(
    own_servers: tuple[Server, EmbeddedPostgres, EmbeddedValkey], issuer: DevIssuer
) -> None:
    server, _, valkey = own_servers
    headers = bearer(issuer, "clinician")
    process_id = valkey.process_id()
    assert process_id is not None

    async def enabled() -> bool:
        async with httpx.AsyncClient(headers=headers) as client:
            return bool((await client.get(f"{server.url}{BASE}/stats")).json()["redis_enabled"])

    for number in (signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL):
        load = asyncio.create_task(send(server, headers, range(400), at_once=16))
        await asyncio.sleep(0.1)
        os.kill(process_id, number)
        _, failed = await load
        assert failed == []
        assert await enabled() is (number == signal.SIGCONT)
    again = EmbeddedValkey(valkey.folder.parent)
    again.start()
    for _ in range(50):
        if await enabled():
            break
        await asyncio.sleep(0.1)
    assert await enabled()
    again.stop()


async def test_with_a_frozen_database_callers_get_503_and_it_recovers_by_itself(
    own_servers: tuple[Server, EmbeddedPostgres, EmbeddedValkey], issuer: DevIssuer
) -> None:
    server, postgres, _ = own_servers
    headers = bearer(issuer, "clinician")
    postmaster = postgres.process_id()
    assert postmaster is not None
    await send(server, headers, range(8), at_once=4)
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    frozen = [postmaster, *map(int, children)]
    for process_id in frozen:
        os.kill(process_id, signal.SIGSTOP)
    try:
        async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=20) as client:
            for path, body, _ in map(request, range(4)):
                response = await client.post(BASE + path, json=body)
                assert response.status_code == 503
                assert response.headers["content-type"] == "application/problem+json"
                assert int(response.headers["Retry-After"]) >= 1
                assert "entities" not in response.text
            assert (await client.get(f"{BASE}/stats")).status_code == 503
            assert (await client.get("/livez")).status_code == 200
            assert (await client.get("/readyz")).status_code == 503
    finally:
        for process_id in frozen:
            os.kill(process_id, signal.SIGCONT)
    await asyncio.to_thread(server.wait_until_ready)
    ids, failed = await send(server, headers, range(100, 140), at_once=8)
    assert failed == []
    assert set(ids) <= rows(server)
