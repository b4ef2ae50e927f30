"""Reads that cost much hold up nobody else, and are paid for by who asks."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from access.dev_issuer import DevIssuer
from registry.store import StoredModel
from tests.conftest import bearer
from tests.server import BASE, Server

DAY = {"pain_score_facial": 3, "pain_score_self_reported": 3, "respiratory_rate": 15, "symptom_severity_score": 3}
BODY = {"model_name": "deterioration_lstm", "input_data": {"measurements": [DAY] * 7}, "use_cache": False}
AT_ONCE = 20


@pytest.fixture
async def client(server: Server, issuer: DevIssuer) -> AsyncIterator[httpx.AsyncClient]:
    headers = bearer(issuer, "clinician", "auditor")
    limits = httpx.Limits(max_connections=4 * AT_ONCE)
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60, limits=limits) as client:
        yield client


async def slowest(ask: Callable[[], Awaitable[httpx.Response]], until: asyncio.Event) -> float:
    """Of one request after the other, in seconds."""
    most = 0.0
    while not until.is_set():
        begun = time.perf_counter()
        assert (await ask()).status_code == 200
        most = max(most, time.perf_counter() - begun)
        await asyncio.sleep(0.005)
    return most


@pytest.mark.parametrize(
    "path",
    [
        "/models/{name}/report",
        "/models/clinical_ner/performance?hours=2160",
        "/models",
        "/models/clinical_ner",
        "/stats",
        "/openapi.json",
        "/audit/export?format=sealed",
    ],
)
async def test_others_are_not_held_up_while_many_ask(client: httpx.AsyncClient, path: str) -> None:
    done = asyncio.Event()
    probe = asyncio.create_task(slowest(lambda: client.get("/livez"), done))
    prediction = asyncio.create_task(slowest(lambda: client.post(f"{BASE}/predict", json=BODY), done))
    await asyncio.sleep(0.2)
    names = ("clinical_ner", "deterioration_lstm")
    begun = time.perf_counter()
    answers = await asyncio.gather(
        *(client.get(BASE + path.format(name=names[number % 2])) for number in range(AT_ONCE))
    )
    took = time.perf_counter() - begun
    done.set()
    print(f"{path}: {AT_ONCE} in {took:.2f} s; slowest probe {await probe:.3f} s, prediction {await prediction:.3f} s")
    assert {answer.status_code for answer in answers} == {200}
    assert await probe < 1
    assert await prediction < 1


async def test_a_report_that_is_kept_is_still_the_registered_one(
    client: httpx.AsyncClient, deterioration_model: StoredModel
) -> None:
    path = f"{BASE}/models/deterioration_lstm/report"
    file = deterioration_model.path / "evaluation.html"
    page = file.read_bytes()
    assert (await client.get(path)).content == page
    try:
        for forged in (page.replace(b"e", b"a", 1), b""):  # of the same length, too
            file.write_bytes(forged)
            assert (await client.get(path)).status_code == 404
    finally:
        file.write_bytes(page)
    assert (await client.get(path)).content == page


@pytest.mark.parametrize(
    ("path", "cost"),
    [
        ("/stats", 1),
        ("/models/deterioration_lstm/report", 10),
        ("/models/deterioration_lstm/performance", 10),
        ("/audit/export", 10),
    ],
)
async def test_what_costs_much_counts_for_much(
    client: httpx.AsyncClient, issuer: DevIssuer, path: str, cost: int
) -> None:
    headers = bearer(issuer, "clinician", "auditor", subject=f"pays-for{path.replace('/', '-')}")
    left = []
    for _ in range(2):
        answer = await client.get(BASE + path, headers=headers)
        assert answer.status_code == 200
        left.append(int(answer.headers["RateLimit-Remaining"]))
    assert left[0] - left[1] == cost or left[1] > left[0]  # or a new minute began
