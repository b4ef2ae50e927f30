"""One way into a server, and one process that keeps it up: what others find, and what a death or a bad start does."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import psutil
import pytest

from access.dev_issuer import DevIssuer
from embedded.postgres import EmbeddedPostgres
from embedded.valkey import EmbeddedValkey
from registry.store import StoredModel
from tests.acceptance.test_under_load import own_servers
from tests.conftest import bearer
from tests.server import BASE, ROOT, Server
from tests.stranger import assert_one_way_in, family_of, listening

__all__ = ["own_servers"]
DAY = {"pain_score_facial": 3, "pain_score_self_reported": 3, "respiratory_rate": 15, "symptom_severity_score": 3}
WEEK = {"measurements": [DAY] * 7}


class StartedBy(Server):
    """Started by another command."""

    words: Sequence[str] = ()

    def command(self) -> list[str]:
        return [sys.executable, "-m", *self.words]


@pytest.fixture
def of_its_own(
    database_url: str, app_url: str, issuer: DevIssuer, tmp_path: Path, deterioration_model: StoredModel
) -> Iterator[Server]:
    """A server that is not started yet, with one model."""
    server = Server(database_url, app_url, issuer, tmp_path / "server.log")
    server.register([deterioration_model])
    yield server
    server.stop()


@pytest.mark.requirement("S7")
def test_another_account_of_the_machine_finds_no_way_in_but_the_service(of_its_own: Server, tmp_path: Path) -> None:
    of_its_own.start()
    assert of_its_own.process is not None
    assert_one_way_in(of_its_own.process.pid, of_its_own.port, tmp_path / "mark")


@pytest.mark.requirement("S7")
@pytest.mark.parametrize("way", ["followup serve", "bento"])
def test_nor_does_it_however_the_server_was_started(of_its_own: Server, tmp_path: Path, way: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    served = StartedBy(
        of_its_own.database_url,
        of_its_own.app_database_url,
        of_its_own.issuer,
        of_its_own.log,
        {"FOLLOWUP_PORT": str(port)},
        port,
        encryption_key=of_its_own.encryption_key,
    )
    served.words = ["cli", "serve"]
    if way == "bento":  # what the image runs
        served.words = ["bentoml", "serve", str(built(tmp_path / "bentos")), "--host", "127.0.0.1", "--port", str(port)]
    served.start()
    assert served.process is not None
    try:
        assert_one_way_in(served.process.pid, port, tmp_path / "mark")
    finally:
        served.stop()


def built(home: Path) -> Path:
    """A folder that `bentoml build` made."""
    home.mkdir()
    command = [sys.executable, "-m", "bentoml", "build", "--output", "tag"]
    environment = {**os.environ, "BENTOML_HOME": str(home)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    (folder,) = (path for path in (home / "bentos" / "followup_ml").iterdir() if path.is_dir())
    return folder


def test_a_worker_under_a_process_manager_that_takes_commands_does_not_start(of_its_own: Server) -> None:
    of_its_own.service = "tests.stock_process_manager"
    with of_its_own.log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "bentoml", "serve", f"{of_its_own.service}:FollowupML", "--port", "0"],
            cwd=ROOT,
            env={**os.environ, **of_its_own.settings},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 60
        while "also listens on TCP port" not in (said := of_its_own.log.read_text()):
            assert time.monotonic() < deadline, said
            time.sleep(0.1)
        ports, _ = listening(family_of(process.pid))
        assert len(ports) == 3  # it is the one that is refused
    finally:
        for member in reversed(family_of(process.pid)):
            member.kill()
        process.wait()


def test_a_worker_that_is_killed_is_replaced_at_once_and_both_is_said(of_its_own: Server, issuer: DevIssuer) -> None:
    of_its_own.start()
    for _ in range(2):
        killed = of_its_own.worker.pid
        os.kill(killed, signal.SIGKILL)
        deadline = time.monotonic() + 1 + 1  # noticed within a second
        while killed in {child.pid for child in family_of(of_its_own.process.pid)}:  # type: ignore[union-attr]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        of_its_own.wait_until_ready()
        body = {"model_name": "deterioration_lstm", "input_data": WEEK}
        headers = bearer(issuer, "clinician")
        assert httpx.post(f"{of_its_own.url}{BASE}/predict", headers=headers, json=body).status_code == 200
    said = of_its_own.log.read_text()
    assert said.count("was killed by signal 9; another is started now") == 2
    assert said.count("is ready again: ") == 2


def test_a_worker_that_dies_while_postgresql_is_away_comes_back_with_it(
    own_servers: tuple[Server, EmbeddedPostgres, EmbeddedValkey], tmp_path: Path
) -> None:
    server, postgres, _ = own_servers
    postgres.stop()
    server.worker.kill()
    deadline = time.monotonic() + 30
    while "another is started in" not in server.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert server.process is not None and server.process.poll() is None
    again = EmbeddedPostgres(tmp_path)
    again.start()
    try:
        server.wait_until_ready()
        assert "Traceback" not in server.log.read_text()
    finally:
        server.stop()
        again.stop()


def test_a_supervisor_that_is_killed_takes_its_worker_with_it(of_its_own: Server) -> None:
    of_its_own.start()
    worker = of_its_own.worker
    assert of_its_own.process is not None
    of_its_own.process.kill()
    of_its_own.process.wait()
    assert worker in psutil.wait_procs([worker], timeout=15)[0]


def test_whoever_comes_while_it_stops_is_refused_and_not_left_waiting(of_its_own: Server, issuer: DevIssuer) -> None:
    of_its_own.start()
    assert of_its_own.process is not None
    with socket.create_connection(("127.0.0.1", of_its_own.port)) as unfinished:
        token = bearer(issuer, "clinician")["Authorization"].encode()
        head = (
            b"POST /api/v1/ml/predict HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nAuthorization: " + token
        )
        unfinished.sendall(head + b"\r\nContent-Length: 9\r\n\r\n")
        time.sleep(0.2)
        of_its_own.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 5
        with pytest.raises(ConnectionRefusedError):
            while time.monotonic() < deadline:
                socket.create_connection(("127.0.0.1", of_its_own.port), timeout=1).close()
                time.sleep(0.05)
        assert of_its_own.process.poll() is None  # it waits for what was begun
    assert of_its_own.process.wait(30) == 0


def test_a_signal_lets_requests_finish_and_ends_all_with_0(of_its_own: Server) -> None:
    of_its_own.start()
    worker = of_its_own.worker
    assert of_its_own.process is not None
    of_its_own.process.send_signal(signal.SIGINT)
    assert of_its_own.process.wait(30) == 0
    assert not worker.is_running()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"DATABASE_URL": ""}, "followup: Not set: DATABASE_URL"),
        ({"AUDIT_TIMEOUT_MS": "SECRET"}, "followup: A setting is wrong. AUDIT_TIMEOUT_MS"),
        ({"ENCRYPTION_KEY": "SECRET"}, "followup: "),
        ({"DATABASE_URL": "postgresql://followup_app:SECRET@/gone?host=/nowhere"}, "followup: The database cannot"),
        ({"COGNITO_JWKS_FILE": "/nowhere/SECRET"}, "followup: "),
    ],
)
def test_a_first_start_that_fails_is_one_line_and_exit_code_1(
    of_its_own: Server, changed: dict[str, str], told: str
) -> None:
    of_its_own.environment = changed
    with pytest.raises(AssertionError):
        of_its_own.start()
    assert of_its_own.process is not None
    assert of_its_own.process.wait(30) == 1
    said = of_its_own.log.read_text()
    complaints = [line for line in said.splitlines() if line.startswith("followup: ")]
    assert len(complaints) == 1
    assert complaints[0].startswith(told)
    assert "Traceback" not in said
    assert "SECRET" not in said
    assert len(complaints[0]) < 300


def test_a_port_that_is_taken_is_one_line_too(of_its_own: Server) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        of_its_own.port = taken.getsockname()[1]
        with pytest.raises(AssertionError, match=f"followup: The server cannot listen on port {of_its_own.port}"):
            of_its_own.start()
    assert of_its_own.process is not None
    assert of_its_own.process.returncode == 1
    assert "Traceback" not in of_its_own.log.read_text()


def test_a_worker_with_open_models_starts_no_process(of_its_own: Server, issuer: DevIssuer, tmp_path: Path) -> None:
    of_its_own.service = "tests.watched_for_processes"
    of_its_own.environment = {"WATCHED_FOR_PROCESSES": str(tmp_path / "started")}
    of_its_own.start()
    headers = bearer(issuer, "clinician", "auditor", "admin")
    body = {"model_name": "deterioration_lstm", "input_data": WEEK, "explain": True}
    with httpx.Client(base_url=of_its_own.url + BASE, headers=headers, timeout=30) as client:
        assert client.post("/predict", json=body).status_code == 200
        for path in ("/models", "/models/deterioration_lstm/report", "/stats", "/audit/export", "/predictions/history"):
            assert client.get(path).status_code == 200
        assert client.get(f"{of_its_own.url}/metrics").status_code == 200
    assert of_its_own.worker.children() == []
    of_its_own.stop()
    assert (tmp_path / "started").read_text() == "watching\n"
