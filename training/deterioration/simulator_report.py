"""Whether the simulated world has the shape of real home monitoring, as a page: statistics, ranges and pictures.

The ranges are those of the published and measured data that the simulator borrows its shape from (days missing, gaps,
how much people differ from each other and from themselves). What the simulator says of declines is its own invention.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from clinical.vitals import FEATURE_NAMES
from training.deterioration.bayes_filter import BayesFilter, soft_auroc
from training.deterioration.datasets import CLEAR_DAYS, build
from training.deterioration.evaluation import rank_auroc
from training.deterioration.simulator import Cohort, Floats, Phase, simulate
from training.pages import OTHERS, OURS, document, figure, table
from training.progress import Progress, silent

JUDGED_WINDOWS: Final = 4000
_SHOWN_DAYS: Final = 90


@dataclass(frozen=True, slots=True)
class Statistic:
    """A figure of the simulated world and the range that real home monitoring has it in."""

    name: str
    value: float
    low: float
    high: float

    @property
    def fits(self) -> bool:
        return self.low <= self.value <= self.high


def gaps(cohort: Cohort) -> list[list[int]]:
    """For each patient the lengths in days of the runs on which nothing was measured."""
    missing = np.asarray(np.isnan(cohort.values).all(axis=2))
    return [[len(run) for run in "".join("#" if day else "." for day in row).split(".") if run] for row in missing]


def within_patient_lag_1(cohort: Cohort) -> Floats:
    """float64[4]: the mean over patients of each feature's correlation with the day before (pairs of measured days)."""
    return np.array([np.nanmean([_lag_1(patient[:, feature]) for patient in cohort.values]) for feature in range(4)])


def _lag_1(series: Floats) -> float:
    before, after = series[:-1], series[1:]
    both = ~np.isnan(before) & ~np.isnan(after)
    if both.sum() < 10 or before[both].std() == 0 or after[both].std() == 0:
        return float("nan")
    return float(np.corrcoef(before[both], after[both])[0, 1])


def intraclass_correlation(cohort: Cohort) -> Floats:
    """float64[4]: the share of each feature's variance that lies between patients (one-way random effects)."""
    found = []
    for feature in range(cohort.values.shape[2]):
        groups = [values[~np.isnan(values)] for values in cohort.values[:, :, feature]]
        groups = [group for group in groups if len(group) > 1]
        sizes = np.array([len(group) for group in groups])
        means = np.array([group.mean() for group in groups])
        whole = np.concatenate(groups).mean()
        between = (sizes * (means - whole) ** 2).sum() / (len(groups) - 1)
        within = sum(((group - group.mean()) ** 2).sum() for group in groups) / (sizes.sum() - len(groups))
        usual = (sizes.sum() - (sizes**2).sum() / sizes.sum()) / (len(groups) - 1)
        found.append((between - within) / (between + (usual - 1) * within))
    return np.array(found)


def statistics(cohort: Cohort) -> list[Statistic]:
    """What is compared, with its range."""
    missing = np.isnan(cohort.values).all(axis=2)
    runs = gaps(cohort)
    lag, icc = within_patient_lag_1(cohort), intraclass_correlation(cohort)
    return [
        Statistic("days missing, share", float(missing.mean()), 0.19, 0.25),
        Statistic("mean gap, days", float(np.mean([length for each in runs for length in each])), 1.5, 3.5),
        Statistic("longest gap of all, days", float(max(max(each, default=0) for each in runs)), 15, 45),
        *(
            Statistic(f"lag-1 r within a person, {name}", float(value), 0.0, 0.46)
            for name, value in zip(FEATURE_NAMES, lag, strict=True)
        ),
        *(Statistic(f"ICC, {name}", float(value), 0.35, 1.0) for name, value in zip(FEATURE_NAMES, icc, strict=True)),
    ]


def report(patients: int, days: int, *, seed: int, progress: Progress = silent) -> tuple[str, list[Statistic]]:
    """The page, and the statistics on it."""
    progress("simulating patients", 0, 3)
    cohort = simulate(patients, days, seed=seed, last_day=date(2026, 1, 31))
    found = statistics(cohort)
    progress("asking the exact filter", 1, 3)
    windows = build(list(cohort.measurement_rows()), list(cohort.outcome_rows())).windows
    chosen = windows.take(np.random.default_rng(seed).permutation(len(windows))[:JUDGED_WINDOWS])
    labels = chosen.labels.astype(np.float64)
    exact = BayesFilter(clear_days_before=CLEAR_DAYS).posterior(chosen.values)
    progress("drawing", 2, 3)
    rows: list[tuple[str, ...]] = [
        (each.name, f"{each.value:.2f}", f"{each.low:g} to {each.high:g}", "yes" if each.fits else "NO")
        for each in found
    ]
    declines = int(cohort.onsets.sum())
    ceiling: list[tuple[str, ...]] = [
        ("people, days", f"{patients}, {days}"),
        ("declines a person and year", f"{declines / patients / cohort.onsets.shape[1] * 365:.1f}"),
        ("weeks before a decline, share", f"{windows.labels.mean():.3f}"),
        ("AUROC of the exact posterior", f"{rank_auroc(labels, 1 - labels, exact):.3f}"),
        ("soft AUROC of the exact posterior: the ceiling", f"{soft_auroc(exact, exact):.3f}"),
    ]
    plots: list[tuple[str, str, Callable[[Axes], None]]] = [
        (
            "Is the filter exact?",
            "The posterior of a decline against its observed share, ten bins of equal size; the line is ideal.",
            partial(_reliability, labels=chosen.labels, exact=exact),
        ),
        ("Gaps", "Lengths of runs of days on which nothing was measured.", partial(_gap_lengths, cohort=cohort)),
        *(
            (
                f"A person, {said}",
                "Symptom severity as measured; the shaded days are those of a decline.",
                partial(_person, cohort=cohort, patient=patient),
            )
            for said, patient in _examples(cohort)
        ),
    ]
    body = (
        "<p>People, days and declines here are made up. The ranges are those of real home monitoring; of gaps one "
        "figure is known, a mean of 2.5 and a longest of about 20 days, and the range is a tolerance around it. How a "
        "decline shows in the readings is the simulator's own invention, so figures of models in it say nothing about "
        "real people.</p>"
        + table(("shape", "simulated", "real", "fits"), rows)
        + table(("the world", ""), ceiling)
        + "".join(figure(title, caption, draw) for title, caption, draw in plots)
    )
    return document("The simulated world", body), found


def _examples(cohort: Cohort) -> list[tuple[str, int]]:
    declines = (cohort.phases == Phase.DECLINE).sum(axis=1)
    measured = (~np.isnan(cohort.values)).any(axis=2).sum(axis=1)
    return [
        ("the calmest", int(declines.argmin())),
        ("the most declines", int(declines.argmax())),
        ("the fewest readings", int(measured.argmin())),
    ]


def _reliability(axes: Axes, labels: NDArray[np.int8], exact: Floats) -> None:
    parts = np.array_split(np.argsort(exact, kind="stable"), 10)
    predicted, observed = ([float(values[part].mean()) for part in parts] for values in (exact, labels))
    top = max(*predicted, *observed) * 1.05
    axes.plot([0, top], [0, top], color=OTHERS[1], linewidth=1)
    axes.plot(predicted, observed, "o-", color=OURS)
    axes.set(xlabel="posterior", ylabel="observed")


def _gap_lengths(axes: Axes, cohort: Cohort) -> None:
    lengths = [length for each in gaps(cohort) for length in each]
    axes.hist(lengths, bins=[each - 0.5 for each in range(1, max(lengths) + 2)], color=OURS)
    axes.set(xlabel="days", ylabel="gaps", yscale="log")


def _person(axes: Axes, cohort: Cohort, patient: int) -> None:
    days = np.arange(cohort.values.shape[1])[-_SHOWN_DAYS:]
    axes.plot(days, cohort.values[patient, days, 3], "o-", color=OURS, markersize=2.5, linewidth=0.8)
    during = cohort.phases[patient, days] == Phase.DECLINE
    axes.fill_between(days, 0, 10, where=during.tolist(), color=OTHERS[0], alpha=0.25, linewidth=0, step="mid")
    axes.set(xlabel="day", ylabel="symptom severity", ylim=(0, 10))
