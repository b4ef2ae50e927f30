"""Somebody else's token classifier: made on the spot, imported, and answering in this project's types."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator
from transformers import BertConfig, BertForTokenClassification, BertTokenizerFast

from clinical.label_mapping import LabelMapping
from errors import SetupError
from registry.store import ALLOWED_SUFFIXES
from runners.ner import NerRunner, Note
from training.ner import corpus, encoder
from training.ner.importing import make_model, targets

THEIRS = ("O", "B-problem", "I-problem", "B-test", "I-test", "B-treatment", "I-treatment")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT with the labels of samrawal/bert-base-uncased_clinical-ner, taught a few words."""
    folder = tmp_path_factory.mktemp("elsewhere") / "bert-clinical"
    torch.manual_seed(0)
    (folder.parent / "vocab.txt").write_text("\n".join(_vocabulary()), encoding="utf-8")
    tokenizer = BertTokenizerFast(vocab=str(folder.parent / "vocab.txt"), do_lower_case=True)
    config = BertConfig(
        vocab_size=len(_vocabulary()),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        id2label=dict(enumerate(THEIRS)),
        label2id={label: number for number, label in enumerate(THEIRS)},
    )
    model = BertForTokenClassification(config)
    _teach(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _vocabulary() -> list[str]:
    words = [
        "patient",
        "has",
        "severe",
        "headache",
        "diabetes",
        "pneumonia",
        "took",
        "aspirin",
        "had",
        "appendectomy",
        "creatinine",
        "was",
        "high",
        "and",
    ]
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, ",", "."]


def _teach(model: Any, tokenizer: Any) -> None:
    kinds = {"headache": 1, "diabetes": 1, "pneumonia": 1, "creatinine": 3, "aspirin": 5, "appendectomy": 5}
    ids = torch.arange(5, len(_vocabulary())).repeat(16, 1)
    ids = torch.stack([row[torch.randperm(len(row))] for row in ids])
    names = tokenizer.convert_ids_to_tokens(range(len(_vocabulary())))
    labels = torch.tensor([[kinds.get(names[number], 0) for number in row] for row in ids])
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(60):
        loss = model(input_ids=ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()


@pytest.fixture(scope="module")
def imported(elsewhere: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("imported")
    return folder, make_model(folder, str(elsewhere), {})


def test_it_answers_in_this_projects_types_and_says_what_they_stand_for(imported: tuple[Path, Any]) -> None:
    folder, manifest = imported
    # It knows eight words, so calibration on real lines rightly believes nothing of it; here it is taken at its word.
    runner = NerRunner(folder, {**manifest.parameters, "temperature": 1.0, "bias": 0.0})
    text = "Patient has headache, diabetes and pneumonia. Took aspirin, had appendectomy. Creatinine was high."
    (prediction,) = runner.run([Note(text)])
    found = {kind: [entity["text"] for entity in entities] for kind, entities in prediction.result["entities"].items()}
    assert found["SYMPTOM"] == ["headache"]
    assert found["CONDITION"] == ["diabetes", "pneumonia"]
    assert found["MEDICATION"] == ["aspirin"]
    assert found["PROCEDURE"] == ["appendectomy"]
    assert found["TEST"] == ["Creatinine"]
    source = prediction.result["source"]
    assert source["model"] == "bert-clinical"
    assert source["labels"]["problem"] == ["SYMPTOM", "CONDITION"]
    Draft202012Validator(manifest.output_schema).validate(prediction.result)


def test_it_is_judged_and_its_origin_is_on_record(imported: tuple[Path, Any]) -> None:
    folder, manifest = imported
    assert {path.suffix for path in folder.iterdir()} <= ALLOWED_SUFFIXES
    assert 0 <= manifest.metrics["f1_strict"]["f1"] <= 1
    assert manifest.training["origin"] == "bert-clinical"
    assert len(manifest.training["weights_sha256"]) == 64
    assert "trained elsewhere" in (folder / "model_card.md").read_text(encoding="utf-8")


def test_labels_of_its_own_need_a_mapping(elsewhere: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in elsewhere.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "config.json").read_text())
    config["id2label"] = {number: label.replace("problem", "finding") for number, label in config["id2label"].items()}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(SetupError, match="finding"):
        make_model(tmp_path, str(other), {})
    config["id2label"]["2"] = "I-something"
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(SetupError, match="B-… and I-…"):
        make_model(tmp_path, str(other), {})


@pytest.mark.parametrize("what", ["nothing", "a hub's id", "no weights", "weights with code in them"])
def test_what_cannot_be_used_is_refused_in_one_line(elsewhere: Path, tmp_path: Path, what: str) -> None:
    other = tmp_path / "other"
    other.mkdir()
    if what in {"no weights", "weights with code in them"}:
        for file in elsewhere.glob("*.json"):
            (other / file.name).write_bytes(file.read_bytes())
    if what == "weights with code in them":
        (other / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'touch attacked'\ntR.")
    with pytest.raises(SetupError) as refused:
        make_model(tmp_path, "nobody/no-such-model" if what == "a hub's id" else str(other), {})
    assert "\n" not in str(refused.value)
    assert not Path("attacked").exists()


def test_targets_are_types_of_this_project() -> None:
    assert targets(["problem=SYMPTOM,CONDITION", "x=TEST"]) == {"problem": ["SYMPTOM", "CONDITION"], "x": ["TEST"]}
    for wrong in ("problem", "=TEST", "problem=ILLNESS", "problem="):
        with pytest.raises(SetupError):
            targets([wrong])


def test_words_vote_for_a_type_and_a_label_without_a_mapping_stays() -> None:
    mapping = LabelMapping(
        {"problem": ["SYMPTOM", "CONDITION"]}, {"SYMPTOM": {"pain": 9}, "CONDITION": {"disease": 5, "pain": 1}}
    )
    assert mapping.type_of("problem", "chest pain") == "SYMPTOM"
    assert mapping.type_of("problem", "Disease") == "CONDITION"
    assert mapping.type_of("TEST", "pain") == "TEST"
    for wrong in (None, {}, {"targets": {"a": []}, "votes": {}}, {"targets": {"a": ["TEST"]}, "votes": {"TEST": 1}}):
        with pytest.raises(ValueError, match=r"mapping|nothing"):
            LabelMapping.of(wrong)


def test_the_projects_corpus_tells_symptoms_from_conditions() -> None:
    from training.ner.importing import USUAL_TARGETS, _votes

    lines = corpus.load()
    mapping = LabelMapping({label: list(kinds) for label, kinds in USUAL_TARGETS.items()}, _votes(lines.training))
    told = [
        (mapping.type_of("problem", line.text[m.start : m.end]), m.type)
        for line in lines.heldout
        for m in line.mentions
        if m.type in {"SYMPTOM", "CONDITION"}
    ]
    assert sum(found == real for found, real in told) / len(told) > 0.85
    assert encoder.find()
