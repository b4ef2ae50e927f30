"""Exact Shapley values of a grouped game: what each group of readings adds to a score, against a background of weeks.

The players are groups of cells of the window float32[7, 4]. A coalition's worth is the model's mean answer when its
players keep their readings and all others take theirs from each background window in turn (Shapley 1953; the
interventional game of Lundberg and Lee 2017). With at most eight players all coalitions are asked, so nothing is
sampled and the values add up to the answer, but for rounding.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from math import comb
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from clinical import wellness
from clinical.vitals import FEATURE_NAMES, FEATURES, WINDOW_DAYS
from errors import SetupError
from runners.runner import Prediction, Runner

Item = TypeVar("Item")
Floats = NDArray[np.float64]
Windows = NDArray[np.float32]
Probabilities = Callable[[Windows], NDArray[np.float32]]

BACKGROUND_FILE: Final = "background.npy"
RECENT_DAYS: Final = 3
"""The last days of the week, which `features_by_period` tells from those before."""
_LARGEST_BACKGROUND: Final = 64


class Game:
    """Players, and all coalitions of them. `cells` is bool[players, 7, 4]: which cells each player holds."""

    def __init__(self, cells: NDArray[np.bool_]) -> None:
        players = len(cells)
        members = (np.arange(2**players)[:, None] >> np.arange(players)) & 1 == 1  # bool[coalitions, players]
        self.keeps: NDArray[np.bool_] = (members[:, :, None, None] & cells).any(axis=1)
        size = members.sum(axis=1)
        joined = np.array([0.0, *(1 / (players * comb(players - 1, others)) for others in range(players))])
        left = np.array([*(1 / (players * comb(players - 1, others)) for others in range(players)), 0.0])
        self._weights: Floats = np.where(members, joined[size][:, None], -left[size][:, None]).T

    def worths(self, probabilities: Probabilities, window: Windows, background: Windows, nobody: float) -> Floats:
        """float64[coalitions]. The first is nobody's, which no window changes; the last is everybody's, the window
        itself, asked once."""
        mixed = np.where(self.keeps[1:-1, None], window, background).reshape(-1, *window.shape)
        answers = probabilities(np.concatenate([mixed, window[None]])).astype(np.float64)
        means = answers[:-1].reshape(-1, len(background)).mean(axis=1)
        return np.concatenate([[nobody], means, answers[-1:]])

    def values(self, worths: Floats) -> Floats:
        """float64[players]."""
        return np.asarray(self._weights @ worths)


def _features() -> NDArray[np.bool_]:
    cells = np.zeros((len(FEATURES), WINDOW_DAYS, len(FEATURES)), dtype=bool)
    for feature in range(len(FEATURES)):
        cells[feature, :, feature] = True
    return cells


def _days() -> NDArray[np.bool_]:
    cells = np.zeros((WINDOW_DAYS, WINDOW_DAYS, len(FEATURES)), dtype=bool)
    for day in range(WINDOW_DAYS):
        cells[day, day] = True
    return cells


def _features_by_period() -> NDArray[np.bool_]:
    """Earlier days of each feature, then recent days of each."""
    recent = np.arange(WINDOW_DAYS) >= WINDOW_DAYS - RECENT_DAYS
    return np.concatenate([_features() & ~recent[:, None], _features() & recent[:, None]])


FEATURE_GAME: Final = Game(_features())
DAY_GAME: Final = Game(_days())
PERIOD_GAME: Final = Game(_features_by_period())


class Background:
    """The weeks that a window is held against, float32[n, 7, 4], and the hash that goes on record."""

    def __init__(self, windows: Windows) -> None:
        right = windows.dtype == np.float32 and windows.shape[1:] == (WINDOW_DAYS, len(FEATURES))
        if not right or not 1 <= len(windows) <= _LARGEST_BACKGROUND:
            raise SetupError(f"A background is 1 to {_LARGEST_BACKGROUND} windows float32[7, 4].")
        self.windows = windows
        self.sha256 = hashlib.sha256(np.ascontiguousarray(windows).tobytes()).hexdigest()

    @classmethod
    def read(cls, folder: Path) -> "Background | None":
        """A model's own, or None where it came without. Raises SetupError when it is there and unusable."""
        path = folder / BACKGROUND_FILE
        if not path.exists():
            return None
        try:
            return cls(np.load(path, allow_pickle=False))
        except (OSError, ValueError, AttributeError) as error:
            raise SetupError(f"{BACKGROUND_FILE} is not an array of windows.") from error


def explain_week(probabilities: Probabilities, window: Windows, background: Background) -> dict[str, Any]:
    """How a window's score came about, by feature, by day, and by feature and part of the week; JSON-able."""
    score = float(probabilities(window[None])[0])
    base = float(probabilities(background.windows).astype(np.float64).mean())
    error = 0.0
    found: list[list[float]] = []
    for game in (FEATURE_GAME, DAY_GAME, PERIOD_GAME):
        values = game.values(game.worths(probabilities, window, background.windows, base))
        error = max(error, abs(base + float(values.sum()) - score))
        found.append(values.tolist())
    features, days, periods = found
    earlier, recent = periods[: len(FEATURES)], periods[len(FEATURES) :]
    return {
        "method": "exact Shapley values of groups of readings",
        "score": score,
        "base_value": base,
        "values": dict(zip(FEATURE_NAMES, features, strict=True)),
        "days": days,
        "features_by_period": {
            name: {"earlier": before, f"last_{RECENT_DAYS}_days": after}
            for name, before, after in zip(FEATURE_NAMES, earlier, recent, strict=True)
        },
        "additivity_error": error,
        "background_sha256": background.sha256,
        "notice": wellness.EXPLANATION,
    }


class Explaining(Generic[Item]):
    """A runner's explanations as a runner, so that they queue behind a batcher of their own and never hold up scores.

    Items are parsed and keyed by the runner itself.
    """

    def __init__(self, runner: Runner[Item]) -> None:
        self._runner = runner

    @property
    def rules(self) -> str:
        return self._runner.rules

    def parse(self, input_data: Mapping[str, Any]) -> Item:
        return self._runner.parse(input_data)

    def canonical(self, item: Item) -> Any:
        return self._runner.canonical(item)

    def cost(self, item: Item) -> int:
        return self._runner.cost(item)

    def run(self, items: Sequence[Item]) -> Sequence[Prediction]:
        return [Prediction(self._runner.explain(item), None) for item in items]

    def explain(self, item: Item) -> dict[str, Any]:
        return self._runner.explain(item)

    def warm_up(self) -> None:
        return
