"""What a growing database needs from time to time: next months' partitions, and an end to old idempotency keys."""

import asyncio
import logging
from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

log = logging.getLogger(__name__)

_MONTHS_AHEAD: Final = 3
_MISSING: Final = text(
    "SELECT parent FROM unnest(ARRAY['ml_predictions', 'audit_events', 'ml_performance_logs']) AS parent"
    " WHERE to_regclass(parent || to_char((now() AT TIME ZONE 'UTC') + interval '1 month', '_YYYYMM')) IS NULL"
)


class Maintenance:
    """Runs at start and every hour after. Fails open: rows without a partition of their own go to the default one."""

    def __init__(self, engine: AsyncEngine, *, every_s: float = 3600.0) -> None:
        self._engine = engine
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._task = asyncio.create_task(self._run(), name="maintenance")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self.once()
            except (SQLAlchemyError, OSError) as error:
                log.warning("maintenance: not done (%s), tried again later", type(error).__name__)
            await asyncio.sleep(self._every_s)

    async def once(self) -> None:
        """Make partitions for the next months, forget first answers that nobody will ask for again."""
        async with self._engine.begin() as connection:
            # Whoever waits for such a lock holds up everybody who writes behind it, and a reader may keep theirs for
            # ever: months are made ahead, so there is time to try again.
            await connection.execute(text("SET LOCAL lock_timeout = '100ms'"))
            await connection.execute(text("SELECT ensure_partitions(:months)"), {"months": _MONTHS_AHEAD})
            await connection.execute(text("SELECT forget_idempotency_keys()"))
            missing = (await connection.execute(_MISSING)).scalars().all()
        if missing:
            log.error(
                "maintenance: next month has no partition of %s yet: does a transaction stay open?", ", ".join(missing)
            )
