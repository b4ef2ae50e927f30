"""The log as people read it: predictions and all other accesses in one list, newest first, without their contents."""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, LiteralString
from uuid import UUID

from sqlalchemy import Connection

from errors import FieldFault, InvalidInput

PREDICTED: Final = "predict"
_CHUNK_ROWS: Final = 1000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_BOTH: Final[LiteralString] = """
SELECT * FROM (
    (SELECT created_at, id, request_id, 'predict' AS action, route, 200::smallint AS status, 'success' AS outcome,
            principal, roles, client_id, patient_id, id::text AS target, purpose_of_use, host(ip_address) AS ip_address,
            user_agent
     FROM ml_predictions WHERE {where} ORDER BY created_at {way}, id {way} LIMIT %(rows)s)
    UNION ALL
    (SELECT created_at, id, request_id, action, route, status, outcome,
            principal, roles, client_id, patient_id, target, purpose_of_use, host(ip_address), user_agent
     FROM audit_events WHERE {where} ORDER BY created_at {way}, id {way} LIMIT %(rows)s)
) AS log ORDER BY created_at {way}, id {way} LIMIT %(rows)s
"""


@dataclass(frozen=True, slots=True)
class LogReader:
    """Whose log it is: what somebody did, what happened to a patient's records, or all of it."""

    author: str | None = None
    patient: str | None = None
    everything: bool = False

    def enter(self, connection: Connection) -> None:
        """Tell row-level security who reads, until the end of this transaction."""
        connection.exec_driver_sql(
            "SELECT set_config('followup.everything', %(everything)s, true),"
            " set_config('followup.author', %(author)s, true), set_config('followup.patient', %(patient)s, true)",
            {
                "everything": "on" if self.everything else "off",
                "author": self.author or "",
                "patient": self.patient or "",
            },
        )

    @property
    def condition(self) -> LiteralString:
        """The same once more as SQL, for roles that row-level security does not bind."""
        return "(%(everything)s OR principal = %(author)s OR patient_id = %(patient)s)"

    @property
    def parameters(self) -> dict[str, Any]:
        return {"everything": self.everything, "author": self.author, "patient": self.patient}


@dataclass(frozen=True, slots=True)
class Filter:
    """Which part of the log."""

    patient_id: str | None = None
    principal: str | None = None
    since: datetime | None = None


def page(
    connection: Connection, reader: LogReader, wanted: Filter, *, limit: int, cursor: str | None = None
) -> tuple[list[dict[str, Any]], str | None]:
    """Newest first, and the cursor of the next page. Raises InvalidInput when the cursor is none of ours."""
    reader.enter(connection)
    conditions: list[LiteralString] = [reader.condition]
    parameters: dict[str, Any] = {**reader.parameters, "rows": limit + 1}
    if wanted.patient_id is not None:
        conditions.append("patient_id = %(patient_id)s")
        parameters["patient_id"] = wanted.patient_id
    if wanted.principal is not None:
        conditions.append("principal = %(principal)s")
        parameters["principal"] = wanted.principal
    if wanted.since is not None:
        conditions.append("created_at >= %(since)s")
        parameters["since"] = wanted.since
    if cursor is not None:
        conditions.append("(created_at, id) < (%(at)s, %(last)s)")
        parameters["at"], parameters["last"] = _from_cursor(cursor)
    query = _BOTH.format(where=" AND ".join(conditions), way="DESC")
    rows = connection.exec_driver_sql(query, parameters).mappings().all()
    shown = [_shown(row, reader) for row in rows[:limit]]
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
    LogReader(everything=True).enter(connection)
    key: LiteralString = " AND (created_at, id) > (%(at)s, %(last)s)" if after else ""
    key += " AND patient_id = %(patient_id)s" if patient_id is not None else ""
    parameters: dict[str, Any] = {"until": until, "rows": rows, "patient_id": patient_id}
    if after is not None:
        parameters["at"], parameters["last"] = after
    query = _BOTH.format(where=f"created_at < %(until)s{key}", way="ASC")
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


def _shown(row: Any, reader: LogReader) -> dict[str, Any]:
    """Where a request came from is shown to who made it and to who may see all."""
    sees_origin = reader.everything or row["principal"] == reader.author
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
