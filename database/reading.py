"""Reads that cannot hang, and reads of the trail that say first what their reader may see."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from errors import Unavailable

T = TypeVar("T")

_LONGEST_READ_S: Final = 5.0
_abandoned: set[asyncio.Task[Any]] = set()


_STATE: Final = text(
    "SELECT set_config('followup.everything', :everything, true), set_config('followup.author', :author, true),"
    " set_config('followup.patient', :patient, true), set_config('followup.clinician', :clinician, true),"
    " set_config('followup.own_log', :own_log, true)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """Whose eyes a read has: row-level security shows the server's role nothing else.

    An author sees what they asked for about nobody in particular, a patient what is about them, a clinician what is
    about the patients they are related to just now. `own_log`: everything that this person did, whomever it was about.
    """

    author: str = ""
    own_log: str = ""
    patient: str = ""
    clinician: str = ""
    everything: bool = False


EVERYTHING: Final = Sight(everything=True)


def state(connection: Connection, sight: Sight) -> None:
    """Say for the rest of this transaction whose eyes it has."""
    values = {"author": sight.author, "patient": sight.patient, "clinician": sight.clinician, "own_log": sight.own_log}
    connection.execute(_STATE, {**values, "everything": "on" if sight.everything else ""})


@asynccontextmanager
async def seeing(engine: AsyncEngine, sight: Sight) -> AsyncIterator[AsyncConnection]:
    """A transaction that sees what `sight` may see of ml_predictions and audit_events."""
    async with engine.connect() as connection, connection.begin():
        await connection.run_sync(state, sight)
        yield connection


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
