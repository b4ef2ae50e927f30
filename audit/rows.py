"""How records become rows: the statements of the write path, and the values that they carry, sealed."""

from collections.abc import Sequence
from typing import Any, Final, LiteralString

from audit.envelope import Envelope
from audit.record import FirstAnswer, Record, created_at, sealed_answer, sealed_column

# Column, type of the array that carries it. One statement for all rows, whatever their number, so that it is prepared
# once.
_COLUMNS: Final[tuple[tuple[LiteralString, LiteralString], ...]] = (
    ("created_at", "timestamptz"),
    ("id", "uuid"),
    ("request_id", "uuid"),
    ("route", "text"),
    ("model_id", "bigint"),
    ("model_name", "text"),
    ("model_version", "text"),
    ("model_digest", "text"),
    ("principal", "text"),
    ("roles", "text"),
    ("client_id", "text"),
    ("patient_id", "text"),
    ("purpose_of_use", "text"),
    ("ip_address", "inet"),
    ("user_agent", "text"),
    ("key_version", "smallint"),
    ("input", "bytea"),
    ("result", "bytea"),
    ("confidence", "real"),
    ("cache_hit", "boolean"),
    ("inference_time_ms", "real"),
    ("latency_ms", "real"),
)
# A commit whose acknowledgement was lost is sent again: the same id is not written twice.
INSERT_PREDICTIONS: Final[LiteralString] = (
    "INSERT INTO ml_predictions ("  # noqa: S608 - names are constants above
    + ", ".join(name for name, _ in _COLUMNS)
    + ") SELECT * FROM unnest("
    + ", ".join(("%b::" if kind == "bytea" else "%s::") + kind + "[]" for _, kind in _COLUMNS)
    + ") ON CONFLICT DO NOTHING"
)
CLAIM_KEYS: Final[LiteralString] = (
    "INSERT INTO idempotency_keys (principal, key, request_mac, key_version, answer)"
    " SELECT * FROM unnest(%s::text[], %s::uuid[], %b::bytea[], %s::smallint[], %b::bytea[])"
    " ON CONFLICT DO NOTHING RETURNING principal, key"
)


def prediction_row(record: Record, envelope: Envelope) -> tuple[Any, ...]:
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
        caller.principal,
        caller.roles,
        caller.client_id,
        record.patient_id,
        caller.purpose_of_use,
        caller.ip_address,
        caller.user_agent,
        envelope.version,
        envelope.seal(record.input_json, sealed_column("input", record.id)),
        envelope.seal(record.result_json, sealed_column("result", record.id)),
        record.confidence,
        record.cache_hit,
        record.inference_time_ms,
        record.latency_ms,
    )


def key_row(answer: FirstAnswer, envelope: Envelope) -> tuple[Any, ...]:
    """The values of one Idempotency-Key with its answer."""
    sealed = envelope.seal(answer.answer, sealed_answer(answer.principal, answer.key))
    return answer.principal, answer.key, answer.request_mac, envelope.version, sealed


def columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """Rows turned into one array a column."""
    return [list(column) for column in zip(*rows, strict=True)]
