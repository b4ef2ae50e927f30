"""What the model would be worth in other conditions, by a refit each: in later weeks, and learnt from fewer people."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from clinical.vitals import HORIZON_DAYS, WINDOW_DAYS
from errors import SetupError
from training.deterioration.datasets import Split, Windows, split_by_patient
from training.deterioration.evaluation import auroc_with_interval
from training.progress import Progress

Predict = Callable[[NDArray[np.float32]], NDArray[Any]]
"""Windows float32[n, 7, 4] to probabilities [n]."""
Refit = Callable[[Split], Predict]

LATER_SHARE: Final = 0.25
CURVE_SHARES: Final = (0.25, 0.5)


def temporal_split(windows: Windows, *, seed: int) -> tuple[Split, int]:
    """The same people's earlier weeks to learn from and later ones to judge by, and how many windows were purged.

    The last quarter of the days is judged. Purged are windows that share a day, of readings or of outcome, with the
    other side. Raises SetupError when a side is without a decline.
    """
    cut = int(np.quantile(windows.last_days, 1 - LATER_SHARE))
    earlier = windows.take(windows.last_days + HORIZON_DAYS < cut)
    later = windows.take(windows.last_days - WINDOW_DAYS + 1 >= cut)
    if len(np.unique(later.labels)) != 2 or not len(earlier):
        raise SetupError("The later weeks are without a decline.")
    parts = split_by_patient(earlier, seed=seed)
    learnt = Windows.joined(parts.train, parts.test)
    return Split(learnt, parts.validation, parts.calibration, later), len(windows) - len(earlier) - len(later)


def in_later_weeks(windows: Windows, refit: Refit, *, seed: int) -> dict[str, Any] | None:
    """AUROC in later weeks of people whose earlier weeks were learnt; None where too few declines are known."""
    try:
        split, purged = temporal_split(windows, seed=seed)
    except SetupError:
        return None
    score = refit(split)(split.test.values).astype(np.float64)
    found = auroc_with_interval(split.test, score, seed=seed)
    return {
        "auroc": found.value,
        "auroc_low": found.low,
        "auroc_high": found.high,
        "windows_learnt": len(split.train),
        "windows_judged": len(split.test),
        "windows_purged": purged,
    }


def learning_curve(split: Split, refit: Refit, progress: Progress, *, seed: int) -> list[dict[str, Any]]:
    """AUROC on the same test patients when fewer were learnt from, smallest share first.

    Shares in which nobody has a decline are left out.
    """
    people = np.random.default_rng(seed).permutation(np.unique(split.train.patients))
    points = []
    for number, share in enumerate(CURVE_SHARES):
        progress("learning from fewer people", number, len(CURVE_SHARES))
        chosen = people[: max(1, round(share * len(people)))]
        train = split.train.take(np.isin(split.train.patients, chosen))
        if len(np.unique(train.labels)) != 2:
            continue
        fewer = Split(train, split.validation, split.calibration, split.test)
        score = refit(fewer)(split.test.values).astype(np.float64)
        points.append(curve_point(len(chosen), split.test, score, seed=seed))
    return points


def curve_point(people: int, test: Windows, score: NDArray[np.float64], *, seed: int) -> dict[str, Any]:
    """One point of the curve."""
    found = auroc_with_interval(test, score, seed=seed)
    return {"people": people, "auroc": found.value, "auroc_low": found.low, "auroc_high": found.high}
