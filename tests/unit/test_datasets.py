"""From rows to labelled windows, and what is refused on the way."""

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from errors import SetupError
from training.deterioration.datasets import CLEAR_DAYS, build, split_by_patient
from training.deterioration.simulator import simulate

START = date(2026, 1, 1)
Row = tuple[Any, ...]


def measurements(patients: int, days: int, value: Sequence[Any] = (1.0, 2.0, 16.0, 3.0)) -> list[Row]:
    return [
        (f"p{patient:03}", START + timedelta(days=day), *value) for patient in range(patients) for day in range(days)
    ]


def declines(patients: int, day: int, source: str = "nurse") -> list[Row]:
    return [(f"p{patient:03}", START + timedelta(days=day), "decline", source) for patient in range(patients)]


def days_after_start(ordinals: np.ndarray[Any, Any]) -> list[int]:
    return [int(day) - START.toordinal() for day in ordinals]


def test_a_window_is_positive_when_a_decline_begins_on_one_of_the_three_days_after_it() -> None:
    made = build(measurements(50, 30), declines(1, 15)).windows

    own = made.take(made.patients == 0)
    assert days_after_start(own.last_days[own.labels == 1]) == [12, 13, 14]
    assert made.labels[made.patients != 0].sum() == 0


def test_no_window_starts_inside_a_decline_or_has_one_beginning_in_it() -> None:
    made = build(measurements(50, 40), declines(1, 15)).windows

    own = days_after_start(made.take(made.patients == 0).last_days)
    assert own == [*range(6, 15), *range(15 + 7 + CLEAR_DAYS, 37)]


def test_a_window_whose_horizon_is_not_fully_observed_is_left_out_and_counted() -> None:
    dataset = build(measurements(50, 30), declines(1, 15))

    assert max(days_after_start(dataset.windows.last_days)) == 26
    assert dataset.left_out["horizon not fully observed"] == 50 * 3


def test_a_window_holds_its_calendar_days_and_gaps_stay_gaps() -> None:
    rows = [row for row in measurements(50, 30) if row[1] != START + timedelta(days=3)]
    rows[0] = (*rows[0][:3], None, math.nan, rows[0][5])

    first = build(rows, declines(1, 15)).windows.values[0]

    assert np.isnan(first[3]).all()
    assert np.isnan(first[0]).tolist() == [False, True, True, False]
    assert first[6].tolist() == [1, 2, 16, 3]


def test_values_that_cannot_be_readings_are_dropped_and_counted_by_measurement() -> None:
    rows = measurements(50, 30)
    rows[0] = ("p000", START, -1.0, 11.0, 61.0, math.inf)
    rows[1] = ("p000", START + timedelta(days=1), 2.0, 2.0, 3.99, 3.0)

    dataset = build(rows, declines(1, 15))

    assert dataset.dropped_values == {
        "pain_score_facial": 1,
        "pain_score_self_reported": 1,
        "respiratory_rate": 2,
        "symptom_severity_score": 1,
    }
    assert not (dataset.windows.values > 60).any()


def test_the_drivers_own_types_are_understood() -> None:
    rows = [
        (p, datetime(d.year, d.month, d.day, 12, tzinfo=UTC), *(Decimal(str(v)) for v in values))
        for p, d, *values in measurements(50, 30)
    ]

    assert len(build(rows, declines(1, 15)).windows) == len(build(measurements(50, 30), declines(1, 15)).windows)


def test_outcomes_other_than_declines_do_not_count() -> None:
    other = [(*row[:2], "hospital visit", row[3]) for row in declines(50, 10)]

    made = build(measurements(50, 30), [*other, *declines(1, 15)])

    assert made.windows.labels.sum() == 3
    assert made.onsets == 1


def test_too_few_patients_are_refused_with_how_many_there_are() -> None:
    with pytest.raises(SetupError, match=r"at least 50 patients with 14 measured days.* 49 \(of 60 patients"):
        build([*measurements(49, 30), *[("x" + row[0], *row[1:]) for row in measurements(11, 13)]], declines(1, 15))


def test_no_rows_at_all_are_refused() -> None:
    with pytest.raises(SetupError, match="there are 0"):
        build([], [])


def test_too_few_sequences_are_refused_with_how_many_there_are() -> None:
    every_other_month = [
        (row[0], START + timedelta(days=index % 14), *row[2:]) for index, row in enumerate(measurements(50, 14))
    ]
    late = [(f"p{patient:03}", START + timedelta(days=8), "decline", "nurse") for patient in range(50)]

    with pytest.raises(SetupError, match=r"at least 100 seven-day sequences; there are (\d+)"):
        build([row for row in every_other_month if row[1] < START + timedelta(days=14)], late + declines(50, 6))


@pytest.mark.parametrize("day", [400, -400])
def test_one_class_alone_is_refused(day: int) -> None:
    with pytest.raises(SetupError, match="with and without a decline"):
        build(measurements(50, 30), [("someone else", START + timedelta(days=day), "decline", "nurse")])


def test_without_outcomes_a_rule_over_future_values_stands_in_and_is_named() -> None:
    rows = [
        (p, d, facial, told, breaths, 6.0 if p == "p000" and d >= START + timedelta(days=15) else severity)
        for p, d, facial, told, breaths, severity in measurements(50, 30)
    ]

    dataset = build(rows, [])

    assert dataset.label_source == "future-measurements"
    own = dataset.windows.take(dataset.windows.patients == 0)
    assert days_after_start(own.last_days[own.labels == 1]) == [13, 14, 15, 16, 17]
    assert dataset.windows.labels[dataset.windows.patients != 0].sum() == 0


def test_the_rule_needs_enough_values_on_both_sides() -> None:
    rows = [(*row[:5], None if row[1].day % 2 else row[5]) for row in measurements(60, 30)]
    rows = [
        (*row[:5], 9.0 if row[5] and row[1] > START + timedelta(days=15) and row[0] < "p030" else row[5])
        for row in rows
    ]

    assert build(rows, []).left_out["too few values for the label rule"] > 0


def test_data_are_simulated_only_when_every_patient_and_every_source_says_so() -> None:
    cohort = simulate(80, 40, seed=1, last_day=START)
    rows, outcomes = list(cohort.measurement_rows()), list(cohort.outcome_rows())

    assert build(rows, outcomes).simulated
    assert not build([*rows, ("a real one", START, 1, 1, 16, 1)], outcomes).simulated
    assert not build(rows, [*outcomes, (*outcomes[0][:2], "decline", "nurse")]).simulated


def test_the_digest_knows_every_value_and_no_order() -> None:
    rows, outcomes = measurements(50, 30), declines(3, 15)
    digest = build(rows, outcomes).sha256

    assert build(rows[::-1], outcomes[::-1]).sha256 == digest
    assert build([(*rows[0][:2], 1.5, *rows[0][3:]), *rows[1:]], outcomes).sha256 != digest
    assert build(rows, declines(2, 15)).sha256 != digest


def test_parts_share_no_patient_and_each_has_declines() -> None:
    cohort = simulate(120, 60, seed=2, last_day=START)
    windows = build(list(cohort.measurement_rows()), list(cohort.outcome_rows())).windows

    split = split_by_patient(windows, seed=4)

    parts = (split.train, split.validation, split.calibration, split.test)
    members = [set(part.patients.tolist()) for part in parts]
    assert sum(len(each) for each in members) == len(set().union(*members)) == len(set(windows.patients.tolist()))
    assert all(set(part.labels.tolist()) == {0, 1} for part in parts)
    assert sum(len(part) for part in parts) == len(windows)
    again = split_by_patient(windows, seed=4)
    assert (again.test.patients == split.test.patients).all()


def test_too_few_patients_with_a_decline_are_refused_with_how_many_there_are() -> None:
    windows = build(measurements(60, 30), declines(3, 15)).windows

    with pytest.raises(SetupError, match="Only 3 patients have a decline"):
        split_by_patient(windows, seed=1)
