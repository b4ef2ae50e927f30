"""What is written down about a deterioration model: its contract with callers, and where it came from."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

from clinical.vitals import DAY_SCHEMA, FEATURE_NAMES, HORIZON_DAYS, PREPROCESSING_VERSION, WINDOW_DAYS
from clinical.wellness import BANDS
from registry import store
from registry.store import Manifest, Stage
from training import provenance
from training.deterioration import source_attributes
from training.deterioration.datasets import LABEL_RULES, Dataset, Split

NAME: Final = "deterioration_lstm"
KIND: Final = "deterioration"
ENOUGH_PATIENTS: Final = 200
ENOUGH_ONSETS: Final = 50
PACKAGES: Final = ("torch", "onnx", "onnxruntime", "scikit-learn", "numpy", "safetensors")


def stage_of(dataset: Dataset) -> Stage:
    enough = dataset.patients >= ENOUGH_PATIENTS and dataset.onsets >= ENOUGH_ONSETS
    return "candidate" if enough and dataset.label_source != "future-measurements" else "experimental"


def facts(
    dataset: Dataset, split: Split, metrics: Mapping[str, Any], *, seed: int, config: dict[str, Any]
) -> dict[str, Any]:
    """Where a model came from: data, settings, code and packages, and its source attributes (HTI-1)."""
    parts = {"train": split.train, "validation": split.validation, "calibration": split.calibration, "test": split.test}
    found: dict[str, Any] = {
        "data_sha256": dataset.sha256,
        "simulated": dataset.simulated,
        "label_source": dataset.label_source,
        "label_rule": LABEL_RULES[dataset.label_source],
        "rows": dataset.rows,
        "patients": dataset.patients,
        "onsets": dataset.onsets,
        "windows": {name: len(part) for name, part in parts.items()},
        "dropped_values": dict(dataset.dropped_values),
        "left_out": dict(dataset.left_out),
        "seed": seed,
        "config": config,
        "packages": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "revision": provenance.revision(),
        "code_sha256": provenance.code_sha256(),
    }
    return found | {"source_attributes": source_attributes.of_deterioration(metrics, found)}


def rounded(value: Any) -> Any:
    """Figures with six significant digits; everything else as it is."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def make_manifest(
    name: str, stage: Stage, bands: dict[str, float], metrics: dict[str, Any], training: dict[str, Any]
) -> Manifest:
    """The manifest of a model whose file is `name`.onnx; `run` is filled in when it is done."""
    return Manifest(
        name=name,
        version=store.new_version(),
        kind=KIND,
        task="binary-classification",
        framework="onnxruntime",
        stage=stage,
        preprocessing_version=PREPROCESSING_VERSION,
        input_schema=input_schema(),
        output_schema=output_schema(),
        cacheable=False,  # weeks hardly repeat, and a look-up that misses costs half of computing
        metrics=metrics,
        parameters={
            **bands,
            "model_file": f"{name}.onnx",
            "window_days": WINDOW_DAYS,
            "horizon_days": HORIZON_DAYS,
            "features": list(FEATURE_NAMES),
        },
        training=training,
    )


def input_schema() -> dict[str, Any]:
    """JSON Schema of `input_data`: seven days, oldest first; a day or a value may be null."""
    days = {"type": "array", "minItems": WINDOW_DAYS, "maxItems": WINDOW_DAYS, "items": DAY_SCHEMA}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"measurements": days},
        "required": ["measurements"],
        "additionalProperties": False,
    }


def output_schema() -> dict[str, Any]:
    """JSON Schema of `result`."""
    fields = {
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "band": {"enum": list(BANDS)},
        "change_from_baseline": {"type": ["number", "null"], "minimum": -1, "maximum": 1},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }
