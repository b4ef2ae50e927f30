"""RFC 9457 problem details: the one place where an exception becomes an answer."""

import logging
from typing import Any, Final
from uuid import UUID

import orjson
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.responses import Response

from errors import (
    ConfirmationNeeded,
    FieldFault,
    FollowupError,
    InternalFault,
    InvalidInput,
    MethodNotAllowed,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_MOST_FAULTS: Final = 500


def problem(error: FollowupError, request_id: UUID) -> dict[str, Any]:
    """The problem document of an error."""
    document: dict[str, Any] = {
        "type": f"urn:followup:problem:{error.slug}",
        "title": error.title,
        "status": int(error.status),
        "detail": error.detail or error.title,
        "request_id": str(request_id),
    }
    if isinstance(error, InvalidInput) and error.faults:
        document["errors"] = [{"pointer": fault.pointer, "message": fault.message} for fault in error.faults[:50]]
    if isinstance(error, ConfirmationNeeded):
        document["confirmation"] = error.confirmation
    return document


def problem_response(error: FollowupError, request_id: UUID) -> Response:
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(error.allowed)
    if isinstance(error, TooManyRequests):
        headers |= rate_limit_headers(error.limit, error.remaining, error.retry_after_s or 1)
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    body = orjson.dumps(problem(error, request_id))
    return Response(body, status_code=int(error.status), media_type=MEDIA_TYPE, headers=headers)


def rate_limit_headers(limit: int, remaining: int, reset_s: int) -> dict[str, str]:
    """A caller's quota of the minute, what is left of it, and in how many seconds it is whole again."""
    return {"RateLimit-Limit": str(limit), "RateLimit-Remaining": str(remaining), "RateLimit-Reset": str(reset_s)}


def as_followup_error(error: Exception, *, route: str, request_id: UUID) -> FollowupError:
    """What a client is told of any exception. Logs what is our own fault, without the message: it may quote data."""
    if isinstance(error, FollowupError):
        if isinstance(error, InternalFault):
            log.error("%s: %s (request %s)", route, type(error.__cause__ or error).__name__, request_id)
        return error
    if isinstance(error, SQLAlchemyError | PoolTimeout | OSError | TimeoutError):
        log.error("%s: the database does not answer (%s, request %s)", route, type(error).__name__, request_id)
        return Unavailable("The database does not answer.", retry_after_s=1)
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else "?"
    log.error("%s: %s at %s (request %s)", route, type(error).__name__, place, request_id)
    return InternalFault("The server's log has more, under this request id.")


def faults_of(error: ValidationError) -> list[FieldFault]:
    """Pydantic's findings as pointers and words, without the values.

    Unknown names are the caller's text: not repeated. Of very many only the number is told: finding words for each
    costs a hundred times what sending them does.
    """
    if (count := error.error_count()) > _MOST_FAULTS:
        return [FieldFault("", f"has {count} faults")]
    faults = []
    for found in error.errors(include_input=False, include_context=False, include_url=False):
        unknown = found["type"] == "extra_forbidden"
        place = found["loc"][:-1] if unknown else found["loc"]
        pointer = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in place)
        faults.append(FieldFault(pointer, "has a field that is not known here" if unknown else _message(found)))
    return faults


def _message(found: Any) -> str:
    return str(found["msg"]).removeprefix("Value error, ")
