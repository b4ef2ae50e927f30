"""Break-glass access (45 CFR 164.312(a)(2)(ii)): a clinician may break the glass to one patient for an hour at most.

Nobody is asked first, but a reason is given, an alarm goes off, and somebody else reviews it afterwards. The reason is
about the patient, so it is sealed with that patient's key.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol
from uuid import UUID, uuid4

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from access.principal import Principal, Role
from access.recording import Record, changed
from database.reading import bounded
from database.tables import BreakGlass as Row
from errors import Conflict, Forbidden, NotFound

log = logging.getLogger(__name__)

SHORTEST_REASON: Final = 10
LONGEST_REASON: Final = 500
LONGEST_MINUTES: Final = 60
LARGEST_LIST: Final = 200
_ROW: Final = Row.__table__.c


class SealingKey(Protocol):
    """One subject's key."""

    @property
    def id(self) -> UUID: ...

    def seal(self, plain: bytes, bound_to: str) -> bytes: ...

    def open(self, sealed: bytes, bound_to: str) -> bytes: ...


class SealingKeys(Protocol):
    """The keys of patients."""

    async def current(self, subject: str) -> SealingKey:
        """A subject's key, made at first need."""
        ...

    async def by_id(self, ids: Collection[UUID]) -> Mapping[UUID, SealingKey]:
        """Keys by id; a destroyed one is missing."""
        ...


@dataclass(frozen=True, slots=True)
class Broken:
    """A glass that was just broken."""

    id: UUID
    expires_at: datetime


class BreakGlass:
    """Breaks, lists and reviews.

    `alarm` is called for each break, `changed` with the clinician and the patient once it is in force.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        keys: SealingKeys,
        *,
        alarm: Callable[[], None],
        changed: Callable[[str, str], None],
    ) -> None:
        self._engine = engine
        self._keys = keys
        self._alarm = alarm
        self._changed = changed

    async def start(
        self, principal: Principal, patient_id: str, reason: str, minutes: int, record: Record | None = None
    ) -> Broken:
        """Relate a clinician to a patient for so many minutes. `reason` has 10 to 500 characters.

        `record` gets the row's id and patient_id. Raises Unavailable: then nothing is in force.
        """
        break_id = uuid4()
        key = await self._keys.current(f"patient:{patient_id}")
        values = {
            "id": break_id,
            "clinician": principal.subject,
            "patient_id": patient_id,
            "key_id": key.id,
            "reason": key.seal(reason.encode(), _bound_to(break_id)),
            "started_at": func.now(),
            "expires_at": func.now() + timedelta(minutes=minutes),
        }
        inserted = insert(Row).values(values).returning(_ROW.id, _ROW.patient_id, _ROW.expires_at)
        row = await changed(self._engine, inserted, record)
        assert row is not None
        self._changed(principal.subject, patient_id)
        self._alarm()
        log.warning("break-glass: %s is in force for %d minutes and must be reviewed", break_id, minutes)
        return Broken(break_id, row["expires_at"])

    async def listing(self, principal: Principal, *, unreviewed: bool = False) -> Sequence[Mapping[str, Any]]:
        """Newest first, at most 200: all for who may review them, for clinicians their own.

        `reason` is for auditors and for whoever gave it; None for others, and where the patient's key was destroyed.
        """
        query = select(*_ROW).order_by(_ROW.started_at.desc(), _ROW.id).limit(LARGEST_LIST)
        if not principal.has(Role.AUDITOR, Role.ADMIN):
            query = query.where(_ROW.clinician == principal.subject)
        if unreviewed:
            query = query.where(_ROW.reviewed_at.is_(None))
        rows = await bounded(self._rows(query))
        keys = await self._keys.by_id({row["key_id"] for row in rows})
        auditor = principal.has(Role.AUDITOR)
        return [
            _shown(row, keys.get(row["key_id"]) if auditor or row["clinician"] == principal.subject else None)
            for row in rows
        ]

    async def _rows(self, query: Any) -> Sequence[Mapping[str, Any]]:
        async with self._engine.connect() as connection:
            return [dict(row) for row in (await connection.execute(query)).mappings()]

    async def review(self, principal: Principal, break_id: UUID, record: Record | None = None) -> str:
        """Sign that it was looked at; whom it was about. `record` gets the row's patient_id.

        Raises NotFound, Forbidden for one's own, Conflict when it was reviewed before.
        """
        statement = (
            update(Row)
            .where(_ROW.id == break_id, _ROW.reviewed_at.is_(None), _ROW.clinician != principal.subject)
            .values(reviewed_by=principal.subject, reviewed_at=func.now())
            .returning(_ROW.patient_id)
        )
        if (reviewed := await changed(self._engine, statement, record)) is not None:
            patient_id: str = reviewed["patient_id"]
            return patient_id
        rows = await bounded(self._rows(select(_ROW.clinician).where(_ROW.id == break_id)))
        if not rows:
            raise NotFound("There is no such break-glass.")
        if rows[0]["clinician"] == principal.subject:
            raise Forbidden("Somebody else must review it.")
        raise Conflict("It was reviewed before.")

    async def unreviewed(self) -> int:
        """How many wait for their review."""
        query = select(func.count()).select_from(Row).where(_ROW.reviewed_at.is_(None))

        async def count() -> int:
            async with self._engine.connect() as connection:
                return (await connection.execute(query)).scalar_one()

        return await bounded(count())


def _bound_to(break_id: UUID) -> str:
    return f"{Row.__tablename__}|reason|{break_id}"


def _shown(row: Mapping[str, Any], key: SealingKey | None) -> Mapping[str, Any]:
    return {
        "id": str(row["id"]),
        "clinician": row["clinician"],
        "patient_id": row["patient_id"],
        "reason": None if key is None else key.open(row["reason"], _bound_to(row["id"])).decode(),
        "started_at": row["started_at"],
        "expires_at": row["expires_at"],
        "reviewed_by": row["reviewed_by"],
        "reviewed_at": row["reviewed_at"],
    }
