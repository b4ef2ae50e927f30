"""The encoder's own opinion of a mention's assertion, and what it and the rules say together.

The encoder reads the words around a mention; the rules read the note's structure and a closed list of triggers. Each
is right where the other is not, so both are heard as experts whose odds are multiplied: the head's probabilities,
flattened by a slope, and how often each truth stands behind what the rules say and go by. A rule that goes by nothing
but silence is a weak expert, one that goes by a ticked box a strong one, and the head is flattened more beside it. All
of it is fitted on marked lines; the slopes on such as the encoder has not learnt from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self, cast, get_args

import numpy as np

from clinical.assertion import Place
from clinical.entities import ASSERTED, ASSERTIONS, Assertion, By, Pieces, Ruling
from clinical.labelling import Floats

BY: Final[tuple[By, ...]] = get_args(By)
_ASSERTION: Final = {name: place for place, name in enumerate(ASSERTIONS)}
_TWICE_AS_LIKELY: Final = float(np.log(2))
_BY: Final = {name: place for place, name in enumerate(BY)}


@dataclass(frozen=True, slots=True)
class AssertionHead:
    """How far head and rules are trusted.

    `slopes[by]` flattens the head beside rules that go by nothing, words or structure; `rules[by, ruled, truth]` is
    ln P(truth | ruled, by) and `prior[truth]` ln P(truth), float32.
    """

    slopes: Floats
    rules: Floats
    prior: Floats

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Self:
        """From a manifest's `assertion`. Raises KeyError, TypeError or ValueError where it is none."""
        if list(parameters["labels"]) != list(ASSERTIONS) or list(parameters["by"]) != list(BY):
            raise ValueError("the assertions are not this version's")
        tables = [np.array(parameters[name], dtype=np.float32) for name in ("slopes", "rules", "prior")]
        size = len(ASSERTIONS)
        wanted = [(len(BY),), (len(BY), size, size), (size,)]
        if [table.shape for table in tables] != wanted or not all(np.isfinite(table).all() for table in tables):
            raise ValueError("the tables have another shape")
        return cls(*tables)

    def parameters(self) -> dict[str, Any]:
        """What `of` reads."""
        tables = {"slopes": self.slopes, "rules": self.rules, "prior": self.prior}
        return {
            "labels": list(ASSERTIONS),
            "by": list(BY),
            **{name: np.round(table.astype(float), 4).tolist() for name, table in tables.items()},
        }

    def together(self, places: Sequence[Place], opinion: Floats, ruled: Sequence[Ruling]) -> list[Assertion]:
        """The assertion of each mention; `opinion` is `opinions`' answer, `ruled` what the rules say.

        What the rules say for a reason stands unless another is twice as likely: what is written in another way is then
        not read in another way for a trifle. Types that carry no assertion of their own keep what the rules say.
        """
        if not len(places):
            return []
        votes = self.votes(opinion, ruled)
        favoured = [0.0 if ruling.by == "nothing" else _TWICE_AS_LIKELY for ruling in ruled]
        votes[np.arange(len(ruled)), [_ASSERTION[ruling.assertion] for ruling in ruled]] += favoured
        likeliest = votes.argmax(axis=1).tolist()
        return [
            cast(Assertion, ASSERTIONS[best]) if place.type in ASSERTED else ruling.assertion
            for place, best, ruling in zip(places, likeliest, ruled, strict=True)
        ]

    def votes(self, opinion: Floats, ruled: Sequence[Ruling]) -> Floats:
        """float32[mentions, assertions] log-odds up to a constant of each row."""
        by = [_BY[ruling.by] for ruling in ruled]
        slopes = self.slopes[by][:, None]
        rules = self.rules[by, [_ASSERTION[ruling.assertion] for ruling in ruled]]
        return np.asarray(slopes * (opinion - self.prior) + rules, dtype=np.float32)


def opinions(pieces: Pieces, logits: Floats, places: Sequence[Place]) -> Floats:
    """float32[mentions, assertions] log-probabilities, by the mean of each mention's pieces' logits.

    `logits` is float32[pieces, assertions].
    """
    if not len(places):
        return np.empty((0, len(ASSERTIONS)), dtype=np.float32)
    firsts = np.searchsorted(pieces.ends, [place.start for place in places], side="right")
    stops = np.maximum(np.searchsorted(pieces.starts, [place.end for place in places]), firsts + 1)
    sums = np.vstack([np.zeros(logits.shape[1], dtype=np.float64), np.cumsum(logits, axis=0, dtype=np.float64)])
    mean = (sums[stops] - sums[firsts]) / (stops - firsts)[:, None]
    shifted = mean - mean.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), dtype=np.float32)
