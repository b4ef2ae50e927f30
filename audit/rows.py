"""How records become rows: the statements of the write path, and the values that they carry, sealed."""

from collections.abc import Sequence
from typing import Any, Final, LiteralString

from audit.data_keys import DataKey
from audit.record import Event, FirstAnswer, Record, created_at, sealed_answer, sealed_column, sealed_detail

Columns = tuple[tuple[LiteralString, LiteralString], ...]

# Column, type of the array that carries it. One statement for all rows, whatever their number, so that it is prepared
# once.
_PREDICTION: Final[Columns] = (
    ("created_at", "timestamptz"),
    ("id", "uuid"),
    ("request_id", "uuid"),
    ("route", "text"),
    ("model_id", "bigint"),
    ("model_name", "text"),
    ("model_version", "text"),
    ("model_digest", "text"),
    ("variant", "text"),
    ("principal", "text"),
    ("roles", "text"),
    ("client_id", "text"),
    ("patient_id", "text"),
    ("purpose_of_use", "text"),
    ("ip_address", "inet"),
    ("user_agent", "text"),
    ("key_id", "uuid"),
    ("input", "bytea"),
    ("result", "bytea"),
    ("confidence", "real"),
    ("cache_hit", "boolean"),
    ("inference_time_ms", "real"),
    ("latency_ms", "real"),
    ("answer_commitment", "bytea"),
)
_EVENT: Final[Columns] = (
    ("created_at", "timestamptz"),
    ("id", "uuid"),
    ("request_id", "uuid"),
    ("action", "text"),
    ("route", "text"),
    ("status", "smallint"),
    ("outcome", "text"),
    ("principal", "text"),
    ("roles", "text"),
    ("client_id", "text"),
    ("patient_id", "text"),
    ("patients", "text"),
    ("target", "text"),
    ("purpose_of_use", "text"),
    ("ip_address", "inet"),
    ("user_agent", "text"),
    ("key_id", "uuid"),
    ("detail", "bytea"),
    ("latency_ms", "real"),
)


def _insert(
    table: LiteralString, columns: Columns, chosen: LiteralString = "*", where: LiteralString = ""
) -> LiteralString:
    # A commit whose acknowledgement was lost is sent again: the same id is not written twice.
    names: LiteralString = ", ".join([name for name, _ in columns])
    arrays: LiteralString = ", ".join([("%b::" if kind == "bytea" else "%s::") + kind + "[]" for _, kind in columns])
    source: LiteralString = " FROM unnest(" + arrays + ") AS given (" + names + ")"
    return "INSERT INTO " + table + " (" + names + ") SELECT " + chosen + source + where + " ON CONFLICT DO NOTHING"


# Nothing is sealed with a key that was destroyed meanwhile: nobody could ever read it. Destroyed keys older than a day
# are in no server's memory.
_KEY_STANDS: Final[LiteralString] = (
    " WHERE key_id NOT IN (SELECT data_keys.id FROM data_keys WHERE destroyed_at > now() - interval '1 day')"
)
INSERT_PREDICTIONS: Final = _insert("ml_predictions", _PREDICTION, where=_KEY_STANDS)
DESTROYED_KEYS: Final[LiteralString] = "SELECT id FROM data_keys WHERE destroyed_at > now() - interval '1 day'"
# unnest() flattens arrays of arrays, so several patients travel as one text.
INSERT_EVENTS: Final = _insert(
    "audit_events",
    _EVENT,
    ", ".join([name if name != "patients" else "string_to_array(patients, ' ')" for name, _ in _EVENT]),
)
CLAIM_KEYS: Final[LiteralString] = (
    "INSERT INTO idempotency_keys (principal, key, request_mac, key_version, answer, patients)"
    " SELECT principal, key, request_mac, 1, answer, string_to_array(patients, ' ')"
    " FROM unnest(%s::text[], %s::uuid[], %b::bytea[], %b::bytea[], %s::text[])"
    " AS given (principal, key, request_mac, answer, patients)"
    " ON CONFLICT DO NOTHING RETURNING principal, key"
)


def prediction_row(record: Record, key: DataKey) -> tuple[Any, ...]:
    """The values of one prediction, in the order of the statement."""
    caller, model = record.caller, record.model
    return (
        created_at(record.id),
        record.id,
        caller.request_id,
        caller.route,
        model.id,
        model.name,
        model.version,
        model.digest,
        model.variant,
        caller.principal,
        caller.roles,
        caller.client_id,
        record.patient_id,
        caller.purpose_of_use,
        caller.ip_address,
        caller.user_agent,
        key.id,
        key.seal(record.input_json, sealed_column("input", record.id)),
        key.seal(record.result_json, sealed_column("result", record.id)),
        record.confidence,
        record.cache_hit,
        record.inference_time_ms,
        record.latency_ms,
        record.answer_commitment,
    )


def event_row(event: Event, key: DataKey | None) -> tuple[Any, ...]:
    """The values of one event, in the order of the statement; `key` is needed where there is a detail to seal."""
    caller = event.caller
    sealed = None if event.detail is None or key is None else key.seal(event.detail, sealed_detail(event.id))
    return (
        created_at(event.id),
        event.id,
        caller.request_id,
        event.action,
        caller.route,
        event.status,
        event.outcome,
        caller.principal,
        caller.roles,
        caller.client_id,
        event.patients[0] if len(event.patients) == 1 else None,
        " ".join(event.patients) if len(event.patients) > 1 else None,
        event.target,
        caller.purpose_of_use,
        caller.ip_address,
        caller.user_agent,
        None if sealed is None or key is None else key.id,
        sealed,
        event.latency_ms,
    )


def event_document(event: Event) -> dict[str, Any]:
    """An event as the database's own functions take it (migration 0004), which add what was changed and by whom."""
    caller = event.caller
    return {
        "created_at": created_at(event.id),
        "id": event.id,
        "request_id": caller.request_id,
        "action": event.action,
        "route": caller.route,
        "status": event.status,
        "roles": caller.roles,
        "client_id": caller.client_id,
        "purpose_of_use": caller.purpose_of_use,
        "ip_address": caller.ip_address,
        "user_agent": caller.user_agent,
        "latency_ms": event.latency_ms,
    }


def first_answer_row(answer: FirstAnswer, key: DataKey) -> tuple[Any, ...]:
    """The values of one Idempotency-Key with its answer."""
    sealed = key.seal(answer.answer, sealed_answer(answer.principal, answer.key))
    return answer.principal, answer.key, answer.request_mac, sealed, " ".join(answer.patients)


def columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """Rows turned into one array a column."""
    return [list(column) for column in zip(*rows, strict=True)]
