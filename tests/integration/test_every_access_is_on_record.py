"""Every request leaves exactly one thing in the trail: its predictions, or one event (S5)."""

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest

from access.dev_issuer import DevIssuer, demo_subject
from api.routes import TABLE
from database.engine import libpq_url
from tests.conftest import bearer
from tests.server import BASE, Server

WEEK = [
    {"pain_score_facial": 1, "pain_score_self_reported": 1, "respiratory_rate": 15, "symptom_severity_score": 1}
] * 7
NOTE = {"text": "fever and cough"}
MANY_TRIES = 50


@pytest.fixture
def traces(server: Server) -> Callable[[str], list[dict[str, Any]]]:
    """What the trail has of a request: predictions, then events."""

    def find(request_id: str) -> list[dict[str, Any]]:
        with psycopg.connect(libpq_url(server.database_url), row_factory=psycopg.rows.dict_row) as connection:
            predictions = connection.execute(
                "SELECT 'prediction' AS kind, cache_hit, patient_id FROM ml_predictions WHERE request_id = %s",
                [request_id],
            ).fetchall()
            events = connection.execute(
                "SELECT 'event' AS kind, * FROM audit_events WHERE request_id = %s", [request_id]
            ).fetchall()
        return [*predictions, *events]

    return find


def send(server: Server, method: str, path: str, **options: Any) -> tuple[httpx.Response, str]:
    request_id = str(uuid.uuid4())
    headers = {**options.pop("headers", {}), "X-Request-ID": request_id}
    return httpx.request(method, server.url + path, headers=headers, timeout=30, **options), request_id


@pytest.mark.parametrize("route", TABLE.routes, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_leaves_one_event_for_each_way_it_refuses(
    server: Server, issuer: DevIssuer, traces: Callable[[str], list[dict[str, Any]]], route: Any
) -> None:
    path = route.path
    for name in ("prediction_id", "name", "id", "clinician", "patient_id"):
        path = path.replace(f"{{{name}}}", "unknown")
    without_token, first = send(server, route.method, path)
    without_role, second = send(server, route.method, path, headers=bearer(issuer, "nobody"))
    malformed, third = send(
        server, route.method, f"{path}?nothing=1", headers=bearer(issuer, "clinician", "auditor", "admin"), content=b"{"
    )
    assert (without_token.status_code, without_role.status_code) == (401, 403)
    assert malformed.status_code in {400, 403, 415, 422}
    for response, request_id, principal in (
        (without_token, first, "anonymous"),
        (without_role, second, demo_subject("nobody")),
        (malformed, third, demo_subject("clinician")),
    ):
        (event,) = traces(request_id)
        assert (event["kind"], event["route"], event["status"]) == ("event", route.path, response.status_code)
        assert event["principal"] == principal
        assert event["outcome"] == ("denied" if response.status_code in {401, 403} else "refused")


@pytest.mark.parametrize(
    ("path", "body", "rows"),
    [
        ("/predict", {"model_name": "clinical_ner", "input_data": NOTE}, 1),
        ("/predict/symptom-analysis", NOTE, 1),
        ("/predict/deterioration", {"measurements": WEEK}, 1),
        ("/predict/batch", {"model_name": "clinical_ner", "items": [{"id": i, "input_data": NOTE} for i in "ab"]}, 2),
    ],
)
def test_an_answered_prediction_leaves_its_row_and_no_event_cached_or_not(
    server: Server,
    clinician: dict[str, str],
    traces: Callable[[str], list[dict[str, Any]]],
    path: str,
    body: dict[str, Any],
    rows: int,
) -> None:
    for _ in range(2):
        response, request_id = send(server, "POST", BASE + path, json=body, headers=clinician)
        assert response.status_code == 200
        assert [trace["kind"] for trace in traces(request_id)] == ["prediction"] * rows


def test_a_batch_that_is_refused_in_part_leaves_rows_and_one_event(
    server: Server, clinician: dict[str, str], traces: Callable[[str], list[dict[str, Any]]]
) -> None:
    items = [{"id": "good", "input_data": NOTE}, {"id": "bad", "input_data": {}}]
    for body, kinds, outcome in ((items, ["prediction", "event"], "partial"), (items[1:], ["event"], "refused")):
        batch = {"model_name": "clinical_ner", "items": body}
        _, request_id = send(server, "POST", f"{BASE}/predict/batch", json=batch, headers=clinician)
        found = traces(request_id)
        assert [trace["kind"] for trace in found] == kinds
        assert found[-1]["outcome"] == outcome


@pytest.mark.requirement("S5")
def test_each_item_for_somebody_elses_patient_is_a_denial_with_that_patient(
    server: Server, issuer: DevIssuer, traces: Callable[[str], list[dict[str, Any]]]
) -> None:
    clinician, mine, others = str(uuid.uuid4()), str(uuid.uuid4()), [str(uuid.uuid4()) for _ in range(2)]
    server.relate(clinician, mine)
    token = bearer(issuer, "clinician", subject=clinician)
    asked = [mine, others[0], None, others[1], others[0]]
    items = [{"id": f"{n}", "input_data": NOTE, "patient_id": patient} for n, patient in enumerate(asked)]
    headers = {**token, "Idempotency-Key": str(uuid.uuid4())}
    body = {"model_name": "clinical_ner", "items": items}
    answer, request_id = send(server, "POST", f"{BASE}/predict/batch", json=body, headers=headers)
    assert [item.get("problem", {}).get("status") for item in answer.json()["items"]] == [None, 403, None, 403, 403]
    found = traces(request_id)
    denials = [trace for trace in found if trace.get("status") == 403]
    assert sorted(trace["patient_id"] for trace in denials) == sorted([others[0], others[1], others[0]])
    assert {(trace["outcome"], trace["action"], trace["principal"]) for trace in denials} == {
        ("denied", "predict", clinician)
    }
    (whole,) = [trace for trace in found if trace["kind"] == "event" and trace["status"] != 403]
    assert whole["outcome"] == "partial"
    assert [trace["kind"] for trace in found].count("prediction") == 2
    again, replayed = send(server, "POST", f"{BASE}/predict/batch", json=body, headers=headers)
    assert (again.content, [trace["outcome"] for trace in traces(replayed)]) == (answer.content, ["replayed"])


def test_an_answer_given_again_is_an_access_of_its_own(
    server: Server, clinician: dict[str, str], traces: Callable[[str], list[dict[str, Any]]]
) -> None:
    headers = {**clinician, "Idempotency-Key": str(uuid.uuid4())}
    found, said = [], []
    for _ in range(2):
        answer, request_id = send(server, "POST", f"{BASE}/predict/symptom-analysis", json=NOTE, headers=headers)
        found.append(traces(request_id))
        said.append(answer.headers.get("Idempotent-Replayed"))
    assert said == [None, "true"]
    assert [[trace["kind"] for trace in each] for each in found] == [["prediction"], ["event"]]
    assert found[1][0]["outcome"] == "replayed"


def test_reading_says_whose_record_was_read(
    server: Server, issuer: DevIssuer, traces: Callable[[str], list[dict[str, Any]]]
) -> None:
    patient = str(uuid.uuid4())
    token = bearer(issuer, "patient", subject=patient)
    response, _ = send(server, "POST", f"{BASE}/predict/symptom-analysis", json=NOTE, headers=token)
    prediction = response.json()["prediction_id"]
    for path, target in ((f"/predictions/{prediction}", prediction), ("/predictions/history", None)):
        _, request_id = send(server, "GET", BASE + path, headers=token)
        (event,) = traces(request_id)
        assert (event["patient_id"], event["target"], event["outcome"]) == (patient, target, "success")
        assert event["action"] == "read predictions"


async def test_a_client_that_goes_away_is_on_record(
    server: Server, clinician: dict[str, str], traces: Callable[[str], list[dict[str, Any]]]
) -> None:
    request_id = str(uuid.uuid4())
    async with httpx.AsyncClient(base_url=server.url, timeout=0.4) as client:
        with pytest.raises(httpx.ReadTimeout):
            # Far more work than the fastest machine does while the client waits.
            notes = [{"id": f"{n}", "input_data": {"text": f"{n} severe headache, " * 900}} for n in range(16)]
            headers = {**clinician, "X-Request-ID": request_id}
            body = {"model_name": "clinical_ner", "items": notes}
            await client.post(f"{BASE}/predict/batch", json=body, headers=headers)
    for _ in range(MANY_TRIES):
        if found := traces(request_id):
            break
        await asyncio.sleep(0.1)
    assert [(trace["kind"], trace.get("outcome")) for trace in found] == [("event", "abandoned")]


@pytest.mark.parametrize(
    ("path", "route"), [("/anything", "unknown"), (f"{BASE}/models", f"{BASE}/models"), ("/livez", "unknown")]
)
def test_a_websocket_is_refused_on_record(
    server: Server, traces: Callable[[str], list[dict[str, Any]]], path: str, route: str
) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    upgrade["Sec-WebSocket-Key"] = "AAAAAAAAAAAAAAAAAAAAAA=="
    response, request_id = send(server, "GET", path, headers=upgrade)
    assert response.status_code == 403
    (event,) = traces(request_id)
    assert (event["action"], event["route"], event["status"], event["outcome"]) == ("unknown", route, 403, "denied")
    assert event["principal"] == "anonymous"


def test_probes_leave_nothing(server: Server) -> None:
    with psycopg.connect(libpq_url(server.database_url)) as connection:
        query = "SELECT count(*) FROM audit_events"
        before = connection.execute(query).fetchone()
        httpx.get(f"{server.url}/livez")
        httpx.get(f"{server.url}/readyz")
        time.sleep(0.1)
        connection.rollback()
        assert connection.execute(query).fetchone() == before


@pytest.mark.requirement("S13")
@pytest.mark.requirement("P3")
def test_an_amendment_is_added_and_the_original_stays(
    server: Server, issuer: DevIssuer, traces: Callable[[str], list[dict[str, Any]]]
) -> None:
    patient, stranger = str(uuid.uuid4()), bearer(issuer, "patient", subject=str(uuid.uuid4()))
    token = bearer(issuer, "patient", subject=patient)
    response, _ = send(server, "POST", f"{BASE}/predict/symptom-analysis", json=NOTE, headers=token)
    address = f"{BASE}/predictions/{response.json()['prediction_id']}"
    before, _ = send(server, "GET", address, headers=token)
    assert before.json()["amendments"] == []
    for text in ("It was a cold, CANARY.", "Since Tuesday."):
        amended, request_id = send(server, "POST", f"{address}/amendments", json={"text": text}, headers=token)
        assert amended.status_code == 201
        (event,) = traces(request_id)
        assert (event["action"], event["patient_id"]) == ("amend", patient)
        assert b"CANARY" not in event["detail"]
    after, _ = send(server, "GET", address, headers=token)
    assert [each["text"] for each in after.json()["amendments"]] == ["It was a cold, CANARY.", "Since Tuesday."]
    assert {**after.json(), "amendments": []} == before.json()
    for other, status in ((stranger, 404), (bearer(issuer, "auditor"), 403)):
        refused, _ = send(server, "POST", f"{address}/amendments", json={"text": "x"}, headers=other)
        assert refused.status_code == status
    seen, _ = send(server, "GET", address, headers=bearer(issuer, "auditor"))
    assert "amendments" not in seen.json()
