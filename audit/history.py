"""Reading the trail: one record, or newest first in pages.

Which records a reader may see is decided by the caller's `Scope`.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import ColumnElement, and_, literal, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine

from audit.envelope import Envelope, KeyedDigest
from audit.record import created_at, sealed_answer, sealed_column
from database.tables import IdempotencyKey, PredictionRecord
from errors import FieldFault, InvalidInput, NotFound

_ROW = PredictionRecord.__table__.c


@dataclass(frozen=True, slots=True)
class Scope:
    """What a reader may see: records they wrote, records about them, or that all of them exist.

    Contents are shown of the first two kinds only, and from where a request came to its author and to who may see all.
    """

    author: str | None = None
    patient: str | None = None
    everything: bool = False

    def wrote(self, row: Any) -> bool:
        return self.author is not None and row["principal"] == self.author

    def is_about(self, row: Any) -> bool:
        return self.patient is not None and row["patient_id"] == self.patient

    def condition(self) -> ColumnElement[bool] | None:
        if self.everything:
            return None
        mine = [_ROW.principal == self.author] if self.author else []
        about = [_ROW.patient_id == self.patient] if self.patient else []
        return or_(False, *mine, *about)


@dataclass(frozen=True, slots=True)
class Page:
    """Records newest first, and the cursor of the next page, or None at the end."""

    items: Sequence[dict[str, Any]]
    next_cursor: str | None


class History:
    """Reads records and first answers, and opens what is sealed."""

    def __init__(self, engine: AsyncEngine, envelope: Envelope) -> None:
        self._engine = engine
        self._envelope = envelope

    async def page(
        self,
        scope: Scope,
        *,
        limit: int,
        cursor: str | None = None,
        patient_id: str | None = None,
        model_name: str | None = None,
    ) -> Page:
        """At most `limit` records. Raises InvalidInput when the cursor isn't one of ours."""
        query = select(*_ROW).order_by(_ROW.created_at.desc(), _ROW.id.desc()).limit(limit + 1)
        if (condition := scope.condition()) is not None:
            query = query.where(condition)
        if cursor is not None:
            last = _from_cursor(cursor)
            query = query.where(tuple_(_ROW.created_at, _ROW.id) < tuple_(literal(created_at(last)), literal(last)))
        if patient_id is not None:
            query = query.where(_ROW.patient_id == patient_id)
        if model_name is not None:
            query = query.where(_ROW.model_name == model_name)
        async with self._engine.connect() as connection:
            rows = (await connection.execute(query)).mappings().all()
        items = [self._open(row, scope) for row in rows[:limit]]
        return Page(items, _to_cursor(rows[limit - 1]["id"]) if len(rows) > limit else None)

    async def one(self, scope: Scope, prediction_id: UUID) -> dict[str, Any]:
        """One record. Raises NotFound both when there is none and when the reader may not know of it."""
        at = _time_of(prediction_id)
        query = select(*_ROW).where(and_(_ROW.created_at == at, _ROW.id == prediction_id))
        if (condition := scope.condition()) is not None:
            query = query.where(condition)
        async with self._engine.connect() as connection:
            row = (await connection.execute(query)).mappings().first()
        if row is None:
            raise NotFound("There is no such prediction.")
        return self._open(row, scope)

    def _open(self, row: Any, scope: Scope) -> dict[str, Any]:
        sees_origin = scope.everything or scope.wrote(row)
        record = {
            "prediction_id": str(row["id"]),
            "created_at": row["created_at"],
            "model": {"name": row["model_name"], "version": row["model_version"], "digest": row["model_digest"]},
            "patient_id": row["patient_id"],
            "principal": row["principal"],
            "roles": row["roles"].split(),
            "purpose_of_use": row["purpose_of_use"],
            "route": row["route"],
            "request_id": str(row["request_id"]),
            "ip_address": str(row["ip_address"]) if sees_origin and row["ip_address"] is not None else None,
            "user_agent": row["user_agent"] if sees_origin else None,
            "confidence": None if row["confidence"] is None else round(row["confidence"], 2),
            "cache_hit": row["cache_hit"],
            "inference_time_ms": round(row["inference_time_ms"], 3),
            "latency_ms": round(row["latency_ms"], 3),
        }
        if scope.wrote(row) or scope.is_about(row):
            for column, name in (("input", "input_data"), ("result", "result")):
                plain = self._envelope.open(row[column], sealed_column(column, row["id"]))
                record[name] = orjson.loads(plain)
        return record


class FirstAnswers:
    """What was answered first under an Idempotency-Key."""

    def __init__(self, engine: AsyncEngine, envelope: Envelope, digest: KeyedDigest) -> None:
        self._engine = engine
        self._envelope = envelope
        self._digest = digest

    def request_mac(self, route: str, body: bytes) -> bytes:
        """What two requests must share to be the same request."""
        return self._digest.of(route.encode() + b"\0" + body)

    async def find(self, principal: str, key: UUID) -> tuple[bytes, bytes] | None:
        """(request mac, answer) given under this key, or None."""
        query = select(IdempotencyKey).where(IdempotencyKey.principal == principal, IdempotencyKey.key == key)
        async with self._engine.connect() as connection:
            row = (await connection.execute(query)).mappings().first()
        if row is None:
            return None
        answer = self._envelope.open(row["answer"], sealed_answer(principal, key))
        return row["request_mac"], answer


def _time_of(prediction_id: UUID) -> Any:
    if prediction_id.version != 7:
        raise NotFound("There is no such prediction.")
    try:
        return created_at(prediction_id)
    except (OverflowError, ValueError, OSError) as error:
        raise NotFound("There is no such prediction.") from error


def _to_cursor(last: UUID) -> str:
    return base64.urlsafe_b64encode(last.bytes).decode().rstrip("=")


def _from_cursor(cursor: str) -> UUID:
    try:
        last = UUID(bytes=base64.b64decode(cursor + "==", altchars=b"-_", validate=True))
        _time_of(last)
    except (binascii.Error, ValueError, NotFound) as error:
        raise InvalidInput(
            "The cursor is not valid.", [FieldFault("/cursor", "is not a cursor of this list")]
        ) from error
    return last
