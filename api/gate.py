"""The outermost ASGI layer: nothing reaches a route, a mounted app or BentoML itself without passing here.

Admits a request only with a verified token, a declared route that the token's roles may call, and a body that is
small, plain JSON and of the route's form. Whatever goes wrong, here or further in, leaves as a problem document.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qsl
from uuid import UUID, uuid4

import orjson
from pydantic import ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from access.policy import require
from access.principal import Principal, Role
from api.problems import MEDIA_TYPE, as_followup_error, faults_of, problem_response
from api.routing import Admitted, Route, RouteTable
from api.system import System
from audit.record import Caller
from errors import (
    BodyTooLarge,
    FollowupError,
    InternalFault,
    InvalidInput,
    MalformedJson,
    NotFound,
    NotJson,
    Unauthenticated,
    Unavailable,
)
from inference.pipeline import Idempotency

log = logging.getLogger(__name__)

LARGEST_BODY_BYTES: Final = 64 * 1024
PROBES: Final = frozenset({"/livez", "/readyz"})
_SLOWEST_BODY_S: Final = 10.0
_LONGEST_USER_AGENT: Final = 256
_WATCH_FOR_DISCONNECT_AFTER_S: Final = 0.25


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
        headers = _headers(scope)
        request_id = _uuid(headers.get("x-request-id")) or uuid4()
        outbound = _Outbound(send, request_id)
        if scope["path"] in PROBES:
            await self._app(scope, receive, outbound)
            return
        template = "unknown"
        try:
            system = self._system()
            principal = None if self._is_open(system, scope) else await _authenticate(system, headers)
            route, path_parameters = self._table.find(scope["method"], scope["path"])
            template = route.path
            if principal is not None:
                require(principal, route.action)
            raw = await _read_body(headers, receive) if route.body is not None else b""
            admitted = Admitted(
                principal=principal or _NOBODY,
                caller=_caller(scope, headers, request_id, route, principal or _NOBODY),
                body=_parse(route, raw) if route.body is not None else None,
                idempotency=_idempotency(headers, raw) if route.body is not None else None,
                path_parameters=path_parameters,
                query=_query(route, scope),
            )
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
        await self._send({**message, "headers": [*headers, *self._common_headers()]})

    async def _replace(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *self._common_headers()]}
        await self._send(message)

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
        await app(scope, receive, send)
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


async def _authenticate(system: System, headers: Mapping[str, str]) -> Principal:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("Send a token: Authorization: Bearer …")
    return await system.verifier.verify(token.strip())


async def _read_body(headers: Mapping[str, str], receive: Receive) -> bytes:
    media_type = headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type != "application/json":
        raise NotJson("Send Content-Type: application/json.")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise NotJson("Compressed bodies are not taken.")
    declared = headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > LARGEST_BODY_BYTES:
        raise BodyTooLarge(f"At most {LARGEST_BODY_BYTES} bytes are taken.")
    body = bytearray()
    try:
        async with asyncio.timeout(_SLOWEST_BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise MalformedJson("The body ended early.")
                body += message.get("body", b"")
                if len(body) > LARGEST_BODY_BYTES:
                    raise BodyTooLarge(f"At most {LARGEST_BODY_BYTES} bytes are taken.")
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError as error:
        raise MalformedJson("The body did not come in time.") from error


def _caller(scope: Scope, headers: Mapping[str, str], request_id: UUID, route: Route, principal: Principal) -> Caller:
    client = scope.get("client")
    return Caller(
        principal=principal.subject,
        roles=principal.role_names,
        client_id=principal.client_id,
        purpose_of_use="PATRQT" if principal.has(Role.PATIENT) else "CAREMGT",
        request_id=request_id,
        route=route.path,
        ip_address=client[0] if client else None,
        user_agent=_printable(headers.get("user-agent")),
    )


def _parse(route: Route, raw: bytes) -> Any:
    assert route.body is not None
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise MalformedJson("The body is not JSON (RFC 8259) in UTF-8.") from error
    try:
        return route.body.model_validate(document)
    except ValidationError as error:
        raise InvalidInput("The body does not have the form of this call.", faults_of(error)) from None


def _idempotency(headers: Mapping[str, str], raw: bytes) -> Idempotency | None:
    value = headers.get("idempotency-key")
    if value is None:
        return None
    key = _uuid(value)
    if key is None:
        raise InvalidInput("The header Idempotency-Key must be a UUID.")
    return Idempotency(key=key, body=raw)


def _query(route: Route, scope: Scope) -> Mapping[str, str]:
    known = {parameter.name for parameter in route.query}
    try:
        given = dict(
            parse_qsl(scope.get("query_string", b"").decode("ascii"), keep_blank_values=True, max_num_fields=20)
        )
    except (UnicodeDecodeError, ValueError) as error:
        raise InvalidInput("The query string cannot be read.") from error
    if not known.issuperset(given):
        raise InvalidInput("The query string has a parameter that is not known here.")
    return given


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _uuid(value: str | None) -> UUID | None:
    if value is None or len(value) != 36:
        return None
    try:
        return UUID(value)
    except ValueError:
        return None


def _printable(value: str | None) -> str | None:
    return None if value is None else "".join(c for c in value[:_LONGEST_USER_AGENT] if c.isprintable())


def _error_for(status: int) -> FollowupError:
    """Our words for an error that BentoML or Starlette answered with."""
    if status == 404:
        return NotFound("There is nothing at this address.")
    if status in {408, 429, 503, 504}:
        return Unavailable("The server is busy.", retry_after_s=1)
    if status < 500:
        return InvalidInput("The request does not have the form of this call.")
    return InternalFault("The server's log has more, under this request id.")
