"""Which clinician cares for which patient: the care team, and for an hour at most who broke the glass.

Answers are kept in memory for a few seconds, never past the end of the relation itself. Without the database nobody is
related to anybody: a request that depends on it is refused.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import bindparam, func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from access.policy import Relation
from access.recording import Event, change, changed
from database.reading import bounded
from database.subjects import canonical_subject
from database.tables import CareTeamMember
from errors import FollowupError, Forbidden, NotFound, Unavailable

log = logging.getLogger(__name__)

LONGEST_DAYS: Final = 3660
LARGEST_TEAM_SHOWN: Final = 1000
_KEPT_S: Final = 3.0
_MOST_IN_MEMORY: Final = 50_000
_MOST_AT_ONCE: Final = 500
_ROW: Final = CareTeamMember.__table__.c

# Seconds that each relation of the asked pairs still lasts; the care team first, it is the ordinary one.
_ASK: Final = text(
    "SELECT asked.clinician, asked.patient_id,"
    " (SELECT extract(epoch FROM max(coalesce(until, now() + interval '1 day')) - now()) FROM care_team AS team"
    "   WHERE canonical_subject(team.clinician) = asked.clinician"
    "   AND canonical_subject(team.patient_id) = asked.patient_id"
    "   AND since <= now() AND (until IS NULL OR until > now())) AS in_team_s,"
    " (SELECT extract(epoch FROM max(expires_at) - now()) FROM break_glass AS glass"
    "   WHERE canonical_subject(glass.clinician) = asked.clinician"
    "   AND canonical_subject(glass.patient_id) = asked.patient_id"
    "   AND started_at <= now() AND expires_at > now()) AS broken_s"
    " FROM unnest(CAST(:clinicians AS text[]), CAST(:patients AS text[])) AS asked (clinician, patient_id)"
).bindparams(bindparam("clinicians"), bindparam("patients"))

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Known:
    relation: Relation
    until: float


class CareTeam:
    """Relations as this process knows them. What several requests ask at the same time travels in one query."""

    def __init__(
        self, engine: AsyncEngine, *, kept_s: float = _KEPT_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._kept_s = kept_s
        self._clock = clock
        self._known: OrderedDict[Pair, _Known] = OrderedDict()
        self._wanted: dict[Pair, asyncio.Future[Relation]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def relation(self, clinician: str, patient_id: str) -> Relation:
        """CARE_TEAM, BREAK_GLASS or OTHER. Raises Unavailable without the database."""
        pair = (canonical_subject(clinician), canonical_subject(patient_id))
        known = self._known.get(pair)
        if known is not None and self._clock() < known.until:
            return known.relation
        waiting = self._wanted.get(pair)
        if waiting is None:
            waiting = self._wanted[pair] = asyncio.get_running_loop().create_future()
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._ask_wanted(), name="care-team")
        return await asyncio.shield(waiting)  # several requests may wait for the same pair

    def forget(self, clinician: str, patient_id: str) -> None:
        """Ask again: something was just changed here."""
        self._known.pop((canonical_subject(clinician), canonical_subject(patient_id)), None)

    async def _ask_wanted(self) -> None:
        while self._wanted:
            await asyncio.sleep(0)  # let everybody who is ready join
            taken = dict(list(self._wanted.items())[:_MOST_AT_ONCE])
            for pair in taken:
                del self._wanted[pair]
            failure: Exception = Unavailable("The database does not answer.", retry_after_s=1)
            found: Mapping[Pair, _Known] = {}
            try:
                found = await bounded(self._ask(list(taken)))
            except Exception as error:  # each of those who wait is told
                log.error("care team: not readable (%s)", type(error).__name__)
                failure = error if isinstance(error, FollowupError) else failure
            for pair, waiting in taken.items():
                if waiting.done():
                    continue
                if pair in found:
                    self._remember(pair, found[pair])
                    waiting.set_result(found[pair].relation)
                else:
                    waiting.set_exception(failure)
                    waiting.exception()  # a waiter may have gone

    async def _ask(self, pairs: Sequence[Pair]) -> Mapping[Pair, _Known]:
        asked_at = self._clock()
        values = {"clinicians": [pair[0] for pair in pairs], "patients": [pair[1] for pair in pairs]}
        async with self._engine.connect() as connection:
            rows = (await connection.execute(_ASK, values)).all()
        return {(row.clinician, row.patient_id): self._judge(row, asked_at) for row in rows}

    def _judge(self, row: Any, asked_at: float) -> _Known:
        if row.in_team_s is not None:
            return _Known(Relation.CARE_TEAM, asked_at + min(self._kept_s, float(row.in_team_s)))
        if row.broken_s is not None:
            return _Known(Relation.BREAK_GLASS, asked_at + min(self._kept_s, float(row.broken_s)))
        return _Known(Relation.OTHER, asked_at + self._kept_s)

    def _remember(self, pair: Pair, known: _Known) -> None:
        self._known[pair] = known
        self._known.move_to_end(pair)
        if len(self._known) > _MOST_IN_MEMORY:
            self._known.popitem(last=False)

    async def grant(
        self, clinician: str, patient_id: str, *, by: str, event: Event, days: int | None = None
    ) -> Mapping[str, Any]:
        """Put a clinician on a patient's care team, for so many days or without an end.

        Raises Forbidden for oneself, Unavailable: then nothing is in force.
        """
        row = await changed(self._engine, granted(clinician, patient_id, by=by, days=days, event=event))
        assert row is not None
        self.forget(clinician, patient_id)
        return row

    async def withdraw(self, clinician: str, patient_id: str, *, by: str, event: Event) -> None:
        """End a relation now; that it was stays on record. Raises NotFound when there is none."""
        row = await changed(self._engine, withdrawn(clinician, patient_id, by=by, event=event))
        self.forget(clinician, patient_id)
        if row is None:
            raise NotFound("There is no such relation.")

    async def members(self, clinician: str) -> Sequence[Mapping[str, Any]]:
        """The patients whose care team a clinician is on just now; at most 1,000."""
        return await bounded(self._members(clinician))

    async def _members(self, clinician: str) -> Sequence[Mapping[str, Any]]:
        async with self._engine.connect() as connection:
            return [dict(row) for row in (await connection.execute(team_of(clinician))).mappings()]


_SHOWN: Final = (_ROW.clinician, _ROW.patient_id, _ROW.since, _ROW.until, _ROW.granted_by)


def granted(clinician: str, patient_id: str, *, by: str, event: Event, days: int | None = None) -> Any:
    """The statement that grants, for whoever has a connection; returns the row. Raises Forbidden for oneself."""
    if canonical_subject(clinician) == canonical_subject(by):
        raise Forbidden("Nobody puts themselves on a care team: somebody else has to.")
    call = "grant_care_team(:clinician, :patient_id, :days, :by, :event)"
    return change(call, event, clinician=clinician, patient_id=patient_id, days=days, by=by)


def withdrawn(clinician: str, patient_id: str, *, by: str, event: Event) -> Any:
    """The statement that ends a relation; returns it if there was one."""
    call = "withdraw_care_team(:clinician, :patient_id, :by, :event)"
    return change(call, event, clinician=clinician, patient_id=patient_id, by=by)


def team_of(clinician: str) -> Any:
    """The query of a clinician's patients just now."""
    in_force = (_ROW.until.is_(None)) | (_ROW.until > func.now())
    return (
        select(*_SHOWN)
        .where(func.canonical_subject(_ROW.clinician) == canonical_subject(clinician), in_force)
        .order_by(_ROW.patient_id)
        .limit(LARGEST_TEAM_SHOWN)
    )
