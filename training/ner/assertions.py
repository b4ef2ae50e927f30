"""How the head's opinion and the rules are weighed against each other, and how often each of them is right.

Judged on marked mentions, so that what the model does not find is counted once, in its F1, and not here again.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from clinical.assertion import classify
from clinical.assertion_head import AssertionHead
from clinical.entities import ASSERTED, ASSERTIONS, Assertion
from clinical.labelling import Floats
from clinical.medication_use import use_of
from clinical.note_structure import Statement, plain, statements
from training.ner.corpus import MarkedLine, Mention

Opinions = Callable[[str, Sequence[Mention]], Floats]
_SLOPES: Final = np.geomspace(0.2, 3, 28)
_LEAST: Final = 0.5  # added to every count, so that nothing is impossible
_Z: Final = 1.96
_FEWEST: Final = 20  # marked assertions to fit a slope on, and to have learnt from


def asserted(line: MarkedLine) -> list[Mention]:
    """A line's mentions that carry an assertion."""
    return [mention for mention in line.mentions if mention.assertion is not None and mention.type in ASSERTED]


def by_rules(line: MarkedLine, mentions: Sequence[Mention]) -> list[Assertion]:
    """What the rules say of a line's mentions; the others around them are read as well."""
    text = plain(line.text)
    parts = statements(text)
    said = dict(zip(line.mentions, classify(text, line.mentions, parts), strict=True))
    return [_with_use(text, parts, one, said[one]) for one in mentions]


def _with_use(text: str, parts: Sequence[Statement], mention: Mention, said: Assertion) -> Assertion:
    return use_of(text, parts, mention, said)[1] if mention.type == "MEDICATION" else said


def fit_head(learnt: Sequence[MarkedLine], unseen: Sequence[MarkedLine], opinions: Opinions) -> AssertionHead | None:
    """Weigh rules and head. None where too little is marked.

    The rules' table is counted on all lines: they learn from nothing, so lines that the encoder learnt from serve. The
    head's slope is the likeliest on the `unseen` ones.
    """
    counts = np.full((len(ASSERTIONS), len(ASSERTIONS)), _LEAST)
    for line in (*learnt, *unseen):
        mentions = asserted(line)
        for mention, said in zip(mentions, by_rules(line, mentions), strict=True):
            counts[ASSERTIONS.index(mention.assertion or "present"), ASSERTIONS.index(said)] += 1
    table = np.log(counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)
    truths, votes, ruled = [], [], []
    for line in unseen:
        if mentions := asserted(line):
            truths += [ASSERTIONS.index(one.assertion or "present") for one in mentions]
            votes.append(opinions(line.text, mentions))
            ruled += [ASSERTIONS.index(said) for said in by_rules(line, mentions)]
    if len(truths) < _FEWEST or sum(len(asserted(line)) for line in learnt) < _FEWEST:
        return None
    opinion, given = np.concatenate(votes), table[:, ruled].T

    def likelihood(slope: float) -> float:
        scores = slope * opinion + given
        scores = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
        return float(scores[np.arange(len(truths)), truths].mean())

    return AssertionHead(round(float(max(_SLOPES, key=likelihood)), 3), table)


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
        answers["rules"] += ruled
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
