"""One self-contained HTML page on a deterioration model: what the figures of its card look like, on unseen people.

Plots are inline SVG; the page loads nothing. Bands around curves are 95 % cluster bootstraps by whole patients.
"""

import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from clinical.vitals import HORIZON_DAYS
from registry.store import Manifest
from training.datasets import Windows
from training.evaluation import Scores, lead_times, net_benefit

RESAMPLES: Final = 200
_GRID: Final = np.linspace(0, 1, 101)
_BINS: Final = 10
_OURS, _OTHERS = "#1f5f8b", ("#b35c1e", "#6b6b6b", "#3d7a4e", "#8a5a9e")
_STYLE: Final = """
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
figure{display:inline-block;margin:0 1rem 1.5rem 0;width:30rem;max-width:100%;vertical-align:top}
svg{max-width:100%;height:auto} figcaption{font-size:.9rem;color:#555} table{border-collapse:collapse;margin:1rem 0}
td,th{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:left} td.n{text-align:right}
.verdict{font-weight:600;border-left:4px solid #1f5f8b;padding-left:1rem}
"""
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
    drawn = [
        _figure(title, caption, draw, _Seen(manifest.metrics, test, scores, own, band, threshold))
        for title, caption, draw in figures
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{html.escape(manifest.name)}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(manifest.name)}</h1>"
        f'<p class="verdict">{html.escape(manifest.metrics["verdict"])}</p>'
        f"<p>Stage {html.escape(manifest.stage)}. {len(test)} weeks of {len(np.unique(test.patients))} people whom no "
        f"part of training has seen, {int(test.labels.sum())} of them before a decline. {_simulated(manifest)}"
        "This is wellness monitoring; it makes no medical claim.</p>"
        f"{_table(manifest, test, scores)}{''.join(drawn)}</html>\n"
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


def _figure(title: str, caption: str, draw: Callable[[Axes, _Seen], None], seen: _Seen) -> str:
    with rc_context({"svg.hashsalt": "followup", "font.size": 9, "svg.fonttype": "none"}):
        figure = Figure(figsize=(4.8, 3.4), layout="constrained")
        axes = figure.add_subplot()
        draw(axes, seen)
        axes.set_title(title)
        axes.grid(alpha=0.25)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return f"<figure>{svg[svg.index('<svg') :]}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _reliability(axes: Axes, seen: _Seen) -> None:
    order = np.array_split(np.argsort(seen.own, kind="stable"), _BINS)
    predicted = [float(seen.own[part].mean()) for part in order if len(part)]
    observed = [float(seen.test.labels[part].mean()) for part in order if len(part)]
    top = max(*predicted, *observed) * 1.05
    axes.plot([0, top], [0, top], color="#999", linewidth=1)
    axes.plot(predicted, observed, "o-", color=_OURS)
    axes.set(xlabel="predicted", ylabel="observed", xlim=(0, top), ylim=(0, top))


def _sensitivity(labels: NDArray[Any], score: Scores) -> NDArray[np.float64]:
    false_positives, true_positives, _ = roc_curve(labels, score)
    return np.asarray(np.interp(_GRID, false_positives, true_positives))


def _roc(axes: Axes, seen: _Seen) -> None:
    low, high = seen.bootstrap.band(_sensitivity, seen.own)
    axes.fill_between(_GRID, low, high, color=_OURS, alpha=0.15, linewidth=0)
    for (name, score), color in zip(seen.scores.items(), (_OURS, *_OTHERS), strict=False):
        axes.plot(_GRID, _sensitivity(seen.test.labels, score), color=color, label=_said(name), linewidth=1.2)
    axes.plot([0, 1], [0, 1], color="#999", linewidth=0.8)
    axes.set(xlabel="1 - specificity", ylabel="sensitivity")
    axes.legend(fontsize=7)


def _precision_at(labels: NDArray[Any], score: Scores) -> NDArray[np.float64]:
    precision, recall, _ = precision_recall_curve(labels, score)
    return np.asarray(np.interp(_GRID, recall[::-1], precision[::-1]))


def _precision(axes: Axes, seen: _Seen) -> None:
    low, high = seen.bootstrap.band(_precision_at, seen.own)
    axes.fill_between(_GRID, low, high, color=_OURS, alpha=0.15, linewidth=0)
    axes.plot(_GRID, _precision_at(seen.test.labels, seen.own), color=_OURS)
    axes.axhline(float(seen.test.labels.mean()), color="#999", linestyle=":")
    axes.set(xlabel="recall (sensitivity)", ylabel="precision", ylim=(0, 1))


def _burden(axes: Axes, seen: _Seen) -> None:
    thresholds = np.unique(seen.own.round(2))
    alerts = [100 * float((seen.own >= at).mean()) for at in thresholds]
    caught = [float((seen.own[seen.test.labels == 1] >= at).mean()) for at in thresholds]
    axes.plot(alerts, caught, color=_OURS)
    shown = seen.own.round(2) >= seen.threshold
    axes.plot(100 * shown.mean(), shown[seen.test.labels == 1].mean(), "o", color=_OURS, label="where the band begins")
    axes.set(xlabel="marked changes per 100 person-days", ylabel="share of weeks before a decline")
    axes.legend(fontsize=7)


def _benefit(axes: Axes, seen: _Seen) -> None:
    labels = seen.test.labels
    thresholds = np.linspace(0.01, min(0.6, max(0.1, 4 * float(labels.mean()))), 60)
    axes.plot(thresholds, [net_benefit(labels, seen.own >= at, at) for at in thresholds], color=_OURS, label="model")
    everybody = np.ones(len(labels), dtype=bool)
    axes.plot(
        thresholds, [net_benefit(labels, everybody, at) for at in thresholds], color=_OTHERS[0], label="everybody"
    )
    axes.axhline(0, color="#999", linewidth=1, label="nobody")
    axes.set(xlabel="threshold", ylabel="net benefit", ylim=(-0.02, float(labels.mean()) * 1.1))
    axes.legend(fontsize=7)


def _lead(axes: Axes, seen: _Seen) -> None:
    found, _ = lead_times(seen.test, seen.own.round(2) >= seen.threshold)
    days = np.arange(1, HORIZON_DAYS + 1)
    axes.bar(days, [found.count(int(day)) for day in days], color=_OURS, width=0.6)
    axes.set(xlabel="days before", ylabel="declines", xticks=days)


def _subgroups(axes: Axes, seen: _Seen) -> None:
    groups = seen.metrics["subgroups"]
    for height, group in enumerate(reversed(groups)):
        if "auroc" in group:
            low, high = group["auroc_low"], group["auroc_high"]
            axes.plot([low, high], [height, height], color=_OURS, linewidth=1.5)
            axes.plot(group["auroc"], height, "o", color=_OURS)
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
        color=_OURS,
        alpha=0.15,
        linewidth=0,
    )
    axes.plot(people, [point["auroc"] for point in points], "o-", color=_OURS)
    axes.axhline(max(seen.metrics["baselines"].values()), color=_OTHERS[0], linestyle=":", label="best simple baseline")
    axes.set(xlabel="people learnt from", ylabel="AUROC", xlim=(0, None))
    axes.legend(fontsize=7)


def _table(manifest: Manifest, test: Windows, scores: Mapping[str, Scores]) -> str:
    rows = [
        (_said(name), f"{roc_auc_score(test.labels, score):.3f}", f"{average_precision_score(test.labels, score):.3f}")
        for name, score in scores.items()
    ]
    body = "".join(
        f"<tr><td>{name}</td><td class=n>{auroc}</td><td class=n>{auprc}</td></tr>" for name, auroc, auprc in rows
    )
    told = manifest.metrics
    facts: Sequence[tuple[str, str]] = [
        ("AUROC, 95 % interval", f"{told['auroc']:.3f} ({told['auroc_low']:.3f} to {told['auroc_high']:.3f})"),
        ("Calibration slope / intercept", f"{told['calibration_slope']:.2f} / {told['calibration_intercept']:.2f}"),
        ("Expected calibration error", f"{told['ece']:.4f}"),
    ]
    if told["later_weeks"]:
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
    listed = "".join(f"<tr><td>{name}</td><td class=n>{value}</td></tr>" for name, value in facts)
    head = "<tr><th>score</th><th>AUROC</th><th>AUPRC</th></tr>"
    return f"<table>{head}{body}</table><table>{listed}</table>"


def _said(name: str) -> str:
    return html.escape(name.replace("_", " "))


def _simulated(manifest: Manifest) -> str:
    return (
        "All of them are simulated: the figures say nothing about real people. "
        if manifest.training["simulated"]
        else ""
    )
