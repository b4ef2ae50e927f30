"""Train the simplest model worth serving: logistic regression on the week's readings, and put it into the model store.

    followup train logistic

The same data, patients, gates and card as the deterioration network, which it is a baseline of. It is served under a
name of its own by the generic /predict: {"model_name": "deterioration_logistic", "input_data": {"measurements": […]}}.
"""

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from registry import store
from registry.store import Manifest, StoredModel
from training.convert_sklearn import convert_sklearn_to_onnx
from training.deterioration.baselines import fit_logistic
from training.deterioration.datasets import build, split_by_patient
from training.deterioration.manifest import facts, make_manifest, rounded, stage_of
from training.progress import Progress, silent
from training.provenance import cost_since
from training.train_deterioration_model import Rows, TrainingConfig, bands_of, judge, read_rows, write_beside

NAME: Final = "deterioration_logistic"
_ITSELF: Final = "logistic_regression"  # its name among the baselines


def train(data: Engine | Rows, config: TrainingConfig | None = None, progress: Progress = silent) -> StoredModel:
    """Train, judge, convert and save to the model store.

    Raises SetupError when the data do not suffice or the conversion disagrees.
    """
    with tempfile.TemporaryDirectory() as name:
        manifest = make_model(Path(name), data, config or TrainingConfig(), progress)
        return store.save(manifest, Path(name))


def make_model(folder: Path, data: Engine | Rows, config: TrainingConfig, progress: Progress = silent) -> Manifest:
    """Write a model's files into `folder` and return its manifest. Raises SetupError as `train` does."""
    started = time.monotonic()
    rows = read_rows(data, config, progress)
    dataset = build(rows.measurements, rows.outcomes)
    split = split_by_patient(dataset.windows, seed=config.fit.seed)
    model = fit_logistic(split.train)
    bands = bands_of(model, split, config)
    threshold = bands["marked_change_from"]
    metrics, scores = judge(
        dataset,
        split,
        model,
        threshold=threshold,
        config=config,
        progress=progress,
        refit=lambda part: fit_logistic(part.train),
        itself=_ITSELF,
    )
    progress("converting to ONNX", 0, 1)
    metrics |= convert_sklearn_to_onnx(model, folder / f"{NAME}.onnx", threshold=threshold)
    origin = facts(dataset, split, metrics, seed=config.fit.seed, config={"C": 0.1})
    manifest = make_manifest(NAME, stage_of(dataset), bands, rounded(metrics), origin)
    write_beside(folder, manifest, split, model, scores)
    return replace(manifest, run=cost_since(started))
