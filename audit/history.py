"""Reading the trail: one record, or newest first in pages.

Which records a reader may see is decided by the caller's `Sight`.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import Select, and_, column, false, func, literal, or_, select, table, text, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine

from audit.data_keys import DataKey, DataKeys
from audit.record import created_at, sealed_answer, sealed_column, sealed_detail
from database.reading import Sight, seeing
from database.subjects import spellings
from database.tables import IdempotencyKey, PredictionRecord
from errors import FieldFault, InvalidInput, NotFound

_ROW = PredictionRecord.__table__.c
_AMENDMENTS: Final = text(
    "SELECT id, created_at, principal, key_id, detail FROM audit_events WHERE target = :target AND action = 'amend'"
    " AND detail IS NOT NULL AND status = 201 AND created_at >= :since ORDER BY id"
)
_RELATIONS = table("care_relations", column("clinician"), column("patient_id"))


def _seen_by(sight: Sight) -> Select[Any]:
    """Records that a reader may see, with whether their contents are for them.

    The same as the database's own policies, so that neither alone is what keeps a record from the wrong reader.
    """
    related = select(_RELATIONS.c.patient_id).where(_RELATIONS.c.clinician == sight.clinician)
    with_content = or_(
        and_(_ROW.principal.in_(spellings(sight.author)), _ROW.patient_id.is_(None)) if sight.author else false(),
        and_(_ROW.patient_id.is_not(None), _ROW.patient_id.in_(spellings(sight.patient))) if sight.patient else false(),
        and_(_ROW.patient_id.is_not(None), func.canonical_subject(_ROW.patient_id).in_(related))
        if sight.clinician
        else false(),
    )
    query = select(*_ROW, with_content.label("with_content"))
    return query if sight.everything else query.where(with_content)


@dataclass(frozen=True, slots=True)
class Page:
    """Records newest first, and the cursor of the next page, or None at the end."""

    items: Sequence[dict[str, Any]]
    next_cursor: str | None


class History:
    """Reads records and first answers, and opens what is sealed."""

    def __init__(self, engine: AsyncEngine, keys: DataKeys) -> None:
        self._engine = engine
        self._keys = keys

    async def page(
        self,
        sight: Sight,
        *,
        limit: int,
        cursor: str | None = None,
        patient_id: str | None = None,
        model_name: str | None = None,
    ) -> Page:
        """At most `limit` records. Raises InvalidInput when the cursor isn't one of ours."""
        query = _seen_by(sight).order_by(_ROW.created_at.desc(), _ROW.id.desc()).limit(limit + 1)
        if cursor is not None:
            last = _from_cursor(cursor)
            query = query.where(tuple_(_ROW.created_at, _ROW.id) < tuple_(literal(created_at(last)), literal(last)))
        if patient_id is not None:
            query = query.where(_ROW.patient_id.in_(spellings(patient_id)))
        if model_name is not None:
            query = query.where(_ROW.model_name == model_name)
        async with seeing(self._engine, sight) as connection:
            rows = (await connection.execute(query)).mappings().all()
        shown = rows[:limit]
        keys = await self._keys.by_id({row["key_id"] for row in shown if row["with_content"]})
        items = [_opened(row, keys) for row in shown]
        return Page(items, _to_cursor(rows[limit - 1]["id"]) if len(rows) > limit else None)

    async def one(self, sight: Sight, prediction_id: UUID) -> dict[str, Any]:
        """One record and its amendments. Raises NotFound when there is none or the reader may not know of it."""
        at = _time_of(prediction_id)
        query = _seen_by(sight).where(_ROW.created_at == at, _ROW.id == prediction_id)
        async with seeing(self._engine, sight) as connection:
            row = (await connection.execute(query)).mappings().first()
            if row is None:
                raise NotFound("There is no such prediction.")
            found = await connection.execute(_AMENDMENTS, {"target": str(prediction_id), "since": at})
            events = found.mappings().all()
        if not row["with_content"]:
            return _opened(row, {})
        keys = await self._keys.by_id({row["key_id"], *(event["key_id"] for event in events)})
        return {**_opened(row, keys), "amendments": [_amendment(event, keys) for event in events]}


def _amendment(event: Any, keys: Mapping[UUID, DataKey]) -> dict[str, Any]:
    key = keys.get(event["key_id"])
    text = None if key is None else key.read(event["detail"], sealed_detail(event["id"]))
    return {
        "created_at": event["created_at"],
        "principal": event["principal"],
        "text": None if text is None else text.decode(),
        **({"unreadable": True} if key is not None and text is None else {}),
    }


def _opened(row: Any, keys: Mapping[UUID, DataKey]) -> dict[str, Any]:
    """All there is of a record, content only where it is for the reader; the route drops what a role needs not."""
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
        "ip_address": None if row["ip_address"] is None else str(row["ip_address"]),
        "user_agent": row["user_agent"],
        "confidence": None if row["confidence"] is None else round(row["confidence"], 2),
        "cache_hit": row["cache_hit"],
        "inference_time_ms": round(row["inference_time_ms"], 3),
        "latency_ms": round(row["latency_ms"], 3),
    }
    if not row["with_content"]:
        return record
    key = keys.get(row["key_id"])
    record["erased"] = key is None
    if key is None:
        return record
    for cipher, name in (("input", "input_data"), ("result", "result")):
        if (plain := key.read(row[cipher], sealed_column(cipher, row["id"]))) is None:
            record["unreadable"] = True
        else:
            record[name] = orjson.loads(plain)
    return record


class FirstAnswers:
    """What was answered first under an Idempotency-Key."""

    def __init__(self, engine: AsyncEngine, keys: DataKeys) -> None:
        self._engine = engine
        self._keys = keys
        self._digest = keys.digest("request digests")

    def request_mac(self, route: str, body: bytes) -> bytes:
        """What two requests must share to be the same request."""
        return self._digest.of(route.encode() + b"\0" + body)

    async def find(self, principal: str, key: UUID) -> tuple[bytes, bytes, Sequence[str]] | None:
        """(request mac, answer, the patients it is about) given under this key, or None."""
        query = select(IdempotencyKey).where(IdempotencyKey.principal == principal, IdempotencyKey.key == key)
        async with self._engine.connect() as connection:
            row = (await connection.execute(query)).mappings().first()
        if row is None:
            return None
        answer = self._keys.system.open(row["answer"], sealed_answer(principal, key))
        return row["request_mac"], answer, row["patients"]


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
