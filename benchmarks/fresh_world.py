"""What the deterioration training makes of a simulated world that no one has tuned on, at any size.

    python -m benchmarks.fresh_world --people 600 6000 --seed 20261126

Each size is simulated with the seed, trained with the settings that `followup train deterioration` has, and judged on
people of its own, and on a second cohort against the exact Bayes filter. Nothing is stored. 6,000 people take about
a quarter of an hour on two cores.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from training.deterioration.simulator import simulate
from training.progress import progress_bar
from training.train_deterioration_model import Rows, TrainingConfig, make_model

DAYS = 90
CEILING_PATIENTS = 150  # judged against the exact filter on more people than a training takes the time for


def measure(people: int, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """All metrics of a training on so many people, and what the run cost."""
    cohort = simulate(people, DAYS, seed=seed, last_day=datetime.now(UTC).date())
    rows = Rows(list(cohort.measurement_rows()), list(cohort.outcome_rows()))
    config = TrainingConfig(ceiling_patients=CEILING_PATIENTS)
    config = replace(config, fit=replace(config.fit, seed=seed))
    with tempfile.TemporaryDirectory() as folder, progress_bar() as progress:
        manifest = make_model(Path(folder), rows, config, progress)
    return manifest.metrics, manifest.run


def _range(metrics: dict[str, Any], name: str, form: str) -> str:
    value, low, high = (format(metrics[key], form) for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value} ({low} to {high})"


LINES: dict[str, Callable[[dict[str, Any], dict[str, Any]], str]] = {
    "information captured": lambda m, _: _range(m, "information_captured", ".1%"),
    "  by baselines": lambda m, _: ", ".join(f"{n} {v:.1%}" for n, v in m["information_captured_by_baselines"].items()),
    "soft AUROC, its ceiling": lambda m, _: f"{m['soft_auroc']:.4f}, {m['soft_auroc_ceiling']:.4f}",
    "  gap": lambda m, _: f"{m['soft_auroc_gap']:.4f}",
    "AUROC": lambda m, _: _range(m, "auroc", ".3f"),
    "  within a person": lambda m, _: _range(m, "auroc_within_patient", ".3f"),
    "  in later weeks": lambda m, _: f"{m['later_weeks']['auroc']:.3f}",
    "  of baselines": lambda m, _: ", ".join(f"{name} {value:.3f}" for name, value in m["baselines"].items()),
    "verdict": lambda m, _: str(m["verdict"]),
    "calibration slope": lambda m, _: _range(m, "calibration_slope", ".2f"),
    "expected calibration error": lambda m, _: f"{m['ece']:.4f}",
    "split by rows minus by people": lambda m, _: f"{m['row_random_gap']['gap']:+.3f}",
    "torch, ONNX": lambda _, run: f"{run['torch_ms']:.3f}, {run['onnx_ms']:.3f} ms",
    "minutes, peak memory": lambda _, run: f"{run['minutes']:.1f}, {run['peak_memory_mib']:.0f} MiB",
}


def main() -> None:
    """Print a column for each number of people."""
    parser = argparse.ArgumentParser(description="Train on simulated worlds of several sizes.")
    parser.add_argument("--people", type=int, nargs="+", default=[600])
    parser.add_argument("--seed", type=int, required=True, help="one that nothing was tuned on")
    parsed = parser.parse_args()
    found = [measure(people, parsed.seed) for people in parsed.people]
    table = Table("", *(f"{people} people" for people in parsed.people), title=f"seed {parsed.seed}, {DAYS} days each")
    for name, line in LINES.items():
        table.add_row(name, *(line(metrics, run) for metrics, run in found))
    Console().print(table)


if __name__ == "__main__":
    main()
