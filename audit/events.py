"""The log as people read it: predictions and all other accesses in one list, newest first, without their contents."""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, LiteralString
from uuid import UUID

from sqlalchemy import Connection

from database.reading import EVERYTHING, Sight, state
from database.subjects import canonical_subject, spellings
from errors import FieldFault, InvalidInput

PREDICTED: Final = "predict"
_CHUNK_ROWS: Final = 1000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_BOTH: Final[LiteralString] = """
SELECT * FROM (
    (SELECT created_at, id, request_id, 'predict' AS action, route, 200::smallint AS status, 'success' AS outcome,
            principal, roles, client_id, patient_id, NULL::text[] AS patients, id::text AS target, purpose_of_use,
            host(ip_address) AS ip_address,
            user_agent
     FROM ml_predictions WHERE {where} ORDER BY created_at {way}, id {way} LIMIT %(rows)s)
    UNION ALL
    (SELECT created_at, id, request_id, action, route, status, outcome,
            principal, roles, client_id, patient_id, patients, target, purpose_of_use, host(ip_address), user_agent
     FROM audit_events WHERE {events_where} ORDER BY created_at {way}, id {way} LIMIT %(rows)s)
) AS log ORDER BY created_at {way}, id {way} LIMIT %(rows)s
"""


_ABOUT: Final[LiteralString] = "patient_id = ANY (%(patient_id)s::text[])"
# The same as row-level security, for roles that it does not bind.
_SEEN: Final[LiteralString] = (
    "(%(everything)s OR principal = ANY (%(own_log)s::text[]) OR patient_id = ANY (%(patient)s::text[]))"
)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which part of the log."""

    patient_id: str | None = None
    principal: str | None = None
    since: datetime | None = None
    action: str | None = None


def page(
    connection: Connection, sight: Sight, wanted: Filter, *, limit: int, cursor: str | None = None
) -> tuple[list[dict[str, Any]], str | None]:
    """Newest first, and the cursor of the next page. Raises InvalidInput when the cursor is none of ours."""
    state(connection, sight)
    conditions: list[LiteralString] = [_SEEN]
    parameters: dict[str, Any] = {
        "everything": sight.everything,
        "own_log": spellings(sight.own_log),
        "patient": spellings(sight.patient),
        "rows": limit + 1,
    }
    if wanted.patient_id is not None:
        conditions.append(_ABOUT)
        parameters["patient_id"] = spellings(wanted.patient_id)
    if wanted.principal is not None:
        conditions.append("principal = ANY (%(principal)s::text[])")
        parameters["principal"] = spellings(wanted.principal)
    if wanted.action is not None:
        conditions.append("action = %(action)s")
        parameters["action"] = wanted.action
    if wanted.since is not None:
        conditions.append("created_at >= %(since)s")
        parameters["since"] = wanted.since
    if cursor is not None:
        conditions.append("(created_at, id) < (%(at)s, %(last)s)")
        parameters["at"], parameters["last"] = _from_cursor(cursor)
    query = _both(" AND ".join(conditions), "DESC")
    rows = connection.exec_driver_sql(query, parameters).mappings().all()
    shown = [_shown(row, sight) for row in rows[:limit]]
    return shown, _to_cursor(rows[limit - 1]) if len(rows) > limit else None


def oldest_first(
    connection: Connection,
    after: tuple[datetime, UUID] | None,
    until: datetime,
    patient_id: str | None = None,
    *,
    rows: int = _CHUNK_ROWS,
) -> list[dict[str, Any]]:
    """A part of the whole log, from behind `after`, for exports and reports."""
    state(connection, EVERYTHING)
    key: LiteralString = " AND (created_at, id) > (%(at)s, %(last)s)" if after else ""
    key += " AND " + _ABOUT if patient_id is not None else ""
    about = None if patient_id is None else spellings(patient_id)
    parameters: dict[str, Any] = {"until": until, "rows": rows, "patient_id": about}
    if after is not None:
        parameters["at"], parameters["last"] = after
    query = _both("created_at < %(until)s" + key, "ASC")
    return [dict(row) for row in connection.exec_driver_sql(query, parameters).mappings()]


def whole_log(
    read: Any, until: datetime, since: datetime | None = None, patient_id: str | None = None
) -> Iterator[dict[str, Any]]:
    """Everything (about one patient, where one is named) from `since` to before `until`, oldest first, in chunks."""
    after = None if since is None else (since, UUID(int=0))
    while True:
        chunk = read(lambda connection, after=after: oldest_first(connection, after, until, patient_id))
        yield from chunk
        if len(chunk) < _CHUNK_ROWS:
            return
        after = (chunk[-1]["created_at"], chunk[-1]["id"])


def _both(where: LiteralString, way: LiteralString) -> LiteralString:
    """The statement over both tables; an event may be about several patients."""
    of_events = where
    for name in ("patient", "patient_id"):
        one: LiteralString = "patient_id = ANY (%(" + name + ")s::text[])"
        of_events = of_events.replace(one, "(" + one + " OR patients && %(" + name + ")s::text[])")
    # Predictions have one action; what filters by it must not name a column that they lack.
    of_predictions = where.replace("action = %(action)s", "'predict' = %(action)s")
    return _BOTH.format(where=of_predictions, events_where=of_events, way=way)


def _shown(row: Any, sight: Sight) -> dict[str, Any]:
    """Where a request came from is shown to who made it and to who may see all."""
    sees_origin = sight.everything or canonical_subject(row["principal"]) in {sight.own_log, sight.patient}
    return {
        "id": str(row["id"]),
        "created_at": row["created_at"],
        "request_id": str(row["request_id"]),
        "action": row["action"],
        "route": row["route"],
        "status": row["status"],
        "outcome": row["outcome"],
        "principal": row["principal"],
        "roles": row["roles"].split(),
        "patient_id": row["patient_id"],
        "patients": row["patients"] if sight.everything else None,
        "target": row["target"],
        "purpose_of_use": row["purpose_of_use"],
        "ip_address": row["ip_address"] if sees_origin else None,
        "user_agent": row["user_agent"] if sees_origin else None,
    }


def _to_cursor(row: Any) -> str:
    micros = (row["created_at"] - _EPOCH) // timedelta(microseconds=1)
    return base64.urlsafe_b64encode(micros.to_bytes(8, "big") + row["id"].bytes).decode()


def _from_cursor(cursor: str) -> tuple[datetime, UUID]:
    try:
        raw = base64.b64decode(cursor, altchars=b"-_", validate=True)
        return _EPOCH + timedelta(microseconds=int.from_bytes(raw[:8], "big")), UUID(bytes=raw[8:])
    except (binascii.Error, ValueError, OverflowError) as error:
        raise InvalidInput(
            "The cursor is not valid.", [FieldFault("/cursor", "is not a cursor of this list")]
        ) from error
