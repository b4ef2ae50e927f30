"""The contract over real HTTP."""

import time
import uuid
from typing import Any

import bentoml
import httpx
import pytest

from access.dev_issuer import DevIssuer, demo_subject
from clinical.wellness import claims_in
from runners.ner import RULES
from tests.conftest import bearer
from tests.server import BASE, Server

DAY = {
    "pain_score_facial": 3,
    "pain_score_self_reported": 4.5,
    "respiratory_rate": 16,
    "symptom_severity_score": 3,
}
WEEK = [DAY, None, {**DAY, "respiratory_rate": None}, DAY, DAY, {**DAY, "pain_score_facial": 6}, DAY]


def unique(text: str) -> str:
    """A text that no other test has put into the cache."""
    return f"{text} (visit {uuid.uuid4().hex[:8]})"


def words(answer: dict[str, Any], kind: str) -> list[str]:
    return [entity["text"] for entity in answer["entities"].get(kind, [])]


def test_the_examples_of_the_specification_come_out(api: httpx.Client) -> None:
    text = "Patient reports severe headache and nausea for 3 days"
    answer = api.post("/predict/symptom-analysis", json={"text": text, "analysis_type": "symptom_ner"}).json()
    assert words(answer, "SYMPTOM") == ["headache", "nausea"]
    assert words(answer, "SEVERITY") == ["severe"]
    assert words(answer, "DURATION") == ["3 days"]
    for entities in answer["entities"].values():
        assert all(text[entity["start"] : entity["end"]] == entity["text"] for entity in entities)
        assert all(entity["assertion"] == "present" for entity in entities)

    text = "Severe pain in lower back, difficulty walking"
    answer = api.post("/predict/symptom-analysis", json={"text": text, "analysis_type": "symptom_ner"}).json()
    assert words(answer, "SYMPTOM") == ["pain in lower back", "difficulty walking"]

    body = {"model_name": "clinical_ner", "input_data": {"text": "Patient has fever and cough"}, "use_cache": True}
    answer = api.post("/predict", json=body).json()
    assert words(answer["result"], "SYMPTOM") == ["fever", "cough"]
    assert answer["model"]["name"] == "clinical_ner"
    assert 0 < answer["confidence"] <= 1


def test_a_second_equal_call_is_answered_from_the_cache_and_recorded_again(api: httpx.Client) -> None:
    body = {"text": unique("Dry cough and mild chest tightness")}
    first = api.post("/predict/symptom-analysis", json=body).json()
    time.sleep(0.2)  # the cache is written after the answer
    second = api.post("/predict/symptom-analysis", json=body).json()
    assert (first["metadata"]["cache_hit"], second["metadata"]["cache_hit"]) == (False, True)
    assert first["entities"] == second["entities"]
    assert first["prediction_id"] != second["prediction_id"]
    shown = [api.get(f"/predictions/{answer['prediction_id']}").json() for answer in (first, second)]
    assert [record["cache_hit"] for record in shown] == [False, True]
    assert shown[0]["input_data"] == body
    assert shown[0]["result"] == {"entities": first["entities"], "language": "en", "rules": RULES}


def test_without_the_cache_nothing_is_read_or_written(api: httpx.Client) -> None:
    body = {"text": unique("Itchy rash on both arms"), "use_cache": False}
    for _ in range(2):
        assert api.post("/predict/symptom-analysis", json=body).json()["metadata"]["cache_hit"] is False
        time.sleep(0.1)
    body["use_cache"] = True
    assert api.post("/predict/symptom-analysis", json=body).json()["metadata"]["cache_hit"] is False


def test_a_week_of_measurements_gets_a_score_in_wellness_words(api: httpx.Client) -> None:
    answer = api.post("/predict/deterioration", json={"measurements": WEEK}).json()
    assert 0 <= answer["risk"]["score"] <= 1
    assert answer["risk"]["band"] in {"steady", "some change", "marked change"}
    assert "care team" in answer["notice"]
    assert claims_in(answer["notice"]) == []
    assert answer["model"]["name"] == "deterioration_lstm"
    generic = api.post(
        "/predict", json={"model_name": "deterioration_lstm", "input_data": {"measurements": WEEK}}
    ).json()
    assert generic["result"] == answer["risk"]


def test_an_explained_week_adds_up_and_is_on_record(api: httpx.Client) -> None:
    days = [{**DAY, "symptom_severity_score": 2 + day / 2} for day in range(7)]
    plain = api.post("/predict/deterioration", json={"measurements": days}).json()
    assert "explanation" not in plain
    answer = api.post("/predict/deterioration", json={"measurements": days, "explain": True})
    assert answer.status_code == 200, answer.text
    told = answer.json()["explanation"]
    assert round(told["score"], 2) == answer.json()["risk"]["score"] == plain["risk"]["score"]
    for values in (told["values"].values(), told["days"]):
        assert abs(told["base_value"] + sum(values) - told["score"]) <= 1e-6
    assert len(told["background_sha256"]) == 64
    kept = api.get(f"/predictions/{answer.json()['prediction_id']}").json()
    assert kept["result"]["explanation"] == told
    generic = {"model_name": "deterioration_lstm", "input_data": {"measurements": days}, "explain": True}
    assert api.post("/predict", json=generic).json()["explanation"] == told


def test_the_words_behind_an_entity_are_told(api: httpx.Client) -> None:
    text = "Patient reports severe headache for 3 days."
    body = {"model_name": "clinical_ner", "input_data": {"text": text}, "explain": True}
    answer = api.post("/predict", json=body).json()
    told = answer["explanation"]["entities"]
    shown = [(kind, one["start"], one["end"]) for kind, group in answer["result"]["entities"].items() for one in group]
    assert sorted((one["type"], one["start"], one["end"]) for one in told) == sorted(shown)
    (headache,) = [one for one in told if one["type"] == "SYMPTOM"]
    weights = [abs(word["delta"]) for word in headache["words"]]
    assert weights == sorted(weights, reverse=True)
    assert 0.05 < weights[0] <= 1
    assert text.index("headache") in [word["start"] for word in headache["words"]]
    assert {text[word["start"] : word["end"]] for word in headache["words"]} <= {*text.rstrip(".").split(), "."}
    long = {**body, "input_data": {"text": "headache " * 101}}
    refused = api.post("/predict", json=long)
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/explain")
    assert api.post("/predict", json={**body, "explain": "yes"}).status_code == 422


def test_history_is_newest_first_and_pages(api: httpx.Client, issuer: DevIssuer) -> None:
    mine = bearer(issuer, "clinician", subject=str(uuid.uuid4()))
    ids = [
        api.post("/predict/deterioration", json={"measurements": WEEK}, headers=mine).json()["prediction_id"]
        for _ in range(7)
    ]
    first = api.get("/predictions/history?limit=4", headers=mine).json()
    second = api.get("/predictions/history", params={"limit": 4, "cursor": first["next_cursor"]}, headers=mine).json()
    assert [item["prediction_id"] for item in (*first["items"], *second["items"])] == ids[::-1]
    assert second["next_cursor"] is None


def test_nobody_sees_what_is_not_theirs(api: httpx.Client, server: Server, issuer: DevIssuer) -> None:
    patient = str(uuid.uuid4())
    server.relate(demo_subject("clinician"), patient)
    answer = api.post("/predict/deterioration", json={"measurements": WEEK, "patient_id": patient}).json()
    address = f"/predictions/{answer['prediction_id']}"
    seen_by = {
        "care team": api.get(address),
        "patient": api.get(address, headers=bearer(issuer, "patient", subject=patient)),
        "other clinician": api.get(address, headers=bearer(issuer, "clinician", subject="somebody")),
        "other patient": api.get(address, headers=bearer(issuer, "patient", subject="somebody")),
        "auditor": api.get(address, headers=bearer(issuer, "auditor")),
        "ml-engineer": api.get(address, headers=bearer(issuer, "ml-engineer")),
    }
    assert {who: response.status_code for who, response in seen_by.items()} == {
        "care team": 200,
        "patient": 200,
        "other clinician": 404,
        "other patient": 404,
        "auditor": 200,
        "ml-engineer": 403,
    }
    assert "input_data" in seen_by["patient"].json()
    assert not {"input_data", "result"} & seen_by["auditor"].json().keys()


def test_a_patients_token_means_that_patient(api: httpx.Client, issuer: DevIssuer) -> None:
    me = str(uuid.uuid4())
    headers = bearer(issuer, "patient", subject=me)
    answer = api.post("/predict/deterioration", json={"measurements": WEEK}, headers=headers).json()
    assert api.get(f"/predictions/{answer['prediction_id']}", headers=headers).json()["patient_id"] == me
    other = api.post("/predict/deterioration", json={"measurements": WEEK, "patient_id": "other"}, headers=headers)
    assert other.status_code == 403


def test_models_performance_and_stats_show_what_happened(api: httpx.Client) -> None:
    before = api.get("/stats").json()
    api.post("/predict/deterioration", json={"measurements": WEEK})
    after = api.get("/stats").json()
    assert after["total_predictions"] == before["total_predictions"] + 1
    assert after["redis_enabled"] is True
    assert after["active_models"] == 2
    models = {model["name"]: model["versions"] for model in api.get("/models").json()["models"]}
    assert set(models) == {"clinical_ner", "deterioration_lstm"}
    assert all(versions[0]["loaded"] and versions[0]["alias"] == "champion" for versions in models.values())
    detail = api.get("/models/clinical_ner").json()["versions"][0]
    assert detail["input_schema"]["properties"]["text"]
    assert len(detail["model_card"]) > 200
    performance = api.get("/models/deterioration_lstm/performance?hours=24").json()
    assert performance["summary"]["requests"] >= 1
    assert performance["summary"]["latency_ms"]["p50"] <= performance["summary"]["latency_ms"]["p99"]
    assert sum(point["requests"] for point in performance["series"]) == performance["summary"]["requests"]


def test_a_batch_has_one_result_or_one_problem_for_each_item_in_order(api: httpx.Client) -> None:
    texts = ["fever and cough", "", "no pain today", 7, "sore throat"]
    items = [{"id": f"item-{number}", "input_data": {"text": text}} for number, text in enumerate(texts)]
    items.append({"id": "other", "input_data": {"nothing": True}, "patient_id": "p-1"})
    response = api.post("/predict/batch", json={"model_name": "clinical_ner", "items": items})
    assert response.status_code == 200
    answers = response.json()["items"]
    assert [answer["id"] for answer in answers] == [item["id"] for item in items]
    assert ["problem" in answer for answer in answers] == [False, True, False, True, False, True]
    assert words(answers[4]["result"], "SYMPTOM") == ["sore throat"]
    assert answers[1]["problem"]["status"] == 422
    assert api.get(f"/predictions/{answers[0]['prediction_id']}").json()["input_data"] == {"text": texts[0]}


def test_the_same_key_and_body_return_the_first_answer_and_write_one_record(api: httpx.Client) -> None:
    key = {"Idempotency-Key": str(uuid.uuid4())}
    body = {"measurements": WEEK}
    before = api.get("/stats").json()["total_predictions"]
    first, second = (api.post("/predict/deterioration", json=body, headers=key) for _ in range(2))
    assert first.content == second.content
    assert api.get("/stats").json()["total_predictions"] == before + 1
    other = api.post("/predict/deterioration", json={"measurements": WEEK[::-1]}, headers=key)
    assert (other.status_code, other.json()["type"]) == (409, "urn:followup:problem:idempotency-conflict")
    assert api.post("/predict/deterioration", json=body, headers={"Idempotency-Key": "x"}).status_code == 422


def test_a_key_holds_for_a_batch_in_which_nothing_could_be_predicted(api: httpx.Client) -> None:
    key = {"Idempotency-Key": str(uuid.uuid4())}
    body = {"model_name": "clinical_ner", "items": [{"id": "1", "input_data": {"text": ""}}]}
    first, second = (api.post("/predict/batch", json=body, headers=key) for _ in range(2))
    assert first.status_code == 200
    assert first.content == second.content
    body["items"] = [{"id": "2", "input_data": {"text": "fever"}}]
    assert api.post("/predict/batch", json=body, headers=key).status_code == 409


def test_roles_add_up(api: httpx.Client, server: Server, issuer: DevIssuer) -> None:
    me, patient = str(uuid.uuid4()), str(uuid.uuid4())
    for clinician, cared_for in ((demo_subject("clinician"), me), (me, patient)):
        server.relate(clinician, cared_for)
    answer = api.post("/predict/deterioration", json={"measurements": WEEK, "patient_id": me}).json()
    address = f"/predictions/{answer['prediction_id']}"
    as_patient = api.get(address, headers=bearer(issuer, "patient", subject=me)).json()
    assert as_patient["result"] == answer["risk"]
    assert not {"ip_address", "user_agent"} & as_patient.keys()
    both = bearer(issuer, "patient", "clinician", subject=me)
    assert api.get(address, headers=both).json()["result"] == answer["risk"]
    own = api.post("/predict/deterioration", json={"measurements": WEEK, "patient_id": patient}, headers=both).json()
    assert api.get(f"/predictions/{own['prediction_id']}", headers=both).json()["purpose_of_use"] == "CAREMGT"
    auditing = bearer(issuer, "clinician", "auditor", subject="somebody")
    seen = api.get(address, headers=auditing)
    assert seen.status_code == 200
    assert "result" not in seen.json()


@pytest.mark.parametrize("forwarded", ["6.6.6.6", "unknown", "1.2.3.4/8", "fe80::1%eth0", "' OR 1=1"])
def test_where_a_request_says_it_comes_from_is_not_believed(api: httpx.Client, forwarded: str) -> None:
    headers = {"X-Forwarded-For": forwarded, "X-Forwarded-Proto": "https"}
    answer = api.post("/predict/deterioration", json={"measurements": WEEK}, headers=headers)
    assert answer.status_code == 200
    assert api.get(f"/predictions/{answer.json()['prediction_id']}").json()["ip_address"] == "127.0.0.1"


def test_another_method_says_which_is_allowed(api: httpx.Client, server: Server) -> None:
    assert api.get("/predict").headers["Allow"] == "POST"
    assert api.delete("/models").headers["Allow"] == "GET"
    assert httpx.post(server.url + "/livez").status_code == 405


def test_the_callers_request_id_comes_back_and_others_get_one(api: httpx.Client) -> None:
    mine = str(uuid.uuid4())
    answer = api.post("/predict/deterioration", json={"measurements": WEEK}, headers={"X-Request-ID": mine})
    assert answer.headers["X-Request-ID"] == answer.json()["metadata"]["request_id"] == mine
    for bad in ("not-a-uuid", mine + "x", "0" * 36):
        given = api.get("/stats", headers={"X-Request-ID": bad}).headers["X-Request-ID"]
        assert uuid.UUID(given).version == 4


def test_probes_are_the_only_open_paths(server: Server, issuer: DevIssuer) -> None:
    with httpx.Client(base_url=server.url) as nobody:
        for path in ("/livez", "/readyz"):
            assert nobody.get(path).status_code == 200
        closed = [
            "/",
            "/metrics",
            "/docs.json",
            "/schema.json",
            "/healthz",
            f"{BASE}/models",
            f"{BASE}/openapi.json",
            "/x",
        ]
        assert {path: nobody.get(path).status_code for path in closed} == dict.fromkeys(closed, 401)
        clinician = bearer(issuer, "clinician")
        assert nobody.get("/metrics", headers=clinician).status_code == 403
        scraped = nobody.get("/metrics", headers=bearer(issuer, "admin"))
        assert "followup_predictions_total" in scraped.text
        for path in ("/", "/docs.json", "/healthz", "/x"):
            assert nobody.get(path, headers=clinician).status_code == 404
        assert nobody.delete(f"{BASE}/models", headers=clinician).status_code == 405


def test_openapi_describes_what_is_served(api: httpx.Client) -> None:
    document = api.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert f"{BASE}/predict/symptom-analysis" in document["paths"]


def test_bentomls_own_client_can_predict(server: Server, issuer: DevIssuer) -> None:
    token = bearer(issuer, "clinician")["Authorization"].removeprefix("Bearer ")
    with bentoml.SyncHTTPClient(server.url, token=token) as client:
        answer = client.call("symptom_analysis", {"text": "fever and cough"})
        assert words(answer, "SYMPTOM") == ["fever", "cough"]
        answer = client.call("deterioration", {"measurements": WEEK})
        assert answer["risk"]["band"]


@pytest.mark.parametrize(
    "path",
    ["/models/none", "/models/none/performance", f"/predictions/{uuid.uuid4()}", "/predictions/x", "/models/%00"],
)
def test_what_is_not_there_is_404(api: httpx.Client, path: str) -> None:
    response = api.get(path)
    assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")
