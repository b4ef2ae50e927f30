"""Care teams, break-glass and revocations."""

from typing import Any, Final
from uuid import UUID

from starlette.responses import Response

from access import care_team
from access.policy import Action
from api.answers import answer, whole_number
from api.routing import BASE, LARGEST_PAGE, PAGING, Admitted, QueryParameter, Route
from api.schemas import (
    BreakGlassList,
    BreakGlassRequest,
    BreakGlassStarted,
    CareTeamList,
    CareTeamShown,
    RevocationRequest,
)
from api.system import System
from audit.rows import event_document
from database.subjects import canonical_subject
from errors import FieldFault, InvalidInput, NotFound

_TRUTH: Final = {"true": True, "false": False}


def _event(admitted: Admitted, status: int) -> dict[str, Any]:
    """What the trail shall say of a change beside the change itself, which the database writes with it."""
    return event_document(admitted.visit.event(status))


async def break_the_glass(system: System, admitted: Admitted) -> Response:
    """One patient, an hour at most."""
    body: BreakGlassRequest = admitted.body
    admitted.visit.patients = [body.patient_id]
    broken = await system.break_glass.start(
        admitted.principal,
        body.patient_id,
        body.reason,
        body.minutes,
        event=_event(admitted, 201),
        confirmation=body.confirmation,
    )
    admitted.visit.recorded = True
    return answer({"id": str(broken.id), "expires_at": broken.expires_at}, status=201)


async def list_break_glass(system: System, admitted: Admitted) -> Response:
    """Those above the ceiling that wait for their review, then newest first."""
    unreviewed = _TRUTH.get(admitted.query.get("unreviewed", "false"))
    if unreviewed is None:
        raise InvalidInput("A query parameter is not valid.", [FieldFault("/unreviewed", "must be true or false")])
    items, cursor = await system.break_glass.listing(
        admitted.principal,
        unreviewed=unreviewed,
        limit=whole_number(admitted.query, "limit", default=50, least=1, most=LARGEST_PAGE),
        cursor=admitted.query.get("cursor"),
    )
    admitted.visit.patients = [item["patient_id"] for item in items]
    return answer({"items": items, "next_cursor": cursor})


async def review_break_glass(system: System, admitted: Admitted) -> Response:
    """Signed by who reviews it."""
    try:
        break_id = UUID(admitted.path_parameters["id"])
    except ValueError as error:
        raise NotFound("There is no such break-glass.") from error
    admitted.visit.target = str(break_id)
    await system.break_glass.review(admitted.principal, break_id, event=_event(admitted, 204))
    admitted.visit.recorded = True
    return Response(status_code=204)


async def grant(system: System, admitted: Admitted) -> Response:
    """Put a clinician on a patient's care team, or change until when."""
    days = None
    if "days" in admitted.query:
        days = whole_number(admitted.query, "days", default=1, least=1, most=care_team.LONGEST_DAYS)
    clinician, patient_id = _pair(admitted)
    row = await system.care_team.grant(
        clinician, patient_id, by=admitted.principal.subject, days=days, event=_event(admitted, 200)
    )
    admitted.visit.recorded = True
    return answer(row)


def _pair(admitted: Admitted) -> tuple[str, str]:
    """Clinician and patient of the address, on record whatever comes of it."""
    clinician = canonical_subject(admitted.path_parameters["clinician"])
    patient_id = canonical_subject(admitted.path_parameters["patient_id"])
    admitted.visit.target, admitted.visit.patients = clinician, [patient_id]
    return clinician, patient_id


async def withdraw(system: System, admitted: Admitted) -> Response:
    """End it now."""
    pair = _pair(admitted)
    await system.care_team.withdraw(*pair, by=admitted.principal.subject, event=_event(admitted, 204))
    admitted.visit.recorded = True
    return Response(status_code=204)


async def show_team(system: System, admitted: Admitted) -> Response:
    """The patients of one clinician."""
    clinician = canonical_subject(admitted.path_parameters["clinician"])
    items = await system.care_team.members(clinician)
    admitted.visit.target = clinician
    admitted.visit.patients = [item["patient_id"] for item in items]
    return answer({"items": items})


async def revoke(system: System, admitted: Admitted) -> Response:
    """A token, a login or a person is let in no more."""
    body: RevocationRequest = admitted.body
    admitted.visit.target = f"{body.kind}:{body.value}"
    await system.denylist.revoke(
        body.kind,
        body.value,
        by=admitted.principal.subject,
        hours=body.hours,
        event=_event(admitted, 204),
    )
    admitted.visit.recorded = True
    return Response(status_code=204)


ROUTES = (
    Route(
        method="POST",
        path=f"{BASE}/break-glass",
        action=Action.BREAK_GLASS,
        summary="Break-glass access to one patient, for an hour at most; it is reviewed afterwards",
        handler=break_the_glass,
        body=BreakGlassRequest,
        response=BreakGlassStarted,
        status=201,
    ),
    Route(
        method="GET",
        path=f"{BASE}/break-glass",
        action=Action.READ_BREAK_GLASS,
        summary="List uses of break-glass, a clinician's own, or all for reviewers: what is above the ceiling first",
        handler=list_break_glass,
        response=BreakGlassList,
        query=(
            *PAGING,
            QueryParameter(
                name="unreviewed",
                schema={"type": "string", "enum": ["true", "false"], "default": "false"},
                description="Only those that wait for their review.",
            ),
        ),
    ),
    Route(
        method="POST",
        path=f"{BASE}/break-glass/{{id}}/review",
        action=Action.REVIEW_BREAK_GLASS,
        summary="Sign that a use of break-glass was reviewed",
        handler=review_break_glass,
        status=204,
    ),
    Route(
        method="PUT",
        path=f"{BASE}/care-team/{{clinician}}/{{patient_id}}",
        action=Action.CONFIGURE,
        summary="Put a clinician on a patient's care team",
        handler=grant,
        response=CareTeamShown,
        query=(
            QueryParameter(
                name="days",
                schema={"type": "integer", "minimum": 1, "maximum": care_team.LONGEST_DAYS},
                description="For how long; left out, until it is withdrawn.",
            ),
        ),
    ),
    Route(
        method="DELETE",
        path=f"{BASE}/care-team/{{clinician}}/{{patient_id}}",
        action=Action.CONFIGURE,
        summary="Take a clinician off a patient's care team",
        handler=withdraw,
        status=204,
    ),
    Route(
        method="GET",
        path=f"{BASE}/care-team/{{clinician}}",
        action=Action.CONFIGURE,
        summary="List the patients whose care team a clinician is on",
        handler=show_team,
        response=CareTeamList,
    ),
    Route(
        method="POST",
        path=f"{BASE}/access/revocations",
        action=Action.CONFIGURE,
        summary="Let a token, a login or a person in no more",
        handler=revoke,
        body=RevocationRequest,
        status=204,
    ),
)
