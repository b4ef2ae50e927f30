"""The write path of the audit trail: a record is durable before its answer leaves, or there is no answer.

Group commit: one connection writes; whatever arrives while a commit is on its way to disk shares the next one. So a
lone request waits for one commit, and many together cost little more than one. A failed commit fails every request in
it.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from uuid import UUID

import psycopg
from psycopg import AsyncConnection

from audit.data_keys import DataKey, DataKeys, subject_of
from audit.record import Event, FirstAnswer, Record
from audit.rows import (
    CLAIM_KEYS,
    DESTROYED_KEYS,
    INSERT_EVENTS,
    INSERT_PREDICTIONS,
    columns,
    event_row,
    first_answer_row,
    prediction_row,
)
from errors import AuditUnavailable

log = logging.getLogger(__name__)

T = TypeVar("T")

_MOST_ROWS: Final = 512
_PAUSE_BEFORE_RECONNECT_S: Final = 0.25
_PAUSE_BETWEEN_PROBES_S: Final = 1.0
_TRIES_WITH_A_NEW_KEY: Final = 3


class _KeyDestroyed(Exception):
    """A patient's key was destroyed since a row was sealed with it; the row was not written."""

    def __init__(self, ids: frozenset[UUID]) -> None:
        super().__init__()
        self.ids = ids


class KeyTaken(Exception):
    """Another request with this Idempotency-Key was answered first; its answer is the one to give."""


@dataclass(slots=True, eq=False)
class _Entry:
    """What one request waits for: its rows, all or none."""

    predictions: list[tuple[Any, ...]]
    events: list[tuple[Any, ...]]
    first_answer: FirstAnswer | None
    key_ids: frozenset[UUID] = frozenset()
    durable: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def __len__(self) -> int:
        return len(self.predictions) + len(self.events)

    def finish(self, error: Exception | None) -> None:
        if self.durable.done():
            return
        if error is None:
            self.durable.set_result(None)
        else:
            self.durable.set_exception(error)


class Trail:
    """One per process. `open` before use, `close` at the end: what is waiting then is still written."""

    def __init__(self, database_url: str, keys: DataKeys, *, timeout_s: float) -> None:
        self._database_url = database_url
        self._keys = keys
        self._timeout_s = timeout_s
        self._waiting: deque[_Entry] = deque()
        self._wake = asyncio.Event()
        self._connection: AsyncConnection[Any] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._reachable = False
        self._closing = False
        self._burials: set[asyncio.Task[None]] = set()

    @property
    def reachable(self) -> bool:
        """Whether the last attempt to reach the database went well."""
        return self._reachable

    async def open(self) -> None:
        """Connect. Raises AuditUnavailable when the database cannot be reached."""
        try:
            await self._connected(self._deadline())
        except (psycopg.Error, OSError, TimeoutError) as error:
            raise AuditUnavailable("The audit database cannot be reached.") from error
        self._writer = asyncio.create_task(self._write(), name="audit-trail")

    async def close(self) -> None:
        self._closing = True
        self._wake.set()
        if self._writer is not None:
            await self._writer
        await self._disconnect()
        if self._burials:
            await asyncio.wait(self._burials, timeout=1)

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout_s

    async def record(self, records: Sequence[Record], first_answer: FirstAnswer | None = None) -> None:
        """Return once all predictions are committed, none or all.

        Raises AuditUnavailable when they can't be within the time limit (then some may have been written all the same,
        but nobody saw the answer), KeyTaken when the Idempotency-Key was used first by another request (then none was
        written).
        """
        self._refuse_when_unreachable()
        for _ in range(_TRIES_WITH_A_NEW_KEY):
            keys = [await self._key(record.patient_id, record.caller.principal) for record in records]
            rows = [prediction_row(record, key) for record, key in zip(records, keys, strict=True)]
            try:
                return await self._durable(_Entry(rows, [], first_answer, frozenset(key.id for key in keys)))
            except _KeyDestroyed as destroyed:
                self._keys.forget(destroyed.ids)
        raise AuditUnavailable("The keys of this record are being erased.")

    async def _key(self, patient_id: str | None, principal: str) -> DataKey:
        subject = subject_of(patient_id, principal)
        return self._keys.known(subject) or await self._keys.current(subject)

    async def event(self, event: Event) -> None:
        """Return once an event is committed. Raises AuditUnavailable when it can't be within the time limit."""
        self._refuse_when_unreachable()
        key: DataKey | None = None
        if event.detail is not None:
            key = await self._key(event.patients[0] if event.patients else None, event.caller.principal)
        await self._durable(_Entry([], [event_row(event, key)], None))

    def _refuse_when_unreachable(self) -> None:
        if not self._reachable or self._closing:
            raise AuditUnavailable("The audit database cannot be reached.")

    async def _durable(self, entry: _Entry) -> None:
        self._waiting.append(entry)
        self._wake.set()
        try:
            await entry.durable
        except asyncio.CancelledError:
            entry.durable.cancel()
            raise

    async def _write(self) -> None:
        while True:
            if not self._waiting:
                if self._closing:
                    return
                self._wake.clear()
                await self._idle()
                continue
            await self._settle(self._take())

    async def _settle(self, batch: Sequence[_Entry]) -> None:
        """Commit a batch and tell everybody in it how that went."""
        if not batch:
            return
        try:
            taken = await self._within_time(lambda connection: self._commit(connection, batch))
        except (psycopg.DataError, psycopg.IntegrityError, UnicodeError):
            # Something in one row that the database refuses: it must not take the others with it.
            if len(batch) == 1:
                log.error("audit trail: a record was refused by the database")
                batch[0].finish(AuditUnavailable("The record of this request cannot be written."))
            else:
                for entry in batch:
                    await self._settle([entry])
        except _KeyDestroyed as destroyed:
            for entry in batch:
                if entry.key_ids & destroyed.ids:
                    entry.finish(destroyed)
            await self._settle([entry for entry in batch if not entry.durable.done()])
        except (psycopg.Error, OSError, TimeoutError) as error:
            # The class alone: a driver's message may quote parameters.
            log.error("audit trail: commit failed (%s), %d requests get 503", type(error).__name__, len(batch))
            self._fail(batch)
        else:
            for entry in batch:
                entry.finish(KeyTaken() if entry in taken else None)

    async def _idle(self) -> None:
        """Wait for work; meanwhile keep knowing whether the database is there, so that readiness tells the truth."""
        if not self._reachable:
            await asyncio.sleep(_PAUSE_BEFORE_RECONNECT_S)
            with contextlib.suppress(psycopg.Error, OSError, TimeoutError):
                await self._connected(self._deadline())
                log.warning("audit trail: the database is back")
            return
        try:
            async with asyncio.timeout(_PAUSE_BETWEEN_PROBES_S):
                await self._wake.wait()
        except TimeoutError:
            try:
                await self._within_time(_probe)
            except (psycopg.Error, OSError, TimeoutError) as error:
                log.error("audit trail: the database is gone (%s)", type(error).__name__)
                self._fail([])

    def _take(self) -> list[_Entry]:
        """The entries of the next commit; callers that have gone are left out."""
        batch: list[_Entry] = []
        rows = 0
        while self._waiting and rows < _MOST_ROWS:
            entry = self._waiting.popleft()
            if not entry.durable.done():
                batch.append(entry)
                rows += len(entry)
        return batch

    def _fail(self, batch: Sequence[_Entry]) -> None:
        """503 for everybody in the batch and everybody behind it: none of them can be written now."""
        self._reachable = False
        for entry in (*batch, *self._waiting):
            entry.finish(AuditUnavailable("The audit database did not commit in time."))
        self._waiting.clear()

    async def _within_time(self, work: Callable[[AsyncConnection[Any]], Coroutine[Any, Any, T]]) -> T:
        """Do it, once more on a fresh connection if the old one had broken. Raises TimeoutError when that is late.

        Only the writer, who awaits this, ever touches `self._connection`: work that is given up keeps the connection it
        was given, and nobody else uses that one again.
        """
        deadline = self._deadline()
        for attempt in (1, 2):
            try:
                connection = await self._connected(deadline)
                task = asyncio.create_task(work(connection))
                done, _ = await asyncio.wait({task}, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
                if not done:
                    self._give_up(task, connection)
                    raise TimeoutError
                return task.result()
            except psycopg.OperationalError:
                await self._disconnect()
                if attempt == 2:
                    raise
        raise AssertionError("unreachable")

    def _give_up(self, task: "asyncio.Task[Any]", connection: AsyncConnection[Any]) -> None:
        """Leave late work and its connection behind. Not cancelled: psycopg would ask the frozen server to cancel."""
        self._connection = None
        if not connection.closed:
            with socket.socket(fileno=os.dup(connection.fileno())) as duplicate, contextlib.suppress(OSError):
                duplicate.shutdown(socket.SHUT_RDWR)

        async def bury() -> None:
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # looked at, so that asyncio does not complain of it
            await connection.close()

        burial = asyncio.create_task(bury(), name="audit-trail-burial")
        self._burials.add(burial)
        burial.add_done_callback(self._burials.discard)

    async def _commit(self, connection: AsyncConnection[Any], batch: Sequence[_Entry]) -> frozenset[_Entry]:
        """Write a batch. Returns who came too late for their Idempotency-Key."""
        answers = [entry.first_answer for entry in batch if entry.first_answer is not None]
        if not answers:
            await _insert(connection, batch)
            return frozenset()
        async with connection.transaction():
            rows = [first_answer_row(answer, self._keys.system) for answer in answers]
            cursor = await connection.execute(CLAIM_KEYS, columns(rows))
            claimed = {(str(row[0]), str(row[1])) for row in await cursor.fetchall()}
            writers, taken = [], []
            for entry in batch:
                if entry.first_answer is None:
                    writers.append(entry)
                elif (key := _key(entry.first_answer)) in claimed:
                    claimed.remove(key)  # the first of two equal keys in one batch wins, as in the statement above
                    writers.append(entry)
                else:
                    taken.append(entry)
            await _insert(connection, writers)
        return frozenset(taken)

    async def _connected(self, deadline: float) -> AsyncConnection[Any]:
        """The connection, made anew where there is none. Only the writer calls this. Raises TimeoutError when late."""
        connection = self._connection
        if connection is None or connection.closed:
            async with asyncio.timeout_at(deadline):
                connection = await AsyncConnection.connect(
                    self._database_url,
                    autocommit=True,
                    application_name="followup-trail",
                    options="-c synchronous_commit=on -c idle_in_transaction_session_timeout=5s",
                )
            self._connection = connection
        self._reachable = True
        return connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


async def _probe(connection: AsyncConnection[Any]) -> None:
    await connection.execute("SELECT 1")


def _key(answer: FirstAnswer) -> tuple[str, str]:
    return answer.principal, str(answer.key)


async def _insert(connection: AsyncConnection[Any], entries: Sequence[_Entry]) -> None:
    """The rows of all entries, in one transaction; one statement where they are all of one kind."""
    predictions = [row for entry in entries for row in entry.predictions]
    events = [row for entry in entries for row in entry.events]
    if predictions and events:
        async with connection.transaction():
            await _insert_predictions(connection, predictions, entries)
            await connection.execute(INSERT_EVENTS, columns(events), prepare=True)
    elif predictions:
        await _insert_predictions(connection, predictions, entries)
    elif events:
        await connection.execute(INSERT_EVENTS, columns(events), prepare=True)


async def _insert_predictions(
    connection: AsyncConnection[Any], rows: Sequence[tuple[Any, ...]], entries: Sequence[_Entry]
) -> None:
    """Raises _KeyDestroyed when rows were left out for that; those that were written may be sent again."""
    written = await connection.execute(INSERT_PREDICTIONS, columns(rows), prepare=True)
    if written.rowcount < len(rows):  # or a commit is repeated whose acknowledgement was lost
        found = await connection.execute(DESTROYED_KEYS)
        destroyed = frozenset(row[0] for row in await found.fetchall())
        if ids := destroyed & frozenset[UUID]().union(*(entry.key_ids for entry in entries)):
            raise _KeyDestroyed(ids)
