"""The best any model can do in the simulated world: the exact posterior of a decline, given seven days of readings.

All hidden state is discrete, so the forward algorithm is exact. The filter knows every constant of the world and the
rule by which windows are chosen (no decline began in the window or in the days just before it). What it scores is a
ceiling.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clinical.vitals import HORIZON_DAYS, WINDOW_DAYS
from training.deterioration.evaluation import Interval, rank_auroc, ratio_with_interval
from training.deterioration.simulator import Floats, Integers, Phase, World, normal_cdf

_CHUNK = 64


class BayesFilter:
    """P(a decline begins within the horizon | window), exactly, for windows of a `World`."""

    def __init__(self, world: World | None = None, *, clear_days_before: int) -> None:
        """`clear_days_before`: days just before the window in which, by the choice of windows, no decline began."""
        self.world = world or World()
        self._no_onset = self._without_onsets()
        self._readings = self._reading_tables()
        self._prior = self._prior_after(clear_days_before)
        self._ahead = self._onset_ahead()
        self._phase_forward = self._no_onset.transpose(0, 2, 1)[:, None]  # [baseline, 1, phase to, phase from]
        w = self.world
        self._rest_steps = np.kron(np.kron(w.wellbeing_steps, w.flare_steps), w.engagement_steps)

    def posterior(self, windows: NDArray[np.float32]) -> Floats:
        """float64[n] for windows float32[n, 7, 4] as simulated (rounded, clipped, NaN where not measured)."""
        return np.concatenate([self._chunk(windows[at : at + _CHUNK]) for at in range(0, len(windows), _CHUNK)])

    def _without_onsets(self) -> Floats:
        """Phase steps [baseline, phase, phase] with the steps by which a decline begins taken out."""
        steps = self.world.phase_steps.copy()
        keep = steps[:, Phase.DECLINE, Phase.DECLINE].copy()
        steps[:, :, Phase.DECLINE] = 0.0
        steps[:, Phase.DECLINE, Phase.DECLINE] = keep
        return steps

    def _reading_tables(self) -> list[Floats]:
        """For each feature P(reading | state), [reading, baseline, bias, phase, wellbeing, flare]; the last row is
        'not measured on a day that was not skipped'."""
        p, tables = self.world.parameters, []
        for feature, mean in enumerate(self.world.means):
            step, low, high = p.rounding[feature], p.lowest[feature], p.highest[feature]
            grid = np.arange(low, high + step / 2, step).reshape(-1, *(1,) * mean.ndim)
            upper = normal_cdf((grid + step / 2 - mean) / p.noise_sd[feature])
            lower = normal_cdf((grid - step / 2 - mean) / p.noise_sd[feature])
            upper[-1], lower[0] = 1.0, 0.0
            missing = p.value_missing[feature]
            tables.append(np.concatenate([(1 - missing) * (upper - lower), np.full_like(upper[:1], missing)]))
        return tables

    def _prior_after(self, clear_days: int) -> Floats:
        """The state before the window's first day, [baseline, bias, phase, wellbeing, flare, engagement]."""
        world, p = self.world, self.world.parameters
        phase = world.phase_start * np.array(p.baseline_weights)[:, None]
        for _ in range(clear_days):
            phase = np.einsum("bp,bpq->bq", phase, self._no_onset)
        start = np.einsum(
            "bp,r,w,f,e->brpwfe",
            phase / phase.sum(),
            np.array(p.bias_weights),
            world.wellbeing_start,
            world.flare_start,
            world.engagement_start,
        )
        return np.asarray(start, dtype=np.float64)

    def _onset_ahead(self) -> Floats:
        """P(a decline begins within the horizon | baseline, phase on the window's last day), [baseline, phase]."""
        clear: Floats = np.ones(self._no_onset.shape[:2])
        for _ in range(HORIZON_DAYS):
            clear = np.einsum("bpq,bq->bp", self._no_onset, clear)
        return np.asarray(1.0 - clear)

    def _step(self, state: Floats) -> Floats:
        """One day on, without a decline beginning: state [n, baseline, bias, phase, rest], where `rest` is wellbeing x
        flare x engagement, which move on independently of the phase."""
        return np.asarray(np.matmul(self._phase_forward, state) @ self._rest_steps)

    def _likelihood(self, day: Floats) -> Floats:
        """P(a day's four readings | state) for day float64[n, 4]."""
        rows = np.isnan(day)
        told = np.ones((len(day), *self.world.means.shape[1:]))
        for feature, table in enumerate(self._readings):
            told *= table[self._index(day[:, feature], rows[:, feature], feature)]
        shown = (1.0 - self.world.skip)[:, None, None, :]
        skipped = self.world.skip[:, None, None, :]
        nothing = rows.all(axis=1).reshape(-1, *(1,) * 6)
        return np.asarray(told[..., None] * shown + nothing * skipped)

    def _index(self, values: Floats, missing: NDArray[np.bool_], feature: int) -> Integers:
        p = self.world.parameters
        steps = (np.where(missing, p.lowest[feature], values) - p.lowest[feature]) / p.rounding[feature]
        return np.where(missing, len(self._readings[feature]) - 1, np.rint(steps).astype(np.int64))

    def _chunk(self, windows: NDArray[np.float32]) -> Floats:
        *outer, wellbeing, flare, engagement = self._prior.shape
        prior = self._prior.reshape(*outer, wellbeing * flare * engagement)
        state = np.broadcast_to(prior, (len(windows), *prior.shape))
        for day in range(WINDOW_DAYS):
            state = self._step(state) * self._likelihood(windows[:, day].astype(np.float64)).reshape(state.shape)
            state = state / state.sum(axis=(1, 2, 3, 4), keepdims=True)
        return np.asarray(np.einsum("nbrps,bp->n", state, self._ahead), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Ceiling:
    """How near a model comes to the exact posterior, on windows of the simulated world."""

    information_captured: float  # 1 - KL(p* || p) / KL(p* || prevalence)
    soft_auroc_model: float
    soft_auroc_ceiling: float
    windows: int


def compare(exact: Floats, predicted: Floats) -> Ceiling:
    """Score predictions against the exact posterior; no label is needed, so there is no luck of the draw in it."""
    p = np.clip(predicted.astype(np.float64), 1e-9, 1 - 1e-9)
    lost = _divergence(exact, p)
    whole = _divergence(exact, np.full_like(exact, exact.mean()))
    return Ceiling(1.0 - lost / whole, soft_auroc(exact, p), soft_auroc(exact, exact), len(exact))


def information_captured(exact: Floats, predicted: Floats, patients: Integers, *, seed: int = 0) -> Interval:
    """As `compare` has it, with the interval of whole patients drawn anew."""
    p = np.clip(predicted.astype(np.float64), 1e-9, 1 - 1e-9)
    whole = _terms(exact, np.full_like(exact, exact.mean()))
    kept = whole - _terms(exact, p)
    _, member = np.unique(patients, return_inverse=True)
    parts = (np.bincount(member, weights=terms).astype(np.float64) for terms in (kept, whole))
    return ratio_with_interval(*parts, seed=seed)


def _divergence(exact: Floats, predicted: Floats) -> float:
    return float(_terms(exact, predicted).mean())


def _terms(exact: Floats, predicted: Floats) -> Floats:
    e = np.clip(exact, 1e-12, 1 - 1e-12)
    return np.asarray(e * np.log(e / predicted) + (1 - e) * np.log((1 - e) / (1 - predicted)))


def soft_auroc(exact: Floats, score: Floats) -> float:
    """The AUROC expected over labels drawn from the exact posterior."""
    return rank_auroc(exact, 1.0 - exact, score)
