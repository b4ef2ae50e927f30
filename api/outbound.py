"""What leaves: nothing before the trail has it, every answer with its headers, every error as a problem document."""

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any
from uuid import UUID

from starlette.types import Message, Send

from access.quotas import Allowance
from api.problems import MEDIA_TYPE, problem_response, rate_limit_headers
from api.visit import ABANDONED
from errors import (
    AuditUnavailable,
    FollowupError,
    InternalFault,
    InvalidInput,
    MethodNotAllowed,
    NotFound,
    Unavailable,
)


class Outbound:
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


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


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
