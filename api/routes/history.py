"""What was predicted: the caller's view of the audit trail."""

import re
from typing import Final
from uuid import UUID

from starlette.responses import Response

from access.policy import Action
from access.principal import Principal, Role
from api.answers import answer, whole_number
from api.routing import BASE, Admitted, QueryParameter, Route
from api.schemas import HistoryPage, RecordShown
from api.system import System
from database.reading import Sight, bounded
from errors import FieldFault, InvalidInput, NotFound

_LARGEST_PAGE: Final = 200
_NAME: Final = re.compile(r"[A-Za-z0-9_.:\-]{1,128}")


def sight_of(principal: Principal) -> Sight:
    """Whose eyes a caller reads with; roles add up."""
    return Sight(
        author=principal.subject,
        patient=principal.subject if principal.has(Role.PATIENT) else "",
        clinician=principal.subject if principal.has(Role.CLINICIAN) else "",
        everything=principal.has(Role.AUDITOR),
    )


async def history(system: System, admitted: Admitted) -> Response:
    """Newest first, in pages."""
    query = admitted.query
    for name in ("patient_id", "model_name"):
        if name in query and not _NAME.fullmatch(query[name]):
            raise InvalidInput("A query parameter is not valid.", [FieldFault(f"/{name}", "has not the form of one")])
    page = await bounded(
        system.history.page(
            sight_of(admitted.principal),
            limit=whole_number(query, "limit", default=50, least=1, most=_LARGEST_PAGE),
            cursor=query.get("cursor"),
            patient_id=query.get("patient_id"),
            model_name=query.get("model_name"),
        )
    )
    admitted.visit.patients = [item["patient_id"] for item in page.items if item["patient_id"] is not None]
    return answer({"items": page.items, "next_cursor": page.next_cursor})


async def show_prediction(system: System, admitted: Admitted) -> Response:
    """One record."""
    try:
        prediction_id = UUID(admitted.path_parameters["prediction_id"])
    except ValueError as error:
        raise NotFound("There is no such prediction.") from error
    admitted.visit.target = str(prediction_id)
    record = await bounded(system.history.one(sight_of(admitted.principal), prediction_id))
    admitted.visit.patients = [record["patient_id"]] if record["patient_id"] is not None else []
    return answer(record)


ROUTES = (
    Route(
        method="GET",
        path=f"{BASE}/predictions/history",
        action=Action.READ_PREDICTIONS,
        summary="List predictions, newest first",
        handler=history,
        response=HistoryPage,
        query=(
            QueryParameter(
                name="limit", schema={"type": "integer", "minimum": 1, "maximum": _LARGEST_PAGE, "default": 50}
            ),
            QueryParameter(
                name="cursor",
                schema={"type": "string", "maxLength": 64},
                description="`next_cursor` of the page before.",
            ),
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
)
