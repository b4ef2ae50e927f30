"""The contract itself: OpenAPI for people and generators, BentoML's schema for BentoML's clients."""

from functools import cache

import orjson
from starlette.responses import Response

from access.policy import Action
from api.openapi import document
from api.routing import BASE, Admitted, Route
from api.system import System


async def openapi(system: System, admitted: Admitted) -> Response:
    """OpenAPI 3.1 of every route."""
    return Response(_rendered(), media_type="application/json")


@cache
def _rendered() -> bytes:
    """Made once: the routes do not change while a process runs."""
    from api.routes import TABLE  # noqa: PLC0415 - the table holds this very route

    return orjson.dumps(document(TABLE.routes))


ROUTES = (
    Route(
        method="GET",
        path=f"{BASE}/openapi.json",
        action=Action.READ_CONTRACT,
        summary="This document",
        handler=openapi,
        open_in_demo=True,
    ),
    Route(
        method="GET",
        path="/schema.json",
        action=Action.READ_CONTRACT,
        summary="The predicting calls, for BentoML's own clients",
        bento=True,
    ),
)
