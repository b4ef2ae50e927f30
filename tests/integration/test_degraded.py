"""A bad version beside a good one: the good one answers, the bad one does not, and whoever looks is told."""

import shutil
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import bentoml
import httpx
import pytest
from sqlalchemy import text

from access.dev_issuer import DevIssuer
from database.engine import open_engine
from registry import store
from registry.store import StoredModel
from tests.conftest import bearer
from tests.server import BASE, Server

DAY = {"pain_score_facial": 3, "pain_score_self_reported": 3, "respiratory_rate": 15, "symptom_severity_score": 3}
INPUT = {"measurements": [DAY] * 7}


@pytest.fixture
def of_its_own(
    database_url: str, app_url: str, issuer: DevIssuer, tmp_path: Path, deterioration_model: StoredModel
) -> Iterator[Server]:
    """A server that is not started yet, with one model."""
    server = Server(database_url, app_url, issuer, tmp_path / "server.log", {"MODEL_REFRESH_S": "0.2"})
    server.register([deterioration_model])
    yield server
    server.stop()


@pytest.fixture
def bad(of_its_own: Server, deterioration_model: StoredModel, tmp_path: Path) -> Iterator[StoredModel]:
    """The same model under another name, registered and promoted too."""
    folder = tmp_path / "files"
    shutil.copytree(deterioration_model.path, folder)
    for own in ("model.yaml", store.MANIFEST):
        (folder / own).unlink(missing_ok=True)
    name = f"bad_{uuid.uuid4().hex[:8]}"
    stored = store.save(replace(deterioration_model.manifest, name=name, version="v1"), folder)
    of_its_own.register([stored])
    yield stored
    for model in bentoml.models.list(name):
        bentoml.models.delete(model.tag)


def client(server: Server, issuer: DevIssuer) -> httpx.Client:
    return httpx.Client(base_url=server.url + BASE, headers=bearer(issuer, "clinician", "admin"), timeout=30)


def assert_the_good_one_answers_alone(server: Server, issuer: DevIssuer, bad_name: str, *, told: str) -> None:
    with client(server, issuer) as api:
        assert api.post("/predict", json={"model_name": "deterioration_lstm", "input_data": INPUT}).status_code == 200
        refused = api.post("/predict", json={"model_name": bad_name, "input_data": INPUT})
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:followup:problem:model-not-loaded")
        assert int(refused.headers["Retry-After"]) >= 1
        ready = httpx.get(f"{server.url}/readyz")
        assert (ready.status_code, ready.text) == (200, "degraded")
        assert httpx.head(f"{server.url}/readyz").status_code == 200
        shown = {each["name"]: each["versions"][0] for each in api.get("/models").json()["models"]}
        assert (shown[bad_name]["loaded"], shown[bad_name]["not_loaded_because"]) == (False, told)
        good = shown["deterioration_lstm"]
        assert (good["loaded"], good["not_loaded_because"]) == (True, None)
        stats = api.get("/stats").json()
        assert (stats["readiness"], stats["active_models"], stats["models_not_loaded"]) == ("degraded", 1, 1)
        assert "followup_models_not_loaded 1.0" in api.get(f"{server.url}/metrics").text
    said = server.log.read_text()
    assert f"{bad_name}:v1 is not loaded" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("file", ["model.onnx", "manifest.json", "model.yaml"])
def test_a_tampered_file_takes_its_own_version_and_no_other(
    of_its_own: Server, bad: StoredModel, issuer: DevIssuer, file: str
) -> None:
    target = next(bad.path.glob("*.onnx")) if file == "model.onnx" else bad.path / file
    kept = target.read_bytes()
    target.write_bytes(b"\xff{" if file == "model.yaml" else kept[:-1] + bytes([kept[-1] ^ 1]))
    of_its_own.start()
    told = "Its files are missing, or not those that were registered."
    assert_the_good_one_answers_alone(of_its_own, issuer, bad.manifest.name, told=told)
    with client(of_its_own, issuer) as api:
        assert api.get(f"/models/{bad.manifest.name}/report").status_code == 404
    target.write_bytes(kept)
    of_its_own.wait_until_ready()
    with client(of_its_own, issuer) as api:
        for _ in range(100):
            answer = api.post("/predict", json={"model_name": bad.manifest.name, "input_data": INPUT})
            if answer.status_code == 200:
                break
        assert answer.status_code == 200
        assert api.get("/stats").json()["models_not_loaded"] == 0


def test_files_that_were_signed_for_and_are_no_model_take_no_other_with_them(
    of_its_own: Server, deterioration_model: StoredModel, issuer: DevIssuer, tmp_path: Path
) -> None:
    (tmp_path / "files").mkdir()
    for file in deterioration_model.path.glob("*.onnx"):
        (tmp_path / "files" / file.name).write_bytes(b"\x08\x01" * 500)
    name = f"bad_{uuid.uuid4().hex[:8]}"
    of_its_own.register(
        [store.save(replace(deterioration_model.manifest, name=name, version="v1"), tmp_path / "files")]
    )
    try:
        of_its_own.start()
        assert_the_good_one_answers_alone(of_its_own, issuer, name, told="It does not run.")
    finally:
        bentoml.models.delete(f"{name}:v1")


def test_a_version_of_an_unknown_kind_that_was_written_into_the_database_takes_no_other_with_it(
    of_its_own: Server, issuer: DevIssuer
) -> None:
    engine = open_engine(of_its_own.database_url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO ml_models (name, version, kind, task, framework, digest, stage, alias, input_schema,"
                " output_schema, metrics, training, model_card, created_by) SELECT 'stranger', 'v1', 'odd', task,"
                " framework, digest, stage, alias, input_schema, output_schema, metrics, training, '', 'sql'"
                " FROM ml_models WHERE name = 'deterioration_lstm'"
            )
        )
    engine.dispose()
    of_its_own.start()
    assert_the_good_one_answers_alone(
        of_its_own, issuer, "stranger", told="The signed acts on it do not let it answer."
    )


def test_a_server_without_a_model_is_up_and_not_ready_until_one_is_promoted(
    database_url: str, app_url: str, issuer: DevIssuer, tmp_path: Path, deterioration_model: StoredModel
) -> None:
    server = Server(database_url, app_url, issuer, tmp_path / "server.log", {"MODEL_REFRESH_S": "0.2"})
    server.register([])
    server.start(until="/livez")
    try:
        assert "no model is loaded" in server.log.read_text()
        assert httpx.get(f"{server.url}/livez").status_code == 200
        ready = httpx.get(f"{server.url}/readyz")
        assert (ready.status_code, ready.headers["content-type"]) == (503, "application/problem+json")
        with client(server, issuer) as api:
            body = {"model_name": "deterioration_lstm", "input_data": INPUT}
            assert api.post("/predict", json=body).status_code == 404
            assert api.get("/stats").json()["readiness"] == "unavailable"
            server.register([deterioration_model])
            server.wait_until_ready()
            assert api.post("/predict", json=body).status_code == 200
    finally:
        server.stop()
