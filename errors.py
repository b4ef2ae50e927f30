"""Every failure this project answers with, in one tree.

    FollowupError
    ├── InvalidInput            422
    ├── MalformedJson           400
    ├── MalformedHttp           400, from the connection itself
    ├── Unauthenticated         401
    ├── Forbidden               403
    ├── NotFound                404
    │   └── UnknownModel        404
    ├── MethodNotAllowed        405
    ├── Conflict                409
    │   ├── IdempotencyConflict 409
    │   ├── ConfirmationNeeded  409
    │   └── NotSealedYet        409, with Retry-After
    ├── BodyTooSlow             408
    ├── BodyTooLarge            413
    ├── NotJson                 415
    ├── HeadTooSlow             408, from the connection itself
    ├── HeadTooLarge            431, from the connection itself
    ├── TooManyRequests         429, with Retry-After
    ├── InternalFault           500
    └── Unavailable             503, with Retry-After
        ├── Overloaded          503
        ├── ModelNotLoaded      503
        └── AuditUnavailable    503
    SetupError                  stops a command or a start-up; never reaches a client

The first line of a docstring is the title of the problem, `slug` its stable type. No message carries what was sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldFault:
    """One fault in a body: where (RFC 6901 pointer) and what, never the value."""

    pointer: str
    message: str


class FollowupError(Exception):
    """The request failed."""

    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    slug: ClassVar[str] = "internal-fault"

    def __init__(self, detail: str = "", *, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s

    @property
    def title(self) -> str:
        return (type(self).__doc__ or "").strip().splitlines()[0]


class InvalidInput(FollowupError):
    """The request does not have the right form."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    slug = "invalid-input"

    def __init__(self, detail: str = "", faults: Sequence[FieldFault] = ()) -> None:
        super().__init__(detail)
        self.faults = tuple(faults)


class MalformedJson(FollowupError):
    """The body is not valid JSON."""

    status = HTTPStatus.BAD_REQUEST
    slug = "malformed-json"


class MalformedHttp(FollowupError):
    """The request is not HTTP."""

    status = HTTPStatus.BAD_REQUEST
    slug = "malformed-http"


class HeadTooSlow(FollowupError):
    """The request's head did not come in time."""

    status = HTTPStatus.REQUEST_TIMEOUT
    slug = "head-too-slow"


class HeadTooLarge(FollowupError):
    """The request's head is over the size limit."""

    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    slug = "head-too-large"


class Unauthenticated(FollowupError):
    """A valid bearer token is needed."""

    status = HTTPStatus.UNAUTHORIZED
    slug = "unauthenticated"

    def __init__(self, detail: str = "", *, reason: str = "no-token") -> None:
        """`reason` is a slug for the log; a stranger is not told what was wrong with a token."""
        super().__init__(detail)
        self.reason = reason


class Forbidden(FollowupError):
    """The caller may not do this."""

    status = HTTPStatus.FORBIDDEN
    slug = "forbidden"


class NotFound(FollowupError):
    """There is nothing here that the caller may see."""

    status = HTTPStatus.NOT_FOUND
    slug = "not-found"


class UnknownModel(NotFound):
    """No model of this name is served."""

    slug = "unknown-model"


class MethodNotAllowed(FollowupError):
    """This address does not take that method."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    slug = "method-not-allowed"

    def __init__(self, detail: str = "", *, allowed: Sequence[str] = ("GET",)) -> None:
        super().__init__(detail)
        self.allowed = tuple(allowed)


class Conflict(FollowupError):
    """The request contradicts what is stored."""

    status = HTTPStatus.CONFLICT
    slug = "conflict"


class IdempotencyConflict(Conflict):
    """This Idempotency-Key was used with another body."""

    slug = "idempotency-conflict"


class ConfirmationNeeded(Conflict):
    """This has to be confirmed once more."""

    slug = "confirmation-needed"

    def __init__(self, detail: str = "", *, confirmation: str) -> None:
        """`confirmation` is what the caller sends back."""
        super().__init__(detail)
        self.confirmation = confirmation


class NotSealedYet(Conflict):
    """The record is not sealed yet."""

    slug = "not-sealed-yet"


class BodyTooSlow(FollowupError):
    """The request's body did not come in time."""

    status = HTTPStatus.REQUEST_TIMEOUT
    slug = "body-too-slow"


class BodyTooLarge(FollowupError):
    """The body is over the size limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    slug = "body-too-large"


class NotJson(FollowupError):
    """The body must be plain application/json."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    slug = "not-json"


class TooManyRequests(FollowupError):
    """More was asked for than one caller may in a minute."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    slug = "too-many-requests"

    def __init__(self, detail: str = "", *, limit: int, remaining: int, retry_after_s: int) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)
        self.limit = limit
        self.remaining = remaining


class InternalFault(FollowupError):
    """Something went wrong on our side."""


class Unavailable(FollowupError):
    """The service cannot answer just now."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    slug = "unavailable"

    def __init__(self, detail: str = "", *, retry_after_s: int = 1) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)


class Overloaded(Unavailable):
    """More is waiting than can be answered in time."""

    slug = "overloaded"


class ModelNotLoaded(Unavailable):
    """The model is not loaded."""

    slug = "model-not-loaded"


class AuditUnavailable(Unavailable):
    """The audit trail cannot be written, so no result is shown."""

    slug = "audit-unavailable"


class SetupError(Exception):
    """A command or a start-up cannot go on; the message tells the operator what to do."""
