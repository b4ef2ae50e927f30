"""Short forms that nobody defines are what their statement makes of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinical.entities import ENTITY_TYPES, ScoredSpan
from clinical.markup import plain
from clinical.note_structure import statements
from clinical.shorthand import TABLE, expand

RIGHT = 0.93


def found_in(text: str, *given_: ScoredSpan) -> list[tuple[str, str]]:
    return [(text[one.start : one.end], one.type) for one in expand(text, given_, statements(plain(text)), RIGHT)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("N/V/D: none. CP/SOB: denies.",
         [("N", "SYMPTOM"), ("V", "SYMPTOM"), ("D", "SYMPTOM"), ("CP", "SYMPTOM"), ("SOB", "SYMPTOM")]),
        ("c/o HA x3d, N/V", [("HA", "SYMPTOM"), ("N", "SYMPTOM"), ("V", "SYMPTOM")]),
        ("s/p MI 2018", [("MI", "CONDITION")]),
        ("PMH: DM2, HTN", [("DM2", "CONDITION"), ("HTN", "CONDITION")]),
        ("sats 95% on RA", []),
        ("RA, on MTX", [("RA", "CONDITION"), ("MTX", "MEDICATION")]),
        ("HR 88, BP 120/80", [("HR", "TEST"), ("BP", "TEST")]),
        ("worse survival (HR 1.4, 95% CI 1.1-1.8)", []),
        ("PE: lungs clear", []),
        ("CT showed PE", [("CT", "TEST"), ("PE", "CONDITION")]),
        ("MS 2 mg IV for pain", [("MS", "MEDICATION")]),
        ("MS changes since Monday", []),
        ("spastic CP, uses a wheelchair", [("CP", "CONDITION")]),
        ("PT twice a week", [("PT", "PROCEDURE")]),
        ("PT/INR sent", [("PT", "TEST"), ("INR", "TEST")]),
        ("A/P: doing well, D/C home, F/U 2 wk, R/O nothing", []),
        ("THE PATIENT SAID HA WHEN ASKED ABOUT HIS PE CLASS", []),
        ("ha, he said; ms smith; the er", []),
    ],
)  # fmt: skip
def test_senses(text: str, expected: list[tuple[str, str]]) -> None:
    assert found_in(text) == expected


def test_a_mention_of_one_of_its_types_keeps_its_score_and_another_becomes_the_sense() -> None:
    text = "known CHF"
    same = ScoredSpan("CONDITION", 6, 9, 0.5)
    assert expand(text, [same], statements(text), RIGHT) == [same]
    assert expand(text, [ScoredSpan("MEDICATION", 6, 9, 0.5)], statements(text), RIGHT) == [
        ScoredSpan("CONDITION", 6, 9, RIGHT)
    ]


def test_a_row_of_short_forms_is_cut_and_words_around_one_hold_it() -> None:
    assert found_in("Denies N/V", ScoredSpan("SYMPTOM", 7, 10, 0.8)) == [("N", "SYMPTOM"), ("V", "SYMPTOM")]
    held = "acute on chronic CHF"
    assert found_in(held, ScoredSpan("CONDITION", 0, len(held), 0.8)) == [(held, "CONDITION")]


def test_what_is_no_mention_is_taken_away() -> None:
    assert found_in("95% on RA", ScoredSpan("CONDITION", 7, 9, 0.6)) == []


@given(st.text(alphabet="NVDFCHAPE/M ISORA.,:1\nxé", max_size=80))
def test_places_are_words_and_never_overlap(text: str) -> None:
    found = expand(text, [], statements(plain(text)), RIGHT)
    assert all(0 <= one.start < one.end <= len(text) and one.type in ENTITY_TYPES for one in found)
    assert all(one.end <= other.start for one, other in zip(found, found[1:], strict=False))


def test_every_sense_is_a_type_or_none() -> None:
    assert {sense.type for senses in TABLE.values() for sense in senses} <= {*ENTITY_TYPES, None}
