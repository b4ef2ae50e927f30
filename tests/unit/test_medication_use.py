"""A drug that is named is not a drug that is taken."""

import pytest

from clinical.assertion import classify
from clinical.markup import plain
from clinical.medication_use import use_of
from clinical.note_structure import statements
from tests.unit.test_assertion import marks

TAKEN, STOPPED, HELD = ("taken", "present"), ("stopped", "historical"), ("held", "historical")
ALLERGY, REFUSED = ("allergy", "negated"), ("refused", "negated")


@pytest.mark.parametrize(
    ("text", "drugs", "expected"),
    [
        ("Allergies: penicillin (anaphylaxis)", ["penicillin"], [ALLERGY]),
        ("Allergies:\n- penicillin\n- sulfa\nMeds:\n- statins", ["penicillin", "sulfa", "statins"],
         [ALLERGY, ALLERGY, TAKEN]),
        ("He is allergic to penicillin and takes aspirin.", ["penicillin", "aspirin"], [ALLERGY, TAKEN]),
        ("penicillin allergy; on metformin", ["penicillin", "metformin"], [ALLERGY, TAKEN]),
        ("stopped taking warfarin. Metformin discontinued. Hold lisinopril.", ["warfarin", "Metformin", "lisinopril"],
         [STOPPED, STOPPED, HELD]),
        ("Stopped warfarin and aspirin, started apixaban.", ["warfarin", "aspirin", "apixaban"],
         [STOPPED, STOPPED, TAKEN]),
        ("Any drug allergies? Yes, penicillin.", ["penicillin"], [ALLERGY]),
        ("Allergy list\npenicillin\nsulfa\nMedication list\nmetformin", ["penicillin", "sulfa", "metformin"],
         [ALLERGY, ALLERGY, TAKEN]),
        ("Allergies: penicillin. Tolerates cephalexin.", ["penicillin", "cephalexin"], [ALLERGY, TAKEN]),
        ("Allergies: none known; on amoxicillin", ["amoxicillin"], [TAKEN]),
        ("Refused morphine, accepted acetaminophen.", ["morphine", "acetaminophen"], [REFUSED, TAKEN]),
        ("Warfarin held, metoprolol continued.", ["Warfarin", "metoprolol"], [HELD, TAKEN]),
        ("Lisinopril held and metoprolol continued.", ["Lisinopril", "metoprolol"], [HELD, TAKEN]),
        ("Switched from sertraline to venlafaxine.", ["sertraline", "venlafaxine"], [STOPPED, TAKEN]),
        ("Replaced glipizide with insulin.", ["glipizide", "insulin"], [STOPPED, TAKEN]),
        ("Metoprolol was held. Continue lisinopril.", ["Metoprolol", "lisinopril"], [HELD, TAKEN]),
        ("She refused insulin but takes metformin.", ["insulin", "metformin"], [REFUSED, TAKEN]),
        ("declined the flu shot", ["flu shot"], [REFUSED]),
        ("no longer on prednisone", ["prednisone"], [STOPPED]),
        ("He quit ibuprofen last week. Aspirin daily.", ["ibuprofen", "Aspirin"], [STOPPED, TAKEN]),
        ("came off sertraline in May", ["sertraline"], [STOPPED]),
        ("Meds: lisinopril 10 mg daily, metformin", ["lisinopril", "metformin"], [TAKEN, TAKEN]),
        ("lisinopril (stopped), amlodipine", ["lisinopril", "amlodipine"], [STOPPED, TAKEN]),
        ("Denies aspirin.", ["aspirin"], [("unknown", "negated")]),
        ("possible aspirin", ["aspirin"], [("unknown", "possible")]),
        ("Mother is on warfarin.", ["warfarin"], [("unknown", "family")]),
    ],
)  # fmt: skip
def test_what_is_done_with_a_drug(text: str, drugs: list[str], expected: list[tuple[str, str]]) -> None:
    places = marks(text, *drugs, kind="MEDICATION")
    parts = statements(plain(text))
    judged = [use_of(text, parts, *each) for each in zip(places, classify(text, places), strict=True)]
    assert judged == expected


@pytest.mark.parametrize("unit", ["stop ", "allergic to ", "x. ", "(", "taken off of "])
def test_a_hostile_repetition_is_read_to_its_end(unit: str) -> None:
    text = unit * (19_000 // len(unit)) + "aspirin"
    (place,) = marks(text, "aspirin", kind="MEDICATION")
    assert use_of(text, statements(text), place, "present")[0] in ("taken", "stopped", "allergy")
