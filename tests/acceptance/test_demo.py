"""`followup up` from outside: it says it is a demo, serves, and Ctrl-C stops everything it started."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from database.engine import libpq_url
from demo import Demo
from errors import SetupError
from registry.store import StoredModel
from tests.server import ROOT
from tests.stranger import assert_one_way_in

FOLLOWUP = [sys.executable, "-m", "cli"]


@pytest.fixture
def demo_home(tmp_path: Path, ner_model: StoredModel, deterioration_model: StoredModel) -> Path:
    """A demo that has its models already, so that it need not train."""
    environment = {**os.environ, "FOLLOWUP_HOME": str(tmp_path / "demo")}
    Demo(tmp_path / "demo")
    for stored in (ner_model, deterioration_model):
        register = [*FOLLOWUP, "models", "register", stored.tag, "--promote"]
        subprocess.run(register, cwd=ROOT, env=environment, check=True)
    return tmp_path / "demo"


def test_it_serves_what_it_prints_and_ctrl_c_stops_all_in_order(demo_home: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "FOLLOWUP_HOME": str(demo_home)}
    process = subprocess.Popen(
        [*FOLLOWUP, "up", "--port", "8731"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    printed = ""
    assert process.stdout is not None
    for line in process.stdout:
        printed += line
        if "Ctrl-C stops everything" in line:
            break
    assert "NOT FOR PATIENTS' DATA" in printed
    assert_one_way_in(process.pid, 8731, tmp_path / "mark")
    # The printed commands as they stand, pasted into a shell.
    pasted = printed[printed.index("export TOKEN=") : printed.index("Ctrl-C stops everything")]
    assert shutil.which("curl")
    shell = subprocess.run(["bash", "-c", pasted], capture_output=True, text=True, check=True)
    assert shell.stdout.count('"prediction_id"') >= 3
    assert '"headache"' in shell.stdout
    assert '"redis_enabled":true' in shell.stdout
    children = psutil.Process(process.pid).children(recursive=True)
    token = subprocess.run(
        [*FOLLOWUP, "token", "--role", "auditor"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", token)
    history = "http://127.0.0.1:8731/api/v1/ml/predictions/history"
    assert len(httpx.get(history, headers={"Authorization": f"Bearer {token}"}).json()["items"]) == 2
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    left = [p.cmdline() for p in psutil.process_iter() if any(str(demo_home) in word for word in _words(p))]
    assert left == []


def test_killing_it_leaves_no_server_and_the_server_has_no_key_of_the_sealer(demo_home: Path) -> None:
    environment = {**os.environ, "FOLLOWUP_HOME": str(demo_home)}
    command = [*FOLLOWUP, "up", "--port", "8732"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "Ctrl-C stops everything" in line:
            break
    ours = psutil.Process(process.pid).children(recursive=True)
    server = next(child for child in ours if "_bentoml_impl.worker.service" in " ".join(_words(child)))
    (sealer,) = (child for child in ours if _words(child)[-2:] == ["audit", "seal"])
    assert not {"SEAL_KEY_FILE", "SEALER_DATABASE_URL", "OWNER_DATABASE_URL"} & server.environ().keys()
    assert not {"ENCRYPTION_KEY_FILE", "DATABASE_URL"} & sealer.environ().keys()
    sealer.kill()
    deadline = time.monotonic() + 30
    while not any(_words(child)[-2:] == ["audit", "seal"] for child in psutil.Process(process.pid).children()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    ours = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(ours, timeout=40)
    # PostgreSQL and Valkey belong to whoever uses them: the next one joins them, and the last one out stops them.
    left = [child.name() for child in alive if child.status() != psutil.STATUS_ZOMBIE]
    assert not [name for name in left if "postgres" not in name and "valkey" not in name]
    demo = Demo(demo_home)
    demo.start()
    demo.stop()


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


def test_a_taken_port_is_said_in_one_line(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [*FOLLOWUP, "up", "--port", port],
            cwd=ROOT,
            env={**os.environ, "FOLLOWUP_HOME": str(tmp_path / "demo")},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.strip().startswith(f"followup: Port {port} is taken")


def test_a_database_that_nobody_called_a_demos_is_not_written_to(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("OWNER_DATABASE_URL", database_url)
    monkeypatch.setenv("REDIS_SOCKET", str(tmp_path / "none"))
    with pytest.raises(SetupError, match="DATABASE_URL"):
        Demo(tmp_path / "demo").start()
    with psycopg.connect(libpq_url(database_url)) as connection:
        assert connection.execute("SELECT count(*) FROM care_team").fetchone() == (0,)
