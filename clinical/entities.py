"""From word pieces' label scores to entities: whole words, exact code-point offsets, scores that are probabilities.

Training, evaluation and serving all decode here, so that they cannot drift apart. It knows numpy and nothing of
tokenizers or models: an encoding is anything with `ids`, `offsets` and `word_ids`. It refuses to return a part of a
word, or an entity whose text differs from the slice of the original text.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Literal, Protocol, Self, get_args

import numpy as np
import numpy.typing as npt

EntityType = Literal[
    "SYMPTOM", "CONDITION", "MEDICATION", "TEST", "PROCEDURE", "ANATOMY", "SEVERITY", "DURATION", "DOSAGE"
]
Assertion = Literal["present", "negated", "possible", "hypothetical", "historical", "family"]

ENTITY_TYPES: Final[tuple[str, ...]] = get_args(EntityType)
LABELS: Final[tuple[str, ...]] = ("O", *(f"{prefix}-{kind}" for kind in ENTITY_TYPES for prefix in "BI"))

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# Signs that hold one word together although the tokenizer cuts there: can't, 8/10, 2.5, 1,000.
_JOINT = re.compile(r"(?<=[^\W_])['’](?=[^\W_])|(?<=\d)[.,/](?=\d)")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
_SMALLEST: Final = 1e-6


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A half-open stretch [start, end) of a text, in Unicode code points."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Entity:
    """One mention: `text` is exactly `original[start:end]`; `score` is the probability that it is right."""

    type: str
    text: str = field(repr=False)  # a patient's words never reach a log through a repr
    start: int
    end: int
    score: float
    assertion: Assertion = "present"


@dataclass(frozen=True, slots=True)
class ScoredSpan:
    """A decoded mention before it has a text and an assertion."""

    type: str
    start: int
    end: int
    score: float


class PieceEncoding(Protocol):
    """What is read of a tokenizer's answer for one text, made without special tokens."""

    @property
    def ids(self) -> list[int]: ...
    @property
    def offsets(self) -> list[tuple[int, int]]: ...
    @property
    def word_ids(self) -> list[Any]: ...


@dataclass(frozen=True, slots=True)
class Pieces:
    """A text's word pieces: int64[n] ids, code-point starts and ends, and int64[words] each word's first piece."""

    ids: Ints
    starts: Ints
    ends: Ints
    word_first: Ints

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, text: str, encoding: PieceEncoding) -> Self:
        """Gather pieces into whole words: the tokenizer's own words, plus those held together by a joint."""
        ids = np.array(encoding.ids, dtype=np.int64)
        if not len(ids):
            return cls(ids, ids, ids, ids)
        offsets = np.array(encoding.offsets, dtype=np.int64)
        starts, ends = offsets[:, 0], offsets[:, 1]
        first = np.diff(np.array(encoding.word_ids, dtype=np.int64), prepend=-1) != 0
        joints = [match.start() for match in _JOINT.finditer(text)]
        if joints:
            at = np.searchsorted(starts, joints)
            at = at[at < len(starts) - 1]
            first[at] = False
            first[at + 1] = False
        first[0] = True
        return cls(ids, starts, ends, np.flatnonzero(first))


@dataclass(frozen=True, slots=True)
class LabelScheme:
    """Which column of a model's output begins, continues or lies outside a type. Takes any BIO label list."""

    types: tuple[str, ...]
    outside: int
    begins: tuple[int, ...]
    insides: tuple[int, ...]

    @classmethod
    def of(cls, labels: Sequence[str]) -> Self:
        """Raises ValueError when a type lacks its B- or its I- label, or when there is no O."""
        types = tuple(dict.fromkeys(label[2:] for label in labels if label != "O"))
        try:
            begins = tuple(labels.index(f"B-{kind}") for kind in types)
            insides = tuple(labels.index(f"I-{kind}") for kind in types)
            return cls(types, labels.index("O"), begins, insides)
        except ValueError as error:
            raise ValueError("the labels are not a full BIO scheme") from error


@dataclass(frozen=True, slots=True)
class Calibration:
    """Platt scaling of an entity's raw log-odds: sigmoid(odds / temperature + bias), fitted on a part of its own."""

    temperature: float = 1.0
    bias: float = 0.0

    def __call__(self, raw: Floats) -> Floats:
        """float32[n] raw probabilities to float32[n] calibrated ones."""
        clipped = np.clip(raw.astype(np.float64), _SMALLEST, 1 - _SMALLEST)
        odds = np.log(clipped) - np.log1p(-clipped)
        return (1 / (1 + np.exp(-(odds / self.temperature + self.bias)))).astype(np.float32)


def softmax(logits: Floats) -> Floats:
    """Over the last axis; float32[..., labels] to the same shape."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float32)


def windows(count: int, size: int, overlap: int) -> list[Span]:
    """Cover `count` pieces with windows of at most `size` that share at least `overlap` with their neighbour."""
    if count <= size:
        return [Span(0, count)]
    number = 1 + -(-(count - size) // (size - overlap))
    starts = np.linspace(0, count - size, number).astype(int)
    return [Span(int(start), int(start) + size) for start in starts]


def join_windows(parts: Sequence[Floats], spans: Sequence[Span]) -> Floats:
    """One float32[count, labels] of overlapping windows: each piece from the window where it stands farther inside."""
    if len(parts) == 1:
        return parts[0]
    cuts = [0, *((left.end + right.start) // 2 for left, right in pairwise(spans)), spans[-1].end]
    kept = [
        part[low - span.start : high - span.start]
        for part, span, low, high in zip(parts, spans, cuts[:-1], cuts[1:], strict=True)
    ]
    return np.concatenate(kept)


def decode(
    text: str, pieces: Pieces, logits: Floats, scheme: LabelScheme, calibration: Calibration
) -> list[ScoredSpan]:
    """The mentions in `text`, in order, never overlapping; `logits` is float32[pieces, labels].

    A word's probabilities are the mean of its pieces'. A word belongs to the type whose B- and I- weigh most
    together, so no sequence can be illegal: a run of one type is cut where B- outweighs I-, or at a blank line.
    """
    if not len(pieces):
        return []
    sizes = np.diff(pieces.word_first, append=len(pieces))
    words = np.add.reduceat(softmax(logits), pieces.word_first, axis=0) / sizes[:, None]
    begins, insides = words[:, list(scheme.begins)], words[:, list(scheme.insides)]
    by_type = begins + insides
    best = by_type.argmax(axis=1)
    rows = np.arange(len(words))
    weight = by_type[rows, best]
    inside = weight > words[:, scheme.outside]
    kind = np.where(inside, best, -1)
    opens = inside & ((np.diff(kind, prepend=-1) != 0) | (begins[rows, best] > insides[rows, best]))
    for match in _BLANK_LINE.finditer(text):
        after = np.searchsorted(pieces.starts[pieces.word_first], match.start())
        if after < len(opens):
            opens[after] = inside[after]
    firsts = np.flatnonzero(opens)
    if not len(firsts):
        return []
    closes = np.flatnonzero(np.append(opens[1:] | ~inside[1:], True) & inside)
    raw = np.exp(
        np.add.reduceat(np.append(np.log(weight + _SMALLEST), 0), np.stack([firsts, closes + 1], 1).ravel())[::2]
    )
    scores = calibration(raw.astype(np.float32))
    starts = pieces.starts[pieces.word_first[firsts]]
    ends = pieces.ends[np.append(pieces.word_first, len(pieces))[closes + 1] - 1]
    found = []
    for position, first in enumerate(firsts.tolist()):
        span = trim(text, int(starts[position]), int(ends[position]))
        if span is not None:
            found.append(ScoredSpan(scheme.types[kind[first]], span.start, span.end, float(scores[position])))
    return found


def trim(text: str, start: int, end: int) -> Span | None:
    """Take blanks and punctuation off the edges and give a word its combining marks back; None when nothing is left."""
    while start < end and not text[start].isalnum():
        start += 1
    while end > start and not text[end - 1].isalnum() and not _closes(text, start, end):
        end -= 1
    while end < len(text) and start < end and unicodedata.category(text[end])[0] == "M":
        end += 1
    return Span(start, end) if start < end else None


def _closes(text: str, start: int, end: int) -> bool:
    """Whether the last sign belongs to the mention: a percent sign, a bracket opened inside, b.i.d.'s stop, a mark."""
    last = text[end - 1]
    return (
        last in "%°+"
        or (last == ")" and "(" in text[start:end])
        or (last == "." and re.search(r"(?:^|[\W_])\w\.\w\.$", text[max(start, end - 5) : end]) is not None)
        or unicodedata.category(last)[0] == "M"
    )
