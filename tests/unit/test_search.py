"""The search for settings: repeatable, never worse than where it began, and on record."""

from dataclasses import asdict
from datetime import date
from pathlib import Path

from training.deterioration.datasets import build, split_by_patient
from training.deterioration.fit import FitConfig, fit
from training.deterioration.search import search
from training.deterioration.simulator import simulate
from training.progress import silent
from training.train_deterioration_model import Rows, TrainingConfig, make_model

QUICK = FitConfig(epochs=2, hidden=8, members=1)


def test_the_search_is_repeatable_and_never_worse_by_its_own_measure(tmp_path: Path) -> None:
    cohort = simulate(90, 40, seed=5, last_day=date(2026, 3, 31))
    rows = Rows(list(cohort.measurement_rows()), list(cohort.outcome_rows()))
    split = split_by_patient(build(rows.measurements, rows.outcomes).windows, seed=QUICK.seed)
    found, seen = search(split, QUICK, 3)
    assert (found, seen) == search(split, QUICK, 3)
    assert seen["validation_log_loss"] <= seen["validation_log_loss_before"]
    assert fit(split, found, silent).validation_log_loss == seen["validation_log_loss"]
    assert seen["validation_log_loss_before"] == fit(split, QUICK, silent).validation_log_loss

    config = TrainingConfig(fit=QUICK, search_trials=3, ceiling_patients=50, ceiling_days=40)
    manifest = make_model(tmp_path, rows, config)
    assert manifest.training["search"]["trials"] == 3
    assert manifest.training["config"] == asdict(found)
