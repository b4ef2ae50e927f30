"""What hostile clients cost a server and everybody else: heads without an end, many fields, half-open connections.

    python -m benchmarks.hostile_clients
    python -m benchmarks.hostile_clients --other ../before     # the same against another checkout of this project

Each attack runs for some seconds beside a client that asks for /livez and one that predicts, each four times a second.
"""

import argparse
import asyncio
import contextlib
import resource
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from access.dev_issuer import DevIssuer, demo_subject
from benchmarks.side_by_side import champions, week
from embedded.postgres import EmbeddedPostgres
from tests.server import BASE, ROOT, Server

_PIECE: Final = 65_536
_LONGEST_S: Final = 20.0


@dataclass(slots=True)
class Seen:
    """What others saw meanwhile, and what it cost the server."""

    probes_ms: list[float] = field(default_factory=list)
    predictions_ms: list[float] = field(default_factory=list)
    failed: int = 0
    sent_mib: float = 0.0
    memory_mib: float = 0.0


async def _send(port: int, start: bytes, piece: bytes, total: int, seen: Seen) -> None:
    """As much as the server takes, at most `total` bytes and for so long."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(start)
    end = time.perf_counter() + _LONGEST_S
    with contextlib.suppress(ConnectionError):
        while seen.sent_mib * 2**20 < total and time.perf_counter() < end:
            writer.write(piece)
            await writer.drain()
            seen.sent_mib += len(piece) / 2**20
    await asyncio.sleep(1)
    writer.transport.abort()


async def one_head(port: int, seen: Seen) -> None:
    await _send(port, b"GET /livez HTTP/1.1\r\nA: ", b"a" * _PIECE, 128 * 2**20, seen)


async def many_fields(port: int, seen: Seen) -> None:
    await _send(port, b"GET /livez HTTP/1.1\r\n", b"A: b\r\n" * (_PIECE // 6), 96 * 2**20, seen)


async def half_open(port: int, seen: Seen) -> None:
    writers = []
    for _ in range(1200):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /livez HTTP/1.1\r\nA: ")
            writers.append(writer)
    await asyncio.sleep(6)
    for writer in writers:
        writer.transport.abort()


async def _others(url: str, headers: dict[str, str], seen: Seen, stop: asyncio.Event) -> None:
    async def ask(latencies: list[float], method: str, path: str, **options: object) -> None:
        while not stop.is_set():
            started = time.perf_counter()
            try:
                async with httpx.AsyncClient(base_url=url, timeout=_LONGEST_S) as client:
                    answer = await client.request(method, path, **options)  # type: ignore[arg-type]
                seen.failed += answer.status_code != 200
            except httpx.TransportError:
                seen.failed += 1
            latencies.append((time.perf_counter() - started) * 1000)
            await asyncio.sleep(0.25)

    predicting = {"json": week(1), "headers": headers}
    await asyncio.gather(
        ask(seen.probes_ms, "GET", "/livez"),
        ask(seen.predictions_ms, "POST", f"{BASE}/predict/deterioration", **predicting),
    )


async def _memory(process_id: int, seen: Seen, stop: asyncio.Event) -> None:
    def resident() -> int:
        family = psutil.Process(process_id).children(recursive=True)
        return max(member.memory_info().rss for member in family)

    before = resident()
    while not stop.is_set():
        seen.memory_mib = max(seen.memory_mib, (resident() - before) / 2**20)
        await asyncio.sleep(0.05)


async def measure(server: Server, headers: dict[str, str], attack: Callable[[int, Seen], Awaitable[None]]) -> Seen:
    """One attack, and a second before and after it."""
    assert server.process is not None
    seen, stop = Seen(), asyncio.Event()
    beside = [
        asyncio.create_task(_others(server.url, headers, seen, stop)),
        asyncio.create_task(_memory(server.process.pid, seen, stop)),
    ]
    await asyncio.sleep(1)
    await attack(server.port, seen)
    await asyncio.sleep(1)
    stop.set()
    await asyncio.gather(*beside)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--other", type=Path, help="Another checkout of this project, measured first.")
    options = parser.parse_args()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(files, 8192), files))
    table = Table("server", "attack", "taken MiB", "memory +MiB", "worst /livez ms", "worst prediction ms", "failed")
    console = Console(width=140)
    with ExitStack() as stack:
        models = [model for model in champions(stack) if model.manifest.name == "deterioration_lstm"]
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = EmbeddedPostgres(home)
        postgres.start()
        stack.callback(postgres.stop)
        issuer = DevIssuer(home / "issuer")
        headers = {"Authorization": f"Bearer {issuer.token(['clinician'], demo_subject('clinician'))}"}
        for checkout in filter(None, (options.other, ROOT)):
            name = checkout.resolve().name
            database = postgres.create_database(f"of_{len(table.rows)}")
            app = postgres.url_as("followup_app", database)
            server = Server(database, app, issuer, home / f"{len(table.rows)}.log", checkout=checkout.resolve())
            server.register(models)
            resource.setrlimit(resource.RLIMIT_NOFILE, (1024, files))  # what a server is usually given
            server.start()
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(files, 8192), files))
            for attack in (one_head, many_fields, half_open):
                with console.status(f"{name}: {attack.__name__}"):
                    seen = asyncio.run(measure(server, headers, attack))
                table.add_row(
                    name,
                    attack.__name__.replace("_", " "),
                    f"{seen.sent_mib:.1f}",
                    f"{seen.memory_mib:.0f}",
                    f"{max(seen.probes_ms):.0f}",
                    f"{max(seen.predictions_ms):.0f}",
                    str(seen.failed),
                )
            server.kill()
    console.print(table)


if __name__ == "__main__":
    main()
