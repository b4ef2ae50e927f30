"""What the trail takes: the record of a prediction, and the event of any other access."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from uuid_utils.compat import uuid7

from database.tables import AuditEvent, IdempotencyKey, PredictionRecord

BREAK_GLASS_PURPOSE: Final = "BTG"  # HL7 v3 PurposeOfUse


def new_id() -> UUID:
    """A UUIDv7 (RFC 9562) for a prediction or an event: it carries its own time and sorts by it."""
    return uuid7()


def created_at(row_id: UUID) -> datetime:
    """The millisecond inside a UUIDv7, UTC."""
    return datetime.fromtimestamp((row_id.int >> 80) / 1000, UTC)


def sealed_column(column: str, prediction_id: UUID) -> str:
    """What the cipher text of a column is bound to."""
    return f"{PredictionRecord.__tablename__}|{column}|{prediction_id}"


def sealed_detail(event_id: UUID) -> str:
    """What the sealed detail of an event is bound to."""
    return f"{AuditEvent.__tablename__}|detail|{event_id}"


def sealed_answer(principal: str, key: UUID) -> str:
    """What the sealed first answer under an Idempotency-Key is bound to."""
    return f"{IdempotencyKey.__tablename__}|answer|{principal}|{key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asked, from where: the part of a record that is the same for everything in one request."""

    principal: str
    roles: str
    client_id: str
    purpose_of_use: str
    request_id: UUID
    route: str
    ip_address: str | None
    user_agent: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """Which model answered, down to its files; `variant` is the alias under which it did."""

    id: int
    name: str
    version: str
    digest: str
    variant: str = "champion"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One prediction. `input_json` and `result_json` are plain here and never leave the trail that way."""

    id: UUID
    caller: Caller
    model: ModelIdentity
    patient_id: str | None
    input_json: bytes
    result_json: bytes
    confidence: float | None
    cache_hit: bool
    inference_time_ms: float
    latency_ms: float
    answer_commitment: bytes | None = None  # audit/commitment.py


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One access that was not an answered prediction. `patients` are those it was about; `target` what it named."""

    id: UUID
    caller: Caller
    action: str
    status: int
    outcome: str
    patients: tuple[str, ...]
    target: str | None
    latency_ms: float
    detail: bytes | None = None  # plain here, sealed with the first patient's key in the table


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstAnswer:
    """The answer to be given again under the same Idempotency-Key; erasing one of `patients` removes it."""

    principal: str
    key: UUID
    request_mac: bytes
    answer: bytes
    patients: tuple[str, ...] = ()
