"""Later weeks, fewer people, subgroups: nothing leaks across a split, and figures are refused where they would lie."""

from datetime import date

import numpy as np
import pytest

from clinical.vitals import HORIZON_DAYS, WINDOW_DAYS
from errors import SetupError
from training.deterioration.baselines import fit_logistic
from training.deterioration.datasets import Windows, build, split_by_patient
from training.deterioration.evaluation import net_benefit, subgroups
from training.deterioration.refits import in_later_weeks, learning_curve, temporal_split
from training.deterioration.simulator import simulate
from training.progress import silent


@pytest.fixture(scope="module")
def windows() -> Windows:
    cohort = simulate(120, 60, seed=5, last_day=date(2026, 3, 31))
    return build(list(cohort.measurement_rows()), list(cohort.outcome_rows())).windows


def test_no_day_of_readings_or_of_outcomes_is_on_both_sides_of_the_cut(windows: Windows) -> None:
    split, purged = temporal_split(windows, seed=1)
    learnt = [split.train, split.validation, split.calibration]
    last_outcome = max(int(part.last_days.max()) for part in learnt) + HORIZON_DAYS
    first_reading = int(split.test.last_days.min()) - WINDOW_DAYS + 1
    assert last_outcome < first_reading
    assert purged > 0
    assert sum(map(len, learnt)) + len(split.test) + purged == len(windows)


def test_later_weeks_are_judged_with_an_interval(windows: Windows) -> None:
    found = in_later_weeks(windows, lambda split: fit_logistic(split.train), seed=1)
    assert found is not None
    assert 0.6 < found["auroc_low"] < found["auroc"] < found["auroc_high"] <= 1


def test_later_weeks_without_a_decline_give_no_figure(windows: Windows) -> None:
    cut = int(np.quantile(windows.last_days, 0.7))
    calm = Windows(
        windows.values, np.where(windows.last_days > cut, 0, windows.labels), windows.patients, windows.last_days
    )
    with pytest.raises(SetupError):
        temporal_split(calm, seed=1)
    assert in_later_weeks(calm, lambda split: fit_logistic(split.train), seed=1) is None


def test_the_learning_curve_learns_from_ever_more_people_and_judges_the_same(windows: Windows) -> None:
    split = split_by_patient(windows, seed=1)
    seen: list[set[int]] = []

    def refit(part):  # type: ignore[no-untyped-def]
        seen.append(set(part.train.patients.tolist()))
        assert part.test is split.test
        return fit_logistic(part.train)

    points = learning_curve(split, refit, silent, seed=1)
    assert [point["people"] for point in points] == [len(people) for people in seen]
    assert seen[0] < seen[1] < set(split.train.patients.tolist())


def test_a_subgroup_with_few_declines_has_no_figures(windows: Windows) -> None:
    split = split_by_patient(windows, seed=1)
    score = fit_logistic(split.train)(split.test.values)
    groups = subgroups(split.test, score, seed=1)
    assert sum(group["windows"] for group in groups[:3]) == len(split.test)
    assert sum(group["windows"] for group in groups[3:]) == len(split.test)
    assert any("auroc" in group for group in groups)
    calm = Windows(split.test.values, np.zeros_like(split.test.labels), split.test.patients, split.test.last_days)
    assert all("auroc" not in group for group in subgroups(calm, score, seed=1))


def test_net_benefit_weighs_false_marks_by_the_odds() -> None:
    labels, shown = np.array([1, 1, 0, 0]), np.array([True, False, True, False])
    assert net_benefit(labels, shown, 0.2) == pytest.approx(0.25 - 0.25 * 0.25)
    assert net_benefit(labels, np.zeros(4, dtype=bool), 0.2) == 0
