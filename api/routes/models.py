"""What models there are, and how they do."""

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any

from starlette.responses import HTMLResponse, Response

from access.policy import Action
from api.answers import answer, whole_number
from api.routing import BASE, EXPENSIVE, LARGEST_PAGE, PAGING, Admitted, QueryParameter, Route
from api.schemas import ModelDetail, ModelList, PerformanceShown
from api.system import System
from database.reading import bounded
from errors import NotFound, UnknownModel
from registry import catalog
from registry.catalog import Registered

_LONGEST_HOURS = 24 * 90
_LOADS_NOTHING = "default-src 'none'; style-src 'unsafe-inline'"


async def list_models(system: System, admitted: Admitted) -> Response:
    """All models with their versions, newest first."""
    versions = await bounded(_versions(system))
    models = [
        {"name": name, "versions": [_summary(system, version) for version in group]}
        for name, group in groupby(versions, key=lambda version: version.name)
    ]
    return answer({"models": models})


async def show_model(system: System, admitted: Admitted) -> Response:
    """One model, its versions in full."""
    name = admitted.path_parameters["name"]
    limit = whole_number(admitted.query, "limit", default=50, least=1, most=LARGEST_PAGE)
    before = whole_number(admitted.query, "cursor", default=0, least=1, most=999_999_999) or None
    versions, cursor = await bounded(_page(system, name, limit, before))
    if not versions and before is None:
        raise UnknownModel("No model of this name is registered.")
    shown = [_detail(system, version) for version in versions]
    return answer({"name": name, "versions": shown, "next_cursor": None if cursor is None else str(cursor)})


async def show_performance(system: System, admitted: Admitted) -> Response:
    """Latency, throughput, failures and cache hits of the last hours."""
    name = admitted.path_parameters["name"]
    hours = whole_number(admitted.query, "hours", default=24, least=1, most=_LONGEST_HOURS)
    if not await bounded(_versions(system, name)):
        raise UnknownModel("No model of this name is registered.")
    return answer(await bounded(system.figures.performance(name, hours)))


async def show_report(system: System, admitted: Admitted) -> Response:
    """How good one version is, as a page that loads nothing: the version asked for, or the one that answers."""
    name, asked = admitted.path_parameters["name"], admitted.query.get("version")
    versions = await bounded(_versions(system, name))
    if not versions:
        raise UnknownModel("No model of this name is registered.")
    chosen = [one for one in versions if (one.version == asked if asked else one.alias == "champion")]
    if not chosen:
        raise NotFound("There is no such version." if asked else "No version of this model answers.")
    page = await bounded(system.reports.page(chosen[0]))
    return HTMLResponse(page, headers={"Content-Security-Policy": _LOADS_NOTHING, "X-Content-Type-Options": "nosniff"})


async def _versions(system: System, name: str | None = None) -> Sequence[Registered]:
    async with system.engine.connect() as connection:
        return await connection.run_sync(partial(catalog.versions, name=name, in_full=False))


async def _page(system: System, name: str, limit: int, before: int | None) -> tuple[Sequence[Registered], int | None]:
    async with system.engine.connect() as connection:
        return await connection.run_sync(partial(catalog.page, name=name, limit=limit, before=before))


def _summary(system: System, version: Registered) -> dict[str, Any]:
    return {
        "version": version.version,
        "alias": version.alias,
        "stage": version.stage,
        "task": version.task,
        "framework": version.framework,
        "digest": version.digest,
        "loaded": system.deployments.is_loaded(version.name, version.version),
        "not_loaded_because": system.deployments.why_not_loaded(version.name, version.version),
        "created_by": version.created_by,
        "created_at": version.created_at,
        "metrics": version.metrics,
    }


def _detail(system: System, version: Registered) -> dict[str, Any]:
    return {
        **_summary(system, version),
        "input_schema": version.input_schema,
        "output_schema": version.output_schema,
        "training": version.training,
        "model_card": version.model_card,
        "report": f"{BASE}/models/{version.name}/report?version={version.version}",
    }


ROUTES = (
    Route(
        method="GET",
        path=f"{BASE}/models",
        action=Action.READ_MODELS,
        summary="List models and their versions",
        handler=list_models,
        response=ModelList,
    ),
    Route(
        method="GET",
        path=f"{BASE}/models/{{name}}",
        action=Action.READ_MODELS,
        summary="Show one model, its versions and model cards",
        handler=show_model,
        query=PAGING,
        response=ModelDetail,
    ),
    Route(
        method="GET",
        path=f"{BASE}/models/{{name}}/report",
        action=Action.READ_MODELS,
        summary="Show how good a version is on unseen people, as a page",
        handler=show_report,
        cost=lambda _: EXPENSIVE,
        query=(
            QueryParameter(
                name="version",
                schema={"type": "string", "maxLength": 63},
                description="Default: the one that answers.",
            ),
        ),
    ),
    Route(
        method="GET",
        path=f"{BASE}/models/{{name}}/performance",
        action=Action.READ_STATS,
        summary="Show a model's latency, throughput, failures and cache hits",
        handler=show_performance,
        cost=lambda _: EXPENSIVE,
        response=PerformanceShown,
        query=(
            QueryParameter(
                name="hours",
                schema={"type": "integer", "minimum": 1, "maximum": _LONGEST_HOURS, "default": 24},
                description="How far back.",
            ),
        ),
    ),
)
