"""Assertion: what a negation, a doubt or a relative reaches, and what it doesn't."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinical.assertion import classify
from clinical.entities import Assertion


@dataclass(frozen=True)
class Marked:
    type: str
    start: int
    end: int


def marks(text: str, *mentions: str, kind: str = "SYMPTOM") -> list[Marked]:
    found, cursor = [], 0
    for mention in mentions:
        start = text.index(mention, cursor)
        cursor = start + len(mention)
        found.append(Marked(kind, start, cursor))
    return found


def assertions(text: str, *mentions: str, kind: str = "SYMPTOM") -> list[Assertion]:
    return classify(text, marks(text, *mentions, kind=kind))


@pytest.mark.parametrize(
    ("text", "mentions", "expected"),
    [
        ("denies cough, wheezing, chest pain or fever", ["cough", "wheezing", "chest pain", "fever"], ["negated"] * 4),
        ("No rash, no itching; has fever", ["rash", "itching", "fever"], ["negated", "negated", "present"]),
        ("Denied rash; fever present", ["rash", "fever"], ["negated", "present"]),
        ("i dont have a headache but my back hurts", ["headache", "back hurts"], ["negated", "present"]),
        ("no fever i have a sore throat", ["fever", "sore throat"], ["negated", "present"]),
        ("She was negative for fever and chills", ["fever", "chills"], ["negated", "negated"]),
        ("Pneumonia was ruled out by CT", ["Pneumonia"], ["negated"]),
        ("CT ruled out pneumonia", ["pneumonia"], ["negated"]),
        ("Fever, chills and cough were denied", ["Fever", "chills", "cough"], ["negated"] * 3),
        ("Reports fever, denied rash", ["fever", "rash"], ["present", "negated"]),
        ("Cough (no sputum), fever", ["Cough", "sputum", "fever"], ["present", "negated", "present"]),
        ("no change in cough", ["cough"], ["present"]),
        ("He has not only fever but also a rash", ["fever", "rash"], ["present", "present"]),
        ("no appetite and nausea", ["no appetite", "nausea"], ["present", "present"]),
        ("No nausea except when the headache starts", ["nausea", "headache"], ["negated", "present"]),
        ("not eating because of nausea", ["nausea"], ["present"]),
        ("tylenol did not help the headache", ["headache"], ["present"]),
        ("Not complaining of nausea", ["nausea"], ["negated"]),
        ("Fever: no\nCough: yes", ["Fever", "Cough"], ["negated", "present"]),
        ("denies fever,\nchills", ["fever", "chills"], ["negated", "negated"]),
        ("possible pneumonia", ["pneumonia"], ["possible"]),
        ("?PE, on oxygen", ["PE"], ["possible"]),
        ("Appendicitis cannot be excluded", ["Appendicitis"], ["possible"]),
        ("suspected stroke in a man with diabetes", ["stroke", "diabetes"], ["possible", "present"]),
        ("return if fever or vomiting develops", ["fever", "vomiting"], ["hypothetical", "hypothetical"]),
        ("If fever develops, call us", ["fever"], ["hypothetical"]),
        ("Should chest pain occur, rest", ["chest pain"], ["hypothetical"]),
        ("history of asthma, now with wheezing", ["asthma", "wheezing"], ["historical", "present"]),
        ("The rash resolved", ["rash"], ["historical"]),
        ("had pneumonia three years ago", ["pneumonia"], ["historical"]),
        ("s/p appendectomy, oozing", ["appendectomy", "oozing"], ["historical", "present"]),
        ("no history of seizures", ["seizures"], ["negated"]),
        ("mother had diabetes", ["diabetes"], ["family"]),
        ("Mother had diabetes; he has asthma", ["diabetes", "asthma"], ["family", "present"]),
        ("Mother reports fever since Monday", ["fever"], ["present"]),
        ("mother denies fever", ["fever"], ["negated"]),
        ("Family history: breast cancer, stroke", ["breast cancer", "stroke"], ["family", "family"]),
        ("No family history of stroke", ["stroke"], ["negated"]),
        ("never leaves home without an inhaler for her asthma", ["inhaler", "asthma"], ["present", "present"]),
        ("children with asthma were randomized", ["asthma"], ["present"]),
        ("Past medical history:\nAsthma\nGout\n\nCough today", ["Asthma", "Gout", "Cough"],
         ["historical", "historical", "present"]),
    ],
)  # fmt: skip
def test_a_phrase_reaches_what_it_means(text: str, mentions: list[str], expected: list[str]) -> None:
    assert assertions(text, *mentions) == expected


def test_typographic_apostrophes_read_like_plain_ones() -> None:
    assert assertions("I don’t have a rash", "rash") == ["negated"]


def test_a_negative_test_was_done() -> None:
    assert assertions("The strep test was negative", "strep test", kind="TEST") == ["present"]


def test_mentions_may_come_in_any_order() -> None:
    text = "no fever but cough"
    fever, cough = marks(text, "fever", "cough")
    assert classify(text, [cough, fever]) == ["present", "negated"]


def test_no_mentions_need_no_reading() -> None:
    assert classify("no fever", []) == []


@pytest.mark.parametrize(
    "unit", ["no ", "denies, ", "denied is ", "if ", "(", "\n", "fever denied, ", "no. ", "mother "]
)
def test_a_hostile_repetition_is_read_to_its_end(unit: str) -> None:
    text = unit * (60_000 // len(unit)) + "fever"
    assert len(assertions(text, *["fever"] * text.count("fever"))) == text.count("fever")


WORDS = st.sampled_from(
    [
        "no",
        "denies",
        "fever",
        "cough",
        ",",
        ".",
        ";",
        "(",
        ")",
        "and",
        "or",
        "but",
        "if",
        "mother",
        "history of",
        "resolved",
        "ruled out",
        "was negative for",
        "\n",
        ":",
        "?",
        "2015",
        "in",
        "possible",
        "no change in",
    ]
)


@given(words=st.lists(WORDS, max_size=40))
def test_every_mention_gets_one_known_assertion(words: list[str]) -> None:
    text = " ".join(words)
    mentions = [word for word in words if word in {"fever", "cough"}]
    found = assertions(text, *mentions)
    assert len(found) == len(mentions)
    assert set(found) <= {"present", "negated", "possible", "hypothetical", "historical", "family"}
