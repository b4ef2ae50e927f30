"""The network: gaps inside the graph, calibration inside the graph, and a whole training run in small."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator

from clinical.wellness import BANDS, claims_in, notice
from errors import SetupError
from training.convert_to_onnx import parity_windows
from training.deterioration.checkpoint import load_checkpoint, save_checkpoint
from training.deterioration.datasets import Split, Windows
from training.deterioration.evaluation import logit, platt, rank_auroc, within_patient_auroc
from training.deterioration.fit import FitConfig, calibrate, fit
from training.deterioration.manifest import input_schema
from training.deterioration.network import DeteriorationNetwork, NetworkShape
from training.train_deterioration_model import Rows, TrainingConfig, make_model

QUICK = FitConfig(epochs=2, hidden=8, members=2)


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


@pytest.fixture
def network() -> DeteriorationNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = DeteriorationNetwork()
    made.standardise_by(parity_windows(200, days=7))
    return made.eval()


def test_every_pattern_of_gaps_gives_a_probability(network: DeteriorationNetwork) -> None:
    windows = parity_windows(500, days=7, seed=3)
    windows[0] = np.nan

    scores = network.predict(windows)

    assert scores.shape == (500,)
    assert scores.dtype == np.float32
    assert ((scores > 0) & (scores < 1)).all()


def test_a_windows_answer_does_not_depend_on_its_batch(network: DeteriorationNetwork) -> None:
    windows = parity_windows(64, days=7)

    alone = np.concatenate([network.predict(windows[index : index + 1]) for index in range(64)])

    np.testing.assert_allclose(network.predict(windows), alone, atol=1e-6)


def test_a_missing_value_is_not_a_mean_value(network: DeteriorationNetwork) -> None:
    window = np.tile(network.mean.numpy(), (1, 7, 1)).astype(np.float32)
    missing = window.copy()
    missing[:, 3] = np.nan

    assert network.predict(window)[0] != network.predict(missing)[0]


def test_standardisation_counts_only_what_was_measured() -> None:
    values = parity_windows(300, days=7, seed=2)
    network = DeteriorationNetwork()

    network.standardise_by(values)

    flat = values.reshape(-1, 4)
    np.testing.assert_allclose(network.mean.numpy(), np.nanmean(flat, axis=0), rtol=1e-5)
    np.testing.assert_allclose(network.scale.numpy(), np.nanstd(flat, axis=0), rtol=1e-5)


def test_a_measurement_that_nobody_took_does_not_break_the_constants() -> None:
    values = parity_windows(50, days=7)
    values[:, :, 2] = np.nan
    network = DeteriorationNetwork()

    network.standardise_by(values)

    assert torch.isfinite(network.mean).all()
    assert (network.scale > 0).all()


def test_fitting_twice_gives_the_same_network_and_leaves_the_generator_alone(split: Split) -> None:
    state = torch.random.get_rng_state()

    one, again = fit(split, QUICK, silent), fit(split, QUICK, silent)

    assert torch.equal(torch.random.get_rng_state(), state)
    assert (one.network.predict(split.test.values) == again.network.predict(split.test.values)).all()
    other = fit(split, replace(QUICK, seed=8), silent)
    assert (one.network.predict(split.test.values) != other.network.predict(split.test.values)).any()


def test_calibration_makes_the_mean_probability_the_prevalence_it_saw(split: Split) -> None:
    network = fit(split, QUICK, silent).network

    seen = Windows.joined(split.calibration, split.validation)
    scores = network.predict(seen.values).astype(np.float64)

    assert scores.mean() == pytest.approx(seen.labels.mean(), abs=2e-3)
    slope, intercept = platt(logit(scores), seen.labels)
    assert slope == pytest.approx(1.0, abs=0.05)
    assert intercept == pytest.approx(0.0, abs=0.15)


def test_a_network_that_ranks_the_wrong_way_round_is_calibrated_to_the_prevalence(
    network: DeteriorationNetwork, split: Split
) -> None:
    scores = network.predict(split.calibration.values)
    against = Windows(
        split.calibration.values,
        (scores < np.quantile(scores, 0.2)).astype(np.int8),
        split.calibration.patients,
        split.calibration.last_days,
    )

    calibrate(network, against)

    np.testing.assert_allclose(network.predict(against.values), against.labels.mean(), rtol=1e-4)


def test_a_checkpoint_comes_back_as_it_was(network: DeteriorationNetwork, tmp_path: Path) -> None:
    windows = parity_windows(50, days=7)
    save_checkpoint(network, tmp_path / "net.safetensors")
    torch.save(
        {"shape": {"features": 4, "hidden": 32, "members": 4}, "weights": network.state_dict()}, tmp_path / "net.pt"
    )

    for name in ("net.safetensors", "net.pt"):
        assert (load_checkpoint(tmp_path / name).predict(windows) == network.predict(windows)).all()


def test_the_shape_has_no_room_for_unknown_fields() -> None:
    with pytest.raises(SetupError):
        NetworkShape.of({"hidden": 8, "run_this": 1})


def test_ties_count_half_and_one_class_has_no_auroc() -> None:
    labels = np.array([1.0, 0.0, 1.0, 0.0])

    assert rank_auroc(labels, 1 - labels, np.array([1.0, 1.0, 2.0, 0.0])) == pytest.approx(0.875)
    assert np.isnan(rank_auroc(np.zeros(4), np.ones(4), np.arange(4.0)))


def test_within_patient_auroc_owes_nothing_to_differences_between_patients() -> None:
    labels = np.array([1, 1, 0, 1, 0, 0], dtype=np.int8)
    patients = np.array([0, 0, 0, 1, 1, 1], dtype=np.int64)
    windows = Windows(np.zeros((6, 7, 4), np.float32), labels, patients, np.arange(6))
    between_only = np.array([0.9, 0.9, 0.9, 0.1, 0.1, 0.1])

    found = within_patient_auroc(windows, between_only)
    assert found is not None
    assert found[0].value == pytest.approx(0.5)
    assert 0 <= found[0].low <= found[0].value <= found[0].high <= 1
    assert found[1] == 2
    assert within_patient_auroc(windows.take(patients == 2), between_only[:0]) is None


def test_a_small_training_run_leaves_a_complete_model(rows: Rows, tmp_path: Path) -> None:
    config = TrainingConfig(fit=QUICK, ceiling_patients=50, ceiling_days=40)

    manifest = make_model(tmp_path, rows, config)

    assert {path.name for path in tmp_path.iterdir()} == {
        "deterioration_lstm.safetensors",
        "deterioration_lstm.json",
        "deterioration_lstm.onnx",
        "background.npy",
        "evaluation.html",
        "model_card.md",
        "metrics.json",
    }
    assert manifest.stage == "experimental"  # 90 patients are few
    assert manifest.cacheable is False
    assert manifest.training["simulated"] is True
    assert len(manifest.training["data_sha256"]) == 64
    assert 0 < manifest.parameters["some_change_from"] < manifest.parameters["marked_change_from"] < 1
    assert json.loads((tmp_path / "metrics.json").read_text()) == manifest.metrics
    assert set(manifest.metrics["baselines"]) == {
        "event_count",
        "last_value",
        "logistic_regression",
        "hist_gradient_boosting",
    }
    assert manifest.metrics["parity_error"] <= 1e-6


def test_the_card_opens_with_the_verdict_and_makes_no_claims(rows: Rows, tmp_path: Path) -> None:
    manifest = make_model(tmp_path, Rows(rows.measurements, []), TrainingConfig(fit=QUICK))

    card = (tmp_path / "model_card.md").read_text()

    assert card.startswith(f"**{manifest.metrics['verdict']}**")
    assert "no outcome is recorded, so a rule stands in" in card
    assert "Its label is a rule" in card
    assert claims_in(card) == []
    assert "information_captured" not in manifest.metrics


def test_the_wording_shown_with_a_score_makes_no_claims() -> None:
    for band in BANDS:
        assert claims_in(notice(band)) == []
        assert "care team" in notice(band)
    assert claims_in("Urgent: this medical device diagnoses; treatment follows") != []


def test_the_input_schema_says_the_same_as_the_specification() -> None:
    Draft202012Validator.check_schema(input_schema())
    validator = Draft202012Validator(input_schema())
    day = {"date": "2026-01-01", "pain_score_facial": 1, "respiratory_rate": None}

    assert validator.is_valid({"measurements": [day, *[None] * 6]})
    for wrong in (
        [day] * 6,
        [day] * 8,
        [{**day, "name": "x"}] * 7,
        [{"respiratory_rate": 61}] * 7,
        [{"pain_score_facial": True}] * 7,
    ):
        assert not validator.is_valid({"measurements": wrong})
