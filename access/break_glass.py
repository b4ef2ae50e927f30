"""Break-glass access (45 CFR 164.312(a)(2)(ii)): a clinician may break the glass to one patient for an hour at most.

Nobody is asked first, but a reason is given, an alarm goes off, and somebody else reviews it afterwards. The reason is
about the patient, so it is sealed with that patient's key.

Who has many open and not reviewed, or breaks many in a day, is above the ceiling. That is not refused, for emergencies
come at night; but it lasts ten minutes, has to be confirmed once more, raises an alarm of its own and is the first that
reviewers see. A site may choose to refuse it instead.
"""

import base64
import binascii
import hmac
import logging
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn, Protocol
from uuid import UUID, uuid4

from sqlalchemy import func, literal, select, tuple_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from access.principal import Principal, Role
from access.recording import Event, change, changed
from database.reading import bounded
from database.subjects import canonical_subject
from database.tables import BreakGlass as Row
from errors import ConfirmationNeeded, Conflict, FieldFault, Forbidden, InvalidInput, NotFound

log = logging.getLogger(__name__)

LONGEST_REASON: Final = 500
LONGEST_MINUTES: Final = 60
MINUTES_ABOVE_CEILING: Final = 10
_CONFIRMED_WITHIN_MINUTES: Final = 5
_NONCE_BYTES: Final = 8
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ROW: Final = Row.__table__.c


class SealingKey(Protocol):
    """One subject's key."""

    @property
    def id(self) -> UUID: ...

    def seal(self, plain: bytes, bound_to: str) -> bytes: ...

    def read(self, sealed: bytes, bound_to: str) -> bytes | None:
        """None for what does not open."""
        ...


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """Uses of one clinician that are open and not reviewed, and uses of a day, from which on it is above the ceiling.

    `hard_stop`: there it is refused.
    """

    most_open: int = 3
    most_a_day: int = 10
    hard_stop: bool = False


class BreakGlass:
    """Breaks, lists and reviews.

    `alarm` is called for each break with whether it is above the ceiling, `changed` with the clinician and the patient
    once it is in force. `digest` is keyed: it makes confirmations that nobody else can.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        keys: SealingKeys,
        *,
        alarm: Callable[[bool], None],
        changed: Callable[[str, str], None],
        digest: Callable[[bytes], bytes],
        ceiling: Ceiling = Ceiling(),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._keys = keys
        self._alarm = alarm
        self._changed = changed
        self._digest = digest
        self._ceiling = ceiling
        self._clock = clock

    async def start(
        self,
        principal: Principal,
        patient_id: str,
        reason: str,
        minutes: int,
        *,
        event: Event,
        confirmation: str | None = None,
    ) -> Broken:
        """Relate a clinician to a patient for so many minutes. `reason` has 500 characters at most.

        Raises ConfirmationNeeded above the ceiling, whose `confirmation` has to come back within five minutes and
        counts once, Forbidden where a hard stop is set, Unavailable: then nothing is in force.
        """
        confirmed = self._confirmed(principal.subject, patient_id, confirmation or "")
        # How many uses a day has seen comes back when an old one is a day ago; an id does not. The database takes each
        # only once, so that one made of the confirmation lets it count once, however many send it at a time.
        break_id = uuid4() if confirmed is None else self._id_of(confirmation or "")
        try:
            row = await self._break(
                principal, patient_id, reason, minutes, break_id=break_id, confirmed=confirmed, event=event
            )
        except IntegrityError:
            if confirmed is None:
                raise
            break_id = uuid4()
            row = await self._break(
                principal, patient_id, reason, minutes, break_id=break_id, confirmed=None, event=event
            )
        if row["ends"] is None:
            self._refuse(row, principal.subject, patient_id)
        above = row["outcome"] == "above"
        self._changed(principal.subject, patient_id)
        self._alarm(above)
        lasts_s = (row["ends"] - datetime.now(UTC)).total_seconds()
        log.warning("break-glass: %s is in force for %.0f minutes and must be reviewed", break_id, lasts_s / 60)
        if above:
            log.error("break-glass: %s is above the ceiling; see its review first", break_id)
        return Broken(break_id, row["ends"])

    async def _break(
        self,
        principal: Principal,
        patient_id: str,
        reason: str,
        minutes: int,
        *,
        break_id: UUID,
        confirmed: int | None,
        event: Event,
    ) -> Mapping[str, Any]:
        """What the database made of it. Raises IntegrityError for an id that was there before, Unavailable."""
        key = await self._keys.current(f"patient:{patient_id}")
        ceiling = self._ceiling
        row = await changed(
            self._engine,
            change(
                "break_the_glass(:id, :clinician, :patient_id, :key_id, :reason, :minutes, :confirmed, :most_open,"
                " :most_a_day, :hard_stop, :event)",
                event,
                id=break_id,
                clinician=principal.subject,
                patient_id=patient_id,
                key_id=key.id,
                reason=key.seal(reason.encode(), _bound_to(break_id)),
                minutes=minutes,
                confirmed=confirmed,
                most_open=ceiling.most_open,
                most_a_day=ceiling.most_a_day,
                hard_stop=ceiling.hard_stop,
            ),
        )
        assert row is not None
        return row

    def _refuse(self, row: Mapping[str, Any], clinician: str, patient_id: str) -> NoReturn:
        uses = f"{row['open_now']} uses are open and not reviewed, {row['of_the_day']} were made in a day."
        if row["outcome"] == "stopped":
            raise Forbidden(f"{uses} The next one has to wait for their review.")
        raise ConfirmationNeeded(
            f"{uses} Another one lasts {MINUTES_ABOVE_CEILING} minutes and is reviewed first. If it cannot wait, send"
            " the same again with this confirmation, within five minutes.",
            confirmation=self._confirmation(
                clinician, patient_id, row["of_the_day"], self._minute(), secrets.token_hex(_NONCE_BYTES)
            ),
        )

    def _minute(self) -> int:
        return int(self._clock() // 60)

    def _confirmation(self, clinician: str, patient_id: str, uses: int, minute: int, nonce: str) -> str:
        """For one clinician, one patient, the next use after so many of the day, and the minutes from this one on.

        No two are the same: one that was used says nothing against another of the same minute.
        """
        said = f"{clinician}|{patient_id}|{uses}|{minute}|{nonce}"
        return f"{uses}.{nonce}.{self._digest(said.encode()).hex()[:32]}"

    def _id_of(self, confirmation: str) -> UUID:
        return UUID(bytes=self._digest(f"break-glass|{confirmation}".encode())[:16], version=4)

    def _confirmed(self, clinician: str, patient_id: str, confirmation: str) -> int | None:
        """After how many uses of the day this confirms the next, None where it confirms nothing."""
        uses, _, rest = confirmation.partition(".")
        nonce = rest.partition(".")[0]
        if not (uses.isascii() and uses.isdigit() and len(uses) <= 6):
            return None
        last = self._minute()
        for minute in range(last - _CONFIRMED_WITHIN_MINUTES + 1, last + 1):
            made = self._confirmation(clinician, patient_id, int(uses), minute, nonce)
            if hmac.compare_digest(made.encode(), confirmation.encode()):
                return int(uses)
        return None

    async def listing(
        self, principal: Principal, *, unreviewed: bool = False, limit: int = 50, cursor: str | None = None
    ) -> tuple[Sequence[Mapping[str, Any]], str | None]:
        """Those above the ceiling that wait for their review, then newest first; and the cursor of the next page.

        All for who may review them, for clinicians their own. `reason` is for auditors and for whoever gave it; None
        for others, and where the patient's key was destroyed. Raises InvalidInput when the cursor is none of ours.
        """
        clinician = func.canonical_subject(_ROW.clinician)
        first = _ROW.above_ceiling & _ROW.reviewed_at.is_(None)
        query = select(*_ROW, first.label("first")).order_by(first.desc(), _ROW.started_at.desc(), _ROW.id.desc())
        if not principal.has(Role.AUDITOR, Role.ADMIN):
            query = query.where(clinician == principal.subject)
        if unreviewed:
            query = query.where(_ROW.reviewed_at.is_(None))
        if cursor is not None:
            last = tuple_(*(literal(value) for value in _from_cursor(cursor)))
            query = query.where(tuple_(first, _ROW.started_at, _ROW.id) < last)
        rows = await bounded(self._rows(query.limit(limit + 1)))
        shown = rows[:limit]
        keys = await self._keys.by_id({row["key_id"] for row in shown})
        auditor = principal.has(Role.AUDITOR)
        items = [
            _shown(
                row,
                keys.get(row["key_id"])
                if auditor or canonical_subject(row["clinician"]) == principal.subject
                else None,
            )
            for row in shown
        ]
        return items, _to_cursor(shown[-1]) if len(rows) > limit else None

    async def _rows(self, query: Any) -> Sequence[Mapping[str, Any]]:
        async with self._engine.connect() as connection:
            return [dict(row) for row in (await connection.execute(query)).mappings()]

    async def review(self, principal: Principal, break_id: UUID, *, event: Event) -> str:
        """Sign that it was looked at; whom it was about.

        Raises NotFound, Forbidden for one's own, Conflict when it was reviewed before.
        """
        call = "review_break_glass(:id, :by, :event) AS patient_id"
        reviewed = await changed(self._engine, change(call, event, id=break_id, by=principal.subject))
        if reviewed is not None:
            patient_id: str = reviewed["patient_id"]
            return patient_id
        rows = await bounded(self._rows(select(_ROW.clinician).where(_ROW.id == break_id)))
        if not rows:
            raise NotFound("There is no such break-glass.")
        if canonical_subject(rows[0]["clinician"]) == principal.subject:
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
    reason = None if key is None else key.read(row["reason"], _bound_to(row["id"]))
    return {
        "id": str(row["id"]),
        "clinician": row["clinician"],
        "patient_id": row["patient_id"],
        "reason": None if reason is None else reason.decode(),
        **({"unreadable": True} if key is not None and reason is None else {}),
        "started_at": row["started_at"],
        "expires_at": row["expires_at"],
        "above_ceiling": row["above_ceiling"],
        "reviewed_by": row["reviewed_by"],
        "reviewed_at": row["reviewed_at"],
    }


def _to_cursor(row: Mapping[str, Any]) -> str:
    micros = (row["started_at"] - _EPOCH) // timedelta(microseconds=1)
    return base64.urlsafe_b64encode(bytes([row["first"]]) + micros.to_bytes(8, "big") + row["id"].bytes).decode()


def _from_cursor(cursor: str) -> tuple[bool, datetime, UUID]:
    try:
        raw = base64.b64decode(cursor, altchars=b"-_", validate=True)
        at = _EPOCH + timedelta(microseconds=int.from_bytes(raw[1:9], "big"))
        return raw[0] == 1, at, UUID(bytes=raw[9:])
    except (binascii.Error, ValueError, OverflowError, IndexError) as error:
        raise InvalidInput(
            "The cursor is not valid.", [FieldFault("/cursor", "is not a cursor of this list")]
        ) from error
