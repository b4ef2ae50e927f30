"""The outermost ASGI layer: nothing reaches a route, a mounted app or BentoML itself without passing here.

Admits a request only with a verified token, a declared route that the token's roles may call, and a body that is
small, plain JSON and of the route's form. Whatever goes wrong, here or further in, leaves as a problem document. And
nothing leaves before the trail has it: predictions write their own records, for all else the gate writes an event.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final
from uuid import UUID, uuid4

from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from access.policy import require
from access.principal import ANONYMOUS, Principal
from access.quotas import Allowance
from api.admission import (
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
from api.problems import MEDIA_TYPE, as_followup_error, problem_response, rate_limit_headers
from api.routing import Admitted, RouteTable
from api.system import Readiness, System
from api.visit import ABANDONED, Visit
from errors import (
    AuditUnavailable,
    FollowupError,
    InternalFault,
    InvalidInput,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)

log = logging.getLogger(__name__)

PROBES: Final = frozenset({"/livez", "/readyz"})
_WATCH_FOR_DISCONNECT_AFTER_S: Final = 0.25
_LONGEST_REQUEST_S: Final = 30.0  # before BentoML's own limit, whose answer would not be ours


class Gate:
    """Wraps the whole application of the service."""

    def __init__(self, app: ASGIApp, table: RouteTable, system: Callable[[], System]) -> None:
        self._app = app
        self._table = table
        self._system = system
        self._recording: set[asyncio.Task[None]] = set()
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
            await self._probe(scope, receive, _Outbound(send, request_id))
            return
        system = self._system()
        template = self._table.template(scope["method"], scope["path"])
        visit = Visit(caller_of(scope, headers, request_id, template, ANONYMOUS))
        outbound = _Outbound(send, request_id, before=lambda status: _record(system, visit, status))
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
                raw = await read_body(headers, receive, route.intake)
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
                await _run_unless_disconnected(self._app, scope, _Replay(raw, receive), outbound)
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

    async def _probe(self, scope: Scope, receive: Receive, outbound: "_Outbound") -> None:
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


class _Outbound:
    """Adds the headers of every answer, and replaces error pages that are not ours by problem documents.

    `before` is awaited with the status before anything of the answer leaves; when it raises, the answer does not.
    """

    def __init__(self, send: Send, request_id: UUID, before: Callable[[int], Awaitable[None]] | None = None) -> None:
        self._send = send
        self._request_id = request_id
        self._before = before
        self._replacing = False
        self.status = 0
        self.allowance: Allowance | None = None

    @property
    def started(self) -> bool:
        return self.status != 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._start(message)
        elif not self._replacing:
            await self._send(message)

    async def _start(self, message: MutableMapping[str, Any]) -> None:
        self.status = message["status"]
        headers = [(name, value) for name, value in message["headers"] if name.lower() != b"server"]
        media_type = next((value for name, value in headers if name.lower() == b"content-type"), b"")
        error: FollowupError | None = None
        if self.status >= 400 and self.status != ABANDONED and not media_type.startswith(MEDIA_TYPE.encode()):
            error = _error_for(self.status)
        if self._before is not None:
            try:
                await self._before(self.status)
            except AuditUnavailable as unavailable:
                if self.status != unavailable.status:
                    error = unavailable
        if error is not None:
            self._replacing = True
            self.status = int(error.status)
            await problem_response(error, self._request_id)({"type": "http"}, _nothing, self._replace)
            return
        await self._send({**message, "headers": [*headers, *self._common_headers(), *self._rate_limit(headers)]})

    async def _replace(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *self._common_headers()]}
        await self._send(message)

    def _rate_limit(self, headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        allowance = self.allowance
        if allowance is None or any(name.lower() == b"ratelimit-limit" for name, _ in headers):
            return []
        shown = rate_limit_headers(allowance.limit, allowance.remaining, allowance.reset_s)
        return [(name.lower().encode(), value.encode()) for name, value in shown.items()]

    def _common_headers(self) -> list[tuple[bytes, bytes]]:
        return [
            (b"x-request-id", str(self._request_id).encode()),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
        ]


class _Replay:
    """Gives the body that was read already to whoever reads it next, then what the client sends after."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


async def _run_unless_disconnected(app: ASGIApp, scope: Scope, receive: _Replay, send: Send) -> None:
    """Run the application; when it takes long, watch the client, and give up once it has gone.

    A prediction that nobody waits for any more would only make the others wait longer.
    """
    loop = asyncio.get_running_loop()
    running = asyncio.current_task()
    assert running is not None
    watcher: asyncio.Task[None] | None = None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        running.cancel()

    def start_watching() -> None:
        nonlocal watcher
        watcher = loop.create_task(watch())

    timer = loop.call_later(_WATCH_FOR_DISCONNECT_AFTER_S, start_watching)
    try:
        async with asyncio.timeout(_LONGEST_REQUEST_S):
            await app(scope, receive, send)
    except TimeoutError as error:
        raise Overloaded("The answer took too long.", retry_after_s=5) from error
    except asyncio.CancelledError:
        if not gone:
            raise
        running.uncancel()
        # To nobody, but BentoML's layers around this one wait for an answer until their own time limit.
        await Response(status_code=ABANDONED)(scope, receive, send)
    finally:
        timer.cancel()
        if watcher is not None:
            watcher.cancel()


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


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


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


def _error_for(status: int) -> FollowupError:
    """Our words for an error that BentoML or Starlette answered with."""
    if status == 404:
        return NotFound("There is nothing at this address.")
    if status == 405:
        return MethodNotAllowed("Another method is needed at this address.")
    if status in {408, 429, 503, 504}:
        return Unavailable("The server is busy.", retry_after_s=1)
    if status < 500:
        return InvalidInput("The request does not have the form of this call.")
    return InternalFault("The server's log has more, under this request id.")
