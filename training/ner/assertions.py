"""How the head's opinion and the rules are weighed against each other, and how often each of them is right.

Judged on marked mentions, so that what the model does not find is counted once, in its F1, and not here again.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from clinical.assertion_head import BY, AssertionHead
from clinical.entities import ASSERTED, ASSERTIONS, Assertion, Ruling
from clinical.labelling import Floats
from clinical.markup import plain
from clinical.medication_use import rule_on
from clinical.note_structure import statements
from training.ner.corpus import MarkedLine, Mention

Opinions = Callable[[str, Sequence[Mention]], Floats]
_SLOPES: Final = np.geomspace(0.2, 3, 28)
_TRUST: Final = 4.0  # mentions for each of the rules' answers that are as if they had been counted
_AT_THEIR_WORD: Final = 0.9
_Z: Final = 1.96
_FEWEST: Final = 20  # marked assertions to fit a slope on, and to have learnt from


def asserted(line: MarkedLine) -> list[Mention]:
    """A line's mentions that carry an assertion."""
    return [mention for mention in line.mentions if mention.assertion is not None and mention.type in ASSERTED]


def by_rules(line: MarkedLine, mentions: Sequence[Mention]) -> list[Ruling]:
    """What the rules say of some of a line's mentions; the others around them are read as well."""
    text = plain(line.text)
    _, ruled = rule_on(text, statements(text), line.mentions)
    said = dict(zip(line.mentions, ruled, strict=True))
    return [said[one] for one in mentions]


def fit_head(learnt: Sequence[MarkedLine], unseen: Sequence[MarkedLine], opinions: Opinions) -> AssertionHead | None:
    """Weigh rules and head. None where too little is marked.

    The rules' table is counted on all lines: they learn from nothing, so lines that the encoder learnt from serve. The
    head's slopes are the likeliest on the `unseen` ones, each drawn to the one that is likeliest on all of them.
    """
    size = len(ASSERTIONS)
    counts = np.zeros((len(BY), size, size))
    for line in (*learnt, *unseen):
        mentions = asserted(line)
        for mention, ruling in zip(mentions, by_rules(line, mentions), strict=True):
            counts[BY.index(ruling.by), ASSERTIONS.index(ruling.assertion), _truth(mention)] += 1
    # Where little was counted the rules are taken at their word.
    counts += _TRUST * np.where(np.eye(size) > 0, _AT_THEIR_WORD, (1 - _AT_THEIR_WORD) / (size - 1))
    rules = np.log(counts / counts.sum(axis=2, keepdims=True)).astype(np.float32)
    prior = np.log(counts.sum(axis=(0, 1)) / counts.sum()).astype(np.float32)
    truths: list[int] = []
    ruled: list[Ruling] = []
    votes = [np.empty((0, size), dtype=np.float32)]
    for line in unseen:
        if mentions := asserted(line):
            truths += map(_truth, mentions)
            ruled += by_rules(line, mentions)
            votes.append(opinions(line.text, mentions))
    if len(truths) < _FEWEST or sum(len(asserted(line)) for line in learnt) < _FEWEST:
        return None
    opinion, by = np.concatenate(votes), np.array([BY.index(one.by) for one in ruled])

    def likelihoods(slope: float) -> Any:
        scores = AssertionHead(np.full(len(BY), slope, dtype=np.float32), rules, prior).votes(opinion, ruled)
        return scores[np.arange(len(truths)), truths] - np.logaddexp.reduce(scores, axis=1)

    found = {slope: likelihoods(slope) for slope in _SLOPES.tolist()}
    slopes = [
        max(found, key=lambda slope: found[slope].mean() * _FEWEST + found[slope][by == kind].sum())
        for kind in range(len(BY))
    ]
    return AssertionHead(np.round(np.array(slopes), 3).astype(np.float32), rules, prior)


def _truth(mention: Mention) -> int:
    return ASSERTIONS.index(mention.assertion or "present")


def assertion_report(lines: Sequence[MarkedLine], opinions: Opinions, head: AssertionHead) -> dict[str, Any]:
    """How often rules, head and both together are right on marked mentions, over all and by true assertion."""
    truths: list[Assertion] = []
    answers: dict[str, list[Assertion]] = {"rules": [], "head": [], "together": []}
    for line in lines:
        mentions = asserted(line)
        if not mentions:
            continue
        opinion, ruled = opinions(line.text, mentions), by_rules(line, mentions)
        truths += [one.assertion or "present" for one in mentions]
        answers["rules"] += [ruling.assertion for ruling in ruled]
        answers["head"] += [ASSERTIONS[best] for best in opinion.argmax(axis=1)]
        answers["together"] += head.together(mentions, opinion, ruled)
    return {
        "mentions": len(truths),
        **{
            name: _share([one == truth for one, truth in zip(said, truths, strict=True)])
            | {
                "by_assertion": {
                    kind: _share([one == kind for one, truth in zip(said, truths, strict=True) if truth == kind])
                    for kind in ASSERTIONS
                }
            }
            for name, said in answers.items()
        },
    }


def _share(hits: Sequence[bool]) -> dict[str, Any]:
    """The share that is right, with Wilson's 95 % interval (Wilson 1927)."""
    n, right = len(hits), sum(hits)
    if not n:
        return {"right": None, "low": None, "high": None, "mentions": 0}
    share, spread = right / n, _Z * _Z / n
    middle = (share + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return {"right": round(share, 4), "low": round(middle - half, 4), "high": round(middle + half, 4), "mentions": n}
