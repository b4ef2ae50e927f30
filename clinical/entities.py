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

from clinical.labelling import Floats, Ints, LabelScheme, likeliest_labels
from clinical.markup import plain
from clinical.note_structure import Statement, statements

EntityType = Literal[
    "SYMPTOM", "CONDITION", "MEDICATION", "TEST", "PROCEDURE", "ANATOMY", "SEVERITY", "DURATION", "DOSAGE"
]
Assertion = Literal["present", "negated", "possible", "hypothetical", "historical", "family"]
Use = Literal["taken", "allergy", "stopped", "held", "refused", "unknown"]  # of a MEDICATION

By = Literal["nothing", "words", "structure"]  # what a rule goes by; nothing spoken of is present

ENTITY_TYPES: Final[tuple[str, ...]] = get_args(EntityType)
# The types that an assertion is marked and judged for; the others belong to a mention of these.
ASSERTED: Final = frozenset({"SYMPTOM", "CONDITION", "MEDICATION", "TEST", "PROCEDURE"})
ASSERTIONS: Final[tuple[str, ...]] = get_args(Assertion)
FINDINGS: Final = frozenset({"SYMPTOM", "CONDITION"})
LABELS: Final[tuple[str, ...]] = ("O", *(f"{prefix}-{kind}" for kind in ENTITY_TYPES for prefix in "BI"))

# Signs that hold one word together although the tokenizer cuts there: can't, 8/10, 2.5, 1,000.
_JOINT = re.compile(r"(?<=[^\W_])['’](?=[^\W_])|(?<=\d)[.,/](?=\d)")
_SMALLEST: Final = 1e-6
LEAST_SCORE: Final = 0.1


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
    use: Use | None = None


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the rules say of a mention, and what they go by."""

    assertion: Assertion
    by: By


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
class Calibration:
    """Platt scaling of an entity's raw log-odds: sigmoid(odds / temperature + bias), fitted on a part of its own."""

    temperature: float = 1.0
    bias: float = 0.0

    def __call__(self, raw: Floats) -> Floats:
        """float32[n] raw probabilities to float32[n] calibrated ones."""
        clipped = np.clip(raw.astype(np.float64), _SMALLEST, 1 - _SMALLEST)
        odds = np.log(clipped) - np.log1p(-clipped)
        return (1 / (1 + np.exp(-(odds / self.temperature + self.bias)))).astype(np.float32)


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
    text: str,
    pieces: Pieces,
    logits: Floats,
    scheme: LabelScheme,
    calibration: Calibration,
    *,
    parts: Sequence[Statement] | None = None,
) -> list[ScoredSpan]:
    """The mentions in `text`, in order, never overlapping; `logits` is float32[pieces, labels].

    A word's probabilities are the mean of its pieces'. The likeliest legal row of labels wins, and no mention goes on
    from one statement into the next; `parts` are those of `plain(text)`, where somebody has them already. A mention's
    raw score is the probability that it begins, goes on and ends just so; what is calibrated to less than LEAST_SCORE
    is left out.
    """
    return [span for span, _ in _decoded(text, pieces, logits, scheme, calibration, parts=parts)[0]]


def occlusion(
    text: str, pieces: Pieces, readings: Sequence[Floats], scheme: LabelScheme, calibration: Calibration
) -> list[tuple[ScoredSpan, Floats]]:
    """Each mention that `decode` finds, with what each word of the text adds to its score, float32[words].

    `readings` holds logits float32[pieces, labels]: of the text as it is, then with each of its words hidden in turn.
    A hidden word may move a mention's edge; what is compared is the probability of the mention as it was found.
    """
    found, rows = _decoded(text, pieces, readings[0], scheme, calibration)
    if rows is None:
        return []
    begun = _first_words(text, pieces, None)
    scores = np.stack(
        [
            calibration(_raw_scores(_word_probabilities(pieces, one, scheme, begun), scheme, *rows))
            for one in readings[1:]
        ]
    )
    return [(span, span.score - scores[:, number]) for span, number in found]


_Rows = tuple[Ints, Ints, Ints]  # each word's type, and each mention's first word and the word behind its last


def _decoded(
    text: str,
    pieces: Pieces,
    logits: Floats,
    scheme: LabelScheme,
    calibration: Calibration,
    *,
    parts: Sequence[Statement] | None = None,
) -> tuple[list[tuple[ScoredSpan, int]], _Rows | None]:
    """The mentions, each with its number among the rows of labels, and those rows."""
    if not len(pieces):
        return [], None
    words = _word_probabilities(pieces, logits, scheme, _first_words(text, pieces, parts))
    kind, opens = likeliest_labels(words, scheme)
    firsts = np.flatnonzero(opens)
    if not len(firsts):
        return [], None
    stops = np.flatnonzero(np.append(opens[1:] | (kind[1:] < 0), True) & (kind >= 0)) + 1
    scores = calibration(_raw_scores(words, scheme, kind, firsts, stops)).tolist()
    starts = pieces.starts[pieces.word_first[firsts]].tolist()
    ends = pieces.ends[np.append(pieces.word_first, len(pieces))[stops] - 1].tolist()
    found = []
    mentions = zip(kind[firsts].tolist(), starts, ends, scores, strict=True)
    for number, (first, start, end, score) in enumerate(mentions):
        span = trim(text, start, end) if score >= LEAST_SCORE else None
        if span is not None:
            found.append((ScoredSpan(scheme.types[first], span.start, span.end, score), number))
    return found, (kind, firsts, stops)


def _word_probabilities(pieces: Pieces, logits: Floats, scheme: LabelScheme, begun: Sequence[int]) -> Floats:
    """float32[words, columns]: the mean of each word's pieces; at the words `begun` nothing goes on."""
    sizes = np.diff(pieces.word_first, append=len(pieces))
    total = np.add.reduceat(scheme.probabilities(logits), pieces.word_first, axis=0)
    words = np.asarray(total / sizes[:, None], dtype=np.float32)
    scheme.begin_anew(words, begun)
    return words


def _first_words(text: str, pieces: Pieces, parts: Sequence[Statement] | None) -> list[int]:
    """The first word of each statement, and of what stands behind its key."""
    given = statements(plain(text)) if parts is None else parts
    places = sorted({place for part in given for place in (part.start, part.label)})
    begun = np.unique(np.searchsorted(pieces.starts[pieces.word_first], places)).tolist()
    return [row for row in begun if row < len(pieces.word_first)]


def _raw_scores(words: Floats, scheme: LabelScheme, kind: Ints, firsts: Ints, stops: Ints) -> Floats:
    """float32[mentions]: begins here, goes on to here, and does not go on after."""
    rows = np.arange(len(words))
    insides = words[:, list(scheme.insides)]
    chosen = insides[rows, kind]
    chosen[firsts] = words[:, list(scheme.begins)][firsts, kind[firsts]]
    logs = np.append(np.log(chosen + _SMALLEST), 0.0)
    inside = np.exp(np.add.reduceat(logs, np.stack([firsts, stops], axis=1).ravel())[::2])
    after = np.vstack([insides, np.zeros(insides.shape[1])])[stops, kind[firsts]]
    return np.asarray(inside * (1 - after), dtype=np.float32)


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
