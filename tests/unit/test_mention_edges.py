"""Mentions end where their words do."""

import pytest

from clinical.entities import ScoredSpan
from clinical.mention_edges import without_fragments


@pytest.mark.parametrize(
    ("words", "kind", "kept"),
    [
        ("kg", "TEST", None),
        ("5", "CONDITION", None),
        ("IV", "MEDICATION", None),
        ("acute and", "CONDITION", None),
        ("can't", "SYMPTOM", None),
        ("feel", "SYMPTOM", None),
        ("cough and", "SYMPTOM", "cough"),
        ("pain in the", "SYMPTOM", "pain"),
        ("can't sleep", "SYMPTOM", "can't sleep"),
        ("IV fluids", "MEDICATION", "IV fluids"),
        ("acute renal failure", "CONDITION", "acute renal failure"),
        ("5 mg IV", "DOSAGE", "5 mg IV"),
        ("5", "SEVERITY", "5"),
    ],
)
def test_fragments_go_and_loose_ends_are_cut(words: str, kind: str, kept: str | None) -> None:
    text = f"x {words} y"
    found = without_fragments(text, [ScoredSpan(kind, 2, 2 + len(words), 0.9)])
    assert [text[one.start : one.end] for one in found] == ([] if kept is None else [kept])
