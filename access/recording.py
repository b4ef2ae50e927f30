"""Changes of who may see what: in force together with their event, or not at all.

The database's functions (migration 0004) take the change and its event and write both; the server's role can change
nothing without them.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson
from sqlalchemy import TextClause, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from database.reading import bounded
from errors import Unavailable

# What the trail shall say of a change beside the change itself: from where and by which request, JSON-able.
Event = Mapping[str, Any]

# Well before the caller is told that nothing answers: what they were refused must not come about afterwards.
_LIMIT: Final = text("SET LOCAL statement_timeout = '2s'")


def change(call: str, event: Event, **values: Any) -> TextClause:
    """The statement that calls one of the functions; `:event` stands for the event."""
    document = orjson.dumps(event, option=orjson.OPT_UTC_Z).decode()
    return text(f"SELECT * FROM {call}".replace(":event", "CAST(:event AS jsonb)")).bindparams(  # noqa: S608
        event=document, **values
    )


async def changed(engine: AsyncEngine, statement: Any) -> Mapping[str, Any] | None:
    """Execute a change. Returns its row, or None when nothing was changed: then nothing is recorded.

    Raises Unavailable: then nothing is in force.
    """
    return await bounded(_changed(engine, statement))


async def _changed(engine: AsyncEngine, statement: Any) -> Mapping[str, Any] | None:
    try:
        async with engine.begin() as connection:
            await connection.execute(_LIMIT)
            row = (await connection.execute(statement)).mappings().first()
            return None if row is None else dict(row)
    except OperationalError as error:
        raise Unavailable("The database does not answer.", retry_after_s=1) from error


def is_refused(error: DBAPIError) -> bool:
    """Whether the database says that this person may not do this."""
    return getattr(error.orig, "sqlstate", None) == "42501"
