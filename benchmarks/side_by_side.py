"""A bare FastAPI + ThreadPoolExecutor(4) + torch eager server against this one, both models, in turns.

    python -m benchmarks.side_by_side                 about four minutes
    python -m benchmarks.side_by_side --seconds 2 --rounds 1

Ours verifies a token, keeps a sealed, durable record of every answer in PostgreSQL and looks into the cache; the bare
one does nothing but predict. Every request carries a text of its own, so that the cache never helps; a third line
shows what it does when texts repeat. Prints throughput, latency and the server's CPU time a request, with ratios.
"""

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from access.dev_issuer import DevIssuer, demo_subject
from benchmarks import load
from database.engine import open_engine
from demo import HOME, Demo
from embedded.postgres import EmbeddedPostgres
from embedded.valkey import EmbeddedValkey
from registry import catalog, store
from registry.store import StoredModel
from settings import owner_database_url
from tests.server import BASE, Server

DAY = {"pain_score_facial": 3, "pain_score_self_reported": 4, "respiratory_rate": 16, "symptom_severity_score": 3}
NOTE = "Patient {n} reports severe headache and nausea for 3 days, denies fever. Took ibuprofen 400 mg twice daily."


@dataclass(frozen=True, slots=True)
class Side:
    """One way to send one kind of request."""

    name: str
    port: int
    path: str
    body: Callable[[int], Mapping[str, Any]]
    headers: Mapping[str, str]
    process_id: int


def week(n: int) -> Mapping[str, Any]:
    return {"measurements": [{**DAY, "respiratory_rate": 12 + n % 9}, None, *[DAY] * 5]}


def note(n: int) -> Mapping[str, Any]:
    return {"text": NOTE.format(n=n + time.monotonic_ns())}


def repeated(n: int) -> Mapping[str, Any]:
    return {"text": NOTE.format(n=n % 50)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _bare(deterioration: Path) -> Iterator[tuple[int, int]]:
    port = _free_port()
    options = ["--port", str(port), "--deterioration", str(deterioration)]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.bare_server", *options])
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def _cpu_s(process_id: int) -> float:
    process = psutil.Process(process_id)
    times = [p.cpu_times() for p in (process, *process.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def _sides(bare: tuple[int, int], ours: Server, token: str) -> dict[str, list[Side]]:
    assert ours.process is not None
    port, pid = bare
    headers = {"Authorization": f"Bearer {token}"}
    mine: dict[str, Any] = {"port": ours.port, "headers": headers, "process_id": ours.process.pid}
    theirs: dict[str, Any] = {"port": port, "headers": {}, "process_id": pid}
    symptom = f"{BASE}/predict/symptom-analysis"
    return {
        "deterioration": [
            Side("bare", path="/deterioration", body=week, **theirs),
            Side("ours, audited", path=f"{BASE}/predict/deterioration", body=week, **mine),
        ],
        "ner": [
            Side("bare", path="/ner", body=note, **theirs),
            Side("ours, audited", path=symptom, body=note, **mine),
            Side("ours, audited, repeated texts", path=symptom, body=repeated, **mine),
        ],
    }


def measure(sides: Mapping[str, list[Side]], *, seconds: float, rounds: int) -> Table:
    """All sides in turns, `rounds` times; medians over the rounds, ratios to the first side."""
    timings = ("req/s", "p50 ms", "p95 ms", "CPU ms/req", "req/s ratio", "p95 ratio", "CPU ratio")
    table = Table("model", "clients", "server", *timings, "failed")
    for model, options in sides.items():
        for clients in (1, 8, 64):
            rows: dict[str, list[tuple[float, float, float, float, int]]] = {side.name: [] for side in options}
            for _ in range(rounds):
                for side in options:
                    cpu = _cpu_s(side.process_id)
                    run = load.run(
                        side.port, side.path, side.body, clients=clients, seconds=seconds, headers=side.headers
                    )
                    outcome = asyncio.run(run)
                    cpu_ms = (_cpu_s(side.process_id) - cpu) * 1000 / max(1, len(outcome.latencies_ms))
                    rows[side.name].append(
                        (outcome.per_second, outcome.quantile(0.5), outcome.quantile(0.95), cpu_ms, outcome.failures)
                    )
            medians = {name: [statistics.median(column) for column in zip(*r, strict=True)] for name, r in rows.items()}
            base = medians[options[0].name]
            for name, (rate, p50, p95, cpu_ms, _) in medians.items():
                table.add_row(
                    *(model, str(clients), name, f"{rate:.0f}", f"{p50:.1f}", f"{p95:.1f}", f"{cpu_ms:.2f}"),
                    *(
                        f"{rate / base[0]:.2f}",
                        f"{p95 / base[2]:.2f}",
                        f"{cpu_ms / base[3]:.2f}",
                        str(sum(row[4] for row in rows[name])),
                    ),
                )
    return table


def champions(stack: ExitStack) -> list[StoredModel]:
    """The demo's models that answer; the demo's servers stay up as long as the stack."""
    demo = Demo(Path(os.environ.get("FOLLOWUP_HOME", HOME)))
    os.environ.update(demo.start())
    stack.callback(demo.stop)
    engine = open_engine(owner_database_url())
    with engine.connect() as connection:
        models = [store.get(c.name, c.version) for c in catalog.champions(connection)]
    engine.dispose()
    if not models:
        raise SystemExit("The demo has no models that answer yet: start it once by `make serve`.")
    return models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    console = Console(width=140)
    with ExitStack() as stack:
        models = champions(stack)
        # Servers and a database of its own: the demo's history stays as it is.
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres, valkey = EmbeddedPostgres(home), EmbeddedValkey(home)
        url = postgres.start()
        stack.callback(postgres.stop)
        socket_path = valkey.start()
        stack.callback(valkey.stop)
        issuer = DevIssuer(home / "issuer")
        app = postgres.url_as("followup_app", url)
        ours = Server(url, app, issuer, home / "server.log", {"REDIS_SOCKET": socket_path, "FOLLOWUP_MODE": "demo"})
        ours.register(models)
        ours.start()
        stack.callback(ours.stop)
        deterioration = next(m.path for m in models if m.manifest.name == "deterioration_lstm")
        bare = stack.enter_context(_bare(deterioration))
        token = issuer.token(["clinician"], demo_subject("clinician"))
        with console.status("Measuring"):
            table = measure(_sides(bare, ours, token), seconds=options.seconds, rounds=options.rounds)
        console.print(table)


if __name__ == "__main__":
    main()
