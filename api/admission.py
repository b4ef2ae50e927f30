"""Reading a request: from what came over the wire to typed values, or to the error that it deserves.

Everything here looks at something a stranger sent; nothing of it appears in an error.
"""

import asyncio
import ipaddress
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl
from uuid import UUID

import orjson
from pydantic import ValidationError
from starlette.types import Receive, Scope

from access.principal import Principal, Role
from api.problems import faults_of
from api.routing import Intake, Route
from audit.record import Caller
from errors import BodyTooLarge, BodyTooSlow, InvalidInput, MalformedJson, NotJson, Overloaded
from inference.pipeline import Idempotency

_LONGEST_LENGTH: Final = 15  # digits
_SLOWEST_START_S: Final = 10.0
_FREE_BYTES: Final = 64 * 1024
_SLOWEST_BYTES_A_S: Final = 10 * 1024
_LONGEST_USER_AGENT: Final = 256
_SINGLE_HEADERS: Final = (b"authorization", b"content-type", b"content-encoding", b"idempotency-key", b"x-request-id")


async def body_pieces(headers: Mapping[str, str], receive: Receive, intake: Intake) -> AsyncIterator[bytes]:
    """The body as it comes. Raises NotJson, BodyTooLarge, BodyTooSlow, or MalformedJson when it ends early."""
    media_type = headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type not in intake.media_types:
        raise NotJson(f"Send Content-Type: {' or '.join(sorted(intake.media_types))}.")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise NotJson("Compressed bodies are not taken.")
    declared = headers.get("content-length", "0")
    too_large = f"At most {intake.largest_bytes} bytes are taken."
    if len(declared) > _LONGEST_LENGTH or (declared.isdigit() and int(declared) > intake.largest_bytes):
        raise BodyTooLarge(too_large)
    size = 0
    now = asyncio.get_running_loop().time
    started = now()
    while True:
        patience_s = min(intake.longest_s, _SLOWEST_START_S + size / _SLOWEST_BYTES_A_S)
        try:
            async with asyncio.timeout_at(started + patience_s):
                message = await receive()
        except TimeoutError as error:
            raise BodyTooSlow("The body did not come in time.") from error
        if message["type"] == "http.disconnect":
            raise MalformedJson("The body ended early.")
        piece = message.get("body", b"")
        size += len(piece)
        if size > intake.largest_bytes:
            raise BodyTooLarge(too_large)
        yield piece
        if not message.get("more_body", False):
            return


class BodyBudget:
    """How much of bodies that are on their way is kept in memory, in all and for one caller.

    What a plain body may have is free; without a bound on the rest, one person with many connections has it all.
    """

    def __init__(self, *, in_all: int = 256 * 2**20, by_caller: int = 32 * 2**20) -> None:
        self._in_all = in_all
        self._by_caller = by_caller
        self._kept: Counter[str] = Counter()
        self._total = 0

    def charge(self, subject: str, size: int) -> None:
        """Raises Overloaded, and then charges nothing."""
        if self._total + size > self._in_all or self._kept[subject] + size > self._by_caller:
            raise Overloaded("Too much is being sent at once.", retry_after_s=1)
        self._total += size
        self._kept[subject] += size

    def release(self, subject: str, size: int) -> None:
        self._total -= size
        self._kept[subject] -= size
        if not self._kept[subject]:
            del self._kept[subject]


async def read_body(
    headers: Mapping[str, str], receive: Receive, intake: Intake, budget: BodyBudget, subject: str
) -> bytes:
    """The whole body. Raises what `body_pieces` raises, and Overloaded."""
    pieces, size, charged = [], 0, 0
    try:
        async for piece in body_pieces(headers, receive, intake):
            pieces.append(piece)
            size += len(piece)
            if (more := size - _FREE_BYTES - charged) > 0:
                budget.charge(subject, more)
                charged += more
        return b"".join(pieces)
    finally:
        if charged:
            budget.release(subject, charged)


_PURPOSES: Final = (  # HL7 v3 PurposeOfUse, by the role that decides it
    ({Role.CLINICIAN, Role.SERVICE}, "CAREMGT"),
    ({Role.PATIENT}, "PATRQT"),
    ({Role.AUDITOR}, "HCOMPL"),
    ({Role.ADMIN}, "HSYSADMIN"),
    ({Role.ML_ENGINEER, Role.APPROVER}, "HQUALIMP"),
)


def caller_of(
    scope: Scope, headers: Mapping[str, str], request_id: UUID, template: str, principal: Principal
) -> Caller:
    """Who asks from where, as the audit trail keeps it."""
    client = scope.get("client")
    return Caller(
        principal=principal.subject,
        roles=principal.role_names,
        client_id=principal.client_id,
        purpose_of_use=next((purpose for roles, purpose in _PURPOSES if principal.has(*roles)), ""),
        request_id=request_id,
        route=template,
        ip_address=_address(client[0]) if client else None,
        user_agent=_printable(headers.get("user-agent")),
    )


def parse_body(route: Route, raw: bytes) -> Any:
    """The typed body of a route. Raises MalformedJson, BodyTooLarge or InvalidInput."""
    assert route.body is not None
    most = route.intake.most_values
    if len(raw) > 2 * most and _has_more_values(raw, most):  # a value takes two bytes
        raise BodyTooLarge(f"At most {most} values are taken.")
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise MalformedJson("The body is not JSON (RFC 8259) in UTF-8.") from error
    try:
        return route.body.model_validate(document)
    except ValidationError as error:
        raise InvalidInput("The body does not have the form of this call.", faults_of(error)) from None


def _has_more_values(raw: bytes, most: int) -> bool:
    """Whether JSON text has more values than that, member names not counted; cheap beside reading it."""
    text = raw.replace(rb"\\", b"").replace(rb"\"", b"")  # a quote is now the begin or the end of a string
    if text.count(b'"') > 4 * (most + 1):  # each value's and each name's
        return True
    outside = b"".join(text.split(b'"')[::2])
    return sum(outside.count(mark) for mark in (b",", b"[", b"{")) >= most


def idempotency_of(headers: Mapping[str, str], raw: bytes) -> Idempotency | None:
    """The caller's Idempotency-Key, if there is one. Raises InvalidInput when it is not a UUID."""
    value = headers.get("idempotency-key")
    if value is None:
        return None
    key = as_uuid(value)
    if key is None:
        raise InvalidInput("The header Idempotency-Key must be a UUID.")
    return Idempotency(key=key, body=raw)


def query_of(route: Route, scope: Scope) -> Mapping[str, str]:
    """The query's parameters. Raises InvalidInput for one that the route does not declare."""
    known = {parameter.name for parameter in route.query}
    try:
        text = scope.get("query_string", b"").decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=20)
    except (UnicodeDecodeError, ValueError) as error:
        raise InvalidInput("The query string cannot be read.") from error
    given = dict(pairs)
    if len(given) != len(pairs):
        raise InvalidInput("The query string names a parameter twice.")
    if not known.issuperset(given):
        raise InvalidInput("The query string has a parameter that is not known here.")
    return given


def headers_of(scope: Scope) -> dict[str, str]:
    """Headers by lower-case name; of repeated ones the last."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def refuse_repeated(scope: Scope) -> None:
    """Raises InvalidInput when a header that decides something came twice: proxies disagree on which one counts."""
    names = [name.lower() for name, _ in scope["headers"]]
    if any(names.count(name) > 1 for name in _SINGLE_HEADERS):
        raise InvalidInput("A header that may come once came twice.")


def _address(text: str) -> str | None:
    """An IP address, or None for anything else that stands in its place, such as a socket's path or a proxy's word."""
    try:
        return str(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return None


def as_uuid(value: str | None) -> UUID | None:
    """A UUID in its usual 36 characters, or None."""
    if value is None or len(value) != 36:
        return None
    try:
        return UUID(value)
    except ValueError:
        return None


def _printable(value: str | None) -> str | None:
    return None if value is None else "".join(c for c in value[:_LONGEST_USER_AGENT] if c.isprintable())
