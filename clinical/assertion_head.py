"""The encoder's own opinion of a mention's assertion, and what it and the rules say together.

The encoder reads the words around a mention; the rules read the note's structure and a closed list of triggers. Each
is right where the other is not, so both are heard: the head's log-probabilities, sharpened or flattened by a slope, and
how likely the rules' answer is under each truth. Both were fitted on marked lines that the encoder has not learnt from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self, cast

import numpy as np

from clinical.entities import ASSERTED, ASSERTIONS, Assertion, Pieces
from clinical.labelling import Floats

_PLACE_OF: Final = {name: place for place, name in enumerate(ASSERTIONS)}


class Place(Protocol):
    """A mention as this module sees it."""

    @property
    def type(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


@dataclass(frozen=True, slots=True)
class AssertionHead:
    """How far the head is trusted, and the rules: `rules[t, r]` is ln P(the rules say r | the truth is t)."""

    slope: float
    rules: Floats

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Self:
        """From a manifest's `assertion`. Raises KeyError, TypeError or ValueError where it is none."""
        if list(parameters["labels"]) != list(ASSERTIONS):
            raise ValueError("the assertions are not this version's")
        rules = np.array(parameters["rules"], dtype=np.float32)
        if rules.shape != (len(ASSERTIONS), len(ASSERTIONS)) or not np.isfinite(rules).all():
            raise ValueError("the rules' table has another shape")
        return cls(float(parameters["slope"]), rules)

    def parameters(self) -> dict[str, Any]:
        """What `of` reads."""
        return {
            "labels": list(ASSERTIONS),
            "slope": self.slope,
            "rules": [[round(float(one), 4) for one in row] for row in self.rules],
        }

    def together(self, places: Sequence[Place], opinion: Floats, ruled: Sequence[Assertion]) -> list[Assertion]:
        """The likeliest assertion of each mention; `opinion` is `opinions`' answer, `ruled` what the rules say.

        Types that carry no assertion of their own keep what the rules say.
        """
        if not len(places):
            return []
        votes = self.slope * opinion + self.rules[:, [_PLACE_OF[one] for one in ruled]].T
        likeliest = votes.argmax(axis=1).tolist()
        return [
            cast(Assertion, ASSERTIONS[best]) if place.type in ASSERTED else said
            for place, best, said in zip(places, likeliest, ruled, strict=True)
        ]


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
