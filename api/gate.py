"""The outermost ASGI layer: nothing reaches a route, a mounted app or BentoML itself without passing here.

Admits a request only with a verified token, a declared route that the token's roles may call, and a body that is
small, plain JSON and of the route's form. Whatever goes wrong, here or further in, leaves as a problem document.
"""

import asyncio
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final
from uuid import UUID, uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from access.policy import require
from access.principal import Principal
from access.quotas import Allowance
from api.admission import (
    as_uuid,
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
from api.system import System
from errors import (
    FollowupError,
    InternalFault,
    InvalidInput,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    Unauthenticated,
    Unavailable,
)

PROBES: Final = frozenset({"/livez", "/readyz"})
_WATCH_FOR_DISCONNECT_AFTER_S: Final = 0.25
_LONGEST_REQUEST_S: Final = 30.0  # before BentoML's own limit, whose answer would not be ours


class Gate:
    """Wraps the whole application of the service."""

    def __init__(self, app: ASGIApp, table: RouteTable, system: Callable[[], System]) -> None:
        self._app = app
        self._table = table
        self._system = system

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 4404})
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = headers_of(scope)
        request_id = as_uuid(headers.get("x-request-id")) or uuid4()
        outbound = _Outbound(send, request_id)
        if scope["path"] in PROBES:
            await self._app(scope, receive, outbound)
            return
        template = "unknown"
        try:
            system = self._system()
            refuse_repeated(scope)
            principal = None if self._is_open(system, scope) else await _authenticate(system, scope, headers)
            if principal is not None:
                outbound.allowance = await system.quotas.spend(principal.subject)
            route, path_parameters = self._table.find(scope["method"], scope["path"])
            template = route.path
            if principal is not None:
                require(principal, route.action)
            raw = await read_body(headers, receive) if route.body is not None else b""
            admitted = Admitted(
                principal=principal or _NOBODY,
                caller=caller_of(scope, headers, request_id, route, principal or _NOBODY),
                body=parse_body(route, raw) if route.body is not None else None,
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
            if outbound.status:
                self._system().metrics.request(template, outbound.status)

    def _is_open(self, system: System, scope: Scope) -> bool:
        if not system.demo:
            return False
        try:
            return self._table.find(scope["method"], scope["path"])[0].open_in_demo
        except FollowupError:
            return False


_NOBODY: Final = Principal("demo-visitor", frozenset(), "", 0, "")


class _Outbound:
    """Adds the headers of every answer, and replaces error pages that are not ours by problem documents."""

    def __init__(self, send: Send, request_id: UUID) -> None:
        self._send = send
        self._request_id = request_id
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
        if self.status >= 400 and not media_type.startswith(MEDIA_TYPE.encode()):
            self._replacing = True
            await problem_response(_error_for(self.status), self._request_id)({"type": "http"}, _nothing, self._replace)
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
    finally:
        timer.cancel()
        if watcher is not None:
            watcher.cancel()


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


async def _authenticate(system: System, scope: Scope, headers: Mapping[str, str]) -> Principal:
    """Who asks. Raises Unauthenticated, or TooManyRequests for an address from which nobody gets in all the time."""
    try:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("Send a token: Authorization: Bearer …")
        return await system.verifier.verify(token.strip())
    except Unauthenticated:
        client = scope.get("client")
        await system.quotas.spend_anonymous(client[0] if client else None)
        raise


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
