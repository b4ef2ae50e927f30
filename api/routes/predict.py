"""The predicting calls: body → pipeline → answer."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import orjson
from starlette.responses import Response

from access.policy import Action
from api.problems import problem
from api.routing import BASE, EXPENSIVE, Admitted, Intake, Route
from api.schemas import (
    MOST_ITEMS,
    BatchRequest,
    BatchResponse,
    DeteriorationRequest,
    DeteriorationResponse,
    PredictRequest,
    PredictResponse,
    SymptomAnalysisRequest,
    SymptomAnalysisResponse,
)
from api.system import System
from clinical import wellness
from errors import FieldFault, InvalidInput
from inference.deployments import Deployment
from inference.pipeline import REPLAYED, Answer, PredictionRequest, Refusal, Rendered

SYMPTOM_MODEL = "clinical_ner"
DETERIORATION_MODEL = "deterioration_lstm"
_PLAIN = Intake()
# 20,000 characters as `json.dumps` escapes those outside the basic plane, in 12 bytes each, and the rest of the body.
_NOTE = Intake(largest_bytes=256 * 1024)
# 64 such items are more: this is what a batch may have in all.
_NOTES = Intake(largest_bytes=4 * 1024 * 1024, most_values=MOST_ITEMS * 512)


async def predict(system: System, admitted: Admitted) -> Response:
    """Any model by name."""
    body: PredictRequest = admitted.body
    request = PredictionRequest(
        model_name=body.model_name,
        input_data=body.input_data,
        patient_id=body.patient_id,
        use_cache=body.use_cache,
        explain=body.explain,
    )
    try:
        return await _one(system, admitted, request, _generic)
    except InvalidInput as error:
        # A model's parser points into `input_data`, the client's pointer begins at the body.
        faults = [
            fault if fault.pointer == "/explain" else FieldFault(f"/input_data{fault.pointer}", fault.message)
            for fault in error.faults
        ]
        raise InvalidInput(error.detail, faults) from error


async def symptom_analysis(system: System, admitted: Admitted) -> Response:
    """Entities of a note."""
    body: SymptomAnalysisRequest = admitted.body
    request = PredictionRequest(
        model_name=SYMPTOM_MODEL,
        input_data={"text": body.text} | ({"normalize": True} if body.normalize else {}),
        patient_id=body.patient_id,
        use_cache=body.use_cache,
    )
    shown = ("entities", "language", "notice")
    return await _one(
        system, admitted, request, lambda answer: {name: answer.result[name] for name in shown if name in answer.result}
    )


async def deterioration(system: System, admitted: Admitted) -> Response:
    """A week of measurements, as a wellness score."""
    body: DeteriorationRequest = admitted.body
    request = PredictionRequest(
        model_name=DETERIORATION_MODEL,
        input_data={"measurements": body.measurements},
        patient_id=body.patient_id,
        explain=body.explain,
    )
    return await _one(
        system,
        admitted,
        request,
        lambda answer: {"risk": answer.result, "notice": wellness.notice(answer.result["band"])},
    )


async def predict_batch(system: System, admitted: Admitted) -> Response:
    """Up to 64 items of one model; one result or one problem for each, in order."""
    body: BatchRequest = admitted.body
    ids = [item.id for item in body.items]
    if len(set(ids)) != len(ids):
        raise InvalidInput("Two items have the same id.", [FieldFault("/items", "ids must differ")])
    requests = [
        PredictionRequest(
            model_name=body.model_name, input_data=item.input_data, patient_id=item.patient_id, item_id=item.id
        )
        for item in body.items
    ]
    admitted.visit.patients = [item.patient_id for item in body.items if item.patient_id is not None]
    whose = {item.id: item.patient_id for item in body.items}

    async def deny(refusals: Sequence[Refusal]) -> None:
        """Each is on record as the single call's refusal is, with its own patient."""
        events = [admitted.visit.denial(whose[refusal.item_id]) for refusal in refusals if refusal.item_id is not None]
        await asyncio.gather(*map(system.trail.event, events))

    rendered = await system.pipeline.predict_batch(
        admitted.principal,
        admitted.caller,
        requests,
        show=_item,
        render=partial(_batch, admitted),
        deny=deny,
        idempotency=admitted.idempotency,
    )
    return _json(admitted, rendered)


async def _one(
    system: System, admitted: Admitted, request: PredictionRequest, shape: Callable[[Answer], dict[str, Any]]
) -> Response:
    def show(answer: Answer) -> dict[str, Any]:
        identity = answer.deployment.identity
        return {
            "prediction_id": str(answer.prediction_id),
            **shape(answer),
            **({} if answer.explanation is None else {"explanation": answer.explanation}),
            "model": {"name": identity.name, "version": identity.version},
            "metadata": {
                "inference_time_ms": round(answer.inference_time_ms, 3),
                "cache_hit": answer.cache_hit,
                "request_id": str(admitted.request_id),
            },
        }

    admitted.visit.patients = [request.patient_id] if request.patient_id is not None else []
    rendered = await system.pipeline.predict(admitted.principal, admitted.caller, request, show, admitted.idempotency)
    return _json(admitted, rendered)


def _generic(answer: Answer) -> dict[str, Any]:
    confidence = None if answer.confidence is None else round(answer.confidence, 2)
    return {"result": answer.result, "confidence": confidence}


def _item(answer: Answer) -> dict[str, Any]:
    return {
        "id": answer.item_id,
        "prediction_id": str(answer.prediction_id),
        **_generic(answer),
        "cache_hit": answer.cache_hit,
    }


def _batch(admitted: Admitted, deployment: Deployment, outcomes: Sequence[orjson.Fragment | Refusal]) -> bytes:
    identity = deployment.identity
    items = [
        {"id": outcome.item_id, "problem": problem(outcome.error, admitted.request_id)}
        if isinstance(outcome, Refusal)
        else outcome
        for outcome in outcomes
    ]
    return orjson.dumps(
        {
            "model": {"name": identity.name, "version": identity.version},
            "items": items,
            "metadata": {"request_id": str(admitted.request_id)},
        }
    )


def _json(admitted: Admitted, rendered: Rendered) -> Response:
    admitted.visit.recorded, admitted.visit.outcome = rendered.recorded, rendered.outcome
    # draft-ietf-httpapi-idempotency-key-header names no header for this; payment APIs have made this one usual
    headers = {"Idempotent-Replayed": "true"} if rendered.outcome == REPLAYED else None
    return Response(rendered.body, media_type="application/json", headers=headers)


def _cost(body: Any) -> int:
    """Predictions that a quota counts: an explanation costs the model as much as many."""
    if isinstance(body, BatchRequest):
        return len(body.items)
    return EXPENSIVE if getattr(body, "explain", False) else 1


def _route(path: str, summary: str, handler: Any, body: Any, response: Any, *, intake: Intake = _PLAIN) -> Route:
    return Route(
        method="POST",
        path=f"{BASE}{path}",
        action=Action.PREDICT,
        summary=summary,
        handler=handler,
        body=body,
        intake=intake,
        response=response,
        bento=True,
        cost=_cost,
    )


PREDICT = _route("/predict", "Predict with any model", predict, PredictRequest, PredictResponse, intake=_NOTE)
SYMPTOM_ANALYSIS = _route(
    "/predict/symptom-analysis",
    "Find symptoms, medications and conditions in a note",
    symptom_analysis,
    SymptomAnalysisRequest,
    SymptomAnalysisResponse,
    intake=_NOTE,
)
DETERIORATION = _route(
    "/predict/deterioration",
    "Compare a week of home measurements with the person's own baseline",
    deterioration,
    DeteriorationRequest,
    DeteriorationResponse,
)
BATCH = _route("/predict/batch", "Predict up to 64 items", predict_batch, BatchRequest, BatchResponse, intake=_NOTES)

ROUTES = (PREDICT, SYMPTOM_ANALYSIS, DETERIORATION, BATCH)
