"""The deterioration runner: what it takes, what it refuses and how, and what it answers."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from errors import InvalidInput, SetupError
from runners.deterioration import DeteriorationRunner, week_as_it_began
from training.convert_to_onnx import convert_pytorch_to_onnx, parity_windows
from training.deterioration.checkpoint import save_checkpoint
from training.deterioration.manifest import output_schema
from training.deterioration.network import DeteriorationNetwork, NetworkShape

PARAMETERS = {"some_change_from": 0.4, "marked_change_from": 0.55, "window_days": 7}
DAY: dict[str, Any] = {
    "pain_score_facial": 2.5,
    "pain_score_self_reported": 3,
    "respiratory_rate": 16,
    "symptom_severity_score": 4.0,
}


@pytest.fixture(scope="module")
def network() -> DeteriorationNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = DeteriorationNetwork(NetworkShape(hidden=8, members=2))
    made.standardise_by(parity_windows(100, days=7))
    raw = np.log(1 / (1 / made.predict(parity_windows(500, days=7)) - 1))
    made.slope.fill_(8.0)
    made.intercept.fill_(-8.0 * float(np.median(raw)))  # spread around a half, so that every band occurs
    return made.eval()


@pytest.fixture(scope="module")
def folder(network: DeteriorationNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    save_checkpoint(network, made / "deterioration_lstm.safetensors")
    convert_pytorch_to_onnx(made / "deterioration_lstm.safetensors", made / "deterioration_lstm.onnx", timing_rounds=1)
    return made


@pytest.fixture(scope="module")
def runner(folder: Path) -> DeteriorationRunner:
    return DeteriorationRunner(folder, PARAMETERS)


def week(*changed: tuple[int, Any]) -> dict[str, Any]:
    days: list[Any] = [dict(DAY) for _ in range(7)]
    for row, day in changed:
        days[row] = day
    return {"measurements": days}


def faults(runner: DeteriorationRunner, input_data: Any) -> list[str]:
    with pytest.raises(InvalidInput) as caught:
        runner.parse(input_data)
    return [fault.pointer for fault in caught.value.faults]


def test_a_week_with_gaps_becomes_a_window(runner: DeteriorationRunner) -> None:
    item = runner.parse(week((0, None), (1, {}), (2, {"respiratory_rate": None, "pain_score_facial": 1})))

    assert item.shape == (7, 4)
    assert np.isnan(item[:2]).all()
    assert item[2, 0] == 1
    assert item[6].tolist() == [2.5, 3, 16, 4]
    assert runner.cost(item) == 1


@pytest.mark.parametrize(
    "input_data",
    [
        None,
        [],
        "measurements",
        7,
        {},
        {"measurements": None},
        {"measurements": "1234567"},
        {"measurements": {}},
        {"measurements": []},
        {"measurements": [DAY] * 6},
        {"measurements": [DAY] * 8},
        {"measurements": [DAY] * 7, "patient_name": "Ada"},
        {"measurements": [None] * 7},
        {"measurements": [{}] * 7},
    ],
)
def test_anything_but_seven_days_with_a_value_is_refused(runner: DeteriorationRunner, input_data: Any) -> None:
    assert faults(runner, input_data)


@pytest.mark.parametrize(
    "value",
    [
        True,
        False,
        "16",
        "",
        [],
        {},
        [16],
        math.nan,
        math.inf,
        -math.inf,
        -1,
        3.99,
        60.01,
        1e308,
        10**400,
        -(10**400),
        np.float32(16),
        16 + 0j,
    ],
    ids=lambda value: f"{type(value).__name__} {str(value)[:12]}",
)
def test_what_is_no_believable_number_is_refused_at_its_place(runner: DeteriorationRunner, value: Any) -> None:
    assert faults(runner, week((3, {**DAY, "respiratory_rate": value}))) == ["/measurements/3/respiratory_rate"]


@pytest.mark.parametrize("day", [0, "day", [], True, 1.5])
def test_a_day_that_is_no_object_is_refused_at_its_place(runner: DeteriorationRunner, day: Any) -> None:
    assert faults(runner, week((5, day))) == ["/measurements/5"]


def test_every_fault_of_form_is_told_at_once(runner: DeteriorationRunner) -> None:
    found = faults(runner, week((0, "x"), (2, {"respiratory_rate": "fast"}), (6, {"heart_rate": 60})))

    assert found == ["/measurements/0", "/measurements/2/respiratory_rate", "/measurements/6"]


@pytest.mark.parametrize(
    "input_data",
    [
        week((1, {**DAY, "respiratory_rate": 987.125})),
        week((1, {**DAY, "respiratory_rate": "secret-value"})),
        week((1, {**DAY, "secret-key": 1})),
        {**week(), "secret-key": "secret-value"},
        week((1, "secret-value")),
        week((1, {**DAY, "date": "secret-value"})),
    ],
)
def test_no_fault_repeats_what_was_sent(runner: DeteriorationRunner, input_data: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        runner.parse(input_data)

    told = repr([caught.value.detail, caught.value.args, caught.value.faults])
    assert "secret" not in told
    assert "987" not in told


def dated(*dates: Any) -> dict[str, Any]:
    return {"measurements": [None if each == "-" else {**DAY, "date": each} for each in dates]}


def test_consecutive_dates_are_taken_across_months_and_gaps(runner: DeteriorationRunner) -> None:
    runner.parse(
        dated("2024-02-26", "2024-02-27", "2024-02-28", "2024-02-29", "2024-03-01", "2024-03-02", "2024-03-03")
    )
    runner.parse(dated("-", "2024-02-27", "-", "-", "2024-03-01", None, "2024-03-03"))


@pytest.mark.parametrize(
    "wrong",
    [
        "2024-01-04",  # the day before again
        "2024-01-06",  # a day left out
        "2024-01-01",
        "2024-02-30",
        "20240105",
        "2024-W01-5",
        "2024-1-05",
        "2024-01-05T00:00:00",
        "２０２４-01-05",
        " 2024-01-5",
        "0000-01-05",
        "",
        20240105,
        True,
        ["2024-01-05"],
    ],
)
def test_dates_that_are_not_consecutive_days_are_refused_at_their_place(
    runner: DeteriorationRunner, wrong: Any
) -> None:
    days = ["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04", wrong, "2024-01-06", "2024-01-07"]

    assert faults(runner, dated(*days)) == ["/measurements/4/date"]


def test_inputs_that_mean_the_same_have_the_same_canonical_form(runner: DeteriorationRunner) -> None:
    days = ["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04", "2024-01-05", "2024-01-06", "2024-01-07"]
    plain = runner.canonical(runner.parse(week()))

    assert runner.canonical(runner.parse(dated(*days))) == plain
    zero, minus_zero = ({**DAY, "pain_score_facial": value} for value in (0, -0.0))
    first, second = (json.dumps(runner.canonical(runner.parse(week((0, day))))) for day in (zero, minus_zero))
    assert first == second
    one_missing = runner.canonical(runner.parse(week((0, None))))
    assert one_missing["measurements"][0] == [None] * 4
    json.dumps(one_missing, allow_nan=False)


def test_the_canonical_form_tells_different_weeks_apart(runner: DeteriorationRunner) -> None:
    other = runner.parse(week((6, {**DAY, "pain_score_facial": 2.6})))

    assert runner.canonical(other) != runner.canonical(runner.parse(week()))


def test_answers_come_in_order_and_are_those_of_the_network(
    runner: DeteriorationRunner, network: DeteriorationNetwork
) -> None:
    windows = parity_windows(1500, days=7, seed=9)

    predictions = runner.run(list(windows))

    expected = network.predict(windows)
    assert len(predictions) == 1500
    for prediction, probability in zip(predictions, expected.tolist(), strict=True):
        assert prediction.result["score"] == pytest.approx(probability, abs=0.0051)
        assert prediction.confidence == pytest.approx(max(probability, 1 - probability), abs=1e-5)
    assert {prediction.result["band"] for prediction in predictions} == {"steady", "some change", "marked change"}


def test_a_week_is_answered_the_same_alone_and_in_a_crowd(runner: DeteriorationRunner) -> None:
    windows = list(parity_windows(200, days=7, seed=4))

    alone = [runner.run([window])[0] for window in windows]

    for one, other in zip(alone, runner.run(windows), strict=True):
        assert one.result["score"] == pytest.approx(other.result["score"], abs=0.0101)
        assert one.confidence == pytest.approx(other.confidence, abs=1e-5)


def test_results_fit_the_output_schema_and_the_band_fits_the_score_shown(runner: DeteriorationRunner) -> None:
    validator = Draft202012Validator(output_schema())

    for prediction in runner.run(list(parity_windows(300, days=7, seed=5))):
        assert validator.is_valid(json.loads(json.dumps(prediction.result, allow_nan=False)))
        score, band = prediction.result["score"], prediction.result["band"]
        assert band == ("marked change" if score >= 0.55 else "some change" if score >= 0.4 else "steady")


def test_no_items_give_no_answers(runner: DeteriorationRunner) -> None:
    assert list(runner.run([])) == []


def test_a_week_that_stays_as_it_began_shows_no_change(runner: DeteriorationRunner) -> None:
    assert runner.run([runner.parse(week())])[0].result["change_from_baseline"] == 0.0


def test_the_change_is_the_score_less_that_of_the_week_as_it_began(
    runner: DeteriorationRunner, network: DeteriorationNetwork
) -> None:
    item = runner.parse(week((6, {**DAY, "symptom_severity_score": 9.5}), (5, {**DAY, "respiratory_rate": 26})))

    change = runner.run([item])[0].result["change_from_baseline"]

    now, began = network.predict(np.stack([item, runner.parse(week())]))
    assert change == pytest.approx(now - began, abs=0.0051)


@pytest.mark.parametrize(
    "known", [(0,), (0, 1, 2), (3, 4, 5, 6), (6,)], ids=["first day", "first three", "last four", "last day"]
)
def test_without_a_beginning_and_an_end_there_is_no_change_to_speak_of(
    runner: DeteriorationRunner, known: tuple[int, ...]
) -> None:
    days = [DAY if row in known else None for row in range(7)]

    assert runner.run([runner.parse({"measurements": days})])[0].result["change_from_baseline"] is None


def test_early_and_late_values_of_different_measurements_are_no_comparison() -> None:
    windows = np.full((1, 7, 4), np.nan, dtype=np.float32)
    windows[0, 0, 0], windows[0, 6, 1] = 2.0, 5.0

    stayed, comparable = week_as_it_began(windows)

    assert comparable.tolist() == [False]
    np.testing.assert_array_equal(stayed, windows)


@given(seed=st.integers(0, 10_000))
def test_the_week_as_it_began_has_the_same_gaps_and_one_value_for_each_measurement(seed: int) -> None:
    windows = parity_windows(5, days=7, seed=seed)

    stayed, _ = week_as_it_began(windows)

    np.testing.assert_array_equal(np.isnan(stayed), np.isnan(windows))
    for before, after in zip(windows, stayed, strict=True):
        for column in range(4):
            early = before[:3, column][~np.isnan(before[:3, column])]
            if len(early):
                kept = after[:, column][~np.isnan(after[:, column])]
                np.testing.assert_allclose(kept, early.mean(), rtol=1e-5)
            else:
                np.testing.assert_array_equal(after[:, column], before[:, column])


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"some_change_from": 0.4},
        {"some_change_from": "x", "marked_change_from": 0.5},
        {"some_change_from": None, "marked_change_from": 0.5},
        {"some_change_from": 0.5, "marked_change_from": 0.5},
        {"some_change_from": 0.5, "marked_change_from": 0.4},
        {"some_change_from": 0.0, "marked_change_from": 0.4},
        {"some_change_from": 0.1, "marked_change_from": 1.1},
        {"some_change_from": math.nan, "marked_change_from": 0.4},
    ],
)
def test_bands_that_make_no_sense_are_refused_at_the_start(folder: Path, parameters: dict[str, Any]) -> None:
    with pytest.raises(SetupError):
        DeteriorationRunner(folder, parameters)


def test_a_folder_without_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError):
        DeteriorationRunner(tmp_path, PARAMETERS)


def test_warming_up_leaves_nothing_behind(runner: DeteriorationRunner) -> None:
    before = runner.run([runner.parse(week())])

    runner.warm_up()

    assert runner.run([runner.parse(week())]) == before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from([*DAY, "date", "x"]), inner, max_size=5)
    ),
    max_leaves=20,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(days=st.lists(st.none() | st.just(DAY) | JSON, min_size=7, max_size=7))
def test_whatever_is_sent_is_answered_or_refused_and_never_a_crash(
    runner: DeteriorationRunner, days: list[Any]
) -> None:
    try:
        item = runner.parse({"measurements": days})
    except InvalidInput as error:
        assert error.faults
        assert all(fault.pointer.startswith("/measurements") for fault in error.faults)
    else:
        assert 0 <= runner.run([item])[0].result["score"] <= 1
