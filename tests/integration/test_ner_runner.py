"""The NER runner with the real model: the specification's examples, exact places, long texts, and what it refuses."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from errors import InvalidInput, SetupError
from registry.store import StoredModel
from runners.ner import LONGEST_TEXT, NerRunner, Note
from training.ner import corpus


@pytest.fixture(scope="module")
def runner(ner_model: StoredModel) -> NerRunner:
    made = NerRunner(ner_model.path, ner_model.manifest.parameters)
    made.warm_up()
    return made


def entities(runner: NerRunner, text: str) -> dict[str, list[dict[str, Any]]]:
    (prediction,) = runner.run([runner.parse({"text": text})])
    found: dict[str, list[dict[str, Any]]] = prediction.result["entities"]
    return found


def texts(found: dict[str, list[dict[str, Any]]], kind: str) -> list[str]:
    return [entity["text"] for entity in found.get(kind, [])]


def test_the_first_example_comes_out_exactly(runner: NerRunner) -> None:
    found = entities(runner, "Patient reports severe headache and nausea for 3 days")
    assert texts(found, "SYMPTOM") == ["headache", "nausea"]
    assert texts(found, "SEVERITY") == ["severe"]
    assert texts(found, "DURATION") == ["3 days"]
    assert found["MEDICATION"] == found["CONDITION"] == []
    assert all(entity["assertion"] == "present" for entity in found["SYMPTOM"])


def test_the_second_example_comes_out_exactly(runner: NerRunner) -> None:
    found = entities(runner, "Patient has fever and cough")
    assert texts(found, "SYMPTOM") == ["fever", "cough"]
    assert found.keys() == {"SYMPTOM", "MEDICATION", "CONDITION"}


def test_the_third_example_comes_out_exactly(runner: NerRunner) -> None:
    found = entities(runner, "Severe pain in lower back, difficulty walking")
    assert texts(found, "SYMPTOM") == ["pain in lower back", "difficulty walking"]
    assert texts(found, "SEVERITY") == ["Severe"]


def test_answers_carry_assertions(runner: NerRunner) -> None:
    found = entities(runner, "Denies fever, cough or chest pain. Her mother had diabetes.")
    assert {entity["text"]: entity["assertion"] for kind in found.values() for entity in kind} == {
        "fever": "negated",
        "cough": "negated",
        "chest pain": "negated",
        "diabetes": "family",
    }


def test_results_fit_the_manifests_schema(runner: NerRunner, ner_model: StoredModel) -> None:
    validator = Draft202012Validator(ner_model.manifest.output_schema)
    for prediction in runner.run([Note(line.text) for line in corpus.load().heldout[:40]]):
        validator.validate(prediction.result)
        scores = [entity["score"] for kind in prediction.result["entities"].values() for entity in kind]
        assert (prediction.confidence is None) == (not scores)
        if prediction.confidence is not None:
            assert prediction.confidence == pytest.approx(sum(scores) / len(scores), abs=0.006)


def test_nothing_found_is_an_answer_without_confidence(runner: NerRunner) -> None:
    (prediction,) = runner.run([Note("The meeting is on the second floor.")])
    assert prediction.result == {"entities": {"SYMPTOM": [], "MEDICATION": [], "CONDITION": []}, "language": "en"}
    assert prediction.confidence is None


def test_what_is_surely_not_english_is_said_and_english_shorthand_is_not(runner: NerRunner) -> None:
    other, short = runner.run(
        [Note("Tengo fiebre y mucho dolor de cabeza desde hace tres días."), Note("Pt denies CP/SOB")]
    )
    assert other.result["language"] == "es"
    assert "English" in other.result["notice"]
    assert short.result["language"] == "en"
    assert "notice" not in short.result


def test_short_forms_and_lines_reach_the_answer(runner: NerRunner) -> None:
    (prediction,) = runner.run([Note("N/V/D: none. CP/SOB: denies.\nPMH: DM2, s/p MI 2018\nc/o HA")])
    said = {entity["text"]: entity["assertion"] for kind in prediction.result["entities"].values() for entity in kind}
    assert said == {
        **dict.fromkeys(["N", "V", "D", "CP", "SOB"], "negated"),
        **dict.fromkeys(["DM2", "MI"], "historical"),
        "HA": "present",
    }


def test_a_version_without_a_head_answers_by_the_rules(ner_model: StoredModel) -> None:
    parameters = {name: value for name, value in ner_model.manifest.parameters.items() if name != "assertion"}
    older = NerRunner(ner_model.path, parameters)
    (prediction,) = older.run([Note("Skin: no rash. His mother had asthma.")])
    assert prediction.result["entities"]["SYMPTOM"][0]["assertion"] == "negated"
    assert prediction.result["entities"]["CONDITION"][0]["assertion"] == "family"


def test_a_batch_answers_in_order_and_like_single_calls(runner: NerRunner) -> None:
    lines = [Note(line.text) for line in corpus.load().heldout[:25]]
    together = [_places(prediction.result) for prediction in runner.run(lines)]
    alone = [_places(runner.run([line])[0].result) for line in lines]
    agreeing = sum(len(one & two) for one, two in zip(together, alone, strict=True))
    assert agreeing >= 0.99 * sum(len(one | two) for one, two in zip(together, alone, strict=True))


def _places(result: dict[str, Any]) -> set[tuple[str, int, int]]:
    return {(kind, one["start"], one["end"]) for kind, found in result["entities"].items() for one in found}


def test_a_long_text_loses_nothing_where_windows_meet(runner: NerRunner) -> None:
    sentence = "Patient reports severe headache and nausea for 3 days. "
    text = (sentence * (LONGEST_TEXT // len(sentence))).strip()
    found = entities(runner, text)
    starts = [entity["start"] for entity in found["SYMPTOM"] if entity["text"] == "headache"]
    wanted = text.count("headache")
    assert wanted > 300
    assert len(set(starts)) == len(starts)
    assert len(starts) >= 0.99 * wanted
    assert all(text[start : start + 8] == "headache" for start in starts)


def test_offsets_are_code_points_of_the_original_text(runner: NerRunner) -> None:
    text = "🤒🤒 Patient has cafe\u0301 fièvre, FEVER and cough 🩺 — מטופל عنده fever"
    for kind in entities(runner, text).values():
        for entity in kind:
            assert text[entity["start"] : entity["end"]] == entity["text"]


PARTS = st.one_of(
    st.sampled_from(
        ["severe", "headache", "I can't sleep", "cafe\u0301", "🤒", "\u200d", "\u202e", "発熱", "صداع", "8/10"]
    ),
    st.sampled_from(
        [" ", "\n", ", ", "\t", "\u00a0", "...", "naïve", "İ", "ß", "\ufffd", "x" * 150, "metoprolol 25 mg"]
    ),
    st.text(max_size=12),
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(PARTS, min_size=1, max_size=25))
def test_every_entity_is_a_slice_of_what_was_sent(runner: NerRunner, parts: list[str]) -> None:
    text = "".join(parts)
    try:
        item = runner.parse({"text": text})
    except InvalidInput:
        return
    (prediction,) = runner.run([item])
    for kind in prediction.result["entities"].values():
        for entity in kind:
            assert text[entity["start"] : entity["end"]] == entity["text"]
            assert entity["text"].strip() == entity["text"] != ""
            assert 0 <= entity["score"] <= 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": ""},
        {"text": " \n\t\u00a0"},
        {"text": "x" * (LONGEST_TEXT + 1)},
        {"text": "fever\x00"},
        {"text": "fever \ud83e"},
        {"text": 7},
        {"text": None},
        {"text": ["fever"]},
        {"text": "fever", "more": 1},
        {"text": "fever", "normalize": False, "more": 1},
        {"normalize": True},
        {"txt": "fever"},
    ],
)
def test_what_is_not_a_text_is_refused_without_repeating_it(runner: NerRunner, body: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as raised:
        runner.parse(body)
    (fault,) = raised.value.faults
    assert fault.pointer == ("/text" if body.keys() == {"text"} else "")
    assert "fever" not in f"{raised.value} {raised.value.detail} {fault.message}"


def test_what_is_not_an_object_is_refused(runner: NerRunner) -> None:
    with pytest.raises(InvalidInput):
        runner.parse(["text"])  # type: ignore[arg-type]


def test_texts_at_the_limits_are_taken(runner: NerRunner) -> None:
    assert runner.parse({"text": "x"}) == Note("x")
    assert len(runner.parse({"text": "é" * LONGEST_TEXT}).text) == LONGEST_TEXT


def test_texts_of_nothing_the_tokenizer_knows_give_no_entities(runner: NerRunner) -> None:
    found = runner.run([Note("\u200b\u200b"), Note("\u0301"), Note("Patient has fever")])
    assert [len(prediction.result["entities"]["SYMPTOM"]) for prediction in found] == [0, 0, 1]


def test_cost_grows_with_the_text(runner: NerRunner) -> None:
    assert 1 <= runner.cost(Note("x")) < runner.cost(Note("x" * 1000)) < LONGEST_TEXT


def test_the_canonical_item_is_the_text_itself(runner: NerRunner) -> None:
    assert runner.canonical(runner.parse({"text": "Fever  here "})) == "Fever  here "


def test_codes_come_where_they_are_asked_for(runner: NerRunner, ner_model: StoredModel) -> None:
    text = "Patient has headache and hypertension, takes Tylenol"
    plain, coded = runner.parse({"text": text, "normalize": False}), runner.parse({"text": text, "normalize": True})
    assert runner.canonical(plain) != runner.canonical(coded)  # each has a place of its own in the cache
    without, with_codes = runner.run([plain, coded])
    Draft202012Validator(ner_model.manifest.output_schema).validate(with_codes.result)
    assert "codes" not in without.result["entities"]["SYMPTOM"][0]
    found = {
        entity["text"]: {code["system"]: code["code"] for code in entity["codes"]}
        for entities in with_codes.result["entities"].values()
        for entity in entities
    }
    assert found["headache"]["HPO"] == "HP:0002315"
    assert found["hypertension"]["HPO"] == "HP:0000822"
    assert found["Tylenol"] == {"DrugBank": "DB00316"}


@pytest.mark.parametrize("wanted", [1, "true", None, [True]])
def test_normalize_is_yes_or_no(runner: NerRunner, wanted: object) -> None:
    with pytest.raises(InvalidInput) as raised:
        runner.parse({"text": "fever", "normalize": wanted})
    assert [fault.pointer for fault in raised.value.faults] == ["/normalize"]


@pytest.mark.parametrize("change", [{"labels": ["O"]}, {"overlap": 9999}, {"temperature": 0.0}, {"max_pieces": None}])
def test_parameters_that_make_no_sense_are_refused(ner_model: StoredModel, change: dict[str, Any]) -> None:
    with pytest.raises(SetupError):
        NerRunner(ner_model.path, {**ner_model.manifest.parameters, **change})


def test_the_model_is_as_good_as_its_manifest_says(ner_model: StoredModel) -> None:
    metrics = ner_model.manifest.metrics
    assert metrics["f1_strict"]["f1"] >= 0.75
    assert metrics["f1_strict"]["f1_low"] <= metrics["f1_strict"]["f1"] <= metrics["f1_strict"]["f1_high"]
    assert metrics["ece"] <= 0.08  # 300 calibration mentions leave the average score uncertain by 0.03
    assert metrics["fp32"]["f1_strict"] - metrics["int8"]["f1_strict"] <= 0.01 or metrics["served"] == "fp32"
