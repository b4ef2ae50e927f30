"""A research export says nothing of whose records they are."""

import os
import random
import re
import string
import struct
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import sorting
from audit.research import ResearchExport, research_lines

# Longer than any number or word that the export itself has, so that finding one means that it leaked.
SECRET = st.text(alphabet=string.ascii_letters + "äß中-@.", min_size=14, max_size=30).map(lambda text: f"SECRET{text}")
FEATURES = ("pain_score_facial", "pain_score_self_reported", "respiratory_rate", "symptom_severity_score")
DAYS = st.none() | st.fixed_dictionaries(
    {name: st.none() | st.integers(0, 10) | SECRET for name in FEATURES}, optional={"date": SECRET, "note": SECRET}
)
ENTITY = st.fixed_dictionaries({"text": SECRET, "assertion": st.sampled_from(["present", "negated"])})
START = datetime(2025, 1, 1, tzinfo=UTC)
RECORDS = st.lists(
    st.fixed_dictionaries(
        {
            "patient_id": st.none() | st.sampled_from(["SECRET-patient-one-1", "SECRET-patient-two-2"]),
            "created_at": st.integers(0, 2000).map(lambda hours: START + timedelta(hours=hours)),
            "model_name": st.just("m"),
            "model_version": st.just("v1"),
            "principal": SECRET,
            "ip_address": SECRET,
            "user_agent": SECRET,
            "id": SECRET,
            "input": st.fixed_dictionaries({"text": SECRET}) | st.fixed_dictionaries({"measurements": st.lists(DAYS)}),
            "result": st.fixed_dictionaries(
                {"entities": st.fixed_dictionaries({"SYMPTOM": st.lists(ENTITY, max_size=3)})}
            )
            | st.fixed_dictionaries({"score": st.floats(0, 1), "notice": SECRET}),
        }
    ),
    max_size=8,
)


@pytest.mark.requirement("S14")
@given(RECORDS)
def test_nothing_but_the_listed_fields_comes_through(records: list[dict[str, Any]]) -> None:
    lines = list(research_lines(records))
    assert len(lines) == len(records)
    allowed = {"person", "day", "model", "measurements", "score", "entities"}
    for line in lines:
        assert b"SECRET" not in line
        shown = orjson.loads(line)
        assert set(shown) <= allowed
        assert re.fullmatch(r"[0-9a-f]{24}", shown["person"])
        assert not re.search(rb"\d{4}-\d\d-\d\d|\d\d:\d\d", line)
        for day in shown.get("measurements", []):
            assert day is None or set(day) == set(FEATURES)


@pytest.mark.requirement("S14")
def test_a_person_has_one_surrogate_in_an_export_and_another_in_the_next() -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    common = {"model_name": "m", "model_version": "v", "input": {}, "result": {}}
    records = [
        {**common, "patient_id": patient, "created_at": at + timedelta(days=day)}
        for patient, day in (("a", 0), ("a", 5), ("b", 2), (None, 0), (None, 1))
    ]
    first, second = ([orjson.loads(line) for line in research_lines(records)] for _ in range(2))
    assert len({line["person"] for line in first}) == 4
    assert sorted(line["day"] for line in first) == [0, 0, 0, 0, 5]
    assert not {line["person"] for line in first} & {line["person"] for line in second}


@pytest.mark.requirement("S14")
def test_lines_are_in_order_however_many_runs_they_were_sorted_in(tmp_path: Path) -> None:
    draw = random.Random(3)
    with ResearchExport(tmp_path, run_bytes=20_000, most_runs=4) as export:
        for record in _many(draw, 3000):
            export.add(record)
        lines = [orjson.loads(line) for line in export.lines()]
    keys = [(line["person"], line["day"]) for line in lines]
    assert keys == sorted(keys)
    assert len(lines) == 3000
    assert len({line["person"] for line in lines}) == 40
    firsts = dict(reversed(keys))
    assert set(firsts.values()) == {0}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.requirement("S14")
def test_what_is_written_while_sorting_has_no_name_and_says_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    opened = sorting.TemporaryFile

    class Watched:
        """A file that keeps what is written to it."""

        def __init__(self, **options: Any) -> None:
            self._file = opened(**options)
            assert os.fstat(self._file.fileno()).st_nlink == 0
            assert os.fstat(self._file.fileno()).st_mode & 0o077 == 0

        def write(self, data: bytes) -> int:
            written.append(data)
            return self._file.write(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    monkeypatch.setattr(sorting, "TemporaryFile", Watched)
    records = [{**record, "patient_id": f"SECRET-{record['patient_id']}"} for record in _many(random.Random(4), 500)]
    with ResearchExport(run_bytes=2000) as export:
        for record in records:
            export.add(record)
        assert len(list(export.lines())) == 500
    kept = b"".join(written)
    assert len(written) >= 400
    assert b"SECRET" not in kept
    for record in records:
        since_epoch = int(record["created_at"].timestamp() * 1_000_000)
        assert struct.pack(">q", since_epoch) not in kept


def test_many_records_take_no_more_memory_than_few() -> None:
    def peak(count: int, days: int = 200) -> int:
        with ResearchExport(run_bytes=500_000) as export:
            tracemalloc.start()
            for record in _many(random.Random(5), count, days=days):
                export.add(record)
            assert sum(1 for _ in export.lines()) == count
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        return most

    few, many = peak(3000), peak(30_000)
    assert many < 2 * few < 10_000_000
    assert peak(30_000, days=1) < 2 * few


def _many(draw: random.Random, count: int, *, days: int = 200) -> Iterator[dict[str, Any]]:
    for number in range(count):
        yield {
            "patient_id": f"patient-{number % 40}",
            "created_at": START + timedelta(seconds=draw.randrange(days * 86_400)),
            "model_name": "m",
            "model_version": "v",
            "input": {"measurements": [dict.fromkeys(FEATURES, draw.randint(0, 10))] * 7},
            "result": {"score": draw.random()},
        }
