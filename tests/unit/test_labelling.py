"""Every label scheme comes out as the same mentions, and one that is not whole is refused."""

import numpy as np
import pytest

from clinical.entities import LABELS, Calibration, Pieces, ScoredSpan, decode
from clinical.labelling import Floats, LabelScheme, softmax

TEXT = "had chest pain today, took aspirin Tums and iron."
WORDS = ["had", "chest", "pain", "today", ",", "took", "aspirin", "Tums", "and", "iron", "."]
SCHEMES = {
    "BIO": "O B-P I-P O O O B-D B-D O B-D O",
    "BIOES": "O B-P E-P O O O S-D S-D O S-D O",
    "BILOU": "O B-P L-P O O O U-D U-D O U-D O",
}


class Encoding:
    """Every word one piece."""

    def __init__(self, text: str, words: list[str]) -> None:
        self.offsets: list[tuple[int, int]] = []
        for word in words:
            start = text.index(word, self.offsets[-1][1] if self.offsets else 0)
            self.offsets.append((start, start + len(word)))
        self.ids = list(range(len(words)))
        self.word_ids: list[int | None] = [*range(len(words))]


def labels_of(scheme: str) -> list[str]:
    prefixes = {"BIO": "BI", "BIOES": "BIES", "BILOU": "BILU", "IO": "I"}[scheme]
    return ["O", *(f"{prefix}-{kind}" for kind in "PD" for prefix in prefixes)]


def sure(tags: str, labels: list[str], by: float = 6.0) -> Floats:
    logits = np.zeros((len(tags.split()), len(labels)), dtype=np.float32)
    for row, tag in enumerate(tags.split()):
        logits[row, labels.index(tag)] = by
    return logits


def mentions(tags: str, labels: list[str], text: str = TEXT, words: list[str] = WORDS) -> list[ScoredSpan]:
    pieces = Pieces.of(text, Encoding(text, words))
    return decode(text, pieces, sure(tags, labels), LabelScheme.of(labels), Calibration())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_scheme_finds_the_same_mentions(scheme: str) -> None:
    found = mentions(SCHEMES[scheme], labels_of(scheme))
    told = [(span.type, TEXT[span.start : span.end]) for span in found]
    assert told == [("P", "chest pain"), ("D", "aspirin"), ("D", "Tums"), ("D", "iron")]
    assert all(0.9 < span.score <= 1 for span in found)


@pytest.mark.parametrize("labels", [["O", "I-P", "I-D"], ["D", "O", "P"]])
def test_without_a_begin_neighbours_of_one_type_are_one_mention(labels: list[str]) -> None:
    tags = [
        kind and ("I-" if "I-P" in labels else "") + kind for kind in ["", "P", "P", "", "", "", *"DD", "", "D", ""]
    ]
    found = mentions(" ".join(tag or "O" for tag in tags), labels)
    told = [(span.type, TEXT[span.start : span.end]) for span in found]
    assert told == [("P", "chest pain"), ("D", "aspirin Tums"), ("D", "iron")]
    assert all(0.9 < span.score <= 1 for span in found)


def test_without_a_begin_a_mention_still_ends_with_its_statement_and_no_score_is_above_one() -> None:
    text, words = "Pain\nFever and chills.", ["Pain", "Fever", "and", "chills", "."]
    found = mentions("P P O P O", ["O", "P"], text, words)
    assert [text[span.start : span.end] for span in found] == ["Pain", "Fever", "chills"]
    assert all(span.score <= 1 for span in found)


def test_a_begin_in_two_columns_is_their_sum() -> None:
    labels = labels_of("BIOES")
    logits = np.random.default_rng(5).normal(size=(4, len(labels))).astype(np.float32)
    scheme, own = LabelScheme.of(labels), softmax(logits)
    columns = scheme.probabilities(logits)
    assert columns.sum(axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    begins, ends = (
        own[:, labels.index(label)] + own[:, labels.index(other)] for label, other in (("B-D", "S-D"), ("I-D", "E-D"))
    )
    place = scheme.types.index("D")
    assert columns[:, scheme.begins[place]] == pytest.approx(begins, abs=1e-6)
    assert columns[:, scheme.insides[place]] == pytest.approx(ends, abs=1e-6)


def test_plain_bio_is_read_as_it_is() -> None:
    scheme = LabelScheme.of(LABELS)
    assert not scheme.added
    logits = np.random.default_rng(6).normal(size=(3, len(LABELS))).astype(np.float32)
    assert (scheme.probabilities(logits) == softmax(logits)).all()


def test_labels_that_are_rare_may_lack_where_ends_are_told() -> None:
    scheme = LabelScheme.of(["O", "B-P", "E-P", "S-D"])
    assert scheme.types == ("P", "D")
    assert scheme.added[1 + len(scheme.types) + 1] == ()  # nothing continues a D
    found = mentions("O B-P E-P O O O S-D S-D O S-D O", ["O", "B-P", "E-P", "S-D"])
    assert len(found) == 4


@pytest.mark.parametrize(
    "labels",
    [
        ["O"],
        [],
        ["B-P", "I-P"],
        ["P", "D"],
        ["O", "B-P"],
        ["O", "B-P", "I-P", "I-D"],
        ["O", "B-P", "I-P", "B-D"],
        ["O", "B-P", "I-P", "D"],
        ["O", "B-P", "I-P", "S-P"],
        ["O", "B-P", "I-P", "E-P", "S-P", "B-D", "I-D", "L-D", "U-D"],
        ["O", "B-P", "I-P", "I-P"],
    ],
)
def test_a_scheme_that_is_not_whole_is_refused(labels: list[str]) -> None:
    with pytest.raises(ValueError, match=r"label"):
        LabelScheme.of(labels)
