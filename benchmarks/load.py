"""A small load generator: keep-alive HTTP/1.1 over asyncio streams, bounded in time, every answer checked."""

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(slots=True)
class Outcome:
    """What one run measured."""

    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    failures: int = 0

    @property
    def per_second(self) -> float:
        return len(self.latencies_ms) / self.seconds

    def quantile(self, q: float) -> float:
        return float(np.quantile(self.latencies_ms, q)) if self.latencies_ms else float("nan")


async def run(
    port: int,
    path: str,
    body: Callable[[int], Mapping[str, Any]],
    *,
    clients: int,
    seconds: float,
    headers: Mapping[str, str] | None = None,
) -> Outcome:
    """Send `body(n)` for n = 0, 1, … from `clients` connections for `seconds`."""
    outcome = Outcome()
    numbers = itertools.count()
    started = time.perf_counter()
    end = started + seconds
    extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            payload = json.dumps(body(next(numbers))).encode()
            head = (
                f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(payload)}\r\n{extra}\r\n"
            )
            sent = time.perf_counter()
            writer.write(head.encode() + payload)
            status, answer = await _answer(reader)
            if status == 200 and answer:
                outcome.latencies_ms.append((time.perf_counter() - sent) * 1000)
            else:
                outcome.failures += 1
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(client() for _ in range(clients)))
    outcome.seconds = time.perf_counter() - started
    return outcome


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head[9:12])
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return status, await reader.readexactly(length)
