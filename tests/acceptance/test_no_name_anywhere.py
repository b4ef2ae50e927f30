"""Planted names, numbers and notes are sought wherever something is kept or said: none may be found (S4)."""

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from access.dev_issuer import DevIssuer
from embedded.postgres import EmbeddedPostgres
from embedded.valkey import EmbeddedValkey
from registry.store import StoredModel
from tests.conftest import bearer
from tests.server import BASE, Server

NAMES = ("Xenophilia Quatermain", "Balthasar Wrzesniewski", "Øyvind Çelebi-Ñuñez")
NUMBERS = ("914-55-7301", "917-66-2048", "MRN-88013377")
CANARIES = (*NAMES, *NUMBERS, "quatermainite", "wrzesniewskium")
DAY = {"pain_score_facial": 3, "pain_score_self_reported": 3, "respiratory_rate": 15, "symptom_severity_score": 3}
PATIENT = "0f0e9a52-aaaa-4bbb-8ccc-0123456789ab"


@pytest.fixture
def places(
    tmp_path: Path, issuer: DevIssuer, ner_model: StoredModel, deterioration_model: StoredModel
) -> Iterator[tuple[Server, EmbeddedPostgres, EmbeddedValkey]]:
    postgres, valkey = EmbeddedPostgres(tmp_path), EmbeddedValkey(tmp_path)
    owner = postgres.start()
    app = postgres.url_as("followup_app", owner)
    environment = {"REDIS_SOCKET": valkey.start(), "LOG_LEVEL": "DEBUG"}
    server = Server(owner, app, issuer, tmp_path / "server.log", environment)
    server.register([ner_model, deterioration_model])
    server.start()
    yield server, postgres, valkey
    server.stop()
    valkey.stop()
    postgres.stop()


def say_everything(server: Server, issuer: DevIssuer) -> list[str]:
    """Send the canaries in every way there is. Returns what came back where nothing of it should."""
    clinician, patient = bearer(issuer, "clinician"), bearer(issuer, "patient", subject=PATIENT)
    refused: list[str] = []
    with httpx.Client(base_url=server.url + BASE, headers=clinician, timeout=30) as client:
        for name, number in zip(NAMES, NUMBERS, strict=True):
            note = f"{name}, SSN {number}, has severe headache from quatermainite and took wrzesniewskium 5 mg."
            key = {"Idempotency-Key": str(uuid.uuid4())}
            for _ in range(2):  # the second comes from the cache, the third and fourth are given again
                assert client.post("/predict/symptom-analysis", json={"text": note}).status_code == 200
                assert client.post("/predict/symptom-analysis", json={"text": note}, headers=key).status_code == 200
            items = [{"id": name, "input_data": {"text": note}}, {"id": number, "input_data": {"note": note}}]
            batch = client.post("/predict/batch", json={"model_name": "clinical_ner", "items": items})
            refused.append(str(batch.json()["items"][1]["problem"]))
            own = client.post(
                "/predict", headers=patient, json={"model_name": "clinical_ner", "input_data": {"text": note}}
            )
            assert own.status_code == 200
            assert client.get(f"/predictions/{own.json()['prediction_id']}", headers=patient).status_code == 200
            assert name in client.get("/predictions/history", headers=patient).text
            broken: list[tuple[str, str, dict[str, Any]]] = [
                ("POST", "/predict/symptom-analysis", {"json": {"text": "x", name: number}}),
                ("POST", "/predict/symptom-analysis", {"json": {"text": 5, "patient_id": name}}),
                ("POST", "/predict/symptom-analysis", {"content": note.encode()}),
                ("POST", "/predict", {"json": {"model_name": name, "input_data": {}}}),
                (
                    "POST",
                    "/predict",
                    {"json": {"model_name": "clinical_ner", "input_data": {"text": "x", name: number}}},
                ),
                ("POST", "/predict/deterioration", {"json": {"measurements": [{**DAY, name: number}] * 7}}),
                ("POST", "/predict/deterioration", {"json": {"measurements": [{**DAY, "respiratory_rate": note}] * 7}}),
                ("GET", f"/predictions/{number}", {}),
                ("GET", f"/models/{number}", {}),
                ("GET", "/predictions/history", {"params": {"patient_id": note}}),
                ("GET", "/predictions/history", {"params": {name: number}}),
                ("GET", f"/{number}", {}),
                ("GET", "/stats", {"headers": {"Authorization": f"Bearer {number}.{number}"}}),
                ("POST", "/predict/symptom-analysis", {"json": {"text": "x"}, "headers": {"Idempotency-Key": number}}),
            ]
            for method, path, options in broken:
                answer = client.request(method, path, **options)
                assert answer.status_code in {400, 401, 403, 404, 415, 422}, (path, answer.status_code)
                refused.append(answer.text + str(answer.headers))
        refused.append(httpx.get(f"{server.url}/metrics", headers=bearer(issuer, "admin")).text)
        refused.append(client.get("/stats").text)
        refused.append(client.get("/predictions/history", headers=bearer(issuer, "auditor")).text)
    return refused


def exports(server: Server, issuer: DevIssuer, folder: Path) -> None:
    """Leave in a folder all that an auditor may take away."""
    told = {"FOLLOWUP_TOKEN": issuer.token(["auditor"], "auditor")}
    commands = {
        "export.ndjson": ("audit", "export", folder / "export.ndjson"),
        "export.fhir.ndjson": ("audit", "export", "--fhir", folder / "export.fhir.ndjson"),
        "research.ndjson": ("audit", "research-export", folder / "research.ndjson"),
        "disclosures.json": ("audit", "disclosures", PATIENT, "--json"),
    }
    for name, command in commands.items():
        done = server.followup(*command, **told)
        assert done.returncode == 0, done.stderr
        (folder / f"{name}.said").write_text(done.stdout + done.stderr)
    for kind in ("sealed", "fhir"):
        options = {"headers": bearer(issuer, "auditor"), "params": {"format": kind}}
        given = httpx.get(f"{server.url}{BASE}/audit/export", timeout=30, **options)
        assert given.status_code == 200
        (folder / f"{kind}-by-api.ndjson").write_bytes(given.content)


def memory_of(process_id: int) -> bytes:
    """All that a process has in memory and may be read."""
    found = []
    with open(f"/proc/{process_id}/mem", "rb", buffering=0) as memory:  # noqa: PTH123 - not a file
        for line in Path(f"/proc/{process_id}/maps").read_text().splitlines():
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) r", line)
            if match and "[v" not in line:
                start, end = (int(part, 16) for part in match.groups())
                try:
                    memory.seek(start)
                    found.append(memory.read(end - start))
                except (OSError, ValueError, OverflowError):
                    continue
    return b"".join(found)


@pytest.mark.requirement("S4")
def test_nothing_of_a_note_is_kept_or_said_in_plain(
    places: tuple[Server, EmbeddedPostgres, EmbeddedValkey], issuer: DevIssuer, tmp_path: Path
) -> None:
    server, postgres, valkey = places
    said = say_everything(server, issuer)
    exports(server, issuer, tmp_path)
    valkey_process = valkey.process_id()
    assert valkey_process is not None
    sought = {"problems, metrics and what auditors see": "\n".join(said).encode()}
    sought["Valkey's memory"] = memory_of(valkey_process)
    assert b"followup:" in sought["Valkey's memory"]  # it does hold results
    with psycopg.connect(postgres.url("postgres", "followup"), autocommit=True) as connection:
        connection.execute("CHECKPOINT")
    server.stop()
    files = [path for path in tmp_path.rglob("*") if path.is_file() and "run" not in path.parts]
    for path in files:
        sought[path.relative_to(tmp_path).as_posix()] = path.read_bytes()
    assert any("pg_wal" in name for name in sought)
    assert "server.log" in sought
    assert len(sought["export.ndjson"].splitlines()) > len(sought["research.ndjson"].splitlines()) > len(NAMES)
    assert PATIENT.encode() in b"".join(sought.values())  # what is kept in plain is found by this search
    forms = {
        form for canary in CANARIES for form in (canary.encode(), canary.encode("utf-16-le"), canary.lower().encode())
    }
    found = [(place, form) for place, content in sought.items() for form in forms if form in content]
    assert found == []
    size = sum(map(len, sought.values())) / 2**20
    print(f"{len(CANARIES)} canaries in {len(sought)} places, {size:.0f} MiB: {len(found)} found")
