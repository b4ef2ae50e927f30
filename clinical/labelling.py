"""Rows of BIO labels: what the columns of a model's output mean, and the likeliest legal row of them (Viterbi).

Other schemes are read as BIO: their columns are added up to what begins and what continues a type.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_SMALLEST: Final = 1e-6
_NEVER: Final = -1e9
_SURELY_OUTSIDE: Final = 0.99
_LONGEST_RUN: Final = 48  # words; a run of labels is cut here, so that a hostile text costs time and not memory


_PREFIXED: Final = re.compile(r"([BIESLU])-(.+)")
_OPENING: Final = "BSU"
_CONTINUING: Final = "IEL"
_JUST_BELOW: Final = 1 - 1e-3  # where one column both begins and continues, a tie continues
# What a type's prefixes may be in each scheme: BIO; IO; BIOES and BILOU, where rare labels may lack.
_BIO: Final = frozenset({"BI"})
_IO: Final = frozenset({"I"})
_ENDED: Final = frozenset({"BEI", "BEIS", "BE", "BES", "S", "BIL", "BILU", "BL", "BLU", "U"})


@dataclass(frozen=True, slots=True)
class LabelScheme:
    """Which column of BIO probabilities begins, continues or lies outside a type.

    `added` tells which of the model's columns each of these is the sum of; it is empty where the model's columns are
    these already. Where `shared`, the model does not tell a begin from an inside (IO, or labels without prefix), both
    columns hold the type's probability, and neighbours of one type are one mention.
    """

    types: tuple[str, ...]
    outside: int
    begins: tuple[int, ...]
    insides: tuple[int, ...]
    added: tuple[tuple[int, ...], ...] = ()
    shared: bool = False

    @classmethod
    def of(cls, labels: Sequence[str]) -> Self:
        """From BIO, IO, BIOES or BILOU labels, or the types themselves.

        Raises ValueError when there is no O or no type, or when a type lacks what its scheme needs.
        """
        if len(set(labels)) < len(labels):
            raise ValueError("a label stands twice")
        named = [label for label in labels if label != "O"]
        if not named:
            raise ValueError("the labels name no type")
        if "O" not in labels:
            raise ValueError("the labels have no O")
        outside = labels.index("O")
        matches = [_PREFIXED.fullmatch(label) for label in named]
        if not any(matches):
            return cls._shared(tuple(named), outside, [labels.index(kind) for kind in named])
        if not all(matches):
            raise ValueError("some labels have a prefix and some have none")
        prefixes: dict[str, str] = {}
        for match in matches:
            if match is not None:
                prefixes[match.group(2)] = prefixes.get(match.group(2), "") + match.group(1)
        types, shapes = tuple(prefixes), {"".join(sorted(found)) for found in prefixes.values()}
        if shapes <= _IO:
            return cls._shared(types, outside, [labels.index(f"I-{kind}") for kind in types])
        if shapes <= _BIO:
            begins, insides = (tuple(labels.index(f"{prefix}-{kind}") for kind in types) for prefix in "BI")
            return cls(types, outside, begins, insides)
        if shapes <= _ENDED and not (_ends_of(shapes, "ES") and _ends_of(shapes, "LU")):
            return cls._ended(types, outside, labels)
        raise ValueError("the labels are no full BIO, IO, BIOES or BILOU scheme")

    @classmethod
    def _shared(cls, types: tuple[str, ...], outside: int, columns: Sequence[int]) -> Self:
        own = tuple((column,) for column in columns)
        return cls._of_columns(types, ((outside,), *own, *own), shared=True)

    @classmethod
    def _ended(cls, types: tuple[str, ...], outside: int, labels: Sequence[str]) -> Self:
        def columns(prefixes: str) -> list[tuple[int, ...]]:
            names = [[f"{prefix}-{kind}" for prefix in prefixes] for kind in types]
            return [tuple(labels.index(name) for name in of_type if name in labels) for of_type in names]

        return cls._of_columns(types, ((outside,), *columns(_OPENING), *columns(_CONTINUING)))

    @classmethod
    def _of_columns(cls, types: tuple[str, ...], added: tuple[tuple[int, ...], ...], *, shared: bool = False) -> Self:
        count = len(types)
        return cls(types, 0, tuple(range(1, count + 1)), tuple(range(count + 1, 2 * count + 1)), added, shared)

    def probabilities(self, logits: Floats) -> Floats:
        """float32[pieces, labels] logits to float32[pieces, columns]: the columns that the scheme speaks of."""
        own = softmax(logits)
        if not self.added:
            return own
        columns = np.stack([own[:, list(of)].sum(axis=1) for of in self.added], axis=1)
        if self.shared:
            columns[:, list(self.begins)] *= _JUST_BELOW
        return np.asarray(columns, dtype=np.float32)

    def begin_anew(self, words: Floats, rows: Sequence[int]) -> None:
        """Change float32[words, columns] so that at `rows` nothing goes on: what would, begins."""
        for row in rows:
            for begin, inside in zip(self.begins, self.insides, strict=True):
                if not self.shared:
                    words[row, begin] += words[row, inside]
                words[row, inside] = 0


def _ends_of(shapes: set[str], prefixes: str) -> bool:
    return any(prefix in shape for shape in shapes for prefix in prefixes)


def softmax(logits: Floats) -> Floats:
    """Over the last axis; float32[..., labels] to the same shape."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float32)


def likeliest_labels(words: Floats, scheme: LabelScheme) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """The likeliest row of labels in which nothing continues what has not begun.

    `words` is float32[words, labels]; gives int64[words] the type of each word (-1 outside) and bool[words] whether it
    begins a mention. Words that are surely outside cut the row into short runs, which are solved side by side.
    """
    kind = np.full(len(words), -1, dtype=np.int64)
    opens = np.zeros(len(words), dtype=np.bool_)
    open_question = np.flatnonzero(words[:, scheme.outside] < _SURELY_OUTSIDE)
    if not len(open_question):
        return kind, opens
    place = np.arange(len(open_question))
    new_run = np.diff(open_question, prepend=-2) > 1
    run_start = np.maximum.accumulate(np.where(new_run, place, 0))
    new_run |= (place - run_start) % _LONGEST_RUN == 0
    firsts = np.flatnonzero(new_run)
    lengths = np.diff(firsts, append=len(open_question))
    inside = np.arange(lengths.max() + 1) < lengths[:, None]  # one step more than the longest, where all is outside
    scores = np.full((*inside.shape, 1 + 2 * len(scheme.types)), _NEVER, dtype=np.float32)
    scores[..., 0] = 0.0
    columns = [scheme.outside, *scheme.begins, *scheme.insides]
    scores[inside] = np.log(words[open_question][:, columns] + _SMALLEST)
    state = _viterbi(scores)[inside]
    count = len(scheme.types)
    kind[open_question] = np.where(state == 0, -1, (state - 1) % count)
    opens[open_question] = (state > 0) & (state <= count)
    return kind, opens


def _viterbi(scores: Floats) -> Ints:
    """int64[runs, steps] states of float32[runs, steps, 1 + 2 types] log probabilities: outside, begins, insides.

    The last step of every run must be surely outside. Source: Viterbi 1967; only begin or inside leads to inside.
    """
    runs, steps, states = scores.shape
    count = (states - 1) // 2
    every = np.arange(runs)
    total = scores[:, 0].copy()
    total[:, 1 + count :] = _NEVER
    came_from = np.zeros((steps, runs), dtype=np.int64)
    begun = np.zeros((steps, runs, count), dtype=np.bool_)
    for step in range(1, steps):
        came_from[step] = total.argmax(axis=1)
        best = total[every, came_from[step]]
        opened, going = total[:, 1 : 1 + count], total[:, 1 + count :]
        begun[step] = opened >= going
        carried = np.where(begun[step], opened, going)
        total = scores[:, step].copy()
        total[:, : 1 + count] += best[:, None]
        total[:, 1 + count :] += carried
    state = np.zeros((runs, steps), dtype=np.int64)
    for step in range(steps - 1, 0, -1):
        here = state[:, step]
        of = np.maximum(here - 1 - count, 0)
        before = np.where(begun[step, every, of], 1 + of, 1 + count + of)
        state[:, step - 1] = np.where(here > count, before, came_from[step])
    return state
