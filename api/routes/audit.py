"""The audit trail over HTTP: the log, and everything that somebody needs to prove it without trusting this server."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, TypeVar
from uuid import UUID

from anyio import from_thread
from sqlalchemy import Connection
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from access.policy import Action
from access.principal import Principal, Role
from api.answers import answer, whole_number
from api.routing import BASE, EXPENSIVE, LARGEST_PAGE, PAGING, Admitted, QueryParameter, Route
from api.schemas import ConsistencyShown, EventsPage, ProofShown
from api.system import System
from audit.events import Filter, page, whole_log
from audit.export import encode, export
from audit.fhir import audit_event
from audit.proofs import consistency, inclusion, newest_checkpoint
from database.reading import EVERYTHING, Sight, bounded, state
from errors import FieldFault, InvalidInput, NotFound

T = TypeVar("T")

_LARGEST_TREE: Final = 999_999_999
_NAME: Final = re.compile(r"[A-Za-z0-9_.:\-]{1,128}")
_LINES_A_PIECE: Final = 200


def sight_of(principal: Principal) -> Sight:
    """Everybody sees what they did, patients what happened to their records, auditors all; roles add up.

    Administrators see what was configured: `events` narrows it down to that.
    """
    return Sight(
        own_log=principal.subject,
        patient=principal.subject if principal.has(Role.PATIENT) else "",
        everything=principal.has(Role.AUDITOR, Role.ADMIN),
    )


async def _read(system: System, work: Callable[[Connection], T]) -> T:
    async with system.engine.connect() as connection:
        return await connection.run_sync(work)


async def events(system: System, admitted: Admitted) -> Response:
    """Newest first, in pages."""
    query = admitted.query
    for name in ("patient_id", "principal"):
        if name in query and not _NAME.fullmatch(query[name]):
            raise _wrong(name, "has not the form of one")
    sight = sight_of(admitted.principal)
    action = None if admitted.principal.has(Role.AUDITOR) or not sight.everything else Action.CONFIGURE
    wanted = Filter(query.get("patient_id"), query.get("principal"), _time(query, "since"), action)
    limit = whole_number(query, "limit", default=50, least=1, most=LARGEST_PAGE)
    items, cursor = await bounded(
        _read(system, lambda connection: page(connection, sight, wanted, limit=limit, cursor=query.get("cursor")))
    )
    admitted.visit.patients = [item["patient_id"] for item in items if item["patient_id"] is not None]
    return answer({"items": items, "next_cursor": cursor})


async def checkpoint(system: System, admitted: Admitted) -> Response:
    """The newest signed checkpoint, as a note."""
    _, note = await bounded(_read(system, newest_checkpoint))
    return PlainTextResponse(note)


async def proof(system: System, admitted: Admitted) -> Response:
    """That one prediction is in the tree."""
    try:
        prediction_id = UUID(admitted.path_parameters["prediction_id"])
    except ValueError as error:
        raise NotFound("There is no such prediction.") from error
    admitted.visit.target = str(prediction_id)
    return answer(await bounded(_read(system, lambda connection: inclusion(connection, prediction_id))))


async def consistency_proof(system: System, admitted: Admitted) -> Response:
    """That one checkpoint continues another."""
    for name in ("from", "to"):
        if name not in admitted.query:
            raise _wrong(name, "is needed")
    older, newer = (
        whole_number(admitted.query, name, default=0, least=1, most=_LARGEST_TREE) for name in ("from", "to")
    )
    return answer(await bounded(_read(system, lambda connection: consistency(connection, older, newer))))


async def export_trail(system: System, admitted: Admitted) -> Response:
    """All of it as NDJSON: sealed, for the verifier, or as FHIR AuditEvents."""
    kind = admitted.query.get("format", "fhir")
    if kind not in {"fhir", "sealed"}:
        raise _wrong("format", "must be fhir or sealed")

    def read(work: Callable[[Connection], T]) -> T:
        def seeing(connection: Connection) -> T:
            state(connection, EVERYTHING)
            return work(connection)

        return from_thread.run(_read, system, seeing)

    lines = map(encode, export(read, None)) if kind == "sealed" else _fhir(read)
    return StreamingResponse(_pieces(lines), media_type="application/x-ndjson")


def _fhir(read: Any) -> Iterator[bytes]:
    for entry in whole_log(read, datetime.now(UTC)):
        yield json.dumps(audit_event(entry), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _pieces(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Many lines at once: each piece is a hop between threads."""
    rest = iter(lines)
    while piece := b"".join(islice(rest, _LINES_A_PIECE)):
        yield piece


def _time(query: Mapping[str, str], name: str) -> datetime | None:
    if name not in query:
        return None
    try:
        at = datetime.fromisoformat(query[name])
    except ValueError as error:
        raise _wrong(name, "must be a time of RFC 3339") from error
    if at.tzinfo is None:
        raise _wrong(name, "must name its offset from UTC")
    return at


def _wrong(name: str, message: str) -> InvalidInput:
    return InvalidInput("A query parameter is not valid.", [FieldFault(f"/{name}", message)])


_TEXT: Final = {"type": "string", "maxLength": 128}
_SIZE: Final = {"type": "integer", "minimum": 1, "maximum": _LARGEST_TREE}
ROUTES = (
    Route(
        method="GET",
        path=f"{BASE}/audit/events",
        action=Action.READ_AUDIT,
        summary="List what was done, newest first",
        handler=events,
        response=EventsPage,
        query=(
            *PAGING,
            QueryParameter(name="patient_id", schema=_TEXT),
            QueryParameter(name="principal", schema=_TEXT),
            QueryParameter(name="since", schema={"type": "string", "format": "date-time"}),
        ),
    ),
    Route(
        method="GET",
        path=f"{BASE}/audit/checkpoint",
        action=Action.VERIFY_AUDIT,
        summary="The newest signed checkpoint",
        handler=checkpoint,
    ),
    Route(
        method="GET",
        path=f"{BASE}/audit/proof/{{prediction_id}}",
        action=Action.VERIFY_AUDIT,
        summary="Prove that a prediction is in the sealed trail",
        handler=proof,
        response=ProofShown,
    ),
    Route(
        method="GET",
        path=f"{BASE}/audit/consistency",
        action=Action.VERIFY_AUDIT,
        summary="Prove that one checkpoint continues another",
        handler=consistency_proof,
        response=ConsistencyShown,
        query=(QueryParameter(name="from", schema=_SIZE), QueryParameter(name="to", schema=_SIZE)),
    ),
    Route(
        method="GET",
        path=f"{BASE}/audit/export",
        action=Action.EXPORT_AUDIT,
        summary="Export the trail as NDJSON",
        handler=export_trail,
        cost=lambda _: EXPENSIVE,
        query=(
            QueryParameter(name="format", schema={"type": "string", "enum": ["fhir", "sealed"], "default": "fhir"}),
        ),
    ),
)
