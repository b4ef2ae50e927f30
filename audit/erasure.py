"""The life of keys after they were made: wrapped anew when the wrapping key changes, destroyed when a person asks.

Destroying a patient's key is the erasure: cipher text, hashes and proofs stay as they are, and nobody can read what was
said. A backup taken before still holds the wrapped key; rotate the wrapping key and destroy the old one to close that.
"""

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from audit.data_keys import context_of
from audit.key_encryption import KeyRing
from audit.record import Event
from audit.rows import INSERT_EVENTS, columns, event_row
from database.subjects import canonical_subject, spellings
from database.tables import DataKey, IdempotencyKey, LegalHold
from errors import SetupError

_KEY: Final = DataKey.__table__.c
_HOLD: Final = LegalHold.__table__.c
_AT_ONCE: Final = 500


def held(connection: Connection, patient_id: str) -> bool:
    """Whether a legal hold stands on this patient or on everybody."""
    same = func.canonical_subject(_HOLD.patient_id) == canonical_subject(patient_id)
    query = select(func.count()).where(_HOLD.released_at.is_(None), same | _HOLD.patient_id.is_(None))
    return bool(connection.execute(query).scalar_one())


def erase(connection: Connection, patient_id: str, event: Event) -> int:
    """Destroy a patient's key and the answers kept for retries; `event` goes on record in the same transaction.

    Returns how many keys were destroyed, one for each spelling of the id. Raises SetupError under a legal hold.
    """
    if held(connection, patient_id):
        raise SetupError("A legal hold stands: nothing is erased until it is released.")
    destroyed = connection.execute(
        update(DataKey)
        .where(
            _KEY.subject.startswith("patient:"),
            func.canonical_subject(func.substr(_KEY.subject, len("patient:") + 1)) == canonical_subject(patient_id),
            _KEY.destroyed_at.is_(None),
        )
        .values(wrapped_key=None, destroyed_at=func.now())
    ).rowcount
    answers = IdempotencyKey.__table__.c
    connection.execute(delete(IdempotencyKey).where(or_(*(answers.patients.any(one) for one in spellings(patient_id)))))
    record_event(connection, event)
    return destroyed


def record_event(connection: Connection, event: Event) -> None:
    """Write an event in the transaction of a command; without a detail, for which a key would be needed."""
    assert event.detail is None
    raw: Any = connection.connection.driver_connection
    raw.execute(INSERT_EVENTS, columns([event_row(event, None)]))


async def rewrap(engine: AsyncEngine, ring: KeyRing, on_progress: Callable[[int, int], None]) -> int:
    """Wrap all data keys with the current wrapping key. Returns how many; may be stopped and started again at any time.

    Servers go on meanwhile, as long as they know both keys. `on_progress` gets (done, of how many).
    """
    stale = (_KEY.wrapping_key_id != ring.current.id, _KEY.destroyed_at.is_(None))
    async with engine.connect() as connection:
        total = (await connection.execute(select(func.count()).select_from(DataKey).where(*stale))).scalar_one()
    done = 0
    while True:
        async with engine.begin() as connection:
            query = select(*_KEY).where(*stale).limit(_AT_ONCE).with_for_update(skip_locked=True)
            rows = (await connection.execute(query)).mappings().all()
            for row in rows:
                context = context_of(row["id"], row["subject"])
                key = await ring.get(row["wrapping_key_id"]).unwrap(row["wrapped_key"], context)
                values = {"wrapped_key": await ring.current.wrap(key, context), "wrapping_key_id": ring.current.id}
                await connection.execute(update(DataKey).where(_KEY.id == row["id"]).values(values))
        if not rows:
            return done
        done += len(rows)
        on_progress(done, max(total, done))
