"""The batcher: gathers, never mixes up, fails alone, sheds, forgets who has gone."""

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from errors import InternalFault, Overloaded
from runners.batching import Batcher, Limits
from runners.runner import Prediction


class Echo:
    """A runner whose result names its item; holds each batch until it is let go, when told to."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()

    def parse(self, input_data: Mapping[str, Any]) -> str:
        return str(input_data["text"])

    def canonical(self, item: str) -> str:
        return item

    def cost(self, item: str) -> int:
        return len(item)

    def run(self, items: Sequence[str]) -> Sequence[Prediction]:
        self.gate.wait(10)
        self.batches.append(list(items))
        if any("poison" in item for item in items):
            raise ValueError("a value that must not be shown")
        return [Prediction({"echo": item}, None) for item in items]

    def warm_up(self) -> None:
        return


@pytest.fixture
def runner() -> Echo:
    return Echo()


@pytest.fixture
async def executor() -> AsyncIterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


async def test_a_lone_item_runs_at_once(runner: Echo, executor: ThreadPoolExecutor) -> None:
    batcher = Batcher(runner, executor, Limits())
    inferred = await batcher.infer("alone")
    assert inferred.prediction.result == {"echo": "alone"}
    assert runner.batches == [["alone"]]


async def test_every_caller_gets_the_answer_to_its_own_item(runner: Echo, executor: ThreadPoolExecutor) -> None:
    batcher = Batcher(runner, executor, Limits(slots=2, batch_items=7))
    items = [f"{number}" * (1 + number % 13) for number in range(400)]
    answers = await asyncio.gather(*(batcher.infer(item) for item in items))
    assert [answer.prediction.result["echo"] for answer in answers] == items
    assert max(map(len, runner.batches)) == 7


async def test_items_gather_while_the_slots_are_busy(runner: Echo, executor: ThreadPoolExecutor) -> None:
    batcher = Batcher(runner, executor, Limits(slots=1))
    runner.gate.clear()
    first = asyncio.create_task(batcher.infer("aa"))
    await asyncio.sleep(0)
    rest = [asyncio.create_task(batcher.infer("bb")) for _ in range(5)]
    await asyncio.sleep(0)
    runner.gate.set()
    await asyncio.gather(first, *rest)
    assert runner.batches == [["aa"], ["bb"] * 5]


async def test_a_poison_item_fails_alone_and_does_not_show_why(runner: Echo, executor: ThreadPoolExecutor) -> None:
    batcher = Batcher(runner, executor, Limits(slots=1))
    runner.gate.clear()
    tasks = [asyncio.create_task(batcher.infer(text)) for text in ("before", "good-1", "poison", "good-2")]
    await asyncio.sleep(0)
    runner.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [
        o if isinstance(o, BaseException) else o.prediction.result["echo"] for o in (*outcomes[:2], outcomes[3])
    ] == [
        "before",
        "good-1",
        "good-2",
    ]
    assert isinstance(outcomes[2], InternalFault)
    assert "must not be shown" not in str(outcomes[2])


async def test_short_items_are_not_padded_to_long_ones(runner: Echo, executor: ThreadPoolExecutor) -> None:
    batcher = Batcher(runner, executor, Limits(slots=1))
    runner.gate.clear()
    tasks = [asyncio.create_task(batcher.infer("x"))]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(batcher.infer(text)) for text in ("s" * 9, "l" * 500, "s" * 10, "l" * 490)]
    await asyncio.sleep(0)
    runner.gate.set()
    await asyncio.gather(*tasks)
    assert runner.batches[1:] == [["s" * 9, "s" * 10], ["l" * 500, "l" * 490]]


async def test_a_batch_stays_within_its_token_budget_padding_included(
    runner: Echo, executor: ThreadPoolExecutor
) -> None:
    batcher = Batcher(runner, executor, Limits(slots=1, batch_tokens=100))
    await asyncio.gather(*(batcher.infer("z" * (16 + number % 15)) for number in range(40)))
    assert max(len(batch) * max(map(len, batch)) for batch in runner.batches) <= 100


async def test_a_full_queue_turns_new_items_away_and_keeps_the_old_ones(
    runner: Echo, executor: ThreadPoolExecutor
) -> None:
    batcher = Batcher(runner, executor, Limits(slots=1, queue_items=3))
    runner.gate.clear()
    tasks = [asyncio.create_task(batcher.infer(f"item {number}")) for number in range(6)]
    await asyncio.sleep(0.01)
    runner.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    shed = [outcome for outcome in outcomes if isinstance(outcome, Overloaded)]
    assert len(shed) == 2
    assert all(error.retry_after_s for error in shed)
    assert sum(len(batch) for batch in runner.batches) == 4


async def test_an_item_whose_caller_has_gone_is_never_run(runner: Echo, executor: ThreadPoolExecutor) -> None:
    batcher = Batcher(runner, executor, Limits(slots=1))
    runner.gate.clear()
    first = asyncio.create_task(batcher.infer("first"))
    await asyncio.sleep(0)
    gone, stays = asyncio.create_task(batcher.infer("gone!")), asyncio.create_task(batcher.infer("stays"))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    runner.gate.set()
    await asyncio.gather(first, stays)
    assert runner.batches == [["first"], ["stays"]]
    assert batcher.waiting_items == 0


async def test_interactive_items_go_before_bulk(runner: Echo, executor: ThreadPoolExecutor) -> None:
    batcher = Batcher(runner, executor, Limits(slots=1, batch_items=2))
    runner.gate.clear()
    tasks = [asyncio.create_task(batcher.infer("first"))]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(batcher.infer(f"bulk{number}", bulk=True)) for number in range(4)]
    tasks += [asyncio.create_task(batcher.infer(f"live{number}")) for number in range(2)]
    await asyncio.sleep(0)
    runner.gate.set()
    await asyncio.gather(*tasks)
    assert runner.batches == [["first"], ["live0", "live1"], ["bulk0", "bulk1"], ["bulk2", "bulk3"]]


async def test_long_texts_leave_a_slot_to_short_ones(executor: ThreadPoolExecutor) -> None:
    class Slow(Echo):
        def run(self, items: Sequence[str]) -> Sequence[Prediction]:
            if len(items[0]) >= 1024:
                self.gate.wait(10)
            return [Prediction({"echo": item}, None) for item in items]

    runner = Slow()
    runner.gate.clear()
    batcher = Batcher(runner, executor, Limits(slots=2))
    long = [asyncio.create_task(batcher.infer("l" * 2000)) for _ in range(8)]
    await asyncio.sleep(0)
    short = await asyncio.wait_for(batcher.infer("short"), 2)
    assert short.prediction.result == {"echo": "short"}
    runner.gate.set()
    assert len(await asyncio.gather(*long)) == 8


async def test_a_runner_that_loses_an_answer_does_not_shift_the_others(executor: ThreadPoolExecutor) -> None:
    class Losing(Echo):
        def run(self, items: Sequence[str]) -> Sequence[Prediction]:
            predictions = super().run(items)
            return predictions[1:] if len(items) > 1 else predictions

    runner = Losing()
    batcher = Batcher(runner, executor, Limits(slots=1))
    answers = await asyncio.gather(*(batcher.infer(f"n{number}") for number in range(6)))
    assert [answer.prediction.result["echo"] for answer in answers] == [f"n{number}" for number in range(6)]
