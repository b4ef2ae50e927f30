"""Equal requests under way share one computation."""

import asyncio

import pytest

from inference.single_flight import SingleFlight


async def test_equal_keys_compute_once_and_other_keys_apart() -> None:
    flights: SingleFlight[str] = SingleFlight()
    computed = []

    async def compute(value: str) -> str:
        computed.append(value)
        await asyncio.sleep(0.01)
        return value

    answers = await asyncio.gather(
        *(flights.do(key, lambda key=key: compute(key.decode())) for key in [b"a", b"a", b"b"])
    )
    assert answers == [("a", False), ("a", True), ("b", False)]
    assert sorted(computed) == ["a", "b"]
    assert await flights.do(b"a", lambda: compute("again")) == ("again", False)


async def test_a_failure_reaches_everybody_and_is_not_kept() -> None:
    flights: SingleFlight[str] = SingleFlight()

    async def fail() -> str:
        await asyncio.sleep(0.01)
        raise ValueError

    outcomes = await asyncio.gather(*(flights.do(b"a", fail) for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ValueError] * 3


async def test_when_the_first_caller_goes_the_others_still_get_the_answer() -> None:
    flights: SingleFlight[str] = SingleFlight()

    async def compute() -> str:
        await asyncio.sleep(0.02)
        return "done"

    first = asyncio.create_task(flights.do(b"a", compute))
    second = asyncio.create_task(flights.do(b"a", compute))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == ("done", True)


async def test_when_all_callers_go_the_computation_is_given_up() -> None:
    flights: SingleFlight[str] = SingleFlight()
    given_up = asyncio.Event()

    async def compute() -> str:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            given_up.set()
            raise
        return "never"

    tasks = [asyncio.create_task(flights.do(b"a", compute)) for _ in range(2)]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    for task in tasks:
        with pytest.raises(asyncio.CancelledError):
            await task
    await asyncio.wait_for(given_up.wait(), 1)
