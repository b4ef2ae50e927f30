"""Training end to end on a handful of lines, and the figures that judge a model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from clinical.entities import LABELS, ScoredSpan
from errors import SetupError
from registry.store import ALLOWED_SUFFIXES, StoredModel, digest_of
from runners.ner import NerRunner
from training.ner import encoder
from training.ner.corpus import MarkedLine, Mention
from training.ner.evaluation import expected_calibration_error, fit_calibration, relaxed_hits, score, strict_hits
from training.ner.fit import FitConfig
from training.train_ner_model import NerConfig, make_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[StoredModel, list[str]]:
    """A model of twenty lines and one epoch: it knows little, but everything about it is in its place.

    It stays out of the store, where other tests look for the real one.
    """
    folder = tmp_path_factory.mktemp("tiny")
    said: list[str] = []
    config = NerConfig(fit=FitConfig(epochs=1, threads=1), lines_at_most=20)
    manifest = make_model(folder, config, lambda what, done, total: said.append(what))
    return StoredModel(manifest, folder, digest_of(folder)), said


def test_a_model_is_made_with_all_its_files(tiny: tuple[StoredModel, list[str]]) -> None:
    stored, said = tiny
    names = {path.name for path in stored.path.iterdir()}
    assert {
        "codes.json",
        "evaluation.html",
        "metrics.json",
        "model.onnx",
        "model_card.md",
        "tokenizer.json",
    } == names
    assert {path.suffix for path in stored.path.iterdir()} <= ALLOWED_SUFFIXES
    assert {"reading the corpus", "fine-tuning", "exporting", "judging on held-out lines"} <= set(said)


def test_the_manifest_tells_where_the_model_came_from(tiny: tuple[StoredModel, list[str]]) -> None:
    manifest = tiny[0].manifest
    assert (manifest.name, manifest.kind, manifest.task) == ("clinical_ner", "clinical-ner", "token-classification")
    assert manifest.cacheable
    assert manifest.parameters["labels"] == list(LABELS)
    assert manifest.training["lines"] == {"training": 20, "calibration": 20, "heldout": 20}
    assert len(manifest.training["corpus_sha256"]) == 64
    assert manifest.training["encoder"]["sha256"] == encoder.WEIGHTS_SHA256
    assert manifest.metrics["served"] in {"fp32", "int8"}
    assert manifest.metrics["int8"]["megabytes"] < manifest.metrics["fp32"]["megabytes"] / 3
    assert json.loads((tiny[0].path / "metrics.json").read_text())["f1_strict"] == manifest.metrics["f1_strict"]


def test_the_stored_model_is_served_within_its_schemas(tiny: tuple[StoredModel, list[str]]) -> None:
    stored = tiny[0]
    runner = NerRunner(stored.path, stored.manifest.parameters)
    body = {"text": "Patient has fever and cough"}
    Draft202012Validator.check_schema(stored.manifest.input_schema)
    Draft202012Validator(stored.manifest.input_schema).validate(body)
    (prediction,) = runner.run([runner.parse(body)])
    Draft202012Validator(stored.manifest.output_schema).validate(prediction.result)


def test_int8_that_loses_too_much_is_not_served(tiny: tuple[StoredModel, list[str]]) -> None:
    from training.train_ner_model import _Candidate, _choose

    good, bad = ({"f1_strict": value} for value in (0.80, 0.785))
    fp32, int8 = (_Candidate(Path(), None, 0.9, {}, facts, {}, [], None) for facts in (good, bad))  # type: ignore[arg-type]
    assert _choose(fp32, int8, may_lose=0.01) is fp32
    assert _choose(fp32, int8, may_lose=0.02) is int8


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "other_encoder"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the package must not be imported')")
    (package / "model" / encoder.WEIGHTS).write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(encoder, "PACKAGE", "other_encoder")
    with pytest.raises(SetupError, match="not the one"):
        encoder.find()
    monkeypatch.setattr(encoder, "PACKAGE", "no_such_encoder")
    with pytest.raises(SetupError, match="pip install"):
        encoder.find()


LINE = MarkedLine("severe back pain", (Mention("SEVERITY", 0, 6), Mention("SYMPTOM", 7, 16)), "", "", 1)


def spans(*found: tuple[str, int, int]) -> list[ScoredSpan]:
    return [ScoredSpan(kind, start, end, 0.9) for kind, start, end in found]


def test_strict_wants_the_same_place_and_relaxed_a_shared_letter() -> None:
    found = spans(("SEVERITY", 0, 6), ("SYMPTOM", 12, 16), ("SYMPTOM", 7, 11))
    assert strict_hits(LINE.mentions, found) == [True, False, False]
    assert relaxed_hits(LINE.mentions, found) == [True, True, False]


def test_f1_has_an_interval_around_it() -> None:
    other = replace(LINE, text="mild headaches !", mentions=(Mention("SYMPTOM", 5, 14),))
    found = [spans(("SEVERITY", 0, 6), ("SYMPTOM", 7, 16)), spans(("CONDITION", 5, 14))]
    result = score([LINE, other] * 10, found * 10)
    assert result.f1 == pytest.approx(2 / 3, abs=1e-3)
    assert result.f1_low < result.f1 < result.f1_high
    assert score([LINE], [found[0]], kind="SYMPTOM").f1 == 1.0


def test_calibration_brings_overconfident_scores_down() -> None:
    draw = np.random.default_rng(3)
    raw = draw.uniform(0.9, 0.999, 4000).astype(np.float32)
    right = draw.random(4000) < 0.6
    calibrated = fit_calibration(raw, right)(raw)
    assert expected_calibration_error(raw, right) > 0.3
    assert expected_calibration_error(calibrated, right) < 0.05


def test_scores_that_are_nearly_all_certain_calibrate_to_how_often_they_are_right() -> None:
    raw = np.array([1 - 1e-7] * 400 + [0.9] * 3 + [0.3] * 3, dtype=np.float32)
    right = (np.arange(len(raw)) % 40 == 0) & (raw > 0.95)
    calibration = fit_calibration(raw, right)
    assert calibration(raw)[0] == pytest.approx(right[:400].mean(), abs=0.02)
    assert abs(calibration.bias) < 100


def test_too_few_mentions_calibrate_nothing() -> None:
    calibration = fit_calibration(np.array([0.9, 0.8], dtype=np.float32), np.array([True, False]))
    assert (calibration.temperature, calibration.bias) == (1.0, 0.0)
