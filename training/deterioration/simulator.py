"""A made-up world of home measurements whose best possible score is known, because all hidden state is discrete.

It exists for two things: demo data that carry no person's data, and an honest yardstick (`bayes_filter` computes
exactly what seven days of such readings can tell). It is not a claim about real people: only the shape is borrowed,
such as 19-25 % of days missing, long gaps, patients who differ more from each other than from themselves, and ramps
that come to nothing.

Hidden state of a patient: baseline (4) x reporting bias (3), fixed; phase of an episode (7) x wellbeing (9) x benign
flare (2) x engagement (2), a Markov chain with a step a day. A decline begins on the day the phase enters DECLINE.
Everything random comes from one seeded numpy Generator.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import IntEnum
from math import erf, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SOURCE: Final = "simulator"
ID_PREFIX: Final = "5eedda7a-"
"""Every simulated patient's id starts so ("seed data"), and is otherwise a UUID like a Cognito sub."""
DECLINE_LABEL: Final = "decline"
HISTORY_DAYS: Final = 14
"""Outcomes are known this many days before the first measurement, so that no window's past is in doubt."""

MeasurementRow = tuple[str, date, float | None, float | None, float | None, float | None]
OutcomeRow = tuple[str, date, str, str]


class Phase(IntEnum):
    """Where a patient is in an episode; the prodrome is the ramp before a decline, and some ramps come to nothing."""

    STABLE = 0
    PRODROME_EARLY = 1
    PRODROME_MIDDLE = 2
    PRODROME_LATE = 3
    DECLINE = 4
    RECOVERY_EARLY = 5
    RECOVERY_LATE = 6


_PHASE_STEPS: Final = np.array(
    [
        # stable early middle late decline rec-early rec-late
        [0.9695, 0.0300, 0.0000, 0.0000, 0.0005, 0.0000, 0.0000],
        [0.1400, 0.4500, 0.4100, 0.0000, 0.0000, 0.0000, 0.0000],
        [0.1200, 0.0000, 0.4500, 0.4300, 0.0000, 0.0000, 0.0000],
        [0.0900, 0.0000, 0.0000, 0.3900, 0.5200, 0.0000, 0.0000],
        [0.0000, 0.0000, 0.0000, 0.0000, 0.7800, 0.2200, 0.0000],
        [0.0000, 0.0000, 0.0000, 0.0000, 0.0300, 0.6700, 0.3000],
        [0.2500, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.7500],
    ]
)


def _table(rows: list[list[float]]) -> Floats:
    return np.array(rows, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class WorldParameters:
    """The constants of the world. Vectors over features are in the order of clinical.vitals.FEATURES."""

    baseline_weights: tuple[float, ...] = (0.30, 0.30, 0.25, 0.15)
    frailty: tuple[float, ...] = (0.6, 0.9, 1.2, 1.7)  # multiplies the rate at which episodes begin
    bias_weights: tuple[float, ...] = (0.25, 0.50, 0.25)
    reporting_bias: tuple[float, ...] = (-1.0, 0.0, 1.0)  # self-reported pain only
    facial_attenuation: float = 0.6
    wellbeing_points: int = 9
    wellbeing_persistence: float = 0.6
    flare_steps: tuple[tuple[float, float], ...] = ((0.97, 0.03), (0.35, 0.65))
    engagement_steps: tuple[tuple[float, float], ...] = ((0.980, 0.020), (0.14, 0.86))
    skip_when_engaged: tuple[float, ...] = (0.10, 0.10, 0.13, 0.16, 0.30, 0.22, 0.14)  # by phase
    skip_when_disengaged: float = 0.95
    value_missing: tuple[float, ...] = (0.22, 0.03, 0.12, 0.03)
    noise_sd: tuple[float, ...] = (1.2, 0.8, 1.3, 0.8)
    rounding: tuple[float, ...] = (0.5, 1.0, 1.0, 0.5)
    lowest: tuple[float, ...] = (0.0, 0.0, 8.0, 0.0)
    highest: tuple[float, ...] = (10.0, 10.0, 40.0, 10.0)
    # rows: true pain, respiratory rate, symptom severity
    baseline_level: Floats = field(
        default_factory=lambda: _table([[1.5, 3.0, 4.5, 6.0], [14.0, 15.5, 17.0, 19.0], [1.5, 2.5, 3.5, 5.0]])
    )
    phase_effect: Floats = field(
        default_factory=lambda: _table(
            [
                [0.0, 0.7, 1.5, 2.3, 3.2, 1.6, 0.5],
                [0.0, 1.3, 2.8, 4.4, 6.0, 2.8, 0.8],
                [0.0, 0.9, 2.0, 3.1, 4.2, 2.1, 0.6],
            ]
        )
    )
    wellbeing_effect: tuple[float, ...] = (0.6, 0.6, 0.7)
    flare_effect: tuple[float, ...] = (2.0, 0.0, 0.6)  # a flare hurts, and leaves breathing as it is


def normal_cdf(values: Floats) -> Floats:
    """The standard normal's distribution function, elementwise."""
    return 0.5 * (1.0 + np.asarray(np.frompyfunc(erf, 1, 1)(values / sqrt(2.0)), dtype=np.float64))


def _tauchen(points: int, persistence: float) -> tuple[Floats, Floats]:
    """Grid float64[points] and steps float64[points, points] of an AR(1) with variance 1 (Tauchen, 1986)."""
    grid = np.linspace(-2.5, 2.5, points)
    half, noise = (grid[1] - grid[0]) / 2.0, sqrt(1.0 - persistence**2)
    centred = grid[None, :] - persistence * grid[:, None]
    upper, lower = normal_cdf((centred + half) / noise), normal_cdf((centred - half) / noise)
    upper[:, -1], lower[:, 0] = 1.0, 0.0
    return grid, upper - lower


def stationary(steps: Floats) -> Floats:
    """The stationary distribution of a transition matrix float64[n, n]."""
    system = np.vstack([steps.T - np.eye(len(steps)), np.ones(len(steps))])
    solution = np.linalg.lstsq(system, np.append(np.zeros(len(steps)), 1.0), rcond=None)[0]
    weights: Floats = np.clip(solution, 0.0, None)
    return np.asarray(weights / weights.sum())


class World:
    """Transition matrices and the mean of every measurement in every hidden state."""

    def __init__(self, parameters: WorldParameters | None = None) -> None:
        self.parameters = p = parameters or WorldParameters()
        self.phase_steps = np.stack([self._with_frailty(value) for value in p.frailty])  # [baseline, phase, phase]
        self.wellbeing_grid, self.wellbeing_steps = _tauchen(p.wellbeing_points, p.wellbeing_persistence)
        self.flare_steps, self.engagement_steps = np.array(p.flare_steps), np.array(p.engagement_steps)
        self.phase_start = np.stack([stationary(steps) for steps in self.phase_steps])
        self.wellbeing_start = stationary(self.wellbeing_steps)
        self.flare_start, self.engagement_start = stationary(self.flare_steps), stationary(self.engagement_steps)
        self.means = self._means()
        engaged = np.array(p.skip_when_engaged)
        self.skip = np.stack([engaged, np.full_like(engaged, p.skip_when_disengaged)], axis=1)  # [phase, engagement]

    @staticmethod
    def _with_frailty(frailty: float) -> Floats:
        steps = _PHASE_STEPS.copy()
        steps[0, 1:] *= frailty
        steps[0, 0] = 1.0 - steps[0, 1:].sum()
        return steps

    def _means(self) -> Floats:
        """float64[feature, baseline, bias, phase, wellbeing, flare]: what would be read without noise."""
        p = self.parameters
        level = (
            p.baseline_level[:, :, None, None, None, None]
            + p.phase_effect[:, None, None, :, None, None]
            + np.array(p.wellbeing_effect)[:, None, None, None, None, None] * self.wellbeing_grid[:, None]
            + np.array(p.flare_effect)[:, None, None, None, None, None] * np.array([0.0, 1.0])
        )
        pain, breathing, severity = np.repeat(level, len(p.reporting_bias), axis=2)
        told = pain + np.array(p.reporting_bias)[None, :, None, None, None]
        return np.stack([p.facial_attenuation * pain, told, breathing, severity])


@dataclass(frozen=True, slots=True)
class Cohort:
    """Simulated patients on a calendar.

    values: float64[patients, days, 4], NaN where not measured. onsets: bool[patients, HISTORY_DAYS + days], true on the
    day on which a decline begins. phases: int64[patients, days], the hidden truth.
    """

    patient_ids: tuple[str, ...]
    first_day: date
    values: Floats
    onsets: NDArray[np.bool_]
    phases: Integers

    def measurement_rows(self) -> Iterator[MeasurementRow]:
        """Rows for patient_measurements: one for each day on which something was measured."""
        measured = ~np.isnan(self.values)
        for patient, day in np.argwhere(measured.any(axis=2)).tolist():
            facial, told, breathing, severity = (
                value if known else None
                for value, known in zip(self.values[patient, day].tolist(), measured[patient, day], strict=True)
            )
            on = self.first_day + timedelta(days=day)
            yield self.patient_ids[patient], on, facial, told, breathing, severity

    def outcome_rows(self) -> Iterator[OutcomeRow]:
        """Rows for patient_outcomes: one for each decline, marked as simulated."""
        for patient, day in np.argwhere(self.onsets).tolist():
            on = self.first_day + timedelta(days=day - HISTORY_DAYS)
            yield self.patient_ids[patient], on, DECLINE_LABEL, SOURCE


def _draw(generator: np.random.Generator, weights: Floats) -> Integers:
    """One category for each row of weights float64[n, categories]."""
    drawn = (weights.cumsum(axis=1) < generator.random((len(weights), 1))).sum(axis=1)
    return np.asarray(np.minimum(drawn, weights.shape[1] - 1))


def simulate(patients: int, days: int, *, seed: int, last_day: date, world: World | None = None) -> Cohort:
    """Draw a cohort whose series end on `last_day`. The same arguments give the same cohort."""
    world = world or World()
    p, generator = world.parameters, np.random.default_rng(seed)
    ids = tuple(
        ID_PREFIX + str(uuid.UUID(bytes=generator.bytes(16), version=4))[len(ID_PREFIX) :] for _ in range(patients)
    )
    baseline = generator.choice(len(p.baseline_weights), size=patients, p=p.baseline_weights)
    bias = generator.choice(len(p.bias_weights), size=patients, p=p.bias_weights)
    phase = _draw(generator, world.phase_start[baseline])
    chains = [
        (world.wellbeing_start, world.wellbeing_steps),
        (world.flare_start, world.flare_steps),
        (world.engagement_start, world.engagement_steps),
    ]
    states = [_draw(generator, np.tile(start, (patients, 1))) for start, _ in chains]
    total = HISTORY_DAYS + days
    values = np.full((patients, days, len(p.noise_sd)), np.nan)
    onsets, phases = np.zeros((patients, total), dtype=bool), np.zeros((patients, total), dtype=np.int64)
    for day in range(total):
        before, phase = phase, _draw(generator, world.phase_steps[baseline, phase])
        states = [_draw(generator, steps[state]) for state, (_, steps) in zip(states, chains, strict=True)]
        onsets[:, day] = (phase == Phase.DECLINE) & (before != Phase.DECLINE)
        phases[:, day] = phase
        if day >= HISTORY_DAYS:
            wellbeing, flare, engagement = states
            means = world.means[:, baseline, bias, phase, wellbeing, flare].T
            skipped = generator.random(patients) < world.skip[phase, engagement]
            values[:, day - HISTORY_DAYS] = _measure(generator, p, means, skipped)
    return Cohort(ids, last_day - timedelta(days=days - 1), values, onsets, phases[:, HISTORY_DAYS:])


def _measure(
    generator: np.random.Generator, p: WorldParameters, means: Floats, skipped: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Noisy, rounded and clipped readings float64[patients, 4] of means float64[patients, 4]; NaN where missing."""
    step = np.array(p.rounding)
    read = means + generator.normal(size=means.shape) * np.array(p.noise_sd)
    read = np.clip(np.round(read / step) * step, p.lowest, p.highest)
    missing = generator.random(means.shape) < np.array(p.value_missing)
    return np.where(missing | skipped[:, None], np.nan, read)
