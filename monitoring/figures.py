"""Figures that take a walk through the trail: shared by all who ask at the same time, few walks at once.

A walk over a short trail is made each time. One that took long is kept for ten times as long as it took, so that
whoever asks for figures in a loop has a tenth of one connection and predictions have the rest.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from inference.single_flight import SingleFlight
from monitoring.performance import performance
from monitoring.stats import totals

_CHEAP_S: Final = 0.2
_KEPT_FOR: Final = 10  # times what it took
_LONGEST_KEPT_S: Final = 300.0
_MOST_KEPT: Final = 256
_AT_ONCE: Final = 2  # of the pool's connections

Shown = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Kept:
    figures: Shown
    until_s: float


class Figures:
    """Reads figures of one database."""

    def __init__(self, engine: AsyncEngine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._flights: SingleFlight[Shown] = SingleFlight()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def totals(self) -> Shown:
        """Counts over the whole trail."""
        return await self._shared("totals", lambda: totals(self._engine))

    async def performance(self, model_name: str, hours: int) -> Shown:
        """Summary and time series of the last `hours` hours of one model."""
        return await self._shared(f"{hours} {model_name}", lambda: performance(self._engine, model_name, hours))

    async def _shared(self, key: str, read: Callable[[], Awaitable[Shown]]) -> Shown:
        kept = self._kept.get(key)
        if kept is not None and self._clock() < kept.until_s:
            return kept.figures
        figures, _ = await self._flights.do(key.encode(), lambda: self._read(key, read))
        return figures

    async def _read(self, key: str, read: Callable[[], Awaitable[Shown]]) -> Shown:
        async with self._slots:
            begun_s = self._clock()
            figures = await read()
            took_s = self._clock() - begun_s
        self._kept.pop(key, None)
        if took_s > _CHEAP_S:
            self._kept[key] = _Kept(figures, self._clock() + min(took_s * _KEPT_FOR, _LONGEST_KEPT_S))
            if len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return figures
