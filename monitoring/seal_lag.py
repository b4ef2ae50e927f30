"""Whether the sealer keeps up: how long the oldest record has waited to be sealed."""

import asyncio
import logging
from typing import Final

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from audit.proofs import seal_lag

log = logging.getLogger(__name__)

_ALARM_FROM_S: Final = 5.0
_ALARM_EVERY: Final = 30  # looks: an alarm that repeats each second is switched off


class SealLag:
    """Looks every two seconds. `seconds` is what was seen last, NaN while the database cannot be asked."""

    def __init__(self, engine: AsyncEngine, *, every_s: float = 2.0) -> None:
        self._engine = engine
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None
        self.seconds = 0.0

    @property
    def late(self) -> bool:
        """Whether records wait for longer than they should."""
        return self.seconds > _ALARM_FROM_S

    async def open(self) -> None:
        self._task = asyncio.create_task(self._watch(), name="seal-lag")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        late = 0
        while True:
            try:
                async with self._engine.connect() as connection:
                    self.seconds = await connection.run_sync(seal_lag)
            except (SQLAlchemyError, OSError, TimeoutError):
                self.seconds = float("nan")
            late = late + 1 if self.late else 0
            if late % _ALARM_EVERY == 1:
                log.error("records wait for %.0f s to be sealed: is `followup audit seal` running?", self.seconds)
            await asyncio.sleep(self._every_s)
