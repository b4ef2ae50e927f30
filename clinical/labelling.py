"""Rows of BIO labels: what the columns of a model's output mean, and the likeliest legal row of them (Viterbi)."""

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
        if not types:
            raise ValueError("the labels name no type")
        try:
            begins = tuple(labels.index(f"B-{kind}") for kind in types)
            insides = tuple(labels.index(f"I-{kind}") for kind in types)
            return cls(types, labels.index("O"), begins, insides)
        except ValueError as error:
            raise ValueError("the labels are not a full BIO scheme") from error


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
