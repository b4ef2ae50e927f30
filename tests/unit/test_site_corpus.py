"""A site's annotated notes in three formats: the same marks come out, faults are named, and no note is quoted."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from clinical.entities import ENTITY_TYPES, LABELS
from errors import SetupError
from registry.store import StoredModel
from training.ner import encoder
from training.ner.before import Before, effect
from training.ner.corpus import MarkedLine, parse
from training.ner.fit import IGNORED, Example, ExampleMaker, FitConfig, PartialLabelLoss
from training.ner.site_corpus import SiteCorpus, label_map, read
from training.train_ner_model import NerConfig, make_model

SECRET = "Quatermain"
LABELS_OF_SITE = {"problem": "SYMPTOM", "drug": "MEDICATION", "junk": ""}


def everything(site: SiteCorpus) -> list[tuple[str, list[tuple[str, str]]]]:
    lines = sorted((*site.training, *site.kept), key=lambda line: line.text)
    return [(line.text, [(line.text[m.start : m.end], m.type) for m in line.mentions]) for line in lines]


def brat(folder: Path, name: str, text: str, annotations: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    (folder / f"{name}.ann").write_text(annotations, encoding="utf-8")


def test_brat_with_fragments_line_ends_and_relations(tmp_path: Path) -> None:
    text = "Pain in knee and\nhip since Monday, took 🩺 aspirin.\n"
    at = text.index("aspirin")
    annotations = (
        f"T1\tproblem 0 4;8 12\tPain knee\nT2\tdrug {at} {at + 7}\taspirin\nT3\tjunk 22 27\tsince\n"
        "R1\ttreats Arg1:T2 Arg2:T1\nA1\tNegated T1\n#1\tAnnotatorNotes T1\tsure\n"
    )
    for number in range(8):
        brat(tmp_path / "notes", f"n{number}", f"Note {number}. Nothing.", "")
    brat(tmp_path / "notes", "real", text, annotations)
    found = dict(everything(read(tmp_path / "notes", "brat", LABELS_OF_SITE)))
    assert found["Pain in knee and"] == [("Pain", "SYMPTOM"), ("knee", "SYMPTOM")]
    assert found["hip since Monday, took 🩺 aspirin."] == [("aspirin", "MEDICATION")]


def test_a_fragment_that_goes_on_behind_a_line_end_is_one_mention(tmp_path: Path) -> None:
    for number in range(6):
        text = f"Case {number}: chest\n  pain today"
        start = text.index("chest")
        brat(tmp_path, f"n{number}", text, f"T1\tproblem {start} {start + 5};{start + 8} {start + 12}\tchest pain\n")
    found = everything(read(tmp_path, "brat", LABELS_OF_SITE))
    assert all(mentions == [("chest\n  pain", "SYMPTOM")] for _, mentions in found)


@pytest.mark.parametrize("places", ["20 25;0 5", "0 5;20 25"])
def test_fragments_are_listed_in_any_order(tmp_path: Path, places: str) -> None:
    text = "Chest tightness and pains."
    brat(tmp_path, "apart", text, f"T1\tproblem {places}\tx\n")
    brat(tmp_path, "joined", "Cold  chest pains", "T1\tproblem 12 17;6 11\tx\n")
    brat(tmp_path, "overlapping", "Other chest pains", "T1\tproblem 12 17;6 17;6 11\tx\n")
    found = dict(everything(read(tmp_path, "brat", LABELS_OF_SITE)))
    assert found[text] == [("Chest", "SYMPTOM"), ("pains", "SYMPTOM")]
    assert found["Cold  chest pains"] == [("chest pains", "SYMPTOM")]
    assert found["Other chest pains"] == [("chest pains", "SYMPTOM")]


def rows(document: int, sentence: int, *, column: bool = False) -> str:
    tokens = [f"doc{document}", "has", "gout", f"s{sentence}"]
    tags = ["O", "O", "B-CONDITION", "O"]
    return "".join(
        f"{token}\t{f'note-{document}{chr(9)}' if column else ''}{tag}\n"
        for token, tag in zip(tokens, tags, strict=True)
    )


def conll_documents(folder: Path, form: str) -> int | None:
    """Thirty documents of four sentences each in one of the forms; gives the column that names them, if any."""
    folder.mkdir()
    documents = [[rows(document, each, column=form == "column") for each in range(4)] for document in range(30)]
    if form == "files":
        for number, sentences in enumerate(documents):
            (folder / f"n{number}.conll").write_text("\n".join(sentences), encoding="utf-8")
        return None
    between = {"docstart": "\n-DOCSTART- -X- O\n\n", "blanks": "\n\n\n", "column": ""}[form]
    whole = between.join("\n".join(sentences) for sentences in documents)
    (folder / "all.conll").write_text("\n\n" + whole + "\n\n\n\n", encoding="utf-8")
    return 2 if form == "column" else None


@pytest.mark.parametrize("form", ["docstart", "blanks", "files", "column"])
def test_no_document_of_conll_has_lines_on_both_sides(tmp_path: Path, form: str) -> None:
    column = conll_documents(tmp_path / "notes", form)
    site = read(tmp_path / "notes", "conll", {}, document_column=column)
    learnt, kept = ({line.text.split()[0] for line in part} for part in (site.training, site.kept))
    assert not learnt & kept
    assert len(learnt | kept) == 30
    assert kept
    assert len(site.training) + len(site.kept) == 120  # the sentences stay lines of their own
    assert len(site.training) == 4 * len(learnt)


def test_a_document_that_a_column_names_stays_whole_wherever_its_rows_stand(tmp_path: Path) -> None:
    turns = ["".join(rows(document, each, column=True) for document in range(20)) for each in range(3)]
    (tmp_path / "a.conll").write_text("\n".join(turns[:2]), encoding="utf-8")
    (tmp_path / "b.conll").write_text(turns[2], encoding="utf-8")
    site = read(tmp_path, "conll", {}, document_column=2)
    assert len(site.training) + len(site.kept) == 60
    assert not {line.text.split()[0] for line in site.training} & {line.text.split()[0] for line in site.kept}


def test_sentences_of_one_unmarked_file_are_judged_apart(tmp_path: Path) -> None:
    (tmp_path / "all.conll").write_text("\n".join(rows(0, each) for each in range(40)), encoding="utf-8")
    site = read(tmp_path, "conll", {})
    assert len(site.training) + len(site.kept) == 40
    assert site.kept


def test_a_single_document_is_learnt_from(tmp_path: Path) -> None:
    for number in range(12):  # one of them has a name that would be kept
        folder = tmp_path / str(number)
        brat(folder, f"note{number}", "Has gout", "T1\tCONDITION 4 8\tgout\n")
        site = read(folder, "brat", {})
        assert (len(site.training), len(site.kept)) == (1, 0)


def test_a_document_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(f"{SECRET} O\n", encoding="utf-8")
    with pytest.raises(SetupError, match=r"a\.conll:1: the row has no column 3") as refused:
        read(tmp_path, "conll", {}, document_column=3)
    assert SECRET not in str(refused.value)
    with pytest.raises(SetupError, match="only conll"):
        read(tmp_path, "brat", {}, document_column=1)
    with pytest.raises(SetupError, match=r"a\.conll:1: a row needs"):
        read(tmp_path, "conll", {}, document_column=2)


@pytest.mark.parametrize(
    "tags",
    [
        ["B-problem", "I-problem", "O", "O", "B-drug", "B-drug", "O"],  # BIO
        ["I-problem", "I-problem", "O", "O", "I-drug", "B-drug", "O"],  # IOB1
        ["B-problem", "E-problem", "O", "O", "S-drug", "S-drug", "O"],  # BIOES
        ["B-problem", "L-problem", "O", "O", "U-drug", "U-drug", "O"],  # BILOU
    ],
)
def test_conll_in_every_tagging(tmp_path: Path, tags: list[str]) -> None:
    tokens = ["chest", "pain", ",", "took", "aspirin", "Tums", "."]
    rows = "\n".join(f"{token}\tNN\t{tag}" for token, tag in zip(tokens, tags, strict=True))
    (tmp_path / "notes.conll").write_text("-DOCSTART- -X- O\n\n" + f"{rows}\n\n" * 9 + rows, encoding="utf-8")
    found = everything(read(tmp_path, "conll", LABELS_OF_SITE))
    assert len(found) == 10
    marks = [("chest pain", "SYMPTOM"), ("aspirin", "MEDICATION"), ("Tums", "MEDICATION")]
    assert found[0] == ("chest pain, took aspirin Tums.", marks)


def test_inline_is_the_projects_own_format(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("\n".join(f"note {n} [gout](CONDITION)" for n in range(12)), encoding="utf-8")
    site = read(tmp_path, "inline", {})
    assert len(site.training) + len(site.kept) == 12
    assert site.kept
    assert site.types == {"CONDITION"}
    assert {line.annotates for line in (*site.training, *site.kept)} == {frozenset({"CONDITION"})}


def test_marks_inside_others_are_dropped_and_counted(tmp_path: Path) -> None:
    for number in range(4):
        text = f"{number} chest pain"
        brat(tmp_path, f"n{number}", text, "T1\tproblem 2 12\tchest pain\nT2\tproblem 8 12\tpain\n")
    site = read(tmp_path, "brat", LABELS_OF_SITE)
    assert site.dropped == 4
    assert all(mentions == [("chest pain", "SYMPTOM")] for _, mentions in everything(site))


def test_long_documents_are_cut_at_sentences_and_lose_nothing(tmp_path: Path) -> None:
    sentence = "The patient had chest pain and took aspirin again. "
    text = sentence * 60
    spots = [at for at in range(len(text)) if text.startswith("chest pain", at)]
    brat(tmp_path, "long", text, "".join(f"T{n}\tproblem {at} {at + 10}\tx\n" for n, at in enumerate(spots)))
    brat(tmp_path, "other", "Nothing.", "")
    brat(tmp_path, "third", "Nothing at all.", "")
    found = [line for line in everything(read(tmp_path, "brat", LABELS_OF_SITE)) if line[1]]
    assert sum(len(mentions) for _, mentions in found) == 60
    assert max(len(line) for line, _ in found) < 800


@pytest.mark.parametrize(
    ("format_", "file", "content", "why"),
    [
        ("brat", "a.ann", "T1\tproblem 0 4000\tx\n", r"a\.ann:1: the place lies outside"),
        ("brat", "a.ann", "T1 problem 0 4 x\n", r"a\.ann:1: not a text-bound"),
        ("brat", "a.ann", "T1\tillness 0 4\tx\n", "illness"),
        ("conll", "a.conll", f"{SECRET}\n", r"a\.conll:1: a row needs"),
        ("conll", "a.conll", f"{SECRET} B-illness\n\n", "illness"),
        ("inline", "a.txt", f"[{SECRET}](ILLNESS)", r"a\.txt:1: unknown type"),
        ("inline", "b.csv", "", "no .txt"),
        ("conll", "a.conll", "\n\n", "No conll document"),
    ],
)
def test_faults_are_named_and_notes_are_not_quoted(
    tmp_path: Path, format_: str, file: str, content: str, why: str
) -> None:
    (tmp_path / file).write_text(content, encoding="utf-8")
    if file.endswith(".ann"):
        (tmp_path / "a.txt").write_text(f"{SECRET} has pain", encoding="utf-8")
    with pytest.raises(SetupError, match=why) as refused:
        read(tmp_path, format_, LABELS_OF_SITE)  # type: ignore[arg-type]
    assert SECRET not in str(refused.value)


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_bytes(b"\xff\xfe O\n\n")
    with pytest.raises(SetupError, match="UTF-8"):
        read(tmp_path, "conll", {})


def test_a_folder_that_is_not_there_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no file or folder nowhere"):
        read(tmp_path / "nowhere", "brat", {})


@pytest.mark.parametrize("pair", ["problem", "=SYMPTOM", "problem=ILLNESS", ""])
def test_a_label_map_that_is_none_is_refused(pair: str) -> None:
    with pytest.raises(SetupError, match="THEIRS=OURS"):
        label_map([pair])
    assert label_map(["a=SYMPTOM", "b="]) == {"a": "SYMPTOM", "b": ""}


def test_the_loss_leaves_open_what_a_source_does_not_mark() -> None:
    loss = PartialLabelLoss(0.0)
    outside, begins = LABELS.index("O"), LABELS.index("B-TEST")
    logits = torch.full((1, 2, len(LABELS)), -8.0)
    logits[0, :, begins] = 8.0  # the model is sure that both are a test
    labels = torch.tensor([[outside, IGNORED]])
    bit = 1 << ENTITY_TYPES.index("TEST")
    assert loss(logits, labels, [0]) > 10
    assert loss(logits, labels, [bit]) < 1e-3
    assert loss(logits, labels, [bit << 1]) > 10
    marked = torch.tensor([[LABELS.index("B-SYMPTOM"), IGNORED]])
    assert loss(logits, marked, [bit]) > 10  # what is marked is never open


def test_notes_hold_lines_that_mark_the_same_types() -> None:
    def line(text: str, annotates: frozenset[str]) -> MarkedLine:
        found = parse(text)
        assert isinstance(found, MarkedLine)
        return MarkedLine(found.text, found.mentions, "", "", 0, annotates)

    few = [line(f"[gout](CONDITION) {n}", frozenset({"CONDITION"})) for n in range(20)]
    all_ = [line(f"[cough](SYMPTOM) {n}", frozenset(ENTITY_TYPES)) for n in range(20)]
    tokenizer = encoder.tokenizer(encoder.find())
    examples: list[Example] = ExampleMaker([*few, *all_], tokenizer, FitConfig(alone=0.2)).epoch()
    condition, symptom = LABELS.index("B-CONDITION"), LABELS.index("B-SYMPTOM")
    assert any(len(example.ids) > 8 for example in examples)
    for example in examples:
        assert (condition in example.labels) == bool(example.left_open)
        assert (symptom in example.labels) != bool(example.left_open)
        assert not np.isin([condition, symptom], example.labels).all()


@pytest.mark.parametrize("alone", [True, False])
def test_a_model_of_a_sites_notes_says_what_it_was_learnt_from(tmp_path: Path, alone: bool) -> None:
    (tmp_path / f"{SECRET}.txt").write_text("\n".join(f"n {n} [gout](CONDITION)" for n in range(15)), encoding="utf-8")
    site = read(tmp_path, "inline", {})
    folder = tmp_path / "model"
    folder.mkdir()
    most = len(site.training) if alone else len(site.training) + 3
    before = Before("clinical_ner:old", 0.853, most)
    fit = FitConfig(epochs=1, threads=1)
    config = NerConfig(fit=fit, site=site, site_alone=alone, lines_at_most=most, codes=False, before=before)
    manifest = make_model(folder, config)
    told = manifest.metrics["site"]
    assert told["lines"] == {"training": len(site.training), "kept": len(site.kept)}
    assert told["types"] == ["CONDITION"]
    assert 0 <= told["f1_strict"]["f1"] <= 1
    assert manifest.training["lines"]["training"] == most
    assert manifest.training["training_lines_of"] == {"project": 0 if alone else 3, "site": len(site.training)}
    assert manifest.training["site_alone"] == alone
    assert manifest.training["statistics"]["by_source"]["site"] == len(site.training)
    card = (folder / "model_card.md").read_text(encoding="utf-8")
    said = " ".join(card.split())
    assert f"{len(site.training)} lines of a site's own annotated notes" in said
    assert ("3 lines written for this project" in said) != alone
    assert f"{most} lines written for this project, all people" not in said
    assert SECRET not in card + json.dumps(manifest.training)
    figure = manifest.metrics["f1_strict"]["f1"]
    alone_or_not = " alone" if alone else ""
    assert effect(StoredModel(manifest, folder, "")) == (
        f"held-out F1 0.853 -> {figure:.3f} with the site's notes{alone_or_not} (before: clinical_ner:old)"
    )


def test_only_what_was_judged_alike_is_compared_with() -> None:
    metrics = {"f1_strict": {"f1": 0.9}, "lines": 297}
    before = Before.of("clinical_ner:a", metrics, {})
    assert before == Before("clinical_ner:a", 0.9, 297)
    assert before.facts({"lines": 297})["compared_with"]["tag"] == "clinical_ner:a"
    assert before.facts({"lines": 20}) == {}
    assert Before.of("clinical_ner:b", metrics, {"origin": "elsewhere"}) is None
    assert Before.of("clinical_ner:c", {}, {}) is None
