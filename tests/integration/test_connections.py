"""What one connection, one address and all connections together may cost: a real uvicorn with our protocol, hostile
clients on plain sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import psutil
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from serving.connections import ConnectionLimits, below_the_file_limit, is_trusted
from serving.protocol import LARGEST_HEAD_BYTES, MOST_FIELDS, ConnectionTable, GuardedProtocol
from tests.conftest import eventually

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
CHUNKED = b"POST /body HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class App:
    """Says what it was given; /early answers before it has read anything, /large more than a socket holds."""

    def __init__(self) -> None:
        self.headers: list[list[tuple[bytes, bytes]]] = []
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            return
        body, more = b"", scope["path"] != "/early"
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.bodies.append(body)
        self.headers.append(scope["headers"])
        body = bytes(32 * 2**20) if scope["path"] == "/large" else b"ok"
        head = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})


class Guarded:
    """A server on a free port, and clients of it."""

    def __init__(self, port: int, app: App, table: ConnectionTable) -> None:
        self.port = port
        self.app = app
        self.connections = table.connections
        self._clients: list[asyncio.StreamWriter] = []

    async def connect(self) -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._clients.append(writer)
        return reader, writer

    async def leave(self) -> None:
        for writer in self._clients:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self._clients), return_exceptions=True)

    async def ask(self, *parts: bytes) -> bytes:
        """Everything that comes back until the server closes."""
        reader, writer = await self.connect()
        for part in parts:
            writer.write(part)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), 10)


@asynccontextmanager
async def guarded(
    *, in_all: int = 1000, by_address: int = 1000, exempt: bool = False, **limits: float
) -> AsyncIterator[Guarded]:
    app = App()
    table = ConnectionTable(
        lambda: ConnectionLimits(in_all=in_all, by_address=by_address, exempt=lambda _address: exempt)
    )
    protocol: Any = type("Protocol", (GuardedProtocol,), {"table": table, **limits})
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    server = uvicorn.Server(uvicorn.Config(app, http=protocol, lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    await eventually(lambda: server.started)
    guarded_server = Guarded(listening.getsockname()[1], app, table)
    try:
        yield guarded_server
    finally:
        await guarded_server.leave()
        server.should_exit = server.force_exit = True
        await serving
        listening.close()


def problem(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    document: dict[str, Any] = orjson.loads(body)
    assert head.startswith(f"HTTP/1.1 {document['status']} ".encode())
    assert document["request_id"].encode() in head
    return document


async def test_a_head_of_the_largest_size_passes_and_one_byte_more_is_431() -> None:
    frame = b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\nA: %s\r\n\r\n"
    filling = LARGEST_HEAD_BYTES - len(frame % b"")
    async with guarded() as server:
        assert (await server.ask(frame % (b"a" * filling))).startswith(b"HTTP/1.1 200")
        assert problem(await server.ask(frame % (b"a" * (filling + 1))))["status"] == 431


@pytest.mark.parametrize(
    "head",
    [
        b"GET /x HTTP/1.1\r\nA: " + b"a" * 2_000_000,
        b"GET /" + b"x" * 2_000_000,
        b"GET /x HTTP/1.1\r\n" + b"a" * 2_000_000,
        b"GET /x HTTP/1.1\r\n" + b"A: b\r\n" * 300_000,
        b"\r\n" * 1_000_000,
    ],
    ids=["one value", "the address", "one name", "many fields", "nothing but line ends"],
)
async def test_a_head_that_never_ends_is_cut_off(head: bytes) -> None:
    async with guarded() as server:
        reader, writer = await server.connect()
        writer.write(head)
        answer = await asyncio.wait_for(reader.read(), 10)
        assert problem(answer)["status"] in {400, 431}


async def test_a_head_of_128_mb_costs_neither_memory_nor_anybody_else_an_answer() -> None:
    async with guarded() as server:
        memory = psutil.Process().memory_info().rss
        _reader, writer = await server.connect()
        writer.write(b"GET /x HTTP/1.1\r\nA: ")
        longest = 0.0
        with pytest.raises(ConnectionError):
            for _ in range(2048):
                writer.write(b"a" * 65_536)
                await writer.drain()
                started = asyncio.get_running_loop().time()
                assert (await server.ask(LIVEZ)).startswith(b"HTTP/1.1 200")
                longest = max(longest, asyncio.get_running_loop().time() - started)
        assert longest < 2
        assert psutil.Process().memory_info().rss - memory < 32 * 2**20


async def test_more_fields_than_allowed_are_431_whatever_their_size() -> None:
    fields = b"".join(b"A%d: b\r\n" % number for number in range(MOST_FIELDS))
    async with guarded() as server:
        allowed = b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n" + fields.rpartition(b"A98")[0] + b"\r\n"
        assert (await server.ask(allowed)).startswith(b"HTTP/1.1 200")
        assert problem(await server.ask(b"GET /x HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\n"))["status"] == 431


async def test_the_second_head_of_a_connection_is_limited_as_the_first() -> None:
    async with guarded() as server:
        reader, writer = await server.connect()
        writer.write(GET)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.write(b"GET /x HTTP/1.1\r\nA: " + b"a" * 40_000)
        assert problem(await asyncio.wait_for(reader.read(), 10))["status"] == 431


async def test_a_head_that_comes_byte_by_byte_is_408_and_silence_is_closed() -> None:
    async with guarded(longest_head_s=0.3) as server:
        _reader, writer = await server.connect()
        with pytest.raises(ConnectionError):
            for byte in b"GET /x HTTP/1.1\r\nA: " + b"a" * 1000:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.02)
        assert problem(await server.ask(b"GET /x HTTP/1.1\r\nA: b"))["status"] == 408
        assert await server.ask() == b""


@pytest.mark.parametrize("name", [b"Authorization", b"X-Forwarded-For", b"Content-Type", b"Idempotency-Key"])
async def test_a_trailer_field_is_no_header(name: bytes) -> None:
    async with guarded() as server:
        chunks = b"2\r\nab\r\n0\r\n" + name + b": believed\r\n\r\n"
        reader, writer = await server.connect()
        writer.write(CHUNKED)
        await writer.drain()
        await asyncio.sleep(0.05)  # the trailer comes when the request is at work already
        writer.write(chunks + GET.replace(b"Host", b"Connection: close\r\nHost"))
        answer = await asyncio.wait_for(reader.read(), 10)
        assert answer.count(b"HTTP/1.1 200") == 2
        assert all(b"believed" not in value for headers in server.app.headers for _, value in headers)


@pytest.mark.parametrize("head", [CHUNKED, CHUNKED[:-2] + b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n"])
@pytest.mark.parametrize(
    "rest",
    [b"0\r\nA: " + b"a" * 500_000, b"0\r\n" + b"A: b\r\n" * 80_000, b"2;" + b"e" * 500_000],
    ids=["one trailer field", "many trailer fields", "a chunk's extension"],
)
async def test_what_stands_between_and_behind_the_parts_of_a_body_is_limited(head: bytes, rest: bytes) -> None:
    async with guarded() as server:
        memory = psutil.Process().memory_info().rss
        _reader, writer = await server.connect()
        writer.write(head + b"2\r\nab\r\n")
        with pytest.raises(ConnectionError):
            for _ in range(200):
                writer.write(rest)
                await writer.drain()
                await asyncio.sleep(0.001)
        assert psutil.Process().memory_info().rss - memory < 32 * 2**20


async def test_what_follows_an_early_answer_is_read_for_a_moment_only() -> None:
    async with guarded() as server:
        reader, writer = await server.connect()
        writer.write(b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        with pytest.raises(ConnectionError):
            for _ in range(2000):
                writer.write(bytes(65_536))
                await writer.drain()
                await asyncio.sleep(0)


async def test_a_connection_goes_on_after_an_early_answer_whose_body_ends_soon() -> None:
    async with guarded() as server:
        reader, writer = await server.connect()
        writer.write(b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.write(bytes(200_000) + LIVEZ)
        assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 200")


async def test_a_body_that_drips_behind_an_early_answer_ends_with_its_connection() -> None:
    async with guarded() as server:
        reader, writer = await server.connect()
        writer.write(b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        with pytest.raises(ConnectionError):
            for _ in range(100):
                writer.write(b"a")
                await writer.drain()
                await asyncio.sleep(0.1)


async def test_who_does_not_read_the_answer_is_not_waited_for() -> None:
    async with guarded(longest_unread_s=0.3) as server:
        _reader, writer = await server.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
        await writer.drain()
        await eventually(lambda: not len(server.connections))


async def test_half_open_connections_make_room_for_probes_and_requests() -> None:
    async with guarded(in_all=200, exempt=True) as server:
        half_open = [await server.connect() for _ in range(400)]
        for _, writer in half_open:
            writer.write(b"GET /x HTTP/1.1\r\nA: ")
        for _ in range(20):
            assert (await asyncio.wait_for(server.ask(LIVEZ), 2)).startswith(b"HTTP/1.1 200")
            assert (await asyncio.wait_for(server.ask(LIVEZ.replace(b"/livez", b"/x")), 2)).startswith(b"HTTP/1.1 200")
        assert len(server.connections) <= 200
        assert server.connections.refused["evicted"] >= 200


async def test_what_is_answered_already_makes_room_while_the_rest_of_it_is_awaited() -> None:
    async with guarded(in_all=4) as server:
        readers = []
        for _ in range(60):  # more than there is room for, probes' places with it
            reader, writer = await server.connect()
            writer.write(b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n")
            readers.append(reader)
        await asyncio.gather(*(reader.read(9) for reader in readers), return_exceptions=True)
        assert (await server.ask(LIVEZ)).startswith(b"HTTP/1.1 200")
        assert (await server.ask(GET.replace(b"Host", b"Connection: close\r\nHost"))).startswith(b"HTTP/1.1 200")


async def test_connections_at_work_are_kept_and_only_probes_find_room_beside_them() -> None:
    async with guarded(in_all=20, exempt=True) as server:
        at_work = [await server.connect() for _ in range(20)]
        for _, writer in at_work:
            writer.write(b"POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nConnection: close\r\n\r\na")
            await writer.drain()
        await asyncio.sleep(0.2)
        assert (await server.ask(LIVEZ)).startswith(b"HTTP/1.1 200")
        refused = problem(await server.ask(GET))
        assert (refused["status"], refused["type"]) == (503, "urn:followup:problem:overloaded")
        for reader, writer in at_work:
            writer.write(b"b")
            assert (await reader.read()).startswith(b"HTTP/1.1 200")


async def test_one_address_does_not_get_all_connections() -> None:
    async with guarded(by_address=10) as server:
        at_work = [await server.connect() for _ in range(10)]
        for _, writer in at_work:
            writer.write(b"POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\na")
            await writer.drain()
        await asyncio.sleep(0.2)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            reader, writer = await server.connect()
            writer.write(GET)
            await reader.readexactly(1)
        assert server.connections.refused["address"] == 1
        assert len(server.connections) == 10


async def test_a_websocket_counts_until_it_ends() -> None:
    async with guarded(longest_head_s=0.2) as server:
        reader, writer = await server.connect()
        writer.write(UPGRADE)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        await asyncio.sleep(0.5)
        assert len(server.connections) == 1
        writer.close()
        await eventually(lambda: not len(server.connections))


@pytest.mark.parametrize(
    "changed",
    [
        (b"\r\n\r\n", b"\r\nContent-Length: 10\r\n\r\n"),
        (b"\r\n\r\n", b"\r\nContent-Length: 999999999999999\r\n\r\n"),
        (b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (b"GET", b"POST"),
        (b"Sec-WebSocket-Version: 13\r\n", b""),
        (b"Version: 13", b"Version: 12"),
        (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"short"),
    ],
    ids=str,
)
async def test_what_only_looks_like_a_handshake_is_a_request_like_any_other(changed: tuple[bytes, bytes]) -> None:
    async with guarded(longest_head_s=0.3) as server:
        head = UPGRADE.replace(*changed).replace(b"/ws", b"/early")
        answer = await server.ask(head)
        assert answer.startswith(b"HTTP/1.1 200")
        await eventually(lambda: not len(server.connections))


async def test_an_upgrade_behind_a_request_loses_no_answer_silently() -> None:
    async with guarded() as server:
        assert await server.ask(GET + UPGRADE) == b""  # neither: what comes second must not be taken for the first
        await eventually(lambda: not len(server.connections))


@pytest.mark.parametrize(
    "head",
    [
        b"GET /x HTTP/1.1\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /body HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST /body HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    ],
    ids=["no Host", "two Hosts", "two codings", "a coding twice"],
)
async def test_what_a_server_before_may_have_read_otherwise_is_refused(head: bytes) -> None:
    async with guarded() as server:
        assert problem(await server.ask(head))["status"] == 400
        assert server.app.headers == []


async def test_requests_behind_one_another_are_answered_in_order_and_limited_in_number() -> None:
    async with guarded() as server:
        few = b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number for number in range(10))
        answer = await server.ask(few + LIVEZ)
        assert answer.count(b"HTTP/1.1 200") == 11
        with pytest.raises(ConnectionError):
            await server.ask(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 10_000)
        assert len(server.app.headers) < 40


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00", b"HELO\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 100])
async def test_what_is_no_http_is_400_and_is_not_repeated(sent: bytes) -> None:
    async with guarded() as server:
        answer = await server.ask(sent)
        assert problem(answer)["status"] == 400
        assert b"HELO" not in answer


# As curl --http2 and Java's HttpClient send it, which offer HTTP/2 with every request.
H2C = b"Host: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 11\r\n\r\nhello world",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
    ],
    ids=["length", "chunked"],
)
@pytest.mark.parametrize("head", [b"POST /body HTTP/1.1\r\n" + H2C, b"POST /body" + UPGRADE[7:-2]], ids=["h2c", "ws"])
@pytest.mark.parametrize("piece", [1, 7, 100_000])
async def test_an_upgrade_that_is_not_taken_costs_no_body_and_no_connection(
    head: bytes, framing: bytes, piece: int
) -> None:
    request = head + framing
    sent = request * 3 + b"GET /x HTTP/1.1\r\n" + H2C + b"\r\n" + request + LIVEZ
    async with guarded() as server:
        answer = await server.ask(*(sent[at : at + piece] for at in range(0, len(sent), piece)))
        assert answer.count(b"HTTP/1.1 200") == 6
        assert server.app.bodies == [b"hello world"] * 3 + [b"", b"hello world", b""]


async def test_what_is_no_http_behind_an_upgrade_that_is_not_taken_is_400() -> None:
    async with guarded() as server:
        reader, writer = await server.connect()
        writer.write(b"GET /x HTTP/1.1\r\n" + H2C + b"\r\n")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert problem(await asyncio.wait_for(reader.read(), 10))["status"] == 400


def test_all_connections_fit_below_the_file_limit() -> None:
    import resource

    room = below_the_file_limit(0)
    assert 64 <= room < resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert below_the_file_limit(100) == 100
    assert below_the_file_limit(10**6) == room


def test_trusted_proxies_are_read_as_uvicorn_reads_them() -> None:
    trusted = is_trusted("10.0.0.1, 192.0.2.0/24")
    assert trusted("10.0.0.1")
    assert trusted("192.0.2.77")
    assert not trusted("10.0.0.2")
    assert not is_trusted("")("127.0.0.1")
