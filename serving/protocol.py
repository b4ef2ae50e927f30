"""One HTTP/1.1 connection that cannot cost more than its limits, whatever is sent and however slowly.

uvicorn's own protocol takes heads of any size and waits for ever for the rest of one; and what a client sends behind a
chunked body (trailer fields, RFC 9110 section 6.5) it adds to the headers, a token or an X-Forwarded-For too. Here a
head has a size, a number of fields and a time; trailer fields are dropped; what is sent after an answer is read for a
moment only; and who does not read their answer is not waited for. Bodies are limited where their route is known:
api/admission.py.
"""

import asyncio
import re
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar, Final
from uuid import uuid4

import httptools
import orjson
import uvicorn.config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from errors import FollowupError, HeadTooLarge, HeadTooSlow, MalformedHttp, Overloaded
from serving.connections import ConnectionLimits, Connections, Room

LARGEST_HEAD_BYTES: Final = 16 * 1024
MOST_FIELDS: Final = 100
LONGEST_HEAD_S: Final = 10.0
_HEADS: Final = f"At most {LARGEST_HEAD_BYTES} bytes and {MOST_FIELDS} fields are taken."
_FRAMING: Final = (b"content-length", b"transfer-encoding")
_HANDSHAKE_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{22}==")
_MOST_PIPELINED: Final = 16  # one read may hold thousands of small requests, each of which would be kept
_PROBES: Final = (b"/livez", b"/readyz")
_LONGEST_AFTERMATH_S: Final = 2.0  # how long what comes behind an answer is read, so that the answer arrives
_LARGEST_AFTERMATH_BYTES: Final = 1024 * 1024
_LONGEST_UNREAD_S: Final = 60.0


class _Refused(Exception):
    """The request on its way is refused."""


class ConnectionTable:
    """The connections of this process, made at the first one: then the settings are there, at import they need not."""

    def __init__(self, limits: Callable[[], ConnectionLimits]) -> None:
        self._limits = limits

    @cached_property
    def connections(self) -> Connections:
        return Connections(self._limits())


class GuardedProtocol(HttpToolsProtocol):
    """What uvicorn makes for each connection, once `guard` was called."""

    table: ClassVar[ConnectionTable]
    longest_head_s: ClassVar[float] = LONGEST_HEAD_S
    longest_unread_s: ClassVar[float] = _LONGEST_UNREAD_S

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._room = Room.NONE
        self._in_head = True
        self._upgrades = False
        self._ignores_upgrade = False
        self._head_bytes = 0
        self._moved = False
        self._silent_bytes = 0  # inside a body, without any of it: chunk extensions, trailer fields
        self._fault: FollowupError | None = None
        self._refused = False
        self._aftermath_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._aftermath_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._room = self.table.connections.add(self, self.client[0] if self.client else None)
        if self._room is Room.NONE:
            self.evict()
        else:
            self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self.table.connections.remove(self)
        for timer in (self._head_timer, self._aftermath_timer, self._unread_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def evict(self) -> None:
        self._refused = True
        self.transport.abort()

    def handle_websocket_upgrade(self) -> None:
        """The connection gets another protocol; it stays in the table until it ends."""
        super().handle_websocket_upgrade()
        upgraded = self.transport.get_protocol()
        lost = upgraded.connection_lost

        def connection_lost(exc: Exception | None) -> None:
            self.table.connections.remove(self)
            lost(exc)

        upgraded.connection_lost = connection_lost  # type: ignore[method-assign]

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_timer = self.loop.call_later(self.longest_unread_s, self.evict)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    # What comes

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._aftermath_timer is not None:
            self._aftermath_bytes += len(data)
            if self._aftermath_bytes > _LARGEST_AFTERMATH_BYTES:
                self.evict()
        try:
            while data and not self._refused:
                try:
                    data = self._feed_head(data) if self._in_head else self._feed_body(data)
                except httptools.HttpParserUpgrade as upgrade:
                    data = self._upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(self._fault or MalformedHttp("It is not HTTP/1.1 (RFC 9112)."))

    def _upgrade(self, data: bytes) -> bytes:
        """The head is complete and wishes for another protocol. Returns what of the data behind it is still HTTP."""
        if self._ignores_upgrade:
            self._ignores_upgrade = False
            resumed = _Resumed(self)
            self.parser = httptools.HttpRequestParser(resumed)
            resumed.tell([field for field in self.headers if field[0] in _FRAMING])
            return data
        if self.cycle is not None and not self.cycle.response_complete:
            self._refuse(MalformedHttp("An upgrade waits for the answers before it."))  # they would be lost
        else:
            self.handle_websocket_upgrade()
        return b""

    def _feed_head(self, data: bytes) -> bytes:
        """Give the parser no more than a head may have. Returns what is left."""
        room = LARGEST_HEAD_BYTES - self._head_bytes
        piece, rest = (data, b"") if len(data) <= room else (data[:room], data[room:])
        self._head_bytes += len(piece)
        self.parser.feed_data(piece)
        if self._in_head and self._head_bytes:
            if self._head_bytes >= LARGEST_HEAD_BYTES:
                self._refuse(HeadTooLarge(_HEADS))
            elif self._head_timer is None:
                self._start_head_timer()
        return rest

    def _feed_body(self, data: bytes) -> bytes:
        self._moved = False
        self.parser.feed_data(data)
        self._silent_bytes = 0 if self._moved else self._silent_bytes + len(data)
        if self._silent_bytes > LARGEST_HEAD_BYTES:
            self._refuse(HeadTooLarge("There is too much between the parts of the body, or behind it."))
        return b""

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer field: it comes after everything that headers decide
        if len(self.headers) >= MOST_FIELDS:
            self._fault = HeadTooLarge(_HEADS)
            raise _Refused
        super().on_header(name, value)

    def _should_upgrade(self) -> bool:
        """Whether the head that is complete is a whole handshake (RFC 6455 section 4.2.1); uvicorn asks several times.

        What only looks like one goes the way of any other request: it is limited, answered and on record. A body in
        particular would never be waited for by anybody.
        """
        return self._upgrades

    def _is_handshake(self) -> bool:
        if not (self.parser.should_upgrade() and super()._should_upgrade()):
            return False
        names = [name for name, _ in self.headers]
        headers = dict(self.headers)
        return (
            self.parser.get_method() == b"GET"
            and self.parser.get_http_version() == "1.1"
            and not headers.keys() & set(_FRAMING)
            and names.count(b"sec-websocket-key") == names.count(b"sec-websocket-version") == 1
            and headers[b"sec-websocket-version"] == b"13"
            and _HANDSHAKE_KEY.fullmatch(headers[b"sec-websocket-key"]) is not None
        )

    def _refuse_ambiguous(self) -> None:
        """What one server in a row may read otherwise than the next (RFC 9112 sections 3.2 and 6.1)."""
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            self._fault = MalformedHttp("A request names one Host.")
            raise _Refused
        if any(name == b"transfer-encoding" and value.lower() != b"chunked" for name, value in self.headers):
            self._fault = MalformedHttp("A body is chunked or has a length, and nothing else.")
            raise _Refused

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._upgrades = self._is_handshake()
        self._ignores_upgrade = not self._upgrades and self.parser.should_upgrade()
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self.table.connections.works(self)
        if self._room is Room.PROBES and self.url.partition(b"?")[0] not in _PROBES:
            self._fault = Overloaded("There are too many connections.", retry_after_s=5)
            raise _Refused
        self._refuse_ambiguous()
        if len(self.pipeline) >= _MOST_PIPELINED:
            self._fault = Overloaded("There are too many requests behind one another.", retry_after_s=1)
            raise _Refused
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._ignores_upgrade:
            return  # so the parser says, for which a body now belongs to another protocol
        self._in_head, self._head_bytes, self._silent_bytes, self._moved = True, 0, 0, True
        if self._aftermath_timer is not None:  # the rest of a body that was answered early: the next request may come
            self._aftermath_timer.cancel()
            self._aftermath_timer = None
            self.table.connections.waits(self, again=True)
            self._start_head_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._in_head:
            self.table.connections.waits(self, again=True)
        elif self.cycle.response_complete:  # answered before its body was there
            self._aftermath_bytes = 0
            self._close_later()

    # Refusals

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.longest_head_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._head_bytes:
            self._refuse(HeadTooSlow(f"A head has to be there within {self.longest_head_s:g} s."))
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's way to refuse, also for what it upgrades to."""
        self._refuse(MalformedHttp(msg))

    def _refuse(self, error: FollowupError) -> None:
        """Answer, stop parsing, and close as soon as the answer can have arrived."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self.table.connections.refused[error.slug] += 1
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # an answer to something before is on its way: nothing may be put into it
            return
        self.transport.write(_problem(error))
        self.transport.write_eof()
        self._close_later()

    def _close_later(self) -> None:
        """Closed at once, the connection would be reset, and the answer lost with it."""
        if self._aftermath_timer is None:
            self.table.connections.waits(self, again=False)  # nothing more will come of it: it makes room first
            self._aftermath_timer = self.loop.call_later(_LONGEST_AFTERMATH_S, self.transport.abort)


class _Resumed:
    """What the next parser of a connection calls, after one that took an upgrade for the end of HTTP.

    A server may take no notice of `Upgrade` (RFC 9110 section 7.8), and clients that offer HTTP/2 by it send a body all
    the same. The new parser is told again how that body is framed; the protocol has heard everything else already.
    """

    def __init__(self, protocol: GuardedProtocol) -> None:
        self._protocol = protocol
        self._told = False
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete

    def tell(self, framing: list[tuple[bytes, bytes]]) -> None:
        fields = b"".join(b"%b: %b\r\n" % field for field in framing)
        self._protocol.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % fields)

    def on_message_begin(self) -> None:
        if self._told:
            self._protocol.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self._told:
            self._protocol.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._told:
            self._protocol.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._told:
            self._protocol.on_headers_complete()
        self._told = True


def _problem(error: FollowupError) -> bytes:
    """An RFC 9457 document with its head, for a request that no route ever saw."""
    request_id = str(uuid4())
    document = {
        "type": f"urn:followup:problem:{error.slug}",
        "title": error.title,
        "status": int(error.status),
        "detail": error.detail,
        "request_id": request_id,
    }
    body = orjson.dumps(document)
    retry = f"retry-after: {error.retry_after_s}\r\n" if error.retry_after_s is not None else ""
    head = (
        f"content-type: application/problem+json\r\ncontent-length: {len(body)}\r\nx-request-id: {request_id}\r\n"
        f"cache-control: no-store\r\nx-content-type-options: nosniff\r\n{retry}connection: close\r\n\r\n"
    )
    return STATUS_LINE[int(error.status)] + head.encode() + body


def guard(limits: Callable[[], ConnectionLimits]) -> None:
    """From now on, every uvicorn of this process speaks by GuardedProtocol. `limits` is asked at the first connection.

    BentoML makes its server itself and gives no way to name a protocol.
    """
    GuardedProtocol.table = ConnectionTable(limits)
    uvicorn.config.HTTP_PROTOCOLS["auto"] = GuardedProtocol  # type: ignore[assignment]
