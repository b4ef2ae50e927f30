"""The assertion rules against cases written by someone who had not seen them."""

from collections import Counter
from pathlib import Path

import pytest

from clinical.assertion import classify
from clinical.entities import ScoredSpan

CASES = Path(__file__).with_name("assertion_cases.txt")
ACCURACY = 0.95


def cases() -> list[tuple[str, str, str]]:
    lines = CASES.read_text(encoding="utf-8").splitlines()
    return [tuple(line.split("\t")) for line in lines if line.strip() and not line.startswith("#")]  # type: ignore[misc]


def judged(text: str, mention: str) -> str:
    start = text.index(mention)
    return classify(text, [ScoredSpan("", start, start + len(mention), 1.0)])[0]


def test_enough_cases_are_there() -> None:
    counts = Counter(expected for _, _, expected in cases())
    assert counts.total() >= 150
    assert set(counts) == {"present", "negated", "possible", "hypothetical", "historical", "family"}


def test_nearly_all_cases_come_out_as_written() -> None:
    wrong = [(text, mention, expected) for text, mention, expected in cases() if judged(text, mention) != expected]
    assert len(wrong) <= (1 - ACCURACY) * len(cases()), wrong


@pytest.mark.parametrize(
    ("text", "mention", "expected"),
    [
        ("denies fever, cough or chest pain", "chest pain", "negated"),
        ("no change in cough", "cough", "present"),
        ("i dont have a fever", "fever", "negated"),
        ("The patient was negative for fever.", "fever", "negated"),
        ("Pulmonary embolism was ruled out by CT.", "Pulmonary embolism", "negated"),
        ("Denied rash; fever present", "fever", "present"),
        ("mother had diabetes", "diabetes", "family"),
        ("return if fever develops", "fever", "hypothetical"),
        ("The rash has resolved.", "rash", "historical"),
    ],
)
def test_what_users_miss_elsewhere_holds(text: str, mention: str, expected: str) -> None:
    assert judged(text, mention) == expected
