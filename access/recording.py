"""Changes of who may see what: in force together with their record, or not at all."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from database.reading import bounded
from errors import Unavailable

# Puts a change on record with the connection that makes it; given what is known of the change only now.
Record = Callable[[Connection, Mapping[str, Any]], None]

# Well before the caller is told that nothing answers: what they were refused must not come about afterwards.
_LIMIT: Final = text("SET LOCAL statement_timeout = '2s'")


async def changed(engine: AsyncEngine, statement: Any, record: Record | None) -> Mapping[str, Any] | None:
    """Execute a statement and record its row (an empty one where it returns none) in one transaction.

    Returns the row, or None, unrecorded, when the statement changed nothing. Raises Unavailable: then nothing is in
    force. Without `record` whoever calls has it on record otherwise.
    """
    return await bounded(_changed(engine, statement, record))


async def _changed(engine: AsyncEngine, statement: Any, record: Record | None) -> Mapping[str, Any] | None:
    try:
        async with engine.begin() as connection:
            return await _done(connection, statement, record)
    except OperationalError as error:
        raise Unavailable("The database does not answer.", retry_after_s=1) from error


async def _done(connection: AsyncConnection, statement: Any, record: Record | None) -> Mapping[str, Any] | None:
    await connection.execute(_LIMIT)
    result = await connection.execute(statement)
    row: Mapping[str, Any] | None = {}
    if result.returns_rows:
        found = result.mappings().first()
        row = None if found is None else dict(found)
    if row is not None and record is not None:
        await connection.run_sync(record, row)
    return row
