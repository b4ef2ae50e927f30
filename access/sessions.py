"""Automatic log-off (45 CFR 164.312(a)(2)(iii)): a login that made no request for 15 minutes is over.

Later tokens of the same login are refused until somebody signs in again. When each login was last seen is kept in
memory, flushed every 30 seconds in one statement and shared by all servers through the table `login_sessions`. A
request of a login that is known here costs no look-up; on another server a login may end up to 30 seconds early,
never late. Without the database each server goes by what it saw itself.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import bindparam, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from access.principal import Principal
from database.reading import bounded
from database.tables import LoginSession
from errors import Unauthenticated, Unavailable

log = logging.getLogger(__name__)

IDLE_S: Final = 900.0
_FLUSH_S: Final = 30.0
_KEPT_S: Final = 30 * 86_400.0  # a login older than this that nobody remembers is over too
_PAUSE_AFTER_FAILURE_S: Final = 5.0
_MOST_IN_MEMORY: Final = 100_000
_ROW: Final = LoginSession.__table__.c
_FLUSH: Final = text("SELECT touch_sessions(CAST(:sessions AS bytea[]), CAST(:seen AS timestamptz[]))").bindparams(
    bindparam("sessions"), bindparam("seen")
)


class LoginSessions:
    """When each login was last seen. `digest` is keyed: the table names no login. `clock` is in seconds since 1970."""

    def __init__(
        self,
        engine: AsyncEngine,
        digest: Callable[[bytes], bytes],
        *,
        idle_s: float = IDLE_S,
        flush_s: float = _FLUSH_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._digest = digest
        self._idle_s = idle_s
        self._flush_s = flush_s
        self._clock = clock
        self._seen: OrderedDict[str, float] = OrderedDict()
        self._unwritten: OrderedDict[str, float] = OrderedDict()
        self._asked: dict[str, asyncio.Task[float | None]] = {}
        self._no_database_until = float("-inf")
        self._flushing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._flushing = asyncio.create_task(self._run(), name="login-sessions")

    async def close(self) -> None:
        """What was seen last is still written."""
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.gather(self._flushing, return_exceptions=True)
        await self._try(self.flush)

    async def check(self, principal: Principal) -> None:
        """Note that this login is in use. Raises Unauthenticated when it was idle for too long."""
        if principal.login is None:
            return
        now = self._clock()
        seen = self._seen.get(principal.login)
        if seen is None or now - seen >= self._idle_s:
            seen = await self._last_seen(principal, now)
        if now - seen >= self._idle_s:
            raise Unauthenticated("The session was idle for too long: sign in again.", reason="idle")
        self._note(self._seen, principal.login, now)
        self._note(self._unwritten, principal.login, now)

    def _note(self, moments: OrderedDict[str, float], login: str, moment: float) -> None:
        moments[login] = moment
        moments.move_to_end(login)
        if len(moments) > _MOST_IN_MEMORY:
            moments.popitem(last=False)

    async def _last_seen(self, principal: Principal, now: float) -> float:
        """When any server last saw this login; now, when none did since it began."""
        assert principal.login is not None
        here = self._seen.get(principal.login)
        elsewhere = await self._ask(principal.login)
        known = [moment for moment in (here, elsewhere) if moment is not None]
        if known:
            return max(known)
        signed_in = principal.auth_time
        return now if signed_in is None or now - signed_in < _KEPT_S else signed_in

    async def _ask(self, login: str) -> float | None:
        """What the table has; None also when it does not answer."""
        if self._clock() < self._no_database_until:
            return None
        task = self._asked.get(login)
        if task is None:
            task = self._asked[login] = asyncio.create_task(self._read(login))
            task.add_done_callback(lambda _: self._asked.pop(login, None))
        return await asyncio.shield(task)  # several requests may wait for the same login

    async def _read(self, login: str) -> float | None:
        found: float | None = None

        async def read() -> None:
            nonlocal found
            query = select(_ROW.last_seen).where(_ROW.session == self._digest(login.encode()))
            async with self._engine.connect() as connection:
                last_seen = (await connection.execute(query)).scalar()
            found = None if last_seen is None else last_seen.timestamp()

        async def read_bounded() -> None:
            await bounded(read())

        await self._try(read_bounded)
        return found

    async def _run(self) -> None:
        flushes = 0
        while True:
            await asyncio.sleep(self._flush_s)
            await self._try(self.flush)
            if flushes % 120 == 0:  # about once an hour
                await self._try(self.forget_old)
            flushes += 1

    async def _try(self, work: Callable[[], Awaitable[None]]) -> None:
        """Fails open: who is signed in may go on working while the database is away."""
        try:
            await work()
        except (SQLAlchemyError, OSError, TimeoutError, Unavailable) as error:
            log.warning("login sessions: not shared just now (%s)", type(error).__name__)
            self._no_database_until = self._clock() + _PAUSE_AFTER_FAILURE_S

    async def flush(self) -> None:
        """Write what is new since the last flush, in one statement. Raises what the database raises."""
        batch, self._unwritten = self._unwritten, OrderedDict()
        if not batch:
            return
        try:
            await bounded(self._write(batch))
        except BaseException:
            for login, moment in batch.items():
                if len(self._unwritten) < _MOST_IN_MEMORY:
                    self._unwritten.setdefault(login, moment)
            raise

    async def _write(self, batch: Mapping[str, float]) -> None:
        # In one order everywhere: two servers that lock the same rows must not wait for each other.
        rows = sorted((self._digest(login.encode()), moment) for login, moment in batch.items())
        sessions = [session for session, _ in rows]
        seen = [datetime.fromtimestamp(moment, UTC) for _, moment in rows]
        async with self._engine.begin() as connection:
            await connection.execute(_FLUSH, {"sessions": sessions, "seen": seen})

    async def forget_old(self) -> None:
        """Delete logins that nobody used for a month. Raises what the database raises."""
        async with self._engine.begin() as connection:
            await connection.execute(text("SELECT forget_sessions()"))
