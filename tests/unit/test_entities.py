"""Decoding: whole words, exact places, no illegal sequence, nothing lost where windows meet."""

import re
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clinical.entities import (
    ENTITY_TYPES,
    LABELS,
    Calibration,
    Entity,
    Pieces,
    Span,
    decode,
    join_windows,
    trim,
    windows,
)
from clinical.labelling import Floats, LabelScheme, likeliest_labels, softmax

SCHEME = LabelScheme.of(LABELS)


@dataclass
class Cut:
    """A hand-made encoding: pieces as (start, end, word)."""

    pieces: list[tuple[int, int, int]]

    @property
    def ids(self) -> list[int]:
        return list(range(len(self.pieces)))

    @property
    def offsets(self) -> list[tuple[int, int]]:
        return [(start, end) for start, end, _ in self.pieces]

    @property
    def word_ids(self) -> list[int | None]:
        return [word for _, _, word in self.pieces]


def words(text: str) -> Cut:
    """Blanks part words; every sign that is no letter or digit stands alone, as the tokenizer does it."""
    pieces, word, start = [], 0, None
    for at, character in enumerate(text + " "):
        if start is not None and not character.isalnum():
            pieces.append((start, at, word))
            word, start = word + 1, None
        if character.isalnum():
            start = at if start is None else start
        elif not character.isspace():
            pieces.append((at, at + 1, word))
            word += 1
    return Cut(pieces)


def logits_for(labels: list[str], strength: float = 8.0) -> Floats:
    table = np.zeros((len(labels), len(LABELS)), dtype=np.float32)
    table[np.arange(len(labels)), [LABELS.index(label) for label in labels]] = strength
    return table


def found(text: str, labels: list[str], cut: Cut | None = None) -> list[tuple[str, str]]:
    pieces = Pieces.of(text, cut or words(text))
    spans = decode(text, pieces, logits_for(labels), SCHEME, Calibration())
    return [(span.type, text[span.start : span.end]) for span in spans]


def test_pieces_of_a_word_come_back_as_the_whole_word() -> None:
    cut = Cut([(0, 4, 0), (4, 8, 0), (8, 10, 0), (11, 15, 1)])
    assert found("metoprolol 25mg", ["B-MEDICATION", "O", "B-MEDICATION", "O"], cut) == [("MEDICATION", "metoprolol")]


def test_a_word_with_an_apostrophe_is_not_cut() -> None:
    assert found("i can't sleep", ["O", "B-SYMPTOM", "B-SYMPTOM", "B-SYMPTOM", "I-SYMPTOM"]) == [
        ("SYMPTOM", "can't sleep")
    ]


def test_a_number_with_a_slash_or_a_point_is_one_word() -> None:
    assert found("pain 8/10 now", ["B-SYMPTOM", "B-SEVERITY", "O", "B-SEVERITY", "O"])[1] == ("SEVERITY", "8/10")
    assert found("took 2.5 mg", ["O", "B-DOSAGE", "I-DOSAGE", "B-DOSAGE", "I-DOSAGE"]) == [("DOSAGE", "2.5 mg")]


def test_a_continuation_without_a_beginning_begins_a_mention() -> None:
    assert found("dry cough", ["I-SYMPTOM", "I-SYMPTOM"]) == [("SYMPTOM", "dry cough")]


def test_a_continuation_of_another_type_begins_a_new_mention() -> None:
    text = "severe pain"
    logits = logits_for(["B-SEVERITY", "I-SYMPTOM"], strength=5.0)
    logits[1, LABELS.index("B-SYMPTOM")] = 4.0
    spans = decode(text, Pieces.of(text, words(text)), logits, SCHEME, Calibration())
    assert [(span.type, text[span.start : span.end]) for span in spans] == [("SEVERITY", "severe"), ("SYMPTOM", "pain")]


def test_the_likeliest_row_wins_over_the_likeliest_words() -> None:
    text = "has dry cough"
    logits = logits_for(["O", "O", "I-SYMPTOM"], strength=3.0)
    logits[1, LABELS.index("B-SYMPTOM")] = 2.8
    spans = decode(text, Pieces.of(text, words(text)), logits, SCHEME, Calibration())
    assert [text[span.start : span.end] for span in spans] == ["dry cough"]


def test_what_is_hardly_likely_is_left_out() -> None:
    text = "the walls"
    logits = logits_for(["O", "B-SYMPTOM"])
    logits[1] = np.arange(len(LABELS)) * 0.01
    assert decode(text, Pieces.of(text, words(text)), logits, SCHEME, Calibration()) == []


@settings(deadline=None)
@given(count=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
def test_the_row_of_labels_is_the_best_of_all_legal_rows(count: int, seed: int) -> None:
    labels = ["O", "B-a", "I-a", "B-b", "I-b"]
    draws = np.random.default_rng(seed).dirichlet(np.full(5, 0.7), size=count).astype(np.float32)
    kind, opens = likeliest_labels(draws, LabelScheme.of(labels))
    chosen = [0 if k < 0 else 1 + 2 * int(k) + (not o) for k, o in zip(kind, opens, strict=True)]
    logs = np.log(np.maximum(draws, 1e-6))
    best = max(_legal_rows(count), key=lambda row: sum(logs[at, label] for at, label in enumerate(row)))
    assert sum(logs[at, label] for at, label in enumerate(chosen)) == pytest.approx(
        sum(logs[at, label] for at, label in enumerate(best)), abs=0.05
    )


def _legal_rows(count: int) -> list[list[int]]:
    rows: list[list[int]] = [[]]
    for _ in range(count):
        rows = [
            [*row, label]
            for row in rows
            for label in range(5)
            if label not in {2, 4} or (row and row[-1] in {label - 1, label})
        ]
    return rows


def test_two_mentions_of_one_type_side_by_side_stay_two() -> None:
    assert found("fever cough", ["B-SYMPTOM", "B-SYMPTOM"]) == [("SYMPTOM", "fever"), ("SYMPTOM", "cough")]


@pytest.mark.parametrize("between", ["\n\n", "\n", "\n- ", ": "])
def test_a_mention_never_reaches_from_one_statement_into_the_next(between: str) -> None:
    labels = ["B-SYMPTOM", *["I-SYMPTOM"] * len(re.findall(r"[-:]", between)), "I-SYMPTOM"]
    assert found(f"cough{between}pain", labels) == [("SYMPTOM", "cough"), ("SYMPTOM", "pain")]


def test_a_mention_goes_on_over_the_end_of_a_line_that_is_full() -> None:
    words = ["He", "came", "to", "see", "us", "because", "of", "a", "tight", "and", "burning", "chest"]
    text, labels = " ".join(words) + "\npain", [*["O"] * (len(words) - 1), "B-SYMPTOM", "I-SYMPTOM"]
    assert found(text, labels) == [("SYMPTOM", "chest\npain")]


def test_punctuation_is_taken_off_the_edges() -> None:
    assert found("(fever), ok", ["B-SYMPTOM", "I-SYMPTOM", "I-SYMPTOM", "I-SYMPTOM", "O"]) == [("SYMPTOM", "fever")]
    assert found("... ok", ["B-SYMPTOM", "I-SYMPTOM", "I-SYMPTOM", "O"]) == []


@pytest.mark.parametrize("kept", ["b.i.d.", "50%", "vitamin B12 (oral)", "38.5°"])
def test_signs_that_belong_to_a_mention_stay(kept: str) -> None:
    assert trim(kept, 0, len(kept)) == Span(0, len(kept))


def test_a_word_keeps_its_combining_marks() -> None:
    text = "fie\u0301vre\u0301 now"
    span = trim(text, 0, len("fie\u0301vre"))
    assert span is not None
    assert text[span.start : span.end] == "fie\u0301vre\u0301"


def test_a_score_is_the_probability_of_just_this_mention() -> None:
    text = "my chest pain now"
    logits = logits_for(["O", "B-SYMPTOM", "I-SYMPTOM", "O"], strength=4.0)
    (span,) = decode(text, Pieces.of(text, words(text)), logits, SCHEME, Calibration())
    probabilities = softmax(logits)
    begins, goes_on = LABELS.index("B-SYMPTOM"), LABELS.index("I-SYMPTOM")
    expected = probabilities[1, begins] * probabilities[2, goes_on] * (1 - probabilities[3, goes_on])
    assert span.score == pytest.approx(float(expected), abs=1e-4)


def test_calibration_keeps_the_order_of_scores() -> None:
    raw = np.array([0.1, 0.5, 0.9, 0.999, 1.0], dtype=np.float32)
    scores = Calibration(temperature=2.0, bias=-0.5)(raw)
    assert (np.diff(scores) >= 0).all()
    assert Calibration()(raw) == pytest.approx(raw, abs=1e-5)


def test_no_pieces_give_no_mentions() -> None:
    pieces = Pieces.of("\u200b", Cut([]))
    assert decode("\u200b", pieces, np.empty((0, 0), dtype=np.float32), SCHEME, Calibration()) == []


def test_an_incomplete_label_list_is_refused() -> None:
    with pytest.raises(ValueError, match="BIO"):
        LabelScheme.of(["O", "B-SYMPTOM"])


def test_other_label_lists_decode_too() -> None:
    labels = ["O", "B-problem", "I-problem", "B-test", "I-test"]
    logits = np.eye(5, dtype=np.float32)[[1, 2]] * 9
    spans = decode(
        "chest pain", Pieces.of("chest pain", words("chest pain")), logits, LabelScheme.of(labels), Calibration()
    )
    assert [(span.type, span.start, span.end) for span in spans] == [("problem", 0, 10)]


def test_a_repr_never_shows_the_words() -> None:
    assert "headache" not in repr(Entity("SYMPTOM", "headache", 0, 8, 0.9))


@given(count=st.integers(0, 3000), size=st.integers(8, 300), share=st.integers(0, 6))
def test_windows_cover_everything_and_overlap(count: int, size: int, share: int) -> None:
    overlap = min(share, size - 1)
    spans = windows(count, size, overlap)
    assert spans[0].start == 0
    assert spans[-1].end == count
    assert all(span.end - span.start <= size for span in spans)
    assert all(left.end - right.start >= overlap for left, right in zip(spans, spans[1:], strict=False))


@given(count=st.integers(1, 900), size=st.integers(8, 120), overlap=st.integers(0, 7))
def test_joined_windows_give_every_piece_its_own_row(count: int, size: int, overlap: int) -> None:
    whole = np.arange(count, dtype=np.float32)[:, None]
    spans = windows(count, size, overlap)
    joined = join_windows([whole[span.start : span.end] for span in spans], spans)
    assert (joined == whole).all()


def test_a_piece_is_read_where_it_stands_farther_inside() -> None:
    spans = [Span(0, 10), Span(6, 16)]
    parts = [np.zeros((10, 1), dtype=np.float32), np.ones((10, 1), dtype=np.float32)]
    assert join_windows(parts, spans).ravel().tolist() == [0.0] * 8 + [1.0] * 8


TEXTS = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from(" .,'()/-\n12ab")), max_size=60)


@given(text=TEXTS, seed=st.integers(0, 2**32 - 1))
def test_any_scores_give_ordered_mentions_that_lie_inside_the_text(text: str, seed: int) -> None:
    pieces = Pieces.of(text, words(text))
    logits = np.random.default_rng(seed).normal(0, 3, (len(pieces), len(LABELS))).astype(np.float32)
    spans = decode(text, pieces, logits, SCHEME, Calibration())
    assert all(span.type in ENTITY_TYPES and 0 <= span.score <= 1 for span in spans)
    assert all(text[span.start : span.end].strip() for span in spans)
    assert all(left.end <= right.start for left, right in zip(spans, spans[1:], strict=False))
    assert spans == decode(text, pieces, logits, SCHEME, Calibration())
