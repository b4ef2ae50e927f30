"""Equal requests that are under way at the same time share one computation."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Computations under way, by key. A computation is given up only when nobody waits for it any more."""

    def __init__(self) -> None:
        self._flights: dict[bytes, tuple[asyncio.Future[T], list[int]]] = {}

    async def do(self, key: bytes, compute: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """The result, and whether somebody else's computation gave it. Raises what the computation raises."""
        flight = self._flights.get(key)
        shared = flight is not None
        if flight is None:
            task = asyncio.ensure_future(compute())
            flight = self._flights[key] = (task, [0])
            task.add_done_callback(lambda done: self._land(key, done))
        future, waiting = flight
        waiting[0] += 1
        try:
            return await asyncio.shield(future), shared
        finally:
            waiting[0] -= 1
            if waiting[0] == 0 and not future.done():
                self._land(key, future)
                future.cancel()

    def _land(self, key: bytes, future: asyncio.Future[T]) -> None:
        flight = self._flights.get(key)
        if flight is not None and flight[0] is future:
            del self._flights[key]
