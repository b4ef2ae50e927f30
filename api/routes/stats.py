"""The system in figures."""

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from access.policy import Action
from api.answers import answer
from api.routing import BASE, Admitted, Route
from api.schemas import StatsShown
from api.system import System
from database.reading import bounded
from monitoring.stats import stats


async def show_stats(system: System, admitted: Admitted) -> Response:
    """Counts over everything that was predicted."""
    figures = await bounded(
        stats(
            system.engine,
            active_models=len(system.deployments.active),
            redis_enabled=system.cache.enabled,
        )
    )
    return answer(figures)


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
