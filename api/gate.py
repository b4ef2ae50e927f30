"""The outermost ASGI layer: nothing reaches a route, a mounted app or BentoML itself without passing here.

Admits a request only with a verified token, a declared route that the token's roles may call, and a body that is
small, plain JSON and of the route's form. Whatever goes wrong, here or further in, leaves as a problem document. And
nothing leaves before the trail has it: predictions write their own records, for all else the gate writes an event.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Final
from uuid import UUID

from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uuid_utils.compat import uuid4

from access.policy import require
from access.principal import ANONYMOUS, Principal
from api.admission import (
    BodyBudget,
    as_uuid,
    body_pieces,
    caller_of,
    headers_of,
    idempotency_of,
    parse_body,
    query_of,
    read_body,
    refuse_repeated,
)
from api.disconnect import Replay, run_unless_disconnected
from api.outbound import Outbound
from api.problems import as_followup_error, problem_response
from api.routing import Admitted, RouteTable
from api.system import Readiness, System
from api.visit import ABANDONED, Visit
from errors import (
    AuditUnavailable,
    FollowupError,
    InvalidInput,
    TooManyRequests,
    Unauthenticated,
)

log = logging.getLogger(__name__)

PROBES: Final = frozenset({"/livez", "/readyz"})


class Gate:
    """Wraps the whole application of the service."""

    def __init__(self, app: ASGIApp, table: RouteTable, system: Callable[[], System]) -> None:
        self._app = app
        self._table = table
        self._system = system
        self._recording: set[asyncio.Task[None]] = set()
        self._budget = BodyBudget()
        self._entrance: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            if self._entrance is None:  # what the system is, is known from the first request on
                self._entrance = _shared_with(self._system().cors_origins, self._http)
            await self._entrance(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """There are none: refused, with an event and on somebody's account as any request that is refused."""
        headers = headers_of(scope)
        template = self._table.template("GET", scope["path"])
        request_id = as_uuid(headers.get("x-request-id")) or uuid4()
        system = self._system()
        visit = Visit(caller_of(scope, headers, request_id, template, ANONYMOUS))
        status: int = HTTPStatus.FORBIDDEN
        await receive()
        try:
            await _refuse_repeated(system, scope)
            if "authorization" in headers:
                principal = await _authenticate(system, scope, headers, request_id)
                visit.caller = caller_of(scope, headers, request_id, template, principal)
                await system.quotas.spend(principal.subject)
            else:
                await _spend_anonymous(system, scope)
        except (Unauthenticated, InvalidInput):
            pass
        except TooManyRequests as error:
            status = error.status
        with suppress(AuditUnavailable):  # the answer tells nothing that the trail should have first
            await _record(system, visit, status)
        system.metrics.request(template, status)
        await send({"type": "websocket.close", "code": 4404})  # before it was accepted: 403

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = headers_of(scope)
        request_id = as_uuid(headers.get("x-request-id")) or uuid4()
        if scope["path"] in PROBES:
            await self._probe(scope, receive, Outbound(send, request_id))
            return
        system = self._system()
        template = self._table.template(scope["method"], scope["path"])
        visit = Visit(caller_of(scope, headers, request_id, template, ANONYMOUS))
        outbound = Outbound(send, request_id, before=lambda status: _record(system, visit, status))
        try:
            await _refuse_repeated(system, scope)
            principal = await self._principal(system, scope, headers, request_id)
            visit.caller = caller_of(scope, headers, request_id, template, principal)
            if principal is not ANONYMOUS:
                outbound.allowance = await system.quotas.spend(principal.subject)
            route, path_parameters = self._table.find(scope["method"], scope["path"])
            visit.action = route.action
            if principal is not ANONYMOUS:
                require(principal, route.action)
            raw, body = b"", None
            if route.intake.streamed:
                body = body_pieces(headers, receive, route.intake)
            elif route.body is not None:
                raw = await read_body(headers, receive, route.intake, self._budget, principal.subject)
                body = parse_body(route, raw)
            admitted = Admitted(
                principal=principal,
                visit=visit,
                body=body,
                idempotency=idempotency_of(headers, raw) if route.body is not None else None,
                path_parameters=path_parameters,
                query=query_of(route, scope),
            )
            if route.cost is not None and (more := route.cost(admitted.body) - 1) > 0:
                outbound.allowance = await system.quotas.spend(admitted.principal.subject, more)
            scope.setdefault("state", {})["admitted"] = admitted
            if route.bento:
                await run_unless_disconnected(self._app, scope, Replay(raw, receive), outbound)
            else:
                assert route.handler is not None
                response = await route.handler(system, admitted)
                await response(scope, receive, outbound)
        except Exception as error:
            if outbound.started:
                raise
            shown = as_followup_error(error, route=template, request_id=request_id)
            await problem_response(shown, request_id)(scope, receive, outbound)
        finally:
            system.metrics.request(template, outbound.status or ABANDONED)
            if not outbound.started:
                self._record_later(system, visit)

    async def _probe(self, scope: Scope, receive: Receive, outbound: Outbound) -> None:
        """BentoML answers, but for the one word that it does not know; what is amiss is for those with a token."""
        asked = scope["path"] == "/readyz" and scope["method"] in {"GET", "HEAD"}
        if asked and self._system().readiness is Readiness.DEGRADED:
            await PlainTextResponse(Readiness.DEGRADED)(scope, receive, outbound)
        else:
            await self._app(scope, receive, outbound)

    def _record_later(self, system: System, visit: Visit) -> None:
        """The server stops in the middle: nobody waits for this event, but it belongs into the trail."""

        async def record() -> None:
            with suppress(AuditUnavailable):
                await _record(system, visit, ABANDONED)

        task = asyncio.create_task(record())
        self._recording.add(task)
        task.add_done_callback(self._recording.discard)

    async def _principal(self, system: System, scope: Scope, headers: Mapping[str, str], request_id: UUID) -> Principal:
        """Who asks: nobody in particular where the route is open. Raises Unauthenticated or TooManyRequests."""
        if not self._is_open(system, scope):
            return await _authenticate(system, scope, headers, request_id)
        await _spend_anonymous(system, scope)
        return ANONYMOUS

    def _is_open(self, system: System, scope: Scope) -> bool:
        if not system.demo:
            return False
        try:
            return self._table.find(scope["method"], scope["path"])[0].open_in_demo
        except FollowupError:
            return False


async def _record(system: System, visit: Visit, status: int) -> None:
    """Returns once the trail has this request, or it is counted among a stranger's. Raises AuditUnavailable."""
    if status == HTTPStatus.TOO_MANY_REQUESTS and visit.caller.principal == ANONYMOUS.subject:
        system.strangers.count(visit.caller.ip_address)
    elif not (visit.recorded and status < 400):
        await system.trail.event(visit.event(status))


def _shared_with(origins: Sequence[str], app: ASGIApp) -> ASGIApp:
    """Pages of these origins may call from a browser (CORS); a preflight tells nothing and leaves nothing on record."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "PUT", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "X-Request-ID"],
        expose_headers=[
            *("X-Request-ID", "Idempotent-Replayed", "Retry-After"),
            *("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"),
        ],
    )


async def _authenticate(system: System, scope: Scope, headers: Mapping[str, str], request_id: UUID) -> Principal:
    """Who asks. Raises Unauthenticated, or TooManyRequests for an address from which nobody gets in all the time."""
    try:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("Send a token: Authorization: Bearer …")
        return await system.verifier.verify(token.strip())
    except Unauthenticated as refused:
        system.metrics.token_refused(refused.reason)
        await _spend_anonymous(system, scope)
        log.info("token refused: %s (request %s)", refused.reason, request_id)
        raise


async def _refuse_repeated(system: System, scope: Scope) -> None:
    """As refuse_repeated, and on the account of the address: which token would count is not known."""
    try:
        refuse_repeated(scope)
    except InvalidInput:
        await _spend_anonymous(system, scope)
        raise


async def _spend_anonymous(system: System, scope: Scope) -> None:
    client = scope.get("client")
    await system.quotas.spend_anonymous(client[0] if client else None)
