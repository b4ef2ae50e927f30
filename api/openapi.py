"""OpenAPI 3.1, made from the route table."""

import re
from collections.abc import Sequence
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from api.problems import MEDIA_TYPE
from api.routing import Route
from api.schemas import ProblemShown

VERSION: Final = "0.1.0"
_REFERENCE: Final = "#/components/schemas/{model}"
_PROBLEMS: Final = {
    "400": "Not JSON",
    "401": "No or no valid token",
    "403": "Not allowed",
    "404": "Unknown, or not for the caller to know of",
    "409": "Against what is stored, such as an Idempotency-Key used with another body",
    "408": "The body did not come in time",
    "413": "Body over {largest} KiB",
    "415": "Not application/json",
    "422": "Not of the form of this call",
    "431": "The head is over 16 KiB or 100 fields",
    "429": "Over quota; see Retry-After and RateLimit-Reset",
    "500": "Our fault",
    "503": "Overloaded, or the audit trail cannot be written; see Retry-After",
}
_FOR_BODIES: Final = frozenset({"400", "408", "409", "413", "415"})


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The document of all routes."""
    models: dict[Any, None] = {ProblemShown: None}
    for route in routes:
        for model in (route.body, route.response):
            if model is not None:
                models[model] = None
    _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=_REFERENCE)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Followup ML",
            "version": VERSION,
            "description": "Wellness monitoring and change detection inside your own walls. "
            "A general wellness product: results are for talking about with a care team.",
        },
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": {name: _clean(schema) for name, schema in definitions.get("$defs", {}).items()},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()} {route.path}").strip("_"),
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": {"type": "string", "maxLength": 128}}
                for name in re.findall(r"\{(\w+)\}", route.path)
            ),
            *(
                {"name": query.name, "in": "query", "schema": dict(query.schema), "description": query.description}
                for query in route.query
            ),
            _header("X-Request-ID", "Comes back in the answer."),
        ],
        "responses": {str(route.status): _success(route)},
    }
    if route.bento and route.body is not None:
        operation["parameters"].append(
            _header("Idempotency-Key", "For 24 hours, the same key and body return the first answer.")
        )
    if route.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": _REFERENCE.format(model=route.body.__name__)}}},
        }
    for status, description in _PROBLEMS.items():
        if route.body is not None or status not in _FOR_BODIES or (status == "409" and route.status == 204):
            operation["responses"][status] = {
                "description": description.format(largest=route.intake.largest_bytes // 1024),
                "content": {MEDIA_TYPE: {"schema": {"$ref": _REFERENCE.format(model=ProblemShown.__name__)}}},
            }
    return operation


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "schema": {"type": "string", "format": "uuid"}, "description": description}


def _success(route: Route) -> dict[str, Any]:
    if route.response is None:
        return {"description": route.summary}
    schema = {"$ref": _REFERENCE.format(model=route.response.__name__)}
    success: dict[str, Any] = {"description": route.summary, "content": {"application/json": {"schema": schema}}}
    if route.bento and route.body is not None:
        success["headers"] = {
            "Idempotent-Replayed": {
                "description": "`true` where the first answer under this Idempotency-Key is given again.",
                "schema": {"type": "string", "enum": ["true"]},
            }
        }
    return success


def _clean(schema: dict[str, Any]) -> dict[str, Any]:
    """Without what BentoML adds to the schemas of its inputs."""
    return {name: value for name, value in schema.items() if name != "root_input"}
