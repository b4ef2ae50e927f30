"""One self-contained HTML page on a deterioration model: what the figures of its card look like, on unseen people.

Plots are inline SVG; the page loads nothing. Bands around curves are 95 % cluster bootstraps by whole patients.
"""

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from clinical.vitals import HORIZON_DAYS
from registry.store import Manifest
from training.deterioration.datasets import Windows
from training.deterioration.evaluation import Scores, lead_times, net_benefit
from training.pages import OTHERS, OURS, document, figure, table

RESAMPLES: Final = 200
_GRID: Final = np.linspace(0, 1, 101)
_BINS: Final = 10
Curve = Callable[[NDArray[Any], Scores], NDArray[np.float64]]


def page(manifest: Manifest, test: Windows, scores: Mapping[str, Scores]) -> str:
    """The page. `scores` are probabilities float64[n] of the test windows by name, the model's own first."""
    own = next(iter(scores.values()))
    band = _Bootstrap(test)
    figures = [
        ("Reliability", "Predicted against observed share, ten bins of equal size; the line is ideal.", _reliability),
        ("ROC", "Band: 95 % by whole patients.", _roc),
        ("Precision and recall", "The dotted line is the share of weeks before a decline.", _precision),
        ("Alert burden", "What catching more declines costs in marked changes shown.", _burden),
        ("Net benefit", "Against showing everybody or nobody a marked change, by the threshold chosen.", _benefit),
        ("Subgroups", "AUROC with 95 % interval; groups with too few declines have no mark.", _subgroups),
        ("Learning curve", "AUROC on the same unseen people, by how many people were learnt from.", _curve),
        ("Lead time", f"Days from the first marked change to the decline, of the {HORIZON_DAYS} days before.", _lead),
    ]
    threshold = float(manifest.metrics["operating_point"]["threshold"])
    seen = _Seen(manifest.metrics, test, scores, own, band, threshold)
    drawn = [figure(title, caption, partial(draw, seen=seen)) for title, caption, draw in figures]
    return document(
        manifest.name,
        f'<p class="verdict">{html.escape(manifest.metrics["verdict"])}</p>'
        f"<p>Stage {html.escape(manifest.stage)}. {len(test)} weeks of {len(np.unique(test.patients))} people whom no "
        f"part of training has seen, {int(test.labels.sum())} of them before a decline. {_simulated(manifest)}"
        "This is wellness monitoring; it makes no medical claim.</p>"
        f"{_tables(manifest, test, scores)}{''.join(drawn)}",
    )


class _Bootstrap:
    """Draws of whole patients, the same for all curves."""

    def __init__(self, test: Windows) -> None:
        generator = np.random.default_rng(0)
        self._test = test
        _, member = np.unique(test.patients, return_inverse=True)
        order = np.argsort(member, kind="stable")
        rows = np.split(order, np.cumsum(np.bincount(member))[:-1])
        self._draws = [
            np.concatenate([rows[patient] for patient in generator.integers(len(rows), size=len(rows))])
            for _ in range(RESAMPLES)
        ]

    def band(self, curve: Curve, score: Scores) -> NDArray[np.float64]:
        """float64[2, points]: the middle 95 % of a curve; draws of one class only do not count."""
        labels = self._test.labels
        found = [curve(labels[rows], score[rows]) for rows in self._draws if 0 < labels[rows].sum() < len(rows)]
        return np.asarray(np.quantile(found, [0.025, 0.975], axis=0))


@dataclass(frozen=True, slots=True)
class _Seen:
    """What each plot draws from."""

    metrics: Mapping[str, Any]
    test: Windows
    scores: Mapping[str, Scores]
    own: Scores
    bootstrap: _Bootstrap
    threshold: float


def _reliability(axes: Axes, seen: _Seen) -> None:
    order = np.array_split(np.argsort(seen.own, kind="stable"), _BINS)
    predicted = [float(seen.own[part].mean()) for part in order if len(part)]
    observed = [float(seen.test.labels[part].mean()) for part in order if len(part)]
    top = max(*predicted, *observed) * 1.05
    axes.plot([0, top], [0, top], color="#999", linewidth=1)
    axes.plot(predicted, observed, "o-", color=OURS)
    axes.set(xlabel="predicted", ylabel="observed", xlim=(0, top), ylim=(0, top))


def _sensitivity(labels: NDArray[Any], score: Scores) -> NDArray[np.float64]:
    false_positives, true_positives, _ = roc_curve(labels, score)
    return np.asarray(np.interp(_GRID, false_positives, true_positives))


def _roc(axes: Axes, seen: _Seen) -> None:
    low, high = seen.bootstrap.band(_sensitivity, seen.own)
    axes.fill_between(_GRID, low, high, color=OURS, alpha=0.15, linewidth=0)
    for (name, score), color in zip(seen.scores.items(), (OURS, *OTHERS), strict=False):
        axes.plot(_GRID, _sensitivity(seen.test.labels, score), color=color, label=_said(name), linewidth=1.2)
    axes.plot([0, 1], [0, 1], color="#999", linewidth=0.8)
    axes.set(xlabel="1 - specificity", ylabel="sensitivity")
    axes.legend(fontsize=7)


def _precision_at(labels: NDArray[Any], score: Scores) -> NDArray[np.float64]:
    precision, recall, _ = precision_recall_curve(labels, score)
    return np.asarray(np.interp(_GRID, recall[::-1], precision[::-1]))


def _precision(axes: Axes, seen: _Seen) -> None:
    low, high = seen.bootstrap.band(_precision_at, seen.own)
    axes.fill_between(_GRID, low, high, color=OURS, alpha=0.15, linewidth=0)
    axes.plot(_GRID, _precision_at(seen.test.labels, seen.own), color=OURS)
    axes.axhline(float(seen.test.labels.mean()), color="#999", linestyle=":")
    axes.set(xlabel="recall (sensitivity)", ylabel="precision", ylim=(0, 1))


def _burden(axes: Axes, seen: _Seen) -> None:
    thresholds = np.unique(seen.own.round(2))
    alerts = [100 * float((seen.own >= at).mean()) for at in thresholds]
    caught = [float((seen.own[seen.test.labels == 1] >= at).mean()) for at in thresholds]
    axes.plot(alerts, caught, color=OURS)
    shown = seen.own.round(2) >= seen.threshold
    axes.plot(100 * shown.mean(), shown[seen.test.labels == 1].mean(), "o", color=OURS, label="where the band begins")
    axes.set(xlabel="marked changes per 100 person-days", ylabel="share of weeks before a decline")
    axes.legend(fontsize=7)


def _benefit(axes: Axes, seen: _Seen) -> None:
    labels = seen.test.labels
    thresholds = np.linspace(0.01, min(0.6, max(0.1, 4 * float(labels.mean()))), 60)
    axes.plot(thresholds, [net_benefit(labels, seen.own >= at, at) for at in thresholds], color=OURS, label="model")
    everybody = np.ones(len(labels), dtype=bool)
    axes.plot(thresholds, [net_benefit(labels, everybody, at) for at in thresholds], color=OTHERS[0], label="everybody")
    axes.axhline(0, color="#999", linewidth=1, label="nobody")
    axes.set(xlabel="threshold", ylabel="net benefit", ylim=(-0.02, float(labels.mean()) * 1.1))
    axes.legend(fontsize=7)


def _lead(axes: Axes, seen: _Seen) -> None:
    found, _ = lead_times(seen.test, seen.own.round(2) >= seen.threshold)
    days = np.arange(1, HORIZON_DAYS + 1)
    axes.bar(days, [found.count(int(day)) for day in days], color=OURS, width=0.6)
    axes.set(xlabel="days before", ylabel="declines", xticks=days)


def _subgroups(axes: Axes, seen: _Seen) -> None:
    groups = seen.metrics["subgroups"]
    for height, group in enumerate(reversed(groups)):
        if "auroc" in group:
            low, high = group["auroc_low"], group["auroc_high"]
            axes.plot([low, high], [height, height], color=OURS, linewidth=1.5)
            axes.plot(group["auroc"], height, "o", color=OURS)
    axes.axvline(seen.metrics["auroc"], color="#999", linestyle=":")
    axes.set_yticks(range(len(groups)), [f"{group['group']} ({group['positives']})" for group in reversed(groups)])
    axes.tick_params(axis="y", labelsize=7)
    axes.set(xlabel="AUROC", ylim=(-0.5, len(groups) - 0.5))


def _curve(axes: Axes, seen: _Seen) -> None:
    points = seen.metrics["learning_curve"]
    people = [point["people"] for point in points]
    axes.fill_between(
        people,
        [point["auroc_low"] for point in points],
        [point["auroc_high"] for point in points],
        color=OURS,
        alpha=0.15,
        linewidth=0,
    )
    axes.plot(people, [point["auroc"] for point in points], "o-", color=OURS)
    axes.axhline(max(seen.metrics["baselines"].values()), color=OTHERS[0], linestyle=":", label="best simple baseline")
    axes.set(xlabel="people learnt from", ylabel="AUROC", xlim=(0, None))
    axes.legend(fontsize=7)


def _tables(manifest: Manifest, test: Windows, scores: Mapping[str, Scores]) -> str:
    rows: list[tuple[str, ...]] = [
        (_said(name), f"{roc_auc_score(test.labels, score):.3f}", f"{average_precision_score(test.labels, score):.3f}")
        for name, score in scores.items()
    ]
    told = manifest.metrics
    facts: list[tuple[str, ...]] = [
        ("AUROC, 95 % interval", f"{told['auroc']:.3f} ({told['auroc_low']:.3f} to {told['auroc_high']:.3f})"),
        ("Calibration slope / intercept", f"{told['calibration_slope']:.2f} / {told['calibration_intercept']:.2f}"),
        ("Expected calibration error", f"{told['ece']:.4f}"),
    ]
    if "later_weeks" in told:
        later = told["later_weeks"]
        interval = f"{later['auroc_low']:.3f} to {later['auroc_high']:.3f}"
        facts = [*facts, ("AUROC in later weeks, learnt from earlier ones", f"{later['auroc']:.3f} ({interval})")]
    point = told["operating_point"]
    facts = [
        *facts,
        ("Declines with a marked change before them", f"{point['declines_with_a_mark']:.0%}"),
        ("Median lead time", f"{point['median_lead_days']:.0f} days"),
    ]
    if "auroc_within_patient" in told:
        facts = [*facts, ("AUROC within one person's weeks", f"{told['auroc_within_patient']:.3f}")]
    if "information_captured" in told:
        facts = [*facts, ("Information captured in the simulated world", f"{told['information_captured']:.1%}")]
    return table(("score", "AUROC", "AUPRC"), rows) + table(("", ""), facts)


def _said(name: str) -> str:
    return name.replace("_", " ")


def _simulated(manifest: Manifest) -> str:
    return (
        "All of them are simulated: the figures say nothing about real people. "
        if manifest.training["simulated"]
        else ""
    )
