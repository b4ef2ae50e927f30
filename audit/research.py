"""Records for research, without anything that tells whose they are (45 CFR 164.514(b)(2), the 18 identifiers).

Nothing is taken over unless it is listed here: four measurements a day, the score, which types of entities a note had.
No text, date, address, id or name of anybody; days are counted from a person's first record in the export. People get a
surrogate that is new in each export: a keyed hash whose key is drawn for it and kept nowhere.

Any number of records takes the same memory: they are sorted in runs on disk, in files that have no name, which hold
what the export shows and, in place of a time, its distance to a moment drawn for this export.
"""

import hmac
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import orjson
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from audit.data_keys import DataKeys
from audit.envelope import DoesNotOpen
from audit.record import sealed_column
from audit.sorting import SortedOnDisk
from clinical.vitals import FEATURE_NAMES
from database.tables import PredictionRecord

_SURROGATE_BYTES: Final = 12
_CHUNK_ROWS: Final = 500
_FARTHEST: Final = timedelta(days=100 * 365)
_MICROSECOND: Final = timedelta(microseconds=1)
_DAY: Final = timedelta(days=1) // _MICROSECOND
_ROW: Final = PredictionRecord.__table__.c


async def opened_records(engine: AsyncEngine, keys: DataKeys) -> AsyncIterator[dict[str, Any] | None]:
    """All records as `research_lines` takes them; none of those that were erased, None for each that does not open."""
    names = ("id", "key_id", "patient_id", "created_at", "model_name", "model_version", "input", "result")
    async with engine.connect() as connection:
        rows = await connection.stream(select(*(_ROW[name] for name in names)))
        async for chunk in rows.mappings().partitions(_CHUNK_ROWS):
            opening = await keys.by_id({row["key_id"] for row in chunk})
            for row in chunk:
                if (key := opening.get(row["key_id"])) is None:
                    continue
                try:
                    content = {
                        name: orjson.loads(key.open(row[name], sealed_column(name, row["id"])))
                        for name in ("input", "result")
                    }
                except DoesNotOpen:  # one row's fault is not that of the others
                    yield None
                else:
                    yield {**{name: row[name] for name in names[2:6]}, **content}


def research_lines(records: Iterable[Mapping[str, Any]], folder: Path | None = None) -> Iterator[bytes]:
    """NDJSON lines, sorted by surrogate and day.

    A record has `patient_id`, `created_at`, `model_name`, `model_version`, `input` and `result` (opened). The runs are
    put where `folder` is, else where the system keeps what is temporary.
    """
    with ResearchExport(folder) as export:
        for record in records:
            export.add(record)
        yield from export.lines()


class ResearchExport:
    """Takes records in any order, then gives their lines."""

    def __init__(self, folder: Path | None = None, **sizes: int) -> None:
        self._surrogate_key = secrets.token_bytes(32)
        self._moment: datetime | None = None
        self._shift = timedelta(microseconds=secrets.randbelow(_FARTHEST // _MICROSECOND))
        self._folder, self._sizes = folder, sizes
        self._by_time = SortedOnDisk(folder, **sizes)
        self.count = 0

    def __enter__(self) -> "ResearchExport":
        return self

    def __exit__(self, *_: object) -> None:
        self._by_time.close()

    def add(self, record: Mapping[str, Any]) -> None:
        if self._moment is None:
            self._moment = record["created_at"] - self._shift
        distance = (record["created_at"] - self._moment) // _MICROSECOND
        shown = {
            "model": f"{record['model_name']}:{record['model_version']}",
            **_measured(record["input"]),
            **_concluded(record["result"]),
        }
        self._by_time.add((self._person(record["patient_id"]), distance, orjson.dumps(shown)))
        self.count += 1

    def lines(self) -> Iterator[bytes]:
        """Sorted by surrogate, day and content, so that the order tells no more of the time than the day does."""
        with SortedOnDisk(self._folder, **self._sizes) as by_day:
            person, begins = "", 0
            for name, distance, content in self._by_time:
                if name != person:
                    person, begins = name, distance
                by_day.add((name, (distance - begins) // _DAY, content))
            for name, day, content in by_day:
                shown = {"person": name, "day": day, **orjson.loads(content)}
                yield orjson.dumps(shown, option=orjson.OPT_SORT_KEYS)

    def _person(self, patient: str | None) -> str:
        # A record about nobody in particular is nobody's: it shares its surrogate with no other.
        if patient is None:
            return secrets.token_hex(_SURROGATE_BYTES)
        return hmac.digest(self._surrogate_key, patient.encode(), "sha256")[:_SURROGATE_BYTES].hex()


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
