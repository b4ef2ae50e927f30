"""Explanations of a week's score: exact by shap's own exact explainer, and they add up."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from clinical.vitals import FEATURE_NAMES
from errors import InvalidInput, SetupError
from runners import explanation
from runners.deterioration import DeteriorationRunner
from runners.explanation import DAY_GAME, FEATURE_GAME, PERIOD_GAME, Background, Game, explain_week
from training.convert_to_onnx import convert_pytorch_to_onnx, parity_windows
from training.deterioration.background import FILE, typical_weeks
from training.deterioration.checkpoint import save_checkpoint
from training.deterioration.network import DeteriorationNetwork, NetworkShape

BANDS = {"some_change_from": 0.4, "marked_change_from": 0.55}
GAMES = {"features": FEATURE_GAME, "days": DAY_GAME, "periods": PERIOD_GAME}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network = DeteriorationNetwork(NetworkShape(hidden=8, members=2))
    windows = parity_windows(400, days=7, seed=4)
    network.standardise_by(windows)
    network.slope.fill_(12.0)
    save_checkpoint(network.eval(), made / "deterioration_lstm.safetensors")
    convert_pytorch_to_onnx(made / "deterioration_lstm.safetensors", made / "deterioration_lstm.onnx", timing_rounds=1)
    np.save(made / FILE, typical_weeks(windows, network.predict(windows)))
    return made


@pytest.fixture(scope="module")
def runner(folder: Path) -> DeteriorationRunner:
    return DeteriorationRunner(folder, BANDS)


def oracle(runner: DeteriorationRunner, game: Game, window: Any, background: Background) -> NDArray[np.float64]:
    """shap's exact explainer on the same game, whose worths are computed the plain way, one coalition after another."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The set_", category=PendingDeprecationWarning)
        import shap

    players = int(np.log2(len(game.keeps)))
    cells = np.stack([game.keeps[1 << player] for player in range(players)])

    def worth(rows: NDArray[Any]) -> NDArray[np.float64]:
        found = []
        for row in rows:
            kept = np.zeros((7, 4), dtype=bool)
            for player in np.flatnonzero(row):
                kept |= cells[player]
            answers = [
                float(runner.probabilities(np.where(kept, window, other)[None])[0]) for other in background.windows
            ]
            found.append(np.mean(answers))
        return np.array(found)

    explainer = shap.explainers.Exact(worth, shap.maskers.Independent(np.zeros((1, players))))
    return np.asarray(explainer(np.ones((1, players))).values[0])


@pytest.mark.parametrize("game", GAMES)
def test_values_are_those_of_shaps_exact_explainer(runner: DeteriorationRunner, folder: Path, game: str) -> None:
    background = Background(np.load(folder / FILE)[:4])
    nobody = float(runner.probabilities(background.windows).mean())
    for window in parity_windows(3, days=7, seed=9):
        worths = GAMES[game].worths(runner.probabilities, window, background.windows, nobody)
        expected = oracle(runner, GAMES[game], window, background)
        assert np.abs(GAMES[game].values(worths) - expected).max() < 1e-6


def test_values_add_up_for_every_pattern_of_missing_readings(runner: DeteriorationRunner) -> None:
    moved = 0.0
    for window in parity_windows(60, days=7, seed=2):
        found = runner.explain(window)
        parts = [
            list(found["values"].values()),
            found["days"],
            [value for part in found["features_by_period"].values() for value in part.values()],
        ]
        assert [len(part) for part in parts] == [4, 7, 8]
        for values in parts:
            assert abs(found["base_value"] + sum(values) - found["score"]) <= 1e-6
        assert found["additivity_error"] <= 1e-6
        moved = max(moved, *(abs(value) for value in parts[0]))
    assert moved > 0.01


def weeks(answer: Callable[[Any], Any], window: Any) -> dict[str, Any]:
    return explain_week(answer, window, Background(np.zeros((3, 7, 4), dtype=np.float32)))


def test_a_model_of_one_reading_owes_all_to_it() -> None:
    window = np.arange(28, dtype=np.float32).reshape(7, 4)
    found = weeks(lambda asked: asked[:, 6, 2] / 100, window)
    assert found["values"] == pytest.approx({name: 0.26 if name == FEATURE_NAMES[2] else 0 for name in FEATURE_NAMES})
    assert found["days"] == pytest.approx([0] * 6 + [0.26])
    assert found["features_by_period"][FEATURE_NAMES[2]] == pytest.approx({"earlier": 0, "last_3_days": 0.26})


def test_two_readings_that_act_together_share() -> None:
    window = np.full((7, 4), 10, dtype=np.float32)
    found = weeks(lambda asked: asked[:, 0, 0] * asked[:, 0, 1] / 1000, window)
    assert list(found["values"].values()) == pytest.approx([0.05, 0.05, 0, 0])


def test_without_a_background_there_is_no_explanation(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "deterioration_lstm.onnx"
    model.write_bytes((folder / "deterioration_lstm.onnx").read_bytes())
    with pytest.raises(InvalidInput) as refused:
        DeteriorationRunner(tmp_path, BANDS).explain(parity_windows(1, days=7)[0])
    assert [fault.pointer for fault in refused.value.faults] == ["/explain"]


@pytest.mark.parametrize(
    "content",
    [
        np.zeros((3, 7, 4)),
        np.zeros((0, 7, 4), np.float32),
        np.zeros((65, 7, 4), np.float32),
        np.zeros((3, 4, 7), np.float32),
        np.float32(1),
        np.array([{}], dtype=object),
        b"nonsense",
    ],
)
def test_an_unusable_background_keeps_the_model_from_loading(folder: Path, tmp_path: Path, content: Any) -> None:
    (tmp_path / "deterioration_lstm.onnx").write_bytes((folder / "deterioration_lstm.onnx").read_bytes())
    if isinstance(content, bytes):
        (tmp_path / explanation.BACKGROUND_FILE).write_bytes(content)
    else:
        np.save(tmp_path / explanation.BACKGROUND_FILE, content)
    with pytest.raises(SetupError, match=r"[Bb]ackground"):
        DeteriorationRunner(tmp_path, BANDS)


def test_typical_weeks_are_nobodys_own() -> None:
    windows = np.random.default_rng(3).random((200, 7, 4), dtype=np.float32)
    found = typical_weeks(windows, windows.mean(axis=(1, 2)))
    assert found.shape == (16, 7, 4)
    assert found.dtype == np.float32
    own = {window.tobytes() for window in windows}
    assert not own & {week.tobytes() for week in found}
    assert (np.diff(found.mean(axis=(1, 2))) > 0).all()
    few = typical_weeks(windows[:12], np.arange(12.0))
    assert len(few) == 2
    with pytest.raises(SetupError):
        typical_weeks(windows[:4], np.arange(4.0))
