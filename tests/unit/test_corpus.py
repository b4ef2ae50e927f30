"""The corpus: its format is checked to the line, and its reserved parts never reach training."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinical.entities import ENTITY_TYPES, LABELS, Pieces
from errors import SetupError
from training.ner import corpus, encoder
from training.ner.augmentation import Noise, disturb, from_segments, mentions_by_type, segments
from training.ner.corpus import (
    Fault,
    MarkedLine,
    Mention,
    load,
    parse,
    piece_assertions,
    piece_labels,
    read,
    statistics,
)


def written(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.txt").write_text(content, encoding="utf-8")
    return folder


def small(folder: Path, **files: str) -> Path:
    parts = {"posts": "[cough](SYMPTOM) again", "heldout": "no [fever](SYMPTOM)", "calibration": "[rash](SYMPTOM)"}
    return written(folder, **(parts | files))


def test_marks_become_places_in_the_plain_text() -> None:
    line = parse("has [severe](SEVERITY) [back pain](SYMPTOM) [sic], ok")
    assert isinstance(line, MarkedLine)
    assert line.text == "has severe back pain [sic], ok"
    assert line.mentions == (Mention("SEVERITY", 4, 10), Mention("SYMPTOM", 11, 20))


def test_what_is_said_of_a_mention_and_line_breaks() -> None:
    line = parse(r"All: [penicillin](MEDICATION:allergy)\n- no [rash](SYMPTOM:negated), [cough](SYMPTOM)")
    assert isinstance(line, MarkedLine)
    assert line.text == "All: penicillin\n- no rash, cough"
    drug, rash, cough = line.mentions
    assert (drug.assertion, drug.use) == ("negated", "allergy")
    assert (rash.assertion, rash.use) == ("negated", None)
    assert cough.assertion is None
    assert rash == Mention("SYMPTOM", 21, 25)  # what is said is no part of a place


def test_what_a_file_with_assertions_leaves_unsaid_is_present(tmp_path: Path) -> None:
    folder = written(
        tmp_path, said="no [fever](SYMPTOM:negated)\n[cough](SYMPTOM) for [2 days](DURATION)", not_="[rash](SYMPTOM)"
    )
    said, other = (read([folder / name]) for name in ("said.txt", "not_.txt"))
    assert [mention.assertion for line in said for mention in line.mentions] == ["negated", "present", None]
    assert other[0].mentions[0].assertion is None


def test_assertions_reach_the_pieces_of_their_mentions() -> None:
    line = parse("no [severe headache](SYMPTOM:negated) now")
    assert isinstance(line, MarkedLine)
    tokenizer = encoder.tokenizer(encoder.find())
    pieces = Pieces.of(line.text, tokenizer.encode(line.text, add_special_tokens=False))
    assert piece_assertions(line.mentions, pieces).tolist() == [-1, 1, 1, -1]


def test_a_line_break_is_a_piece_of_its_own() -> None:
    text = "Fever\nno cough"
    pieces = Pieces.of(text, encoder.tokenizer(encoder.find()).encode(text, add_special_tokens=False))
    assert [text[start:end] for start, end in zip(pieces.starts, pieces.ends, strict=True)] == [
        "Fever",
        "\n",
        "no",
        "cough",
    ]
    assert len(pieces.word_first) == 4


@pytest.mark.parametrize(
    ("marked", "rule"),
    [
        ("[2 days](DURATION:negated)", "DURATION carries no assertion"),
        ("[rash](SYMPTOM:allergy)", "only a MEDICATION is allergy"),
        ("[rash](SYMPTOM:gone)", "unknown assertion"),
        ("[pain](SYMTOM)", "unknown type SYMTOM"),
        ("[ pain](SYMPTOM)", "starts and ends on a word"),
        ("[pain,](SYMPTOM)", "starts and ends on a word"),
        ("[...](SYMPTOM)", "without a word"),
        ("[head](ANATOMY)ache", "whole words"),
        ("tooth[ache](SYMPTOM)", "whole words"),
        ("[chest [pain](SYMPTOM)](CONDITION)", "inside each other"),
        ("pain](SYMPTOM)", "never opened"),
    ],
)
def test_a_broken_mark_names_the_rule(marked: str, rule: str) -> None:
    fault = parse(marked, source="posts.txt", number=7)
    assert isinstance(fault, Fault)
    assert str(fault).startswith("posts.txt:7: ")
    assert rule in str(fault)


def test_all_faults_are_shown_with_file_and_line(tmp_path: Path) -> None:
    folder = written(tmp_path / "c", a="# register: x\n\n[pain](NO)\nfine\n[ a](TEST)", b="[x](Y)")
    with pytest.raises(SetupError) as raised:
        read(sorted(folder.glob("*.txt")))
    assert "(3)" in str(raised.value)
    assert all(place in str(raised.value) for place in ("a.txt:3", "a.txt:5", "b.txt:1"))


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    with pytest.raises(SetupError, match=r"bad\.txt:0: the file is not UTF-8"):
        read([tmp_path / "bad.txt"])


def test_a_register_holds_for_the_lines_below(tmp_path: Path) -> None:
    folder = written(tmp_path / "c", a="# register: post | system: skin\n[rash](SYMPTOM)\n# register: note\nok")
    assert [line.register for line in read([folder / "a.txt"])] == ["register: post | system: skin", "register: note"]


def test_reserved_parts_are_never_training_lines(tmp_path: Path) -> None:
    found = load(small(tmp_path / "c"))
    assert {line.source for line in found.training} == {"posts.txt"}
    assert [line.text for line in found.heldout] == ["no fever"]


@pytest.mark.parametrize("part", ["heldout", "calibration"])
def test_a_training_line_that_repeats_a_reserved_one_is_refused(tmp_path: Path, part: str) -> None:
    folder = small(tmp_path / "c", **{part: "Cough, [again](SYMPTOM)!"})
    with pytest.raises(SetupError, match=r"posts\.txt:1"):
        load(folder)


def test_the_hash_follows_every_letter(tmp_path: Path) -> None:
    before = load(small(tmp_path / "c")).sha256
    assert load(small(tmp_path / "c")).sha256 == before
    assert load(small(tmp_path / "c", heldout="no [fevers](SYMPTOM)")).sha256 != before


def test_statistics_count_what_is_there() -> None:
    lines = [parse("[a](TEST) [b](TEST)", source="x"), parse("nothing", source="y")]
    found = statistics([line for line in lines if isinstance(line, MarkedLine)])
    assert (found.lines, found.lines_without_mention, found.mentions, found.by_type["TEST"]) == (2, 1, 2, 2)
    assert found.by_source == {"x": 1, "y": 1}


def test_the_projects_corpus_keeps_its_own_rules() -> None:
    found = load()
    trained = {line.same_as for line in found.training}
    assert not trained & {line.same_as for line in (*found.heldout, *found.calibration)}
    assert not trained & {line.same_as for line in found.heldout}
    assert statistics(found.training).by_type.keys() == set(ENTITY_TYPES)
    assert min(statistics(found.training).by_type.values()) > 0
    assert {line.source for line in found.training}.isdisjoint(corpus.RESERVED)


def test_every_piece_of_a_mentions_first_word_begins_it() -> None:
    text = "took levothyroxine sodium today"
    pieces = Pieces.of(text, encoder.tokenizer(encoder.find()).encode(text, add_special_tokens=False))
    labels = [LABELS[label] for label in piece_labels([Mention("MEDICATION", 5, 25)], pieces)]
    begun = labels.count("B-MEDICATION")
    assert begun > 1
    assert labels == ["O", *["B-MEDICATION"] * begun, "I-MEDICATION", "O"]


LINE = "[Severe](SEVERITY) [pain in my back](SYMPTOM), took [ibuprofen](MEDICATION) [400 mg](DOSAGE), can't sleep."


@given(seed=st.integers(0, 2**32 - 1))
def test_noise_moves_marks_with_their_words(seed: int) -> None:
    import random

    line = parse(LINE)
    assert isinstance(line, MarkedLine)
    noise = Noise(no_final_stop=1, no_apostrophes=0.5, no_commas=0.5, bullet=0.5, misspelling=1, swap=0)
    row = disturb(segments(line), noise, mentions_by_type([line]), random.Random(seed))
    text, mentions = from_segments(row)
    assert [mention.type for mention in mentions] == [mention.type for mention in line.mentions]
    assert all(text[mention.start : mention.end].strip() for mention in mentions)
    assert all(left.end < right.start for left, right in zip(mentions, mentions[1:], strict=False))


def test_a_swap_takes_another_mention_of_the_same_type() -> None:
    import random

    line = parse("took [aspirin](MEDICATION)")
    assert isinstance(line, MarkedLine)
    row = disturb(segments(line), Noise(swap=1, misspelling=0), {"MEDICATION": ["zinc"]}, random.Random(1))
    assert ("zinc", line.mentions[0]) in row
