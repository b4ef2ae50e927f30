"""Somebody else's token classifier: made on the spot, imported, and answering in this project's types."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    BertConfig,
    BertForTokenClassification,
    BertTokenizerFast,
    RobertaConfig,
    RobertaForTokenClassification,
    RobertaTokenizer,
)

from clinical.label_mapping import LabelMapping
from errors import SetupError
from registry.store import ALLOWED_SUFFIXES
from runners.ner import NerRunner, Note
from training.ner import corpus, encoder
from training.ner.importing import make_model, targets

THEIRS = ("O", "B-problem", "I-problem", "B-test", "I-test", "B-treatment", "I-treatment")
TAUGHT = {
    "problem": ("headache", "diabetes", "pneumonia"),
    "test": ("creatinine",),
    "treatment": ("aspirin", "appendectomy"),
}
TEXT = "Patient has headache, diabetes and pneumonia. Took aspirin, had appendectomy. Creatinine was high."


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT with the labels of samrawal/bert-base-uncased_clinical-ner, taught a few words."""
    return bert(tmp_path_factory.mktemp("elsewhere") / "bert-clinical", THEIRS, {kind: f"B-{kind}" for kind in TAUGHT})


def bert(folder: Path, labels: Sequence[str], tags: dict[str, str]) -> Path:
    """`tags`: the label that the words of each kind are taught."""
    torch.manual_seed(0)
    (folder.parent / "vocab.txt").write_text("\n".join(_vocabulary()), encoding="utf-8")
    tokenizer = BertTokenizerFast(vocab=str(folder.parent / "vocab.txt"), do_lower_case=True)
    config = BertConfig(
        vocab_size=len(_vocabulary()),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    model = BertForTokenClassification(config)
    _teach(model, tokenizer, {word: labels.index(tags[kind]) for kind, words in TAUGHT.items() for word in words})
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


def _teach(model: Any, tokenizer: Any, kinds: dict[str, int]) -> None:
    ids = torch.arange(5, len(_vocabulary())).repeat(16, 1)
    ids = torch.stack([row[torch.randperm(len(row))] for row in ids])
    names = tokenizer.convert_ids_to_tokens(range(len(_vocabulary())))
    labels = torch.tensor([[kinds.get(names[number], 0) for number in row] for row in ids])
    _fit(model, ids, labels)


def _fit(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> None:
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
    (prediction,) = runner.run([Note(TEXT)])
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
    hidden = ["LABEL_0=O", "LABEL_1=B-TEST", "LABEL_2=SYMPTOM"]
    assert targets(hidden) == {"LABEL_0": ["O"], "LABEL_1": ["B-TEST"], "LABEL_2": ["SYMPTOM"]}
    for wrong in ("LABEL_1=B-ILLNESS", "LABEL_1=X-TEST", "problem=B-TEST", "problem=O"):
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


def entities(folder: Path, manifest: Any, text: str) -> dict[str, list[str]]:
    """Taken at its word, which calibration on real lines does not believe; places are checked."""
    runner = NerRunner(folder, {**manifest.parameters, "temperature": 1.0, "bias": 0.0})
    (prediction,) = runner.run([Note(text)])
    Draft202012Validator(manifest.output_schema).validate(prediction.result)
    found = prediction.result["entities"]
    for each in (entity for kind in found.values() for entity in kind):
        assert text[each["start"] : each["end"]] == each["text"]
        assert each["score"] <= 1
    return {kind: [entity["text"] for entity in each] for kind, each in found.items()}


SCHEMES = {
    "IO": (("O", "I-problem", "I-test", "I-treatment"), "I-{}", []),
    "BIOES": (("O", *(f"{prefix}-{kind}" for kind in TAUGHT for prefix in "BIES")), "S-{}", []),
    "numbered": (
        ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"),
        "LABEL_{}",
        ["LABEL_1=SYMPTOM,CONDITION", "LABEL_2=TEST", "LABEL_3=MEDICATION,PROCEDURE"],
    ),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_of_labels_is_served(tmp_path: Path, scheme: str) -> None:
    labels, form, mapping = SCHEMES[scheme]
    names = {kind: str(number) if scheme == "numbered" else kind for number, kind in enumerate(TAUGHT, start=1)}
    origin = bert(tmp_path / "origin", labels, {kind: form.format(names[kind]) for kind in TAUGHT})
    folder = tmp_path / "imported"
    folder.mkdir()
    manifest = make_model(folder, str(origin), targets(mapping))
    found = entities(folder, manifest, TEXT)
    assert found["SYMPTOM"] == ["headache"]
    assert found["CONDITION"] == ["diabetes", "pneumonia"]
    assert found["MEDICATION"] == ["aspirin"]
    assert found["PROCEDURE"] == ["appendectomy"]
    assert found["TEST"] == ["Creatinine"]


def test_labels_without_a_name_need_to_be_told(elsewhere: Path, tmp_path: Path) -> None:
    other = relabelled(elsewhere, tmp_path, {str(number): f"LABEL_{number}" for number in range(len(THEIRS))})
    with pytest.raises(SetupError, match="--label LABEL_1=SYMPTOM") as refused:
        make_model(tmp_path, str(other), {})
    assert "\n" not in str(refused.value)
    with pytest.raises(SetupError, match=r"LABEL_5, LABEL_6 mean"):
        make_model(tmp_path, str(other), targets([f"LABEL_{number}=TEST" for number in range(1, 5)]))
    with pytest.raises(SetupError, match="have no O"):
        make_model(tmp_path, str(other), targets([f"LABEL_{number}=TEST" for number in range(7)]))


def test_prefixes_may_be_told_of_labels_without_a_name(elsewhere: Path, tmp_path: Path) -> None:
    other = relabelled(elsewhere, tmp_path, {str(number): f"LABEL_{number}" for number in range(len(THEIRS))})
    kinds = {1: "B-SYMPTOM", 2: "I-SYMPTOM", 3: "B-TEST", 4: "I-TEST", 5: "B-MEDICATION", 6: "I-MEDICATION"}
    folder = tmp_path / "imported"
    folder.mkdir()
    manifest = make_model(folder, str(other), targets([f"LABEL_{number}={kind}" for number, kind in kinds.items()]))
    assert manifest.parameters["labels"] == ["O", *kinds.values()]
    assert entities(folder, manifest, TEXT)["SYMPTOM"] == ["headache", "diabetes", "pneumonia"]


def relabelled(origin: Path, folder: Path, names: dict[str, str]) -> Path:
    other = folder / "other"
    other.mkdir()
    for file in origin.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "config.json").read_text())
    config |= {"id2label": names, "label2id": {name: int(number) for number, name in names.items()}}
    (other / "config.json").write_text(json.dumps(config))
    return other


ROBERTA_WORDS = {
    "problem": ("headache", "fièvre", "pneumonia"),
    "test": ("creatinine",),
    "treatment": ("aspirin", "💊"),
}
ROBERTA_OTHERS = ("patient", "has", "severe", "took", "was", "high", "and", "café", "🤧", ",", ".", "Zoë")


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small RoBERTa with a byte-level tokenizer, taught a few words, of which some are several pieces."""
    folder = tmp_path_factory.mktemp("roberta") / "roberta-clinical"
    folder.mkdir()
    torch.manual_seed(0)
    trained = ByteLevelBPETokenizer()
    sentences = ["patient has severe headache and took aspirin, café was high.", "Patient has pneumonia."] * 20
    trained.train_from_iterator(
        sentences, vocab_size=320, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"], show_progress=False
    )
    trained.save_model(str(folder.parent))
    tokenizer = RobertaTokenizer(vocab=str(folder.parent / "vocab.json"), merges=str(folder.parent / "merges.txt"))
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=130,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        id2label=dict(enumerate(THEIRS)),
        label2id={label: number for number, label in enumerate(THEIRS)},
    )
    model = RobertaForTokenClassification(config)
    _teach_roberta(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _teach_roberta(model: Any, tokenizer: Any) -> None:
    kinds = {word: THEIRS.index(f"B-{kind}") for kind, words in ROBERTA_WORDS.items() for word in words}
    words = [*kinds, *ROBERTA_OTHERS]
    rows, wanted = [], []
    for _ in range(48):
        order = [words[place] for place in torch.randperm(len(words))]
        ids, labels = [0], [-100]
        for word in order:
            pieces = tokenizer.encode((" " if word not in ",." else "") + word, add_special_tokens=False)
            ids += pieces
            labels += [kinds.get(word, 0)] * len(pieces)
        rows.append([*ids, 2])
        wanted.append([*labels, -100])
    _fit(model, torch.tensor(rows), torch.tensor(wanted))


@pytest.fixture(scope="module")
def roberta_imported(roberta: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("roberta-imported")
    return folder, make_model(folder, str(roberta), {"treatment": ["MEDICATION"], "problem": ["SYMPTOM"]})


def test_a_roberta_is_served_with_exact_places(roberta_imported: tuple[Path, Any]) -> None:
    folder, manifest = roberta_imported
    told = manifest.parameters["tokenizer"]
    assert (told["kind"], told["special"], told["lowercase"]) == (
        "byte-level",
        ["<s>", "</s>", "<pad>", "<mask>"],
        False,
    )
    assert manifest.parameters["max_pieces"] == 128  # of 130 positions two are never used
    text = "🤧🤧 Zoë has headache,  fièvre\nand pneumonia. took 💊 and aspirin, creatinine was high 🤧"
    found = entities(folder, manifest, text)
    assert found["SYMPTOM"] == ["headache", "fièvre", "pneumonia"]
    assert found["MEDICATION"] == ["aspirin"]  # a sign alone is no mention: nothing of it is a letter
    assert found["TEST"] == ["creatinine"]


def test_a_roberta_reads_long_and_short_notes_together_as_it_reads_them_alone(
    roberta_imported: tuple[Path, Any],
) -> None:
    folder, manifest = roberta_imported
    runner = NerRunner(folder, {**manifest.parameters, "temperature": 1.0, "bias": 0.0})
    texts = ["Zoë has fièvre.", "patient has headache and took aspirin. 🤧 " * 30, "has headache", " \n 🤧"]
    together = runner.run([Note(text) for text in texts])
    alone = [runner.run([Note(text)])[0] for text in texts]
    assert [one.result["entities"].keys() for one in together] == [one.result["entities"].keys() for one in alone]
    for one, other, text in zip(together, alone, texts, strict=True):
        places = [
            [(kind, each["start"], each["end"]) for kind, found in result["entities"].items() for each in found]
            for result in (one.result, other.result)
        ]
        assert places[0] == places[1]
        assert len(places[0]) == text.count("headache") + text.count("aspirin") + text.count("fièvre")
    explained = runner.explain(Note("Zoë has fièvre."))
    assert [(each["start"], each["end"]) for each in explained["entities"]] == [(8, 14)]


def test_a_tokenizer_that_breaks_words_is_refused(roberta: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in roberta.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    table = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    table["post_processor"] = None  # nothing around a text: the model would read what it never learnt
    (other / "tokenizer.json").write_text(json.dumps(table), encoding="utf-8")
    config = json.loads((other / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (other / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(SetupError, match="keep words whole") as refused:
        make_model(tmp_path, str(other), {})
    assert "\n" not in str(refused.value)
