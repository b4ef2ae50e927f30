"""A short form that a text defines is what its long form is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinical.abbreviations import definitions, settle
from clinical.entities import ScoredSpan


def spans(text: str, *marked: tuple[str, str]) -> list[ScoredSpan]:
    found, at = [], 0
    for words, kind in marked:
        at = text.index(words, at)
        found.append(ScoredSpan(kind, at, at + len(words), 0.9))
        at += len(words)
    return found


def words(text: str, found: list[ScoredSpan]) -> list[tuple[str, str]]:
    return [(text[span.start : span.end], span.type) for span in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("congestive heart failure (CHF)", [("CHF", "congestive heart failure")]),
        ("his heart rate (HR) was 80", [("HR", "heart rate")]),
        ("activated partial thromboplastin time (APTT)", [("APTT", "activated partial thromboplastin time")]),
        ("low-density lipoprotein (LDL) and confidence interval (CI)",
         [("LDL", "low-density lipoprotein"), ("CI", "confidence interval")]),
        ("gastro-oesophageal reflux disease (GORD)", [("GORD", "gastro-oesophageal reflux disease")]),
        ("pain (severe)", []),
        ("aspirin (81 mg)", []),
        ("He was well. (See above) (AB)", []),
        ("magnetic resonance imaging (CT)", []),
        ("(CHF)", []),
    ],
)  # fmt: skip
def test_definitions(text: str, expected: list[tuple[str, str]]) -> None:
    assert [(one.short, text[one.start : one.end]) for one in definitions(text)] == expected


def test_a_short_form_takes_the_type_of_its_long_form_everywhere() -> None:
    text = "Congestive heart failure (CHF) is common. CHF was treated. No CHF-like course, no CHFs."
    found = spans(text, ("Congestive heart failure", "CONDITION"), ("CHF", "TEST"))
    assert words(text, settle(text, found)) == [
        ("Congestive heart failure", "CONDITION"),
        ("CHF", "CONDITION"),
        ("CHF", "CONDITION"),
    ]


def test_a_short_form_of_no_mention_is_none() -> None:
    text = "The confidence interval (CI) was wide; CI 2 to 4. The CI syndrome stays."
    found = spans(text, ("CI", "CONDITION"), ("CI", "CONDITION"), ("CI syndrome", "CONDITION"))
    assert words(text, settle(text, found)) == [("CI syndrome", "CONDITION")]


def test_without_a_definition_nothing_changes() -> None:
    text = "CHF (known), HR 80"
    found = spans(text, ("CHF", "CONDITION"), ("HR", "TEST"))
    assert settle(text, found) == found


@given(st.text(alphabet="aA bB(C).\n", max_size=200))
def test_any_text_keeps_its_mentions_in_order_and_apart(text: str) -> None:
    found = settle(text, [])
    assert found == []
    for one in definitions(text):
        assert 0 <= one.start < one.end <= len(text)


@pytest.mark.parametrize("unit", ["(AB) ", "alpha beta (AB) ", "a b (A1) ", "((((", "x (A", "word "])
def test_a_hostile_repetition_is_read_to_its_end(unit: str) -> None:
    text = (unit * (20_000 // len(unit) + 1))[:20_000]
    assert len(definitions(text)) <= 50
    assert settle(text, []) == []
