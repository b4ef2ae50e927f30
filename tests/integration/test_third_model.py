"""A scikit-learn model beside the network: converted behind gates, signed for, and served by the generic route."""

import uuid
from datetime import date
from pathlib import Path

import httpx
import numpy as np
import pytest

from access.dev_issuer import DevIssuer
from embedded.postgres import EmbeddedPostgres
from errors import SetupError
from registry.store import digest_of
from runners.deterioration import DeteriorationRunner
from tests.conftest import bearer
from tests.server import BASE, Server
from training.convert_sklearn import convert_sklearn_to_onnx
from training.convert_to_onnx import parity_windows
from training.deterioration.baselines import fit_logistic
from training.deterioration.datasets import build, split_by_patient
from training.deterioration.fit import FitConfig
from training.deterioration.simulator import simulate
from training.train_deterioration_model import Rows, TrainingConfig
from training.train_logistic_model import NAME, make_model, train

CONFIG = TrainingConfig(fit=FitConfig(seed=5), ceiling_patients=60, ceiling_days=30)


@pytest.fixture(scope="module")
def rows() -> Rows:
    cohort = simulate(210, 60, seed=11, last_day=date(2026, 1, 31))
    return Rows(list(cohort.measurement_rows()), list(cohort.outcome_rows()))


def test_it_answers_as_it_was_trained(rows: Rows, tmp_path: Path) -> None:
    manifest = make_model(tmp_path, rows, CONFIG)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{NAME}.onnx",
        "background.npy",
        "evaluation.html",
        "metrics.json",
        "model_card.md",
    }
    assert "logistic_regression" not in manifest.metrics["baselines"]
    assert manifest.metrics["parity_error"] <= 1e-6
    assert manifest.metrics["decisions_changed"] == 0
    assert 0.7 < manifest.metrics["auroc"] < 1
    windows = parity_windows(200, days=7, seed=8)
    expected = fit_logistic(split_by_patient(build(rows.measurements, rows.outcomes).windows, seed=5).train)(windows)
    runner = DeteriorationRunner(tmp_path, manifest.parameters)
    assert np.abs(runner.probabilities(windows) - expected).max() <= 1e-6
    assert runner.explain(windows[0])["additivity_error"] <= 1e-6


def test_a_conversion_that_differs_leaves_nothing(rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fit_logistic(split_by_patient(build(rows.measurements, rows.outcomes).windows, seed=5).train)
    monkeypatch.setattr(type(model), "__call__", lambda self, values: np.full(len(values), 0.5))
    with pytest.raises(SetupError, match="nothing was kept"):
        convert_sklearn_to_onnx(model, tmp_path / "x.onnx", threshold=0.3)
    assert list(tmp_path.iterdir()) == []


def test_the_generic_route_serves_it(rows: Rows, postgres: EmbeddedPostgres, issuer: DevIssuer, tmp_path: Path) -> None:
    stored = train(rows, CONFIG)
    assert stored.digest == digest_of(stored.path)
    url = postgres.create_database(f"third_{uuid.uuid4().hex}")
    server = Server(url, postgres.url_as("followup_app", url), issuer, tmp_path / "server.log")
    server.register([stored])
    server.start()
    try:
        day = {
            "pain_score_facial": 3,
            "pain_score_self_reported": 4,
            "respiratory_rate": 17,
            "symptom_severity_score": 4,
        }
        body = {"model_name": NAME, "input_data": {"measurements": [day] * 6 + [None]}, "explain": True}
        headers = bearer(issuer, "clinician")
        answer = httpx.post(f"{server.url}{BASE}/predict", headers=headers, json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == {"name": NAME, "version": stored.manifest.version}
        assert 0 <= answer.json()["result"]["score"] <= 1
        assert answer.json()["explanation"]["additivity_error"] <= 1e-6
        shown = httpx.get(f"{server.url}{BASE}/models/{NAME}", headers=headers, timeout=30).json()
        assert shown["versions"][0]["loaded"] is True
        with httpx.Client(base_url=f"{server.url}{BASE}", headers=headers, timeout=30) as client:
            report = client.get(f"/models/{NAME}/report")
            assert (report.status_code, report.headers["content-type"]) == (200, "text/html; charset=utf-8")
            assert report.headers["content-security-policy"].startswith("default-src 'none'")
            assert report.content == (stored.path / "evaluation.html").read_bytes()
            version = {"version": stored.manifest.version}
            assert client.get(f"/models/{NAME}/report", params=version).content == report.content
            for path, query in ((f"/models/{NAME}/report", {"version": "../x"}), ("/models/nothing/report", {})):
                assert client.get(path, params=query).status_code == 404
            (stored.path / "evaluation.html").write_text("forged")
            assert client.get(f"/models/{NAME}/report").status_code == 404
            patient = bearer(issuer, "patient")
            assert client.get(f"/models/{NAME}/report", headers=patient).status_code == 403
    finally:
        server.stop()
