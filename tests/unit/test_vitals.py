"""The seven-day window: order, gaps, ranges."""

from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinical.vitals import FEATURE_NAMES, FEATURES, Day, Feature, calendar_window, window
from errors import InvalidInput

FULL: Day = {
    "pain_score_facial": 2.5,
    "pain_score_self_reported": 3,
    "respiratory_rate": 16,
    "symptom_severity_score": 4,
}


def test_a_window_keeps_days_and_features_in_order_and_gaps_as_nan() -> None:
    made = window([None, FULL, {"respiratory_rate": 18.0}, None, {}, None, {"pain_score_facial": None, **FULL}])

    assert made.shape == (7, 4)
    assert made.dtype == np.float32
    assert made[1].tolist() == [2.5, 3, 16, 4]
    assert made[2, 2] == 18
    assert np.isnan(made[[0, 3, 4, 5]]).all()
    assert np.isnan(made[2, [0, 1, 3]]).all()


@pytest.mark.parametrize("count", [0, 1, 6, 8])
def test_a_window_has_exactly_seven_days(count: int) -> None:
    with pytest.raises(InvalidInput) as caught:
        window([FULL] * count)

    assert caught.value.faults[0].pointer == "/measurements"


@pytest.mark.parametrize("days", [[None] * 7, [{}] * 7, [{"respiratory_rate": None}] * 7])
def test_a_week_without_any_value_is_refused(days: list[Day | None]) -> None:
    with pytest.raises(InvalidInput):
        window(days)


@pytest.mark.parametrize("feature", FEATURES, ids=FEATURE_NAMES)
def test_both_ends_of_a_range_belong_to_it_and_nothing_beyond(feature: Feature) -> None:
    name = feature.name
    for inside in (feature.minimum, feature.maximum):
        assert not np.isnan(window([{name: inside}, *[None] * 6])[0]).all()
    for outside in (feature.minimum - 0.01, feature.maximum + 0.01, float("inf"), float("-inf"), float("nan"), 10**400):
        with pytest.raises(InvalidInput) as caught:
            window([{name: outside}, *[FULL] * 6])
        assert [fault.pointer for fault in caught.value.faults] == [f"/measurements/0/{name}"]


def test_every_fault_is_named_and_no_message_carries_the_value() -> None:
    days: list[Day | None] = [{"respiratory_rate": 61.7}, {"pain_score_facial": 12.25}, *[FULL] * 5]

    with pytest.raises(InvalidInput) as caught:
        window(days)

    places = [fault.pointer for fault in caught.value.faults]
    assert places == ["/measurements/0/respiratory_rate", "/measurements/1/pain_score_facial"]
    told = " ".join([caught.value.detail, *(fault.message for fault in caught.value.faults)])
    assert "61.7" not in told
    assert "12.25" not in told


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.integers(0, 40))
def test_a_calendar_window_holds_the_seven_days_that_end_on_the_last(values: list[float], shift: int) -> None:
    first = date(2026, 2, 20)
    readings = {first + timedelta(days=index): [value] * 4 for index, value in enumerate(values)}
    last = first + timedelta(days=shift)

    made = calendar_window(readings, last)

    for row in range(7):
        day = last - timedelta(days=6 - row)
        expected = readings.get(day)
        if expected is None:
            assert np.isnan(made[row]).all()
        else:
            assert made[row].tolist() == np.array(expected, dtype=np.float32).tolist()
