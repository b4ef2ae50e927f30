"""What the reading routes share: JSON answers, numbers from the query, and reads that cannot hang."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Final, TypeVar

import orjson
from starlette.responses import Response

from errors import FieldFault, InvalidInput, Unavailable

T = TypeVar("T")

_LONGEST_READ_S: Final = 5.0
_abandoned: set[asyncio.Task[Any]] = set()


def answer(document: Any) -> Response:
    """200 with JSON; times are RFC 3339 in UTC."""
    return Response(orjson.dumps(document, option=orjson.OPT_UTC_Z), media_type="application/json")


def whole_number(query: Mapping[str, str], name: str, *, default: int, least: int, most: int) -> int:
    """A number from the query string. Raises InvalidInput outside its range."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and least <= int(text) <= most):
        raise InvalidInput(
            "A query parameter is out of range.", [FieldFault(f"/{name}", f"must be a whole number, {least} to {most}")]
        )
    return int(text)


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
