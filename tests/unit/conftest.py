"""What several unit tests train on."""

from datetime import date

import pytest

from training.deterioration.datasets import Split, build, split_by_patient
from training.deterioration.simulator import simulate
from training.train_deterioration_model import Rows


@pytest.fixture(scope="session")
def rows() -> Rows:
    """A small simulated cohort, as a training reads it."""
    cohort = simulate(90, 50, seed=5, last_day=date(2026, 3, 31))
    return Rows(list(cohort.measurement_rows()), list(cohort.outcome_rows()))


@pytest.fixture(scope="session")
def split(rows: Rows) -> Split:
    """Its windows, split by person."""
    return split_by_patient(build(rows.measurements, rows.outcomes).windows, seed=1)
