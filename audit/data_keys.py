"""A data key for each person, so that destroying one key erases what is held about one person and nothing else.

A key's subject is "patient:…" for what is about a patient, "author:…" for predictions about nobody in particular, and
"system" for keyed digests. Keys are kept unwrapped in memory while they are used; a destroyed one is dropped by every
server within seconds.
"""

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from audit.envelope import KEY_BYTES, DoesNotOpen, Envelope, KeyedDigest, derive
from audit.key_encryption import KeyRing
from database.tables import DataKey as Row
from errors import AuditUnavailable, InternalFault, SetupError

log = logging.getLogger(__name__)

SYSTEM: Final = "system"
# Records from before there were data keys were sealed with a key derived from ENCRYPTION_KEY itself.
FIRST_KEY: Final = UUID(int=0)
_MOST_IN_MEMORY: Final = 50_000
_LONGEST_LOAD_S: Final = 3.0
_ROW: Final = Row.__table__.c


def subject_of(patient_id: str | None, principal: str) -> str:
    """Whose key seals a record: the patient's, or for records about nobody in particular the author's."""
    return f"author:{principal}" if patient_id is None else f"patient:{patient_id}"


@dataclass(frozen=True, slots=True, eq=False)
class DataKey:
    """An unwrapped key. `seal` and `open` are those of Envelope."""

    id: UUID
    subject: str
    key: bytes
    envelope: Envelope

    def read(self, sealed: bytes, bound_to: str) -> bytes | None:
        """As `open`, for what is shown beside others: None, and a line in the log, for what does not open."""
        try:
            return self.open(sealed, bound_to)
        except DoesNotOpen:
            log.error("%s does not open with its key: it was changed, or sealed by nobody who has it", bound_to)
            return None

    def seal(self, plain: bytes, bound_to: str) -> bytes:
        return self.envelope.seal(plain, bound_to)

    def open(self, sealed: bytes, bound_to: str) -> bytes:
        return self.envelope.open(sealed, bound_to)


class _Unopened(Envelope):
    """Of a key that itself does not open."""

    def __init__(self) -> None:
        pass

    def seal(self, plain: bytes, bound_to: str) -> bytes:
        raise DoesNotOpen("A stored key does not open.")

    def open(self, sealed: bytes, bound_to: str) -> bytes:
        raise DoesNotOpen("A stored key does not open.")


class _AnyEnvelope(Envelope):
    """Opens what one of several sealed; which of the configured values was the first is not known."""

    def __init__(self, envelopes: Sequence[Envelope]) -> None:
        self._envelopes = envelopes

    def seal(self, plain: bytes, bound_to: str) -> bytes:
        raise InternalFault("Nothing is sealed with the first key any more.")

    def open(self, sealed: bytes, bound_to: str) -> bytes:
        for envelope in self._envelopes:
            with suppress(DoesNotOpen):
                return envelope.open(sealed, bound_to)
        raise DoesNotOpen("A stored value does not open with any key that is configured.")


class DataKeys:
    """The keys of this process. `open` before use."""

    def __init__(self, engine: AsyncEngine, ring: KeyRing, *, refresh_s: float = 5.0) -> None:
        self._engine = engine
        self._ring = ring
        self._refresh_s = refresh_s
        self._by_subject: OrderedDict[str, DataKey] = OrderedDict()
        self._by_id: dict[UUID, DataKey] = {}
        self._wanted: dict[str, asyncio.Future[DataKey]] = {}
        self._loading: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._system: DataKey | None = None
        self._secrets: dict[str, bytes] = {}

    async def open(self) -> None:
        """Load or make the system's key. Raises AuditUnavailable without a database, SetupError with a wrong key."""
        try:
            self._system = await self.current(SYSTEM)
        except InternalFault as error:
            raise SetupError(
                "The database's keys do not open with ENCRYPTION_KEY (or KMS_KEY_ID): it is another one, or an older"
                " one is missing in ENCRYPTION_KEYS_OLD."
            ) from error
        self._following = asyncio.create_task(self._follow(), name="data-keys")

    async def close(self) -> None:
        for task in (self._following, self._loading):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    @property
    def system(self) -> DataKey:
        assert self._system is not None, "open() comes first"
        return self._system

    def digest(self, purpose: str) -> KeyedDigest:
        """A keyed digest for one purpose; it survives a rotation of the wrapping key."""

        return KeyedDigest(lambda: self.secret(purpose))

    def secret(self, purpose: str) -> bytes:
        """32 bytes for one purpose, derived from the system's key. After `open`."""
        if (known := self._secrets.get(purpose)) is None:
            known = self._secrets[purpose] = derive(self.system.key, purpose)
        return known

    def known(self, subject: str) -> DataKey | None:
        """A subject's key if it is in memory."""
        return self._by_subject.get(subject)

    async def current(self, subject: str) -> DataKey:
        """A subject's key, made at first need and durable before it is returned. Raises AuditUnavailable."""
        if (known := self._by_subject.get(subject)) is not None:
            return known
        waiting = self._wanted.get(subject)
        if waiting is None:
            waiting = self._wanted[subject] = asyncio.get_running_loop().create_future()
            if self._loading is None or self._loading.done():
                self._loading = asyncio.create_task(self._load_wanted(), name="data-keys-load")
        return await asyncio.shield(waiting)

    async def by_id(self, ids: Collection[UUID]) -> Mapping[UUID, DataKey]:
        """The keys of records; a destroyed one is missing, one that does not open opens nothing.

        Raises what the database and the key service raise.
        """
        found = {key_id: self._by_id[key_id] for key_id in ids if key_id in self._by_id}
        if FIRST_KEY in ids:
            found[FIRST_KEY] = self._first()
        missing = [key_id for key_id in ids if key_id not in found]
        if missing:
            query = select(*_ROW).where(_ROW.id.in_(missing), _ROW.destroyed_at.is_(None))
            async with self._engine.connect() as connection:
                rows = (await connection.execute(query)).mappings().all()
            for row in rows:
                try:
                    found[row["id"]] = await self._unwrap(row)
                except DoesNotOpen:  # one row's fault is not that of those beside it
                    log.error("data key %s does not open", row["id"])
                    found[row["id"]] = DataKey(row["id"], row["subject"], b"", _Unopened())
        return found

    def _first(self) -> DataKey:
        roots = self._ring.local_roots
        if not roots:
            raise InternalFault("Records of the first schema need the ENCRYPTION_KEY that sealed them.")
        return DataKey(FIRST_KEY, SYSTEM, b"", _AnyEnvelope([Envelope(derive(root, "records"), "1") for root in roots]))

    async def _load_wanted(self) -> None:
        while self._wanted:
            await asyncio.sleep(0)  # let everybody who is ready join
            wanted, self._wanted = self._wanted, {}
            try:
                async with asyncio.timeout(_LONGEST_LOAD_S):
                    loaded = await self._load_or_make(list(wanted))
            except (SQLAlchemyError, OSError, TimeoutError) as error:
                log.error("data keys: not readable (%s)", type(error).__name__)
                _fail(wanted.values(), AuditUnavailable("The keys cannot be read."))
            except Exception as error:
                _fail(wanted.values(), error)
            else:
                for subject, waiting in wanted.items():
                    if not waiting.done():
                        waiting.set_result(loaded[subject])

    async def _load_or_make(self, subjects: list[str]) -> Mapping[str, DataKey]:
        async with self._engine.begin() as connection:
            loaded = await self._load(connection, subjects)
            missing = [subject for subject in subjects if subject not in loaded]
            if missing:
                made = [await self._new_row(subject) for subject in missing]
                await connection.execute(insert(Row).on_conflict_do_nothing(), made)
                # Another server may have been first: what the table has is what counts.
                loaded |= await self._load(connection, missing)
        for key in loaded.values():
            self._remember(key)
        return loaded

    async def _load(self, connection: AsyncConnection, subjects: list[str]) -> dict[str, DataKey]:
        query = select(*_ROW).where(_ROW.subject.in_(subjects), _ROW.destroyed_at.is_(None))
        rows = (await connection.execute(query)).mappings().all()
        return {row["subject"]: await self._unwrap(row) for row in rows}

    async def _new_row(self, subject: str) -> dict[str, Any]:
        key_id = uuid4()
        wrapped = await self._ring.current.wrap(os.urandom(KEY_BYTES), context_of(key_id, subject))
        return {
            "id": key_id,
            "subject": subject,
            "wrapping_key_id": self._ring.current.id,
            "wrapped_key": wrapped,
        }

    async def _unwrap(self, row: Any) -> DataKey:
        if (known := self._by_id.get(row["id"])) is not None:
            return known
        wrapping = self._ring.get(row["wrapping_key_id"])
        key = await wrapping.unwrap(row["wrapped_key"], context_of(row["id"], row["subject"]))
        return DataKey(row["id"], row["subject"], key, Envelope(key, str(row["id"])))

    def _remember(self, key: DataKey) -> None:
        self._by_subject[key.subject] = self._by_id[key.id] = key
        while len(self._by_subject) > _MOST_IN_MEMORY:
            _, oldest = self._by_subject.popitem(last=False)
            self._by_id.pop(oldest.id, None)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_s)
            try:
                await self.forget_destroyed()
            except (SQLAlchemyError, OSError, TimeoutError) as error:
                log.warning("data keys: destroyed ones not readable (%s)", type(error).__name__)

    async def forget_destroyed(self) -> None:
        """Drop from memory what was destroyed in the last day; older ones were dropped before."""
        query = text("SELECT id FROM data_keys WHERE destroyed_at > now() - interval '1 day'")
        async with self._engine.connect() as connection:
            destroyed = (await connection.execute(query)).scalars().all()
        self.forget(destroyed)

    def forget(self, ids: Iterable[UUID]) -> None:
        """Drop keys from memory; whoever needs one of their subjects gets what the table has then."""
        for key_id in ids:
            if (key := self._by_id.pop(key_id, None)) is not None and self._by_subject.get(key.subject) is key:
                del self._by_subject[key.subject]


def context_of(key_id: UUID, subject: str) -> str:
    """What a wrapped key is bound to: its own row and its subject."""
    return f"data_keys|{key_id}|{subject}"


def _fail(waiting: Iterable[asyncio.Future[DataKey]], error: Exception) -> None:
    for future in waiting:
        if not future.done():
            future.set_exception(error)
            future.exception()  # a waiter may have gone
