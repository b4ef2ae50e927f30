"""The system in figures."""

import math

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from access.policy import Action
from api.answers import answer
from api.routing import BASE, Admitted, Route
from api.schemas import StatsShown
from api.system import System
from database.reading import bounded


async def show_stats(system: System, admitted: Admitted) -> Response:
    """Counts over everything that was predicted."""
    totals = await bounded(system.figures.totals())
    lag_s = system.seal_lag.seconds
    return answer(
        {
            **totals,
            "active_models": len(system.deployments.active),
            "redis_enabled": system.cache.enabled,
            "readiness": system.readiness,
            "models_not_loaded": len(system.deployments.missing),
            "seal_lag_s": None if math.isnan(lag_s) else round(lag_s, 3),
        }
    )


async def metrics(system: System, admitted: Admitted) -> Response:
    """For Prometheus."""
    return Response(system.metrics.render(), media_type=CONTENT_TYPE_LATEST)


ROUTES = (
    Route(
        method="GET",
        path=f"{BASE}/stats",
        action=Action.READ_STATS,
        summary="Show totals, cache hit rate and latency",
        handler=show_stats,
        response=StatsShown,
    ),
    Route(
        method="GET",
        path="/metrics",
        action=Action.READ_METRICS,
        summary="Metrics in Prometheus' text format",
        handler=metrics,
    ),
)
