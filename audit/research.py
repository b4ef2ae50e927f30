"""Records for research, without anything that tells whose they are (45 CFR 164.514(b)(2), the 18 identifiers).

Nothing is taken over unless it is listed here: four measurements a day, the score, which types of entities a note had.
No text, date, address, id or name of anybody; days are counted from a person's first record in the export. People get a
random surrogate that is new in each export and kept nowhere.
"""

import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import orjson
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from audit.data_keys import DataKeys
from audit.record import sealed_column
from clinical.vitals import FEATURE_NAMES
from database.tables import PredictionRecord

_SURROGATE_BYTES: Final = 12
_CHUNK_ROWS: Final = 500
_ROW: Final = PredictionRecord.__table__.c


async def opened_records(engine: AsyncEngine, keys: DataKeys) -> AsyncIterator[dict[str, Any]]:
    """All records whose content can still be read, as `research_lines` takes them."""
    names = ("id", "key_id", "patient_id", "created_at", "model_name", "model_version", "input", "result")
    async with engine.connect() as connection:
        rows = await connection.stream(select(*(_ROW[name] for name in names)))
        async for chunk in rows.mappings().partitions(_CHUNK_ROWS):
            opening = await keys.by_id({row["key_id"] for row in chunk})
            for row in chunk:
                if (key := opening.get(row["key_id"])) is None:
                    continue
                content = {
                    name: orjson.loads(key.open(row[name], sealed_column(name, row["id"])))
                    for name in ("input", "result")
                }
                yield {**{name: row[name] for name in names[2:6]}, **content}


def research_lines(records: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """NDJSON lines, sorted by surrogate and day.

    A record has `patient_id`, `created_at`, `model_name`, `model_version`, `input` and `result` (opened).
    """
    surrogates: dict[str, str] = {}
    first: dict[str, datetime] = {}
    lines = []
    for record in sorted(records, key=lambda record: record["created_at"]):
        patient = record["patient_id"]
        # A record about nobody in particular is nobody's: it shares its surrogate with no other.
        person = secrets.token_hex(_SURROGATE_BYTES)
        if patient is not None:
            person = surrogates.setdefault(patient, person)
        day = (record["created_at"] - first.setdefault(person, record["created_at"])).days
        shown = {
            "person": person,
            "day": day,
            "model": f"{record['model_name']}:{record['model_version']}",
            **_measured(record["input"]),
            **_concluded(record["result"]),
        }
        lines.append((person, day, orjson.dumps(shown, option=orjson.OPT_SORT_KEYS)))
    for _, _, line in sorted(lines):
        yield line


def _measured(content: Mapping[str, Any]) -> dict[str, Any]:
    days = content.get("measurements")
    if not isinstance(days, list):
        return {}
    return {
        "measurements": [
            None if day is None else {name: _number(day.get(name)) for name in FEATURE_NAMES} for day in days
        ]
    }


def _concluded(result: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if (score := _number(result.get("score"))) is not None:
        found["score"] = score
    if isinstance(entities := result.get("entities"), dict):
        asserted = Counter(f"{kind} {each['assertion']}" for kind, group in entities.items() for each in group)
        found["entities"] = dict(asserted)
    return found


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
