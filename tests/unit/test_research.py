"""A research export says nothing of whose records they are."""

import re
import string
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.research import research_lines

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
