"""Bodies as they come: as large and as long as their route allows, and no slower than 10 KiB/s after 10 s."""

import asyncio
from typing import Any

import orjson
import pytest

from api.admission import BodyBudget, body_pieces, parse_body, read_body
from api.routes.predict import BATCH, DETERIORATION, PREDICT, SYMPTOM_ANALYSIS
from api.routing import Intake, Route
from errors import BodyTooLarge, BodyTooSlow, FollowupError, InvalidInput, MalformedJson, NotJson, Overloaded

JSON = {"content-type": "application/json"}


class Sender:
    """An ASGI receive: `pieces` of so many bytes, each after so many seconds."""

    def __init__(self, *pieces: tuple[float, int], ends: bool = True) -> None:
        self._pieces = list(pieces)
        self._ends = ends
        self.taken = 0

    async def __call__(self) -> Any:
        if not self._pieces:
            return {"type": "http.disconnect"}
        pause_s, size = self._pieces.pop(0)
        await asyncio.sleep(pause_s)
        self.taken += size
        return {"type": "http.request", "body": b"x" * size, "more_body": bool(self._pieces) or not self._ends}


@pytest.fixture
def hundredfold(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if seconds were hundredths."""
    monkeypatch.setattr("api.admission._SLOWEST_START_S", 0.1)
    monkeypatch.setattr("api.admission._SLOWEST_BYTES_A_S", 1_024_000)


async def test_a_body_comes_in_pieces_and_is_whole() -> None:
    assert await read_body(JSON, Sender((0, 3), (0, 0), (0, 4)), Intake(), BodyBudget(), "s") == b"x" * 7


@pytest.mark.usefixtures("hundredfold")
async def test_a_body_that_drips_is_too_slow_after_ten_seconds() -> None:
    sender = Sender(*[(0.01, 1000)] * 60)
    with pytest.raises(BodyTooSlow):
        await read_body(JSON, sender, Intake(), BodyBudget(), "s")
    assert sender.taken <= 14_000


@pytest.mark.usefixtures("hundredfold")
async def test_a_large_body_may_take_its_time_at_the_least_rate_and_no_longer_than_its_route_allows() -> None:
    large = Intake(largest_bytes=10**9, longest_s=0.6)
    assert len(await read_body(JSON, Sender(*[(0.02, 40_960)] * 15), large, BodyBudget(), "s")) == 15 * 40_960
    with pytest.raises(BodyTooSlow):
        await read_body(JSON, Sender(*[(0.02, 1_000_000)] * 100), large, BodyBudget(), "s")


async def test_what_is_over_the_cap_is_refused_by_its_length_and_by_its_size() -> None:
    small = Intake(largest_bytes=10)
    never = Sender((1000, 1))
    for length in ("11", "9" * 5000):
        with pytest.raises(BodyTooLarge):
            await read_body({**JSON, "content-length": length}, never, small, BodyBudget(), "s")
    with pytest.raises(BodyTooLarge):
        await read_body(JSON, Sender((0, 6), (0, 6), ends=False), small, BodyBudget(), "s")
    with pytest.raises(MalformedJson):
        await read_body(JSON, Sender((0, 6), ends=False), small, BodyBudget(), "s")


async def test_a_streamed_route_is_given_pieces_of_its_own_media_types() -> None:
    uploads = Intake(largest_bytes=10**9, media_types=frozenset({"text/csv", "application/x-ndjson"}), streamed=True)
    pieces = body_pieces({"content-type": "text/csv; charset=utf-8"}, Sender((0, 5), (0, 6)), uploads)
    assert [len(piece) async for piece in pieces] == [5, 6]
    with pytest.raises(NotJson):
        await anext(body_pieces(JSON, Sender((0, 5)), uploads))


async def test_one_caller_does_not_have_all_the_memory_and_gets_theirs_back() -> None:
    budget, large = BodyBudget(in_all=3_000_000, by_caller=1_000_000), Intake(largest_bytes=10**9)

    def body(subject: str) -> asyncio.Task[bytes]:
        return asyncio.create_task(read_body(JSON, Sender((0, 500_000), (0.2, 400_000)), large, budget, subject))

    for _ in range(2):
        outcomes = await asyncio.gather(*(body("one") for _ in range(20)), return_exceptions=True)
        assert 1 <= sum(isinstance(outcome, bytes) for outcome in outcomes) <= 2
        assert {type(outcome) for outcome in outcomes} == {bytes, Overloaded}
        everybody = await asyncio.gather(*(body(f"s-{n}") for n in range(20)), return_exceptions=True)
        assert 3 <= sum(isinstance(outcome, bytes) for outcome in everybody) <= 7
    given_up = body("one")
    await asyncio.sleep(0.05)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    assert isinstance(await body("one"), bytes)


def refused_in(route: Route, document: Any) -> FollowupError:
    with pytest.raises(FollowupError) as refused:
        parse_body(route, orjson.dumps(document))
    return refused.value


@pytest.mark.parametrize(
    "document",
    [
        {f"unknown{number}": 0 for number in range(300_000)},
        {"model_name": "m", "items": [0] * 1_000_000},
        {"model_name": "m", "items": [{"id": "x", "input_data": {f"k{n}": [n] for n in range(6000)}}] * 64},
        {"model_name": "m", "items": [""] * 1_000_000},
        {"model_name": "m", "items": ['"\\,[{'] * 200_000},
    ],
    ids=["names", "zeros", "in items", "texts", "texts like marks"],
)
def test_more_values_than_a_batch_can_need_are_refused_unread(document: Any) -> None:
    assert isinstance(refused_in(BATCH, document), BodyTooLarge)


def test_what_has_thousands_of_faults_is_told_their_number_only() -> None:
    refused = refused_in(DETERIORATION, {f"SECRET{number}": 0 for number in range(4000)})
    assert isinstance(refused, InvalidInput)
    assert [(fault.pointer, fault.message) for fault in refused.faults] == [("", "has 4001 faults")]


def test_a_batch_is_counted_before_its_items_are_looked_at() -> None:
    refused = refused_in(BATCH, {"model_name": "m", "items": [{}] * 10_000})
    assert isinstance(refused, InvalidInput)
    assert [(fault.pointer, fault.message) for fault in refused.faults] == [("/items", "at most 64 items are taken")]


def test_the_largest_honest_bodies_pass() -> None:
    """Texts may be made of nothing but what JSON is made of."""
    text = ',[{"\\' * 4000
    parse_body(SYMPTOM_ANALYSIS, orjson.dumps({"text": text}))
    items = [{"id": str(number), "input_data": {"text": text[:5000]}} for number in range(64)]
    parse_body(BATCH, orjson.dumps({"model_name": "m", "items": items}))
    parse_body(PREDICT, orjson.dumps({"model_name": "m", "input_data": {"values": [0.5] * 4000}}))
