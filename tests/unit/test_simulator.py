"""The simulated world, and the exact posterior that bounds what can be learnt in it."""

import uuid
from datetime import date

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from clinical.vitals import FEATURES
from training.deterioration.bayes_filter import BayesFilter, compare, information_captured, soft_auroc
from training.deterioration.datasets import CLEAR_DAYS, Windows, build
from training.deterioration.simulator import HISTORY_DAYS, ID_PREFIX, SOURCE, Cohort, Phase, World, simulate

LAST = date(2026, 3, 31)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return simulate(200, 90, seed=3, last_day=LAST)


@pytest.fixture(scope="module")
def windows(cohort: Cohort) -> Windows:
    return build(list(cohort.measurement_rows()), list(cohort.outcome_rows())).windows


def test_the_same_seed_gives_the_same_cohort_and_another_seed_another() -> None:
    one, again, other = (simulate(20, 30, seed=seed, last_day=LAST) for seed in (1, 1, 2))

    assert list(one.measurement_rows()) == list(again.measurement_rows())
    assert list(one.outcome_rows()) == list(again.outcome_rows())
    assert one.patient_ids != other.patient_ids


def test_rows_are_plainly_simulated_and_ids_look_like_a_cognito_sub(cohort: Cohort) -> None:
    assert {row[3] for row in cohort.outcome_rows()} == {SOURCE}
    assert {row[2] for row in cohort.outcome_rows()} == {"decline"}
    for patient in cohort.patient_ids:
        assert patient.startswith(ID_PREFIX)
        assert str(uuid.UUID(patient)) == patient
        assert uuid.UUID(patient).version == 4
    assert len(set(cohort.patient_ids)) == len(cohort.patient_ids)


def test_every_value_is_believable_and_every_row_has_one(cohort: Cohort) -> None:
    for row in cohort.measurement_rows():
        values = row[2:]
        assert any(value is not None for value in values)
        for feature, value in zip(FEATURES, values, strict=True):
            assert value is None or feature.minimum <= value <= feature.maximum


def test_series_end_on_the_last_day_and_days_are_unique(cohort: Cohort) -> None:
    rows = list(cohort.measurement_rows())

    assert max(row[1] for row in rows) == LAST
    assert (LAST - min(row[1] for row in rows)).days == 89
    assert len({row[:2] for row in rows}) == len(rows)


def test_gaps_look_like_those_of_home_monitoring(cohort: Cohort) -> None:
    missing = np.asarray(np.isnan(cohort.values).all(axis=2))

    assert 0.17 <= missing.mean() <= 0.27
    lines = ("".join("#" if day else "." for day in missing[patient]) for patient in range(len(missing)))
    longest = max(len(run) for line in lines for run in line.split("."))
    assert longest >= 10


def test_a_decline_begins_where_the_hidden_phase_turns_to_decline(cohort: Cohort) -> None:
    during = cohort.phases == Phase.DECLINE
    begins = during[:, 1:] & ~during[:, :-1]

    assert (cohort.onsets[:, HISTORY_DAYS + 1 :] == begins).all()
    assert len(list(cohort.outcome_rows())) == cohort.onsets.sum()


def test_some_ramps_come_to_nothing(cohort: Cohort) -> None:
    ramp = (cohort.phases >= Phase.PRODROME_EARLY) & (cohort.phases <= Phase.PRODROME_LATE)
    ended = ramp[:, :-1] & ~ramp[:, 1:]
    to_decline = (ended & (cohort.phases[:, 1:] == Phase.DECLINE)).sum()

    assert 0.2 < to_decline / ended.sum() < 0.8


def test_transitions_are_distributions_and_begin_in_equilibrium() -> None:
    world = World()
    steps = [*world.phase_steps, world.wellbeing_steps, world.flare_steps, world.engagement_steps]
    starts = [*world.phase_start, world.wellbeing_start, world.flare_start, world.engagement_start]

    for matrix, start in zip(steps, starts, strict=True):
        assert (matrix >= 0).all()
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
        np.testing.assert_allclose(start @ matrix, start, atol=1e-10)


def test_the_exact_posterior_is_calibrated_and_far_from_chance(windows: Windows) -> None:
    chosen = windows.take(np.random.default_rng(0).permutation(len(windows))[:3000])

    exact = BayesFilter(clear_days_before=CLEAR_DAYS).posterior(chosen.values)

    assert abs(exact.mean() - chosen.labels.mean()) < 0.015
    assert roc_auc_score(chosen.labels, exact) == pytest.approx(soft_auroc(exact, exact), abs=0.05)
    assert soft_auroc(exact, exact) > 0.85
    high = exact > 0.2
    assert exact[high].mean() == pytest.approx(chosen.labels[high].mean(), abs=0.1)


def test_the_filter_agrees_with_counting_in_a_window_where_nothing_can_be_told() -> None:
    filter_ = BayesFilter(clear_days_before=CLEAR_DAYS)
    empty = np.full((1, 7, 4), np.nan, dtype=np.float32)
    calm = empty.copy()
    calm[0] = [1.0, 1.0, 14.0, 1.0]
    rising = calm.copy()
    rising[0, 3:] += np.arange(1, 5)[:, None] * [0.5, 1.0, 1.0, 1.0]

    unknown, low, high = (float(filter_.posterior(each)[0]) for each in (empty, calm, rising))

    assert 0 < low < unknown < high < 1
    assert low < 0.02
    assert high > 0.2


def test_the_exact_posterior_captures_all_information_and_a_constant_none() -> None:
    exact = np.array([0.01, 0.02, 0.3, 0.7])

    assert compare(exact, exact).information_captured == pytest.approx(1.0)
    assert compare(exact, np.full(4, exact.mean())).information_captured == pytest.approx(0.0)
    assert compare(exact, exact[::-1]).information_captured < 0
    assert soft_auroc(exact, np.zeros(4)) == pytest.approx(0.5)
    predicted = np.array([0.02, 0.02, 0.25, 0.6])
    captured = information_captured(exact, predicted, np.array([1, 1, 2, 2]))
    assert captured.value == pytest.approx(compare(exact, predicted).information_captured)
    assert captured.low <= captured.value <= captured.high <= 1
