"""How good a tagger is: entity F1 with a bootstrap interval, and whether its scores are probabilities.

Strict counts a mention when type, start and end are right; relaxed when the type is right and the spans share a
character. The bootstrap resamples lines, since the mentions of one line stand or fall together.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from clinical.entities import ENTITY_TYPES, Calibration, ScoredSpan
from clinical.labelling import Floats
from clinical.markup import plain
from clinical.note_structure import statements
from clinical.shorthand import expand
from training.ner.corpus import MarkedLine, Mention
from training.ner.site_corpus import SiteCorpus

_BINS: Final = 10
_RESAMPLES: Final = 1000
_NEWTON_STEPS: Final = 50
_HALVINGS: Final = 40

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Score:
    """Precision, recall and F1 with a 95 % bootstrap interval, in [0, 1]."""

    precision: float
    recall: float
    f1: float
    f1_low: float
    f1_high: float
    mentions: int


def strict_hits(gold: Sequence[Mention], found: Sequence[ScoredSpan]) -> list[bool]:
    """For each found mention: whether the same type stands at exactly that place."""
    places = {(mention.type, mention.start, mention.end) for mention in gold}
    return [(span.type, span.start, span.end) in places for span in found]


def relaxed_hits(gold: Sequence[Mention], found: Sequence[ScoredSpan]) -> list[bool]:
    """For each found mention: whether it shares a character with a marked one of its type; each marked one counts
    once.
    """
    free = list(gold)
    hits = []
    for span in found:
        partner = next((m for m in free if m.type == span.type and m.start < span.end and span.start < m.end), None)
        hits.append(partner is not None)
        if partner is not None:
            free.remove(partner)
    return hits


def _counts(
    lines: Sequence[MarkedLine], found: Sequence[Sequence[ScoredSpan]], relaxed: bool, kind: str | None
) -> Counts:
    """int64[lines, 3]: right, found and marked mentions of a type, or of all."""
    rows = []
    for line, spans in zip(lines, found, strict=True):
        gold = [mention for mention in line.mentions if kind in (None, mention.type)]
        own = [span for span in spans if kind in (None, span.type)]
        hits = relaxed_hits(gold, own) if relaxed else strict_hits(gold, own)
        rows.append((sum(hits), len(own), len(gold)))
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def _f1(sums: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.asarray(2 * sums[..., 0] / np.maximum(sums[..., 1] + sums[..., 2], 1), dtype=np.float64)


def score(
    lines: Sequence[MarkedLine],
    found: Sequence[Sequence[ScoredSpan]],
    *,
    relaxed: bool = False,
    kind: str | None = None,
    seed: int = 0,
) -> Score:
    """Entity scores over all lines, of one type or of all."""
    counts = _counts(lines, found, relaxed, kind)
    right, own, gold = counts.sum(axis=0).tolist()
    draws = np.random.default_rng(seed).integers(0, len(counts), (_RESAMPLES, len(counts)))
    low, high = np.percentile(_f1(counts[draws].sum(axis=1)), [2.5, 97.5])
    return Score(
        precision=round(right / max(own, 1), 4),
        recall=round(right / max(gold, 1), 4),
        f1=round(float(_f1(counts.sum(axis=0))), 4),
        f1_low=round(float(low), 4),
        f1_high=round(float(high), 4),
        mentions=gold,
    )


def scores_and_hits(
    lines: Sequence[MarkedLine],
    found: Sequence[Sequence[ScoredSpan]],
    hits: Callable[[Sequence[Mention], Sequence[ScoredSpan]], list[bool]] = strict_hits,
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """float32[n] scores of all found mentions and bool[n] whether each is right, strictly unless told otherwise."""
    pairs = [
        (span.score, hit)
        for line, spans in zip(lines, found, strict=True)
        for span, hit in zip(spans, hits(line.mentions, spans), strict=True)
    ]
    return np.array([p for p, _ in pairs], dtype=np.float32), np.array([hit for _, hit in pairs], dtype=np.bool_)


def fit_calibration(raw: Floats, right: npt.NDArray[np.bool_]) -> Calibration:
    """Platt scaling with his smoothed targets (Platt 1999), by Newton's method; the identity where there is too
    little.
    """
    if right.sum() < 5 or (~right).sum() < 5:
        return Calibration()
    clipped = np.clip(raw.astype(np.float64), 1e-6, 1 - 1e-6)
    design = np.stack([np.log(clipped) - np.log1p(-clipped), np.ones(len(raw))], axis=1)
    yes, no = int(right.sum()), int((~right).sum())
    target = np.where(right, (yes + 1) / (yes + 2), 1 / (no + 2))
    weights = np.array([0.0, np.log(yes / no)])  # flat: from here Newton goes straight down the valley
    for _ in range(_NEWTON_STEPS):
        guess = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        curvature = design.T @ (design * (guess * (1 - guess))[:, None]) + 1e-3 * np.eye(2)
        step = _not_too_far(design, target, weights, np.linalg.solve(curvature, design.T @ (guess - target)))
        weights = weights - step
        if np.abs(step).max() < 1e-8:
            break
    slope = max(float(weights[0]), 0.05)  # never let a calibration turn the order of scores round
    return Calibration(temperature=round(1 / slope, 6), bias=round(float(weights[1]), 6))


def _not_too_far(
    design: npt.NDArray[np.float64],
    target: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    step: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """float64[2] the step, halved until it leads down: where most scores are 0 or 1, a whole one leads far away."""

    def loss(of: npt.NDArray[np.float64]) -> float:
        odds = design @ of
        return float((np.logaddexp(0, odds) - target * odds).sum())

    here = loss(weights)
    for _ in range(_HALVINGS):
        if loss(weights - step) <= here + 1e-9:
            break
        step = step / 2
    return step


def shorthand_precision(lines: Sequence[MarkedLine]) -> float:
    """How often the table of short forms is right about what it would add to marked lines (Laplace's estimate).

    What lies inside a longer mention would not be added where that is found, and is not counted.
    """
    right = total = 0
    for line in lines:
        text = plain(line.text)
        added = expand(text, [], statements(text), 1.0)
        for span, hit in zip(added, strict_hits(line.mentions, added), strict=True):
            inside = any(
                one.start <= span.start and span.end <= one.end and one.end - one.start > span.end - span.start
                for one in line.mentions
            )
            right += hit
            total += not inside
    return round((right + 1) / (total + 2), 4)


def expected_calibration_error(scores: Floats, right: npt.NDArray[np.bool_]) -> float:
    """ECE over ten bins of equal width (Guo et al. 2017)."""
    if not len(scores):
        return 0.0
    bins = np.minimum((scores * _BINS).astype(int), _BINS - 1)
    gaps = [
        abs(float(scores[bins == b].mean()) - float(right[bins == b].mean())) * int((bins == b).sum())
        for b in np.unique(bins)
    ]
    return round(sum(gaps) / len(scores), 4)


def report(lines: Sequence[MarkedLine], found: Sequence[Sequence[ScoredSpan]]) -> dict[str, Any]:
    """Everything the manifest and the model card tell, JSON-able."""
    scores, right = scores_and_hits(lines, found)
    return {
        "f1_strict": asdict(score(lines, found)),
        "f1_relaxed": asdict(score(lines, found, relaxed=True)),
        "by_type": {
            kind: {
                "strict": asdict(score(lines, found, kind=kind)),
                "relaxed": asdict(score(lines, found, kind=kind, relaxed=True)),
            }
            for kind in ENTITY_TYPES
        },
        "by_register": _by_register(lines, found),
        "ece": expected_calibration_error(scores, right),
        "lines": len(lines),
    }


def _by_register(lines: Sequence[MarkedLine], found: Sequence[Sequence[ScoredSpan]]) -> dict[str, Any]:
    """Strict F1 by kind of text, as the lines' comments name it."""
    groups: dict[str, list[int]] = {}
    for at, line in enumerate(lines):
        name = line.register.removeprefix("register:").split("|")[0].split(",")[0].strip() or "unnamed"
        groups.setdefault(name, []).append(at)
    return {
        name: asdict(score([lines[at] for at in places], [found[at] for at in places])) | {"lines": len(places)}
        for name, places in sorted(groups.items())
    }


def site_report(site: SiteCorpus, found: Sequence[Sequence[ScoredSpan]]) -> dict[str, Any]:
    """F1 on the documents that a site keeps to judge by, over the types that it marks."""
    seen = [[span for span in spans if span.type in site.types] for spans in found]
    figures = {
        "f1_strict": asdict(score(site.kept, seen)),
        "f1_relaxed": asdict(score(site.kept, seen, relaxed=True)),
    }
    return {
        **(figures if site.kept else {}),
        "lines": {"training": len(site.training), "kept": len(site.kept)},
        "types": sorted(site.types),
        "marks_dropped": site.dropped,
        "sha256": site.sha256,
    }
