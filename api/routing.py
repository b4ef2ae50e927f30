"""The route table: every address there is, what it does and who may call it. What is not in the table does not exist.

The gate, the OpenAPI document and the tests all read this one table, so that none of them can know a route the others
don't.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from starlette.responses import Response

from access.policy import Action
from access.principal import Principal
from api.schemas import Body
from api.system import System
from api.visit import Visit
from audit.record import Caller
from errors import FollowupError, MethodNotAllowed, NotFound
from inference.pipeline import Idempotency

BASE = "/api/v1/ml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A request that passed the gate."""

    principal: Principal
    visit: Visit
    body: Any  # parsed, or for a streamed one its pieces as they come, an AsyncIterator[bytes]
    idempotency: Idempotency | None
    path_parameters: Mapping[str, str]
    query: Mapping[str, str]

    @property
    def caller(self) -> Caller:
        return self.visit.caller

    @property
    def request_id(self) -> UUID:
        return self.caller.request_id


Handler = Callable[[System, Admitted], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """How the body of a route comes in: whole before its handler runs or, `streamed`, piece by piece while it does.

    A body may take 10 s, and from then on as long as it comes at 10 KiB/s, `longest_s` in all. One that is taken whole
    has at most `most_values` values: reading a list of a million zeros holds up everybody.
    """

    largest_bytes: int = 64 * 1024
    most_values: int = 4096
    longest_s: float = 60.0
    media_types: frozenset[str] = frozenset({"application/json"})
    streamed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryParameter:
    """A parameter of the query string, for the OpenAPI document."""

    name: str
    schema: Mapping[str, Any]
    description: str = ""


EXPENSIVE = 10  # requests that a quota counts for one that costs as much as an explanation
LARGEST_PAGE = 200
PAGING = (
    QueryParameter(name="limit", schema={"type": "integer", "minimum": 1, "maximum": LARGEST_PAGE, "default": 50}),
    QueryParameter(
        name="cursor", schema={"type": "string", "maxLength": 64}, description="`next_cursor` of the page before."
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one address."""

    method: str
    path: str
    action: Action
    summary: str
    handler: Handler | None = None  # None: BentoML itself answers
    bento: bool = False  # reached through a BentoML API, which calls the handler, so that BentoML's clients know it
    body: type[Body] | None = None
    intake: Intake = Intake()
    response: type[BaseModel] | None = None
    status: int = 200  # of success
    cost: Callable[[Any], int] | None = None  # how many of a quota's requests one with this body counts for; None: one
    query: Sequence[QueryParameter] = ()
    open_in_demo: bool = False
    pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[A-Za-z0-9_.:\-]{1,128})", self.path))
        object.__setattr__(self, "pattern", pattern)


class RouteTable:
    """Finds the route of a request."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._exact = {(route.method, route.path): route for route in routes if "{" not in route.path}
        self._templates = [route for route in routes if "{" in route.path]

    def template(self, method: str, path: str) -> str:
        """The template of an address for logs and metrics, or "unknown": what a stranger typed is not kept."""
        try:
            return self.find(method, path)[0].path
        except FollowupError:
            return "unknown"

    def find(self, method: str, path: str) -> tuple[Route, Mapping[str, str]]:
        """The route and its path parameters. Raises NotFound or MethodNotAllowed."""
        if (route := self._exact.get((method, path))) is not None:
            return route, {}
        for route in self._templates:
            if route.method == method and (match := route.pattern.fullmatch(path)):
                return route, match.groupdict()
        if methods := [route.method for route in self.routes if route.pattern.fullmatch(path)]:
            raise MethodNotAllowed("Another method is needed at this address.", allowed=methods)
        raise NotFound("There is nothing at this address.")
