"""What a cached result saves: the time of computing it against the time of fetching it, by length of the note.

    python -m benchmarks.cache

Both inside one process, on the demo's models and an embedded Valkey, without HTTP and without the audit record: those
cost the same either way.
"""

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from audit.data_keys import DataKey
from audit.envelope import Envelope, KeyedDigest
from database.engine import open_engine
from demo import HOME, Demo
from embedded.valkey import EmbeddedValkey
from inference.cache import CacheKeys, RedisCache
from registry import catalog, store
from runners.batching import Batcher, Limits
from runners.deterioration import DeteriorationRunner
from runners.ner import NerRunner
from settings import owner_database_url

SENTENCE = "Patient reports severe headache and nausea for 3 days, denies fever; took ibuprofen 400 mg twice daily. "
DAY = {"pain_score_facial": 3, "pain_score_self_reported": 4, "respiratory_rate": 16, "symptom_severity_score": 3}
ROUNDS = 60


async def _median_ms(work: Callable[[], Awaitable[Any]]) -> float:
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        await work()
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


async def measure(runners: dict[str, Any], socket: str) -> Table:
    """Medians of computing and of fetching, in turns."""
    cache = RedisCache(Redis(unix_socket_path=socket), ttl_s=60, timeout_s=1)
    await cache.open()
    data_key = DataKey(UUID(int=1), "p", bytes(32), Envelope(bytes(32), "benchmark"))
    keys = CacheKeys(KeyedDigest(lambda: bytes(32)), tenant="benchmark")
    table = Table("input", "compute ms", "fetch ms", "ratio")
    inputs = {
        "7 days": ("deterioration", {"measurements": [DAY] * 7}),
        **{f"{n * 18} words": ("clinical-ner", {"text": SENTENCE * n}) for n in (1, 5, 14, 50)},
    }
    with ThreadPoolExecutor(4) as pool:
        for name, (kind, input_data) in inputs.items():
            batcher = Batcher(runners[kind], pool, Limits())
            item = runners[kind].parse(input_data)

            async def compute(batcher: Any = batcher, item: Any = item) -> bytes:
                return orjson.dumps((await batcher.infer(item)).prediction.result)

            async def fetch(runner: Any = runners[kind], item: Any = item) -> Any:
                canonical = runner.canonical(item)
                key = keys.key(subject="p", model="m", model_digest="d", preprocessing="p", canonical_input=canonical)
                found = await cache.get(key, data_key)
                return orjson.loads(found) if found else key

            cache.put(await fetch(), await compute(), data_key)
            await asyncio.sleep(0.1)
            computing, fetching = await _median_ms(compute), await _median_ms(fetch)
            table.add_row(name, f"{computing:.2f}", f"{fetching:.2f}", f"{computing / fetching:.1f}")
    await cache.close()
    return table


def main() -> None:
    demo = Demo(Path(os.environ.get("FOLLOWUP_HOME", HOME)))
    os.environ.update(demo.start())
    engine = open_engine(owner_database_url())
    with engine.connect() as connection:
        stored = {c.kind: store.get(c.name, c.version) for c in catalog.champions(connection)}
    engine.dispose()
    runners = {
        "clinical-ner": NerRunner(stored["clinical-ner"].path, stored["clinical-ner"].manifest.parameters),
        "deterioration": DeteriorationRunner(stored["deterioration"].path, stored["deterioration"].manifest.parameters),
    }
    with tempfile.TemporaryDirectory() as home:
        valkey = EmbeddedValkey(Path(home))
        Console().print(asyncio.run(measure(runners, valkey.start())))
        valkey.stop()
    demo.stop()


if __name__ == "__main__":
    main()
