"""How good a model is, with intervals that know that a patient's windows are not independent.

Every interval is a cluster bootstrap: whole patients are drawn, not windows. A comparison of two models draws the same
patients for both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from training.deterioration.baselines import Scorer, fit_boosting
from training.deterioration.datasets import SEVERITY, Split, Windows

Scores = NDArray[np.float64]
RESAMPLES: Final = 400
SLOPE_RESAMPLES: Final = 100
LEAST_DECLINES: Final = 10
"""Positive windows that a subgroup needs before it has figures."""
_EPSILON: Final = 1e-7


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


def named(name: str, found: Interval) -> dict[str, float]:
    """An interval as three metrics: name, name_low, name_high."""
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def logit(probability: NDArray[Any]) -> Scores:
    """Log-odds, kept finite."""
    p = np.clip(probability.astype(np.float64), _EPSILON, 1 - _EPSILON)
    return np.asarray(np.log(p / (1 - p)))


def platt(logits: NDArray[Any], labels: NDArray[Any]) -> tuple[float, float]:
    """Slope and intercept that turn logits into calibrated log-odds (Platt, 1999): unpenalised logistic regression.

    On a model's own calibrated log-odds these are its calibration slope and intercept; 1 and 0 are ideal.
    """
    model = LogisticRegression(C=np.inf, max_iter=1000).fit(logits.reshape(-1, 1).astype(np.float64), labels)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def rank_auroc(positive: Scores, negative: Scores, score: NDArray[Any]) -> float:
    """AUROC where each item counts as `positive` and `negative` by weight; ties count half. NaN without both."""
    _, rank = np.unique(score, return_inverse=True)
    return _auroc_of_ranks(positive, negative, rank)


def _auroc_of_ranks(positive: Scores, negative: Scores, rank: NDArray[np.int64]) -> float:
    above, below = np.bincount(rank, weights=positive), np.bincount(rank, weights=negative)
    pairs = above.sum() * below.sum()
    won = (above * (below.cumsum() - below / 2)).sum()
    return float(won / pairs) if pairs else float("nan")


def expected_calibration_error(labels: NDArray[Any], probability: Scores, *, bins: int = 10) -> float:
    """Mean distance between predicted and observed share, over bins that hold equally many windows."""
    parts = np.array_split(np.argsort(probability, kind="stable"), bins)
    gaps = [len(part) * abs(probability[part].mean() - labels[part].mean()) for part in parts if len(part)]
    return float(np.sum(gaps) / len(labels))


def within_patient_auroc(test: Windows, score: Scores, *, seed: int = 0) -> tuple[Interval, int] | None:
    """AUROC among the windows of one patient, averaged by pairs, and how many patients could be judged.

    This is the figure for change detection: it owes nothing to some patients being worse than others at all times.
    """
    won, pairs = [], []
    for patient in np.unique(test.patients[test.labels == 1]):
        own = test.patients == patient
        positives = int(test.labels[own].sum())
        negatives = int(own.sum()) - positives
        if negatives:
            pairs.append(positives * negatives)
            won.append(pairs[-1] * float(roc_auc_score(test.labels[own], score[own])))
    if not pairs:
        return None
    return ratio_with_interval(np.array(won), np.array(pairs, dtype=np.float64), seed=seed), len(pairs)


def ratio_with_interval(part: Scores, whole: Scores, *, seed: int) -> Interval:
    """sum(part) / sum(whole) of patients' sums float64[patients], with the interval of whole patients drawn anew."""
    drawn = np.random.default_rng(seed).integers(len(whole), size=(RESAMPLES, len(whole)))
    draws = part[drawn].sum(axis=1) / whole[drawn].sum(axis=1)
    return interval(float(part.sum() / whole.sum()), draws)


def bootstrap_aurocs(test: Windows, scores: Mapping[str, Scores], *, seed: int) -> Mapping[str, Scores]:
    """AUROC of each score on the same RESAMPLES draws of patients, float64[resamples] a name."""
    generator = np.random.default_rng(seed)
    _, member = np.unique(test.patients, return_inverse=True)
    patients = int(member.max()) + 1
    ranks = {name: np.unique(score, return_inverse=True)[1] for name, score in scores.items()}
    found: dict[str, list[float]] = {name: [] for name in scores}
    for _ in range(RESAMPLES):
        weight = np.bincount(generator.integers(patients, size=patients), minlength=patients)[member]
        for name, rank in ranks.items():
            found[name].append(_auroc_of_ranks(weight * (test.labels == 1), weight * (test.labels == 0), rank))
    return {name: np.array(values) for name, values in found.items()}


def interval(value: float, draws: Scores) -> Interval:
    """The estimate with the middle 95 % of its bootstrap draws; draws of one class only do not count."""
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def auroc_with_interval(test: Windows, score: Scores, *, seed: int) -> Interval:
    """AUROC with its cluster-bootstrap interval."""
    value = float(roc_auc_score(test.labels, score))
    return interval(value, bootstrap_aurocs(test, {"": score}, seed=seed)[""])


def subgroups(test: Windows, probability: Scores, *, seed: int) -> list[dict[str, Any]]:
    """AUROC, and declines observed over expected, among kinds of weeks and of people that the data themselves tell.

    By how many days of the week have a reading, and by thirds of people's usual symptom severity. A group without both
    classes, or with fewer than LEAST_DECLINES positive windows, has no figures: they would say nothing.
    """
    days = (~np.isnan(test.values)).any(axis=2).sum(axis=1)
    groups = {
        "readings on 6 or 7 days": days >= 6,
        "readings on 4 or 5 days": (days >= 4) & (days < 6),
        "readings on 1 to 3 days": days < 4,
    }
    people, member = np.unique(test.patients, return_inverse=True)
    severity = test.values[:, :, SEVERITY]
    known = ~np.isnan(severity)
    totals = np.bincount(member, weights=np.where(known, severity, 0.0).sum(axis=1), minlength=len(people))
    usual = totals / np.maximum(np.bincount(member, weights=known.sum(axis=1), minlength=len(people)), 1)
    lower, upper = np.quantile(usual, [1 / 3, 2 / 3])
    groups |= {
        "usual severity in the lowest third": usual[member] <= lower,
        "usual severity in the middle third": (usual[member] > lower) & (usual[member] <= upper),
        "usual severity in the highest third": usual[member] > upper,
    }
    return [_subgroup(name, test.take(mask), probability[mask], seed=seed) for name, mask in groups.items()]


def _subgroup(name: str, windows: Windows, probability: Scores, *, seed: int) -> dict[str, Any]:
    positives = int(windows.labels.sum())
    found: dict[str, Any] = {"group": name, "windows": len(windows), "positives": positives}
    if positives >= LEAST_DECLINES and positives < len(windows):
        auroc = auroc_with_interval(windows, probability, seed=seed)
        found |= {
            "auroc": auroc.value,
            "auroc_low": auroc.low,
            "auroc_high": auroc.high,
            "observed_over_expected": positives / float(probability.sum()),
        }
    return found


def discrimination(test: Windows, probability: Scores, baselines: Mapping[str, Scorer], *, seed: int) -> dict[str, Any]:
    """AUROC of the network and each baseline, and the paired difference to each, all by whole patients."""
    scores = {"network": probability, **{name: scorer(test.values) for name, scorer in baselines.items()}}
    aurocs = {name: float(roc_auc_score(test.labels, score)) for name, score in scores.items()}
    draws = bootstrap_aurocs(test, scores, seed=seed)
    own = interval(aurocs["network"], draws["network"])
    differences = {
        name: interval(aurocs["network"] - aurocs[name], draws["network"] - draws[name]) for name in baselines
    }
    within = within_patient_auroc(test, probability, seed=seed)
    found: dict[str, Any] = {
        "auroc": own.value,
        "auroc_low": own.low,
        "auroc_high": own.high,
        "baselines": {name: aurocs[name] for name in baselines},
        "difference_from_baselines": {
            name: {"value": gap.value, "low": gap.low, "high": gap.high} for name, gap in differences.items()
        },
        "beats_baselines": all(gap.low > 0 for gap in differences.values()),
    }
    if within is not None:
        found |= named("auroc_within_patient", within[0]) | {"within_patient_patients": within[1]}
    return found


def calibration(test: Windows, probability: Scores, *, seed: int = 0) -> dict[str, float]:
    """Slope (with its interval) and intercept (1 and 0 are ideal), expected calibration error, Brier score, log-loss
    and AUPRC."""
    slope, intercept = platt(logit(probability), test.labels)
    return {
        **named("calibration_slope", interval(slope, _slopes(test, probability, seed=seed))),
        "calibration_intercept": intercept,
        "ece": expected_calibration_error(test.labels, probability),
        "brier": float(brier_score_loss(test.labels, probability)),
        "log_loss": float(log_loss(test.labels, probability)),
        "auprc": float(average_precision_score(test.labels, probability)),
        "prevalence": float(test.labels.mean()),
    }


def _slopes(test: Windows, probability: Scores, *, seed: int) -> Scores:
    """float64[resamples] calibration slopes when whole patients are drawn anew; NaN for draws of one class."""
    generator = np.random.default_rng(seed)
    _, member = np.unique(test.patients, return_inverse=True)
    patients = int(member.max()) + 1
    logits = logit(probability).reshape(-1, 1)
    found = []
    for _ in range(SLOPE_RESAMPLES):
        weight = np.bincount(generator.integers(patients, size=patients), minlength=patients)[member]
        kept = weight > 0
        if len(np.unique(test.labels[kept])) == 2:
            model = LogisticRegression(C=np.inf, max_iter=1000)
            model.fit(logits[kept], test.labels[kept], sample_weight=weight[kept])
            found.append(float(model.coef_[0, 0]))
        else:
            found.append(float("nan"))
    return np.array(found)


def operating_point(test: Windows, probability: Scores, threshold: float) -> dict[str, float]:
    """What happens when every window at or above `threshold` is shown as a marked change."""
    shown = probability >= threshold
    right = int((shown & (test.labels == 1)).sum())
    leads, declines = lead_times(test, shown)
    return {
        "threshold": threshold,
        "alerts_per_100_patient_days": 100.0 * float(shown.mean()),
        "ppv": right / max(int(shown.sum()), 1),
        "sensitivity": right / int(test.labels.sum()),
        "declines_with_a_mark": len(leads) / declines,
        "median_lead_days": float(np.median(leads)) if leads else 0.0,
        "net_benefit": net_benefit(test.labels, shown, threshold),
        "net_benefit_of_marking_everybody": net_benefit(test.labels, np.ones_like(shown), threshold),
    }


def net_benefit(labels: NDArray[Any], shown: NDArray[np.bool_], at: float) -> float:
    """Net benefit (Vickers and Elkin 2006): true positives less false ones, weighed by the threshold's odds."""
    return float((shown & (labels == 1)).mean() - (shown & (labels == 0)).mean() * at / (1 - at))


def lead_times(test: Windows, shown: NDArray[np.bool_]) -> tuple[list[int], int]:
    """How many days ahead the first marked change came, for each decline that had one, and how many declines there are.

    Counted over the run of weeks whose label is that decline, so at most the horizon.
    """
    found, declines = [], 0
    for patient in np.unique(test.patients):
        own = (test.patients == patient) & (test.labels == 1)
        days = np.sort(test.last_days[own])
        marked = set(test.last_days[own & shown].tolist())
        for run in np.split(days, np.flatnonzero(np.diff(days) > 1) + 1):
            declines += bool(len(run))
            first = next((day for day in run.tolist() if day in marked), None)
            if first is not None:
                found.append(int(run[-1]) - first + 1)
    return found, declines


def row_random_gap(split: Split, patient_grouped: float, *, seed: int) -> dict[str, Any]:
    """What splitting windows instead of patients would have claimed, shown with gradient boosting (quick to refit)."""
    whole = Windows.joined(split.train, split.test)
    order = np.random.default_rng(seed).permutation(len(whole))
    test, train = whole.take(order[: len(split.test)]), whole.take(order[len(split.test) :])
    by_rows = float(roc_auc_score(test.labels, fit_boosting(train, seed=seed)(test.values)))
    return {
        "model": "hist_gradient_boosting",
        "auroc_by_rows": by_rows,
        "auroc_by_patients": patient_grouped,
        "gap": by_rows - patient_grouped,
    }
