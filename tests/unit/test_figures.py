"""Figures over the trail: one walk for all who ask at the same time, and a dear one is kept for a while."""

import asyncio
from typing import Any

import pytest

from monitoring import figures
from monitoring.figures import Figures


class Walks:
    """Stands in for the database: counts walks, each of which takes `seconds` of a clock that only it moves."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.now = 0.0
        self.walks = 0
        self.under_way = 0
        self.most_under_way = 0

    async def walk(self, *_: Any) -> dict[str, Any]:
        self.walks += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(0.01)
        self.now += self.seconds
        self.under_way -= 1
        return {"walk": self.walks}


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> Walks:
    found = Walks()
    monkeypatch.setattr(figures, "totals", found.walk)
    monkeypatch.setattr(figures, "performance", found.walk)
    return found


def of(walks: Walks) -> Figures:
    return Figures(None, clock=lambda: walks.now)  # type: ignore[arg-type]


async def test_a_cheap_walk_is_made_each_time_and_shared_by_those_who_ask_meanwhile(walks: Walks) -> None:
    shown = of(walks)
    assert {each["walk"] for each in await asyncio.gather(*(shown.totals() for _ in range(20)))} == {1}
    assert (await shown.totals())["walk"] == 2


async def test_a_dear_one_is_kept_for_ten_times_what_it_took(walks: Walks) -> None:
    shown = of(walks)
    walks.seconds = 1.0
    await shown.totals()
    walks.now += 9.9
    assert (await shown.totals())["walk"] == 1
    walks.now += 0.2
    assert (await shown.totals())["walk"] == 2


async def test_few_walk_at_once_however_many_ask_for_different_ones(walks: Walks) -> None:
    shown = of(walks)
    await asyncio.gather(*(shown.performance("m", hours) for hours in range(1, 30)))
    assert walks.walks == 29
    assert walks.most_under_way == 2


async def test_what_is_kept_is_bounded(walks: Walks) -> None:
    shown = of(walks)
    walks.seconds = 100.0
    for hours in range(1, 400):
        await shown.performance("m", hours)
    assert len(shown._kept) <= 256
