"""Performance of models over time: what `ml_predictions` says of answers, and `ml_performance_logs` of failures as
well.

Answers are counted from their audit records, so these figures and the trail cannot disagree. Failures leave no
prediction; each process logs them, with its own view of latency, in windows.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from database.reading import EVERYTHING, seeing
from database.tables import PerformanceLog

log = logging.getLogger(__name__)

_MOST_POINTS: Final = 48
_MOST_WINDOWS_KEPT: Final = 10_000

_LATENCY: Final = """
    count(*) AS requests,
    count(*) FILTER (WHERE cache_hit) AS cache_hits,
    avg(latency_ms) AS mean,
    percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY latency_ms) AS quantiles
"""
_SUMMARY: Final = text(
    f"SELECT {_LATENCY} FROM ml_predictions WHERE model_name = :model AND created_at >= :since"  # noqa: S608
)
_SERIES: Final = text(
    f"SELECT date_bin(make_interval(secs => :step_s), created_at, :since) AS at, {_LATENCY}"  # noqa: S608
    " FROM ml_predictions WHERE model_name = :model AND created_at >= :since GROUP BY 1 ORDER BY 1"
)
_FAILURES: Final = text(
    "SELECT coalesce(sum(errors), 0) AS errors, coalesce(sum(shed), 0) AS shed FROM ml_performance_logs"
    " WHERE model_name = :model AND window_start >= :since"
)
_INSERT: Final = insert(PerformanceLog).on_conflict_do_nothing()


async def performance(engine: AsyncEngine, model_name: str, hours: int) -> dict[str, Any]:
    """Summary and time series of the last `hours` hours of one model."""
    since = datetime.now(UTC) - timedelta(hours=hours)
    step_s = max(60, hours * 3600 // _MOST_POINTS)
    parameters = {"model": model_name, "since": since}
    async with seeing(engine, EVERYTHING) as connection:
        summary = (await connection.execute(_SUMMARY, parameters)).mappings().one()
        series = (await connection.execute(_SERIES, {**parameters, "step_s": step_s})).mappings().all()
        failures = (await connection.execute(_FAILURES, parameters)).mappings().one()
    return {
        "model_name": model_name,
        "hours": hours,
        "summary": {
            **_figures(summary),
            "errors": int(failures["errors"]),
            "shed": int(failures["shed"]),
            "throughput_per_s": round(summary["requests"] / (hours * 3600), 4),
        },
        "series": [{"at": point["at"], "step_s": step_s, **_figures(point)} for point in series],
    }


def _figures(row: Any) -> dict[str, Any]:
    p50, p95, p99 = row["quantiles"] or (None, None, None)
    latency = {"mean": row["mean"], "p50": p50, "p95": p95, "p99": p99}
    requests = row["requests"]
    return {
        "requests": requests,
        "cache_hit_rate_percent": round(100 * row["cache_hits"] / requests, 2) if requests else None,
        "latency_ms": {name: None if value is None else round(value, 3) for name, value in latency.items()},
    }


@dataclass(slots=True)
class _Window:
    requests: int = 0
    errors: int = 0
    shed: int = 0
    cache_hits: int = 0
    latency_sum_ms: float = 0.0
    latency_max_ms: float = 0.0


class PerformanceLogger:
    """Counts in memory, writes a row for each model version and window.

    Fails open: windows wait while the database is gone.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        instance: str,
        window_s: float = 10.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._instance = instance
        self._window_s = window_s
        self._clock = clock
        self._started = clock()
        self._current: dict[tuple[str, str], _Window] = {}
        self._unwritten: list[dict[str, Any]] = []
        self._writer: asyncio.Task[None] | None = None

    def answered(self, model: str, version: str, latency_ms: float, *, cache_hit: bool) -> None:
        window = self._current.setdefault((model, version), _Window())
        window.requests += 1
        window.cache_hits += cache_hit
        window.latency_sum_ms += latency_ms
        window.latency_max_ms = max(window.latency_max_ms, latency_ms)

    def failed(self, model: str, version: str, *, shed: bool) -> None:
        window = self._current.setdefault((model, version), _Window())
        window.shed += shed
        window.errors += not shed

    async def open(self) -> None:
        self._writer = asyncio.create_task(self._write_on(), name="performance-log")

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        await self.flush()

    async def _write_on(self) -> None:
        while True:
            await asyncio.sleep(self._window_s)
            await self.flush()

    async def flush(self) -> None:
        """Close the current window and write all that are not written yet."""
        now = self._clock()
        counted, self._current = self._current, {}
        started, self._started = self._started, now
        for (model, version), window in counted.items():
            self._unwritten.append(
                {
                    "window_start": started,
                    "model_name": model,
                    "model_version": version,
                    "instance": self._instance,
                    "window_s": (now - started).total_seconds(),
                    "requests": window.requests,
                    "errors": window.errors,
                    "shed": window.shed,
                    "cache_hits": window.cache_hits,
                    "latency_mean_ms": window.latency_sum_ms / window.requests if window.requests else None,
                    "latency_max_ms": window.latency_max_ms if window.requests else None,
                }
            )
        del self._unwritten[:-_MOST_WINDOWS_KEPT]
        if not self._unwritten:
            return
        try:
            async with self._engine.begin() as connection:
                await connection.execute(_INSERT, self._unwritten)
        except (SQLAlchemyError, OSError) as error:
            log.warning("performance log: not written (%s), kept for later", type(error).__name__)
        else:
            self._unwritten.clear()


class Fanout:
    """Tells several observers of the same prediction."""

    def __init__(self, *observers: Any) -> None:
        self._observers = observers

    def answered(self, model: str, version: str, latency_ms: float, *, cache_hit: bool) -> None:
        for observer in self._observers:
            observer.answered(model, version, latency_ms, cache_hit=cache_hit)

    def failed(self, model: str, version: str, *, shed: bool) -> None:
        for observer in self._observers:
            observer.failed(model, version, shed=shed)
