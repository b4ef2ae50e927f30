"""The bytes of a leaf: one row of the trail in the one way that it can be written (RFC 8785 JSON).

The row is taken as stored, cipher text and all: what destroying a key makes unreadable stays provable. A column that is
null is left out, so that a column added later changes no older leaf. Numbers that JSON cannot carry exactly are text.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, LiteralString

import rfc8785

FORMAT: Final = 1
_LARGEST_EXACT: Final = 2**53 - 1

Row = dict[str, Any]

_PREDICTION: Final[tuple[tuple[LiteralString, LiteralString], ...]] = (
    ("created_at", "time"),
    ("id", "text"),
    ("request_id", "text"),
    ("route", "text"),
    ("model_id", "number"),
    ("model_name", "text"),
    ("model_version", "text"),
    ("model_digest", "text"),
    ("variant", "text"),
    ("principal", "text"),
    ("roles", "text"),
    ("client_id", "text"),
    ("patient_id", "text"),
    ("purpose_of_use", "text"),
    ("ip_address", "text"),
    ("user_agent", "text"),
    ("key_id", "text"),
    ("input", "bytes"),
    ("result", "bytes"),
    ("confidence", "number"),
    ("cache_hit", "number"),
    ("inference_time_ms", "number"),
    ("latency_ms", "number"),
    ("answer_commitment", "bytes"),
)
_EVENT: Final[tuple[tuple[LiteralString, LiteralString], ...]] = (
    ("created_at", "time"),
    ("id", "text"),
    ("request_id", "text"),
    ("action", "text"),
    ("route", "text"),
    ("status", "number"),
    ("outcome", "text"),
    ("principal", "text"),
    ("roles", "text"),
    ("client_id", "text"),
    ("patient_id", "text"),
    ("patients", "text"),
    ("target", "text"),
    ("purpose_of_use", "text"),
    ("ip_address", "text"),
    ("user_agent", "text"),
    ("key_id", "text"),
    ("detail", "bytes"),
    ("latency_ms", "number"),
)
PREDICTIONS: Final[LiteralString] = "ml_predictions"
EVENTS: Final[LiteralString] = "audit_events"
SOURCES: Final[tuple[LiteralString, ...]] = (PREDICTIONS, EVENTS)
COLUMNS: Final[Mapping[str, tuple[tuple[LiteralString, LiteralString], ...]]] = {
    PREDICTIONS: _PREDICTION,
    EVENTS: _EVENT,
}


def time_text(column: LiteralString) -> LiteralString:
    """SQL for a time as RFC 3339 in UTC with microseconds. %% never occurs, so that it fits any parameter style."""
    shown: LiteralString = f"to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
    return f"CASE WHEN isfinite({column}) THEN {shown} ELSE {column}::text END"


def selection(source: str, alias: LiteralString = "r") -> LiteralString:
    """SQL for the columns of a row, in the order of `row`. Write `alias` as the table's name in the query."""
    expressions: list[LiteralString] = []
    for name, kind in COLUMNS[source]:
        column: LiteralString = f"{alias}.{name}"
        if kind == "time":
            expressions.append(time_text(column))
        elif kind == "text":
            expressions.append(f"{column}::text")
        else:
            expressions.append(column)
    return ", ".join(expressions)


def row(source: str, values: Sequence[Any]) -> Row:
    """The row as JSON carries it, from the values of `selection`."""
    return {name: _value(value) for (name, _), value in zip(COLUMNS[source], values, strict=True) if value is not None}


def leaf_bytes(source: str, canonical_row: Row) -> bytes:
    """What is hashed into the tree."""
    return rfc8785.dumps({"format": FORMAT, "table": source, "row": canonical_row})


def _value(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, float):
        if math.isfinite(value) and (value != 0 or math.copysign(1, value) > 0):
            return value
        return "-0" if value == 0 else str(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _LARGEST_EXACT:
        return str(value)
    return value
