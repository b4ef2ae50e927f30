"""`followup up`: the demo from nothing to a server that answers, and its orderly end."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

import psutil
from rich.console import Console

from access.dev_issuer import demo_subject
from database.engine import open_engine
from demo import HOME, Demo
from errors import SetupError
from registry import catalog
from registry.signatures import acts_on

ROOT: Final = Path(__file__).resolve().parent
_LONGEST_START_S: Final = 120.0
_LONGEST_STOP_S: Final = 30.0

console = Console(highlight=False, soft_wrap=True)


class Stopped(Exception):
    """Ctrl-C or SIGTERM."""


def run(*, port: int) -> None:
    """Serve until Ctrl-C. Raises SetupError when a step cannot be done."""
    home = Path(os.environ.get("FOLLOWUP_HOME", HOME))
    console.rule("[bold red]DEMO - NOT FOR PATIENTS' DATA")
    console.print("Local token issuer, made-up people, everything in", str(home.resolve()))
    _refuse_taken(port)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    demo = Demo(home)
    server: subprocess.Popen[bytes] | None = None
    sealer: subprocess.Popen[bytes] | None = None
    try:
        with console.status("Starting PostgreSQL and Valkey"):
            environment = {**os.environ, **demo.start()}
        _train_what_is_missing(environment)
        sealer = _start_sealer(environment)
        server = _start_server(environment, port)
        _wait_until_ready(server, port)
        console.print(_welcome(demo, port), markup=False)
        while server.poll() is None:
            if sealer is not None and sealer.poll() is not None:
                console.print("The sealer has stopped and is started again.")
                sealer = _start_sealer(environment)
            time.sleep(0.5)
        if server.returncode != 0:
            raise SetupError("The server has stopped; its messages are above.")
    except Stopped:
        console.print("Stopping.")
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        _end(server)
        _end(sealer)  # after the server, so that its last records are sealed too
        demo.stop()


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise Stopped


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SetupError(f"Port {port} is taken; use another: followup up --port {port + 1}") from error


def _train_what_is_missing(environment: Mapping[str, str]) -> None:
    engine = open_engine(environment.get("OWNER_DATABASE_URL") or environment["DATABASE_URL"])
    with engine.connect() as connection:
        champions = catalog.champions(connection)
        unsigned = [each for each in champions if not acts_on(connection, each.name, each.version)]
    engine.dispose()
    known = {version.name for version in champions}
    # Models of a demo from before models were signed for.
    steps = [["models", "register", f"{each.name}:{each.version}", "--promote"] for each in unsigned]
    if "deterioration_lstm" not in known:
        steps += [["demo-data", "--replace"], ["train", "deterioration", "--promote"]]
    if "clinical_ner" not in known:
        steps += [["train", "ner", "--promote"]]
    if len(steps) > len(unsigned):
        console.print("First start: training both models, some minutes.")
    for step in steps:
        done = subprocess.run([sys.executable, "-m", "cli", *step], cwd=ROOT, env=dict(environment), check=False)
        if done.returncode != 0:
            raise SetupError(f"followup {' '.join(step)} failed; its messages are above.")


def _start_server(environment: Mapping[str, str], port: int) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        "service:FollowupML",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    return _start(command, environment, without=("OWNER_", "SEAL"))


def _start_sealer(environment: Mapping[str, str]) -> subprocess.Popen[bytes] | None:
    """A process of its own, with the signing key that the server never has."""
    if "SEALER_DATABASE_URL" not in environment:
        return None  # somebody else's database, somebody else's sealer
    command = [sys.executable, "-m", "cli", "audit", "seal"]
    return _start(command, environment, without=("OWNER_", "DATABASE_", "ENCRYPTION_", "REDIS_", "COGNITO_"))


def _start(
    command: Sequence[str], environment: Mapping[str, str], *, without: tuple[str, ...]
) -> subprocess.Popen[bytes]:
    """A process that knows what it needs and nothing else, and ends when we do, however we end.

    In a session of its own, so that Ctrl-C reaches us first and things stop in their order.
    """
    known = {name: value for name, value in environment.items() if not name.startswith(without)}
    follow_us = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
    return subprocess.Popen([*follow_us, *command], cwd=ROOT, env=known, start_new_session=True)


def _wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _LONGEST_START_S
    with console.status("Loading models"):
        while time.monotonic() < deadline:
            if server.poll() is not None:
                raise SetupError("The server did not start; its messages are above.")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
    raise SetupError("The server did not become ready in time.")


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_LONGEST_STOP_S)
    except subprocess.TimeoutExpired:
        parent = psutil.Process(process.pid)
        for member in (*parent.children(recursive=True), parent):
            member.kill()
        process.wait()


def _welcome(demo: Demo, port: int) -> str:
    followup = shlex.quote(str(Path(sys.executable).parent / "followup"))
    home = f"FOLLOWUP_HOME={shlex.quote(str(demo.home))} " if "FOLLOWUP_HOME" in os.environ else ""
    token = demo.issuer.token(["clinician"], demo_subject("clinician"))
    url = f"http://127.0.0.1:{port}/api/v1/ml"
    return f"""
Ready on http://127.0.0.1:{port}. A demo clinician's token, good for 15 minutes
(another: {home}{followup} token --role clinician):

export TOKEN={token}

curl -s {url}/predict/symptom-analysis -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \\
  -d '{{"text": "Patient reports severe headache and nausea for 3 days", "analysis_type": "symptom_ner"}}'

curl -s {url}/predict -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \\
  -d '{{"model_name": "clinical_ner", "input_data": {{"text": "Patient has fever and cough"}}, "use_cache": true}}'

curl -s {url}/models -H "Authorization: Bearer $TOKEN"
curl -s '{url}/predictions/history?limit=50' -H "Authorization: Bearer $TOKEN"
curl -s {url}/stats -H "Authorization: Bearer $TOKEN"

Ctrl-C stops everything; data stays in {demo.home}.
"""
