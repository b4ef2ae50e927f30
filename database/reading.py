"""Reads that cannot hang."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from errors import Unavailable

T = TypeVar("T")

_LONGEST_READ_S: Final = 5.0
_abandoned: set[asyncio.Task[Any]] = set()


async def bounded(read: Coroutine[Any, Any, T]) -> T:
    """The result of a read from the database, or Unavailable after five seconds.

    A read that is late is left behind, not cancelled: cancelling asks the server, which is what does not answer.
    """
    task = asyncio.create_task(read)
    done, _ = await asyncio.wait({task}, timeout=_LONGEST_READ_S)
    if not done:
        _abandoned.add(task)
        task.add_done_callback(_forget)
        raise Unavailable("The database does not answer.", retry_after_s=1)
    return task.result()


def _forget(task: asyncio.Task[Any]) -> None:
    _abandoned.discard(task)
    if not task.cancelled():
        task.exception()  # looked at, so that asyncio does not complain of it
