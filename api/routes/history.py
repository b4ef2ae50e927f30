"""What was predicted: the caller's view of the audit trail."""

import re
from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from starlette.responses import Response

from access.fields import project, visible_fields
from access.policy import Action, Relation
from access.principal import Principal, Role
from api.answers import answer, whole_number
from api.routing import BASE, LARGEST_PAGE, PAGING, Admitted, QueryParameter, Route
from api.schemas import Amended, AmendmentRequest, HistoryPage, RecordShown
from api.system import System
from audit.record import BREAK_GLASS_PURPOSE
from database.reading import Sight, bounded
from database.subjects import canonical_subject
from errors import FieldFault, Forbidden, InvalidInput, NotFound

_NAME: Final = re.compile(r"[A-Za-z0-9_.:\-]{1,128}")


def sight_of(principal: Principal) -> Sight:
    """Whose eyes a caller reads with; roles add up."""
    return Sight(
        author=principal.subject,
        patient=principal.subject if principal.has(Role.PATIENT) else "",
        clinician=principal.subject if principal.has(Role.CLINICIAN) else "",
        everything=principal.has(Role.AUDITOR),
    )


def _shown(principal: Principal, record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that the reader's roles need. Contents come with records of theirs or of who they are related to."""
    if record["patient_id"] is None:
        relation = Relation.NOBODY
    elif canonical_subject(record["patient_id"]) == principal.subject:
        relation = Relation.OWN
    else:
        relation = Relation.CARE_TEAM if "erased" in record else Relation.OTHER
    wrote = canonical_subject(record["principal"]) == principal.subject
    return project(record, visible_fields(principal, relation=relation, wrote=wrote))


async def history(system: System, admitted: Admitted) -> Response:
    """Newest first, in pages."""
    query = admitted.query
    for name in ("patient_id", "model_name"):
        if name in query and not _NAME.fullmatch(query[name]):
            raise InvalidInput("A query parameter is not valid.", [FieldFault(f"/{name}", "has not the form of one")])
    # Whom was asked for is on record also where nothing may be shown of them.
    asked = admitted.visit.target = canonical_subject(query["patient_id"]) if "patient_id" in query else None
    page = await bounded(
        system.history.page(
            sight_of(admitted.principal),
            limit=whole_number(query, "limit", default=50, least=1, most=LARGEST_PAGE),
            cursor=query.get("cursor"),
            patient_id=asked,
            model_name=query.get("model_name"),
        )
    )
    await _say_whose(system, admitted, {item["patient_id"] for item in page.items if item["patient_id"] is not None})
    items = [_shown(admitted.principal, item) for item in page.items]
    return answer({"items": items, "next_cursor": page.next_cursor})


async def show_prediction(system: System, admitted: Admitted) -> Response:
    """One record."""
    return answer(_shown(admitted.principal, await _record(system, admitted)))


async def amend(system: System, admitted: Admitted) -> Response:
    """Add to a record; the gate writes the event, sealed with the patient's key, before this answer leaves."""
    body: AmendmentRequest = admitted.body
    record = await _record(system, admitted)
    if "erased" not in record:
        raise Forbidden("Only who may read a record may add to it.")
    admitted.visit.detail = body.text.encode()
    return answer({"prediction_id": record["prediction_id"]}, status=201)


async def _record(system: System, admitted: Admitted) -> dict[str, Any]:
    """The record that the address names, as far as the caller may see it; the trail says whose it is."""
    try:
        prediction_id = UUID(admitted.path_parameters["prediction_id"])
    except ValueError as error:
        raise NotFound("There is no such prediction.") from error
    admitted.visit.target = str(prediction_id)
    record = await bounded(system.history.one(sight_of(admitted.principal), prediction_id))
    await _say_whose(system, admitted, {record["patient_id"]} if record["patient_id"] is not None else set())
    return record


async def _say_whose(system: System, admitted: Admitted, patients: Set[str]) -> None:
    """Tell the trail whose records are shown, and that it is by break-glass where it is."""
    admitted.visit.patients = sorted(patients)
    reader = admitted.principal
    if reader.has(Role.CLINICIAN):
        relations = [await system.care_team.relation(reader.subject, patient) for patient in patients]
        if Relation.BREAK_GLASS in relations:
            admitted.visit.caller = replace(admitted.caller, purpose_of_use=BREAK_GLASS_PURPOSE)


ROUTES = (
    Route(
        method="GET",
        path=f"{BASE}/predictions/history",
        action=Action.READ_PREDICTIONS,
        summary="List predictions, newest first",
        handler=history,
        response=HistoryPage,
        query=(
            *PAGING,
            QueryParameter(name="patient_id", schema={"type": "string", "maxLength": 128}),
            QueryParameter(name="model_name", schema={"type": "string", "maxLength": 128}),
        ),
    ),
    Route(
        method="GET",
        path=f"{BASE}/predictions/{{prediction_id}}",
        action=Action.READ_PREDICTIONS,
        summary="Show one prediction",
        handler=show_prediction,
        response=RecordShown,
    ),
    Route(
        method="POST",
        path=f"{BASE}/predictions/{{prediction_id}}/amendments",
        action=Action.AMEND,
        summary="Add to a record, which itself stays as it is",
        handler=amend,
        body=AmendmentRequest,
        response=Amended,
        status=201,
    ),
)
