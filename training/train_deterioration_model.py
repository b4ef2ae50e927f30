"""Train the deterioration model and put it into the model store.

    export DATABASE_URL=postgresql://user@host/name
    python -m training.train_deterioration_model
    python -m training.train_deterioration_model --seed 11 --epochs 30 --json
    python -m training.train_deterioration_model --from-csv readings.csv --outcomes-csv declines.csv     no database

Reads the last 90 days of patient_measurements and the declines in patient_outcomes, fits, calibrates, judges the model
on people it has not seen and against simple baselines, converts it to ONNX and saves everything with a model card.
Refuses when there is too little to learn from. A model from little data, or from labels that are only a rule, is saved
as `experimental`.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
from sqlalchemy import Engine

from database.engine import open_engine
from errors import SetupError
from registry import store
from registry.store import REPORT_FILE, Manifest, StoredModel
from training.convert_to_onnx import convert_pytorch_to_onnx
from training.deterioration import csv_source, evaluation_report, model_card
from training.deterioration.background import FILE as BACKGROUND_FILE
from training.deterioration.background import typical_weeks
from training.deterioration.baselines import PROBABILISTIC, Scorer, Scores, fit_baselines
from training.deterioration.bayes_filter import BayesFilter, compare, information_captured
from training.deterioration.checkpoint import save_checkpoint
from training.deterioration.datasets import (
    CLEAR_DAYS,
    Dataset,
    Row,
    Split,
    build,
    read_measurements,
    read_outcomes,
    read_outcomes_by,
    split_by_patient,
)
from training.deterioration.evaluation import (
    calibration,
    discrimination,
    named,
    operating_point,
    row_random_gap,
    subgroups,
)
from training.deterioration.fit import FitConfig, fit
from training.deterioration.manifest import NAME, facts, make_manifest, rounded, stage_of
from training.deterioration.refits import Predict, Refit, curve_point, in_later_weeks, learning_curve
from training.deterioration.simulator import simulate
from training.progress import Progress, progress_bar, silent
from training.provenance import cost_since
from training.unfinished import Unfinished, usual_folder


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """Everything that decides what model comes out of given data."""

    days: int = 90
    label_query: str | None = None  # a site's own SQL for declines: patient_id and date
    fit: FitConfig = field(default_factory=FitConfig)
    # bands: shares of calibration windows that fall below where each begins
    some_change_quantile: float = 0.80
    marked_change_quantile: float = 0.95
    # the fresh simulated world on which a model of simulated data is held against the exact posterior
    ceiling_patients: int = 60
    ceiling_days: int = 60
    search_trials: int = 0  # fits by which optuna looks for better settings; 0: none
    unfinished: Path | None = None  # a folder in which an interrupted run is kept


@dataclass(frozen=True, slots=True)
class Rows:
    """Training rows already in memory, as `datasets.build` takes them."""

    measurements: Sequence[Row]
    outcomes: Sequence[Row]

    @classmethod
    def from_csv(cls, measurements: Path, outcomes: Path | None, columns: Sequence[str]) -> Self:
        """From files of another shape; `columns` as csv_source.column_map takes them. Raises SetupError."""
        mapped = csv_source.column_map(columns)
        read = csv_source.read_measurements(measurements, mapped)
        declines = csv_source.read_outcomes(outcomes, mapped) if outcomes else []
        csv_source.refuse_strangers(read, declines)
        return cls(read, declines)


def train(data: Engine | Rows, config: TrainingConfig | None = None, progress: Progress = silent) -> StoredModel:
    """Train, judge, convert and save to the model store. Raises SetupError as `make_model` does."""
    with tempfile.TemporaryDirectory() as name:
        manifest = make_model(Path(name), data, config or TrainingConfig(), progress)
        progress("saving", 0, 1)
        return store.save(manifest, Path(name))


def make_model(folder: Path, data: Engine | Rows, config: TrainingConfig, progress: Progress = silent) -> Manifest:
    """Write a model's files into `folder` (weights, ONNX, card, metrics) and return its manifest.

    Raises SetupError when the data do not suffice or the conversion disagrees.
    """
    started = time.monotonic()
    rows = read_rows(data, config, progress)
    dataset = build(rows.measurements, rows.outcomes)
    split = split_by_patient(dataset.windows, seed=config.fit.seed)
    searched: dict[str, Any] = {}
    if config.search_trials:
        from training.deterioration.search import search  # optuna takes a second to load

        found, searched["search"] = search(split, config.fit, config.search_trials, progress)
        config = replace(config, fit=found)
    unfinished = Unfinished.of(config.unfinished, data=dataset.sha256, fit=asdict(config.fit))
    fitted = fit(split, config.fit, progress, unfinished)
    predict = fitted.network.predict
    bands = bands_of(predict, split, config)
    metrics, scores = judge(
        dataset,
        split,
        predict,
        threshold=bands["marked_change_from"],
        config=config,
        progress=progress,
        refit=lambda part: fit(part, config.fit, silent).network.predict,
    )
    progress("converting to ONNX", 0, 1)
    checkpoint = folder / f"{NAME}.safetensors"
    save_checkpoint(fitted.network, checkpoint)
    conversion = convert_pytorch_to_onnx(checkpoint, checkpoint.with_suffix(".onnx"), thresholds=tuple(bands.values()))
    metrics |= {
        "parity_error": conversion.parity_error,
        "decisions_changed": conversion.decisions_changed,
        "validation_log_loss": fitted.validation_log_loss,
    }
    origin = facts(dataset, split, metrics, seed=config.fit.seed, config=asdict(config.fit)) | rounded(searched)
    manifest = make_manifest(NAME, stage_of(dataset), bands, rounded(metrics), origin)
    progress("drawing the report", 0, 1)
    write_beside(folder, manifest, split, predict, scores)
    timing = {"torch_ms": conversion.torch_ms, "onnx_ms": conversion.onnx_ms, "onnx_speedup": conversion.speedup}
    return replace(manifest, run=cost_since(started) | rounded(timing))


def read_rows(data: Engine | Rows, config: TrainingConfig, progress: Progress) -> Rows:
    """The rows themselves, asked from the database where they are not there yet."""
    if isinstance(data, Rows):
        return data
    progress("reading measurements", 0, 1)
    query = config.label_query
    outcomes = read_outcomes(data, config.days) if query is None else read_outcomes_by(data, query)
    return Rows(read_measurements(data, config.days), outcomes)


def write_beside(
    folder: Path, manifest: Manifest, split: Split, predict: Predict, scores: Mapping[str, Scores]
) -> None:
    """What a deterioration model has beside its ONNX file: background, card, metrics and report."""
    background = typical_weeks(split.train.values, predict(split.train.values))
    np.save(folder / BACKGROUND_FILE, background, allow_pickle=False)
    (folder / "model_card.md").write_text(model_card.write(manifest), encoding="utf-8")
    (folder / REPORT_FILE).write_text(evaluation_report.page(manifest, split.test, scores), encoding="utf-8")
    text = json.dumps(manifest.metrics, indent=2, sort_keys=True, allow_nan=False)
    (folder / "metrics.json").write_text(f"{text}\n", encoding="utf-8")


def bands_of(predict: Predict, split: Split, config: TrainingConfig) -> dict[str, float]:
    """Where the upper two bands begin, in hundredths (scores are shown so), from the calibration patients."""
    scores = predict(split.calibration.values)
    quantiles = np.quantile(scores, [config.some_change_quantile, config.marked_change_quantile])
    some = min(max(round(float(quantiles[0]), 2), 0.01), 0.98)
    marked = min(max(round(float(quantiles[1]), 2), some + 0.01), 0.99)
    return {"some_change_from": round(some, 2), "marked_change_from": round(marked, 2)}


def judge(
    dataset: Dataset,
    split: Split,
    predict: Predict,
    *,
    threshold: float,
    config: TrainingConfig,
    progress: Progress,
    refit: Refit,
    itself: str = "",
) -> tuple[dict[str, Any], dict[str, Scores]]:
    """All figures on the test patients, and on a fresh simulated world where the data are simulated.

    Also gives the test windows' scores float64[n] by name, the model's own first. `refit` fits the same kind of model
    on other parts; `itself` is left out of the baselines.
    """
    seed = config.fit.seed
    progress("fitting baselines", 0, 1)
    baselines = {name: fitted for name, fitted in fit_baselines(split.train, seed=seed).items() if name != itself}
    progress("judging on unseen patients", 0, 1)
    probability = predict(split.test.values).astype(np.float64)
    metrics = discrimination(split.test, probability, baselines, seed=seed)
    metrics |= calibration(split.test, probability, seed=seed)
    boosting = metrics["baselines"]["hist_gradient_boosting"]
    metrics |= {
        "verdict": model_card.verdict(metrics),
        "operating_point": operating_point(split.test, probability.round(2), threshold),
        "row_random_gap": row_random_gap(split, boosting, seed=seed),
        "subgroups": subgroups(split.test, probability, seed=seed),
        "test_patients": len(np.unique(split.test.patients)),
        "test_onset_patients": len(np.unique(split.test.patients[split.test.labels == 1])),
        "test_windows": len(split.test),
    }
    progress("judging in later weeks", 0, 1)
    later = in_later_weeks(dataset.windows, refit, seed=seed)
    if later is not None:
        metrics["later_weeks"] = later
    everybody = len(np.unique(split.train.patients))
    metrics["learning_curve"] = [
        *learning_curve(split, refit, progress, seed=seed),
        curve_point(everybody, split.test, probability, seed=seed),
    ]
    if dataset.simulated and dataset.label_source == "outcomes":
        progress("comparing with the exact posterior", 0, 1)
        metrics |= _against_ceiling(predict, baselines, config)
    return metrics, {"model": probability, **{name: scorer(split.test.values) for name, scorer in baselines.items()}}


def _against_ceiling(predict: Predict, baselines: Mapping[str, Scorer], config: TrainingConfig) -> dict[str, Any]:
    """How much of what seven simulated days can tell was learnt, in a cohort drawn for this alone."""
    last_day = datetime.now(UTC).date()
    seed = 2**31 + config.fit.seed
    cohort = simulate(config.ceiling_patients, config.ceiling_days, seed=seed, last_day=last_day)
    drawn = build(list(cohort.measurement_rows()), list(cohort.outcome_rows())).windows
    windows = drawn.values
    exact = BayesFilter(clear_days_before=CLEAR_DAYS).posterior(windows)
    predicted = predict(windows).astype(np.float64)
    found = compare(exact, predicted)
    return {
        **named("information_captured", information_captured(exact, predicted, drawn.patients, seed=seed)),
        "soft_auroc": found.soft_auroc_model,
        "soft_auroc_ceiling": found.soft_auroc_ceiling,
        "soft_auroc_gap": found.soft_auroc_ceiling - found.soft_auroc_model,
        "information_captured_by_baselines": {
            name: compare(exact, baselines[name](windows)).information_captured
            for name in PROBABILISTIC
            if name in baselines
        },
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Train on the database that DATABASE_URL names, or on CSV files, and print what was saved."""
    parser = argparse.ArgumentParser(description="Train the deterioration model and put it into the model store.")
    parser.add_argument("--days", type=int, default=90, help="how many of the last days to learn from")
    parser.add_argument("--seed", type=int, default=FitConfig().seed)
    parser.add_argument("--epochs", type=int, default=FitConfig().epochs)
    parser.add_argument("--from-csv", type=Path, help="readings from a CSV file instead of the database")
    parser.add_argument("--outcomes-csv", type=Path, help="with it: a line for each decline")
    parser.add_argument("--column", action="append", default=[], help="OURS=THEIRS, OURS=THEIRS*N or OURS=THEIRS/N")
    parser.add_argument("--json", action="store_true", help="print tag, digest and metrics as JSON")
    parsed = parser.parse_args(arguments)
    try:
        settings = FitConfig(seed=parsed.seed, epochs=parsed.epochs)
        config = TrainingConfig(days=parsed.days, fit=settings, unfinished=usual_folder())
        with _data(parsed) as data, progress_bar() as progress:
            stored = train(data, config, progress)
    except SetupError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    found = {"tag": stored.tag, "digest": stored.digest, "metrics": stored.manifest.metrics}
    sys.stdout.write(json.dumps(found) if parsed.json else f"{stored.tag}\n{stored.manifest.metrics['verdict']}")
    sys.stdout.write("\n")
    return 0


@contextmanager
def _data(parsed: argparse.Namespace) -> Iterator[Engine | Rows]:
    if parsed.from_csv:
        yield Rows.from_csv(parsed.from_csv, parsed.outcomes_csv, parsed.column)
        return
    url = os.environ.get("DATABASE_URL")
    if not url:
        raise SetupError(
            "DATABASE_URL is not set; it names the database with patient_measurements. Or: --from-csv FILE"
        )
    engine = open_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


if __name__ == "__main__":
    sys.exit(main())
