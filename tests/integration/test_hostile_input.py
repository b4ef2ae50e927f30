"""Whatever is sent: a 4xx problem that echoes nothing, nothing of it in the log, and the server goes on."""

import gzip
import json
import socket
from typing import Any

import httpx
import pytest

from tests.integration.test_api import DAY, WEEK
from tests.server import BASE, Server

CANARY = "CANARY-7f3a"
NER = f"{BASE}/predict/symptom-analysis"
WELLNESS = f"{BASE}/predict/deterioration"
GENERIC = f"{BASE}/predict"
BATCH = f"{BASE}/predict/batch"


def week(**changes: Any) -> dict[str, Any]:
    return {"measurements": [{**DAY, **changes}, *WEEK[1:]]}


BODIES: dict[str, tuple[str, Any, int]] = {
    "text is a number": (NER, {"text": 7}, 422),
    "text is a list": (NER, {"text": [CANARY]}, 422),
    "text is null": (NER, {"text": None}, 422),
    "text is missing": (NER, {"analysis_type": "symptom_ner"}, 422),
    "text is empty": (NER, {"text": ""}, 422),
    "text is blank": (NER, {"text": " \n\t "}, 422),
    "text is too long": (NER, {"text": f"{CANARY} " * 4000}, 422),
    "zero byte": (NER, {"text": f"{CANARY}\x00fever"}, 422),
    "unknown field": (NER, {"text": "fever", CANARY: 1}, 422),
    "unknown analysis": (NER, {"text": "fever", "analysis_type": CANARY}, 422),
    "patient id with blanks": (NER, {"text": "fever", "patient_id": f"{CANARY} x"}, 422),
    "patient id too long": (NER, {"text": "fever", "patient_id": "x" * 200}, 422),
    "use_cache is a word": (NER, {"text": "fever", "use_cache": CANARY}, 422),
    "body is a list": (NER, [{"text": "fever"}], 422),
    "body is a string": (NER, CANARY, 422),
    "body is null": (NER, None, 422),
    "six days": (WELLNESS, {"measurements": WEEK[:6]}, 422),
    "eight days": (WELLNESS, {"measurements": [*WEEK, DAY]}, 422),
    "no days": (WELLNESS, {"measurements": []}, 422),
    "days are not a list": (WELLNESS, {"measurements": {"0": DAY}}, 422),
    "a day is a word": (WELLNESS, {"measurements": [CANARY, *WEEK[1:]]}, 422),
    "a day has an unknown name": (WELLNESS, week(**{CANARY: 1}), 422),
    "a value is a word": (WELLNESS, week(respiratory_rate=CANARY), 422),
    "a value is true": (WELLNESS, week(respiratory_rate=True), 422),
    "a value is out of range": (WELLNESS, week(pain_score_facial=11), 422),
    "a value is negative": (WELLNESS, week(symptom_severity_score=-0.1), 422),
    "a value is huge": (WELLNESS, week(respiratory_rate=10**300), 422),
    "a date is no date": (WELLNESS, week(date=CANARY), 422),
    "nothing was measured": (WELLNESS, {"measurements": [None] * 7}, 422),
    "explain, not a boolean": (WELLNESS, {**week(), "explain": 1}, 422),
    "unknown model": (GENERIC, {"model_name": "no_such_model", "input_data": {"text": "x"}}, 404),
    "model name with a path": (GENERIC, {"model_name": "../" + CANARY, "input_data": {}}, 422),
    "input of another model": (GENERIC, {"model_name": "clinical_ner", "input_data": {"measurements": []}}, 422),
    "input_data is a list": (GENERIC, {"model_name": "clinical_ner", "input_data": [CANARY]}, 422),
    "empty batch": (BATCH, {"model_name": "clinical_ner", "items": []}, 422),
    "65 items": (
        BATCH,
        {"model_name": "clinical_ner", "items": [{"id": f"{n}", "input_data": {}} for n in range(65)]},
        422,
    ),
    "equal ids": (BATCH, {"model_name": "clinical_ner", "items": [{"id": CANARY, "input_data": {}}] * 2}, 422),
    "batch of an unknown model": (BATCH, {"model_name": "none", "items": [{"id": "1", "input_data": {}}]}, 404),
}


def assert_problem(response: httpx.Response, status: int) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["type"].startswith("urn:followup:problem:")
    assert problem["request_id"] == response.headers["X-Request-ID"]
    assert CANARY not in response.text


@pytest.fixture
def still_well(server: Server, clinician: dict[str, str]) -> Any:
    """After the test: the server answers, and its log holds nothing of what was sent."""
    yield
    response = httpx.post(server.url + NER, json={"text": "fever"}, headers=clinician)
    assert response.status_code == 200
    assert CANARY not in server.log.read_text(errors="replace")


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.usefixtures("still_well")
def test_a_body_of_the_wrong_form(server: Server, clinician: dict[str, str], name: str) -> None:
    path, body, status = BODIES[name]
    headers = {**clinician, "Content-Type": "application/json"}
    response = httpx.post(server.url + path, content=json.dumps(body), headers=headers, timeout=30)
    assert_problem(response, status)


RAW: dict[str, tuple[bytes, dict[str, str], int]] = {
    "not JSON": (f"{{'text': '{CANARY}'}}".encode(), {}, 400),
    "cut off": (f'{{"text": "{CANARY}'.encode(), {}, 400),
    "empty": (b"", {}, 400),
    "NaN": (b'{"measurements": [NaN]}', {}, 400),
    "Infinity": (b'{"measurements": [Infinity]}', {}, 400),
    "not UTF-8": (b'{"text": "\xff\xfe"}', {}, 400),
    "lone surrogate": (b'{"text": "fever \\ud800 cough"}', {}, 400),
    "deeply nested": (b"[" * 3_000 + b"]" * 3_000, {}, 400),
    "nested more deeply than it may have values": (b"[" * 30_000 + b"]" * 30_000, {}, 413),
    "over the cap": (b'{"text": "' + b"x" * 262_144 + b'"}', {}, 413),
    "far over the cap": (b"x" * 5_000_000, {}, 413),
    "plain text": (b'{"text": "fever"}', {"Content-Type": "text/plain"}, 415),
    "form": (b"text=fever", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
    "pickle": (b"\x80\x04.", {"Content-Type": "application/vnd.bentoml+pickle"}, 415),
    "no type": (b'{"text": "fever"}', {"Content-Type": ""}, 415),
    "gzip bomb": (gzip.compress(b"0" * 20_000_000), {"Content-Encoding": "gzip"}, 415),
    "deflate": (b"x", {"Content-Encoding": "deflate"}, 415),
}


@pytest.mark.parametrize("name", RAW)
@pytest.mark.usefixtures("still_well")
def test_a_body_that_is_not_plain_small_json(server: Server, clinician: dict[str, str], name: str) -> None:
    content, headers, status = RAW[name]
    all_headers = {**clinician, "Content-Type": "application/json", **headers}
    assert_problem(httpx.post(server.url + NER, content=content, headers=all_headers, timeout=30), status)


@pytest.mark.usefixtures("still_well")
def test_a_body_without_end_is_cut_at_the_cap(server: Server, clinician: dict[str, str]) -> None:
    def chunks() -> Any:
        for _ in range(800):
            yield b" " * 1024

    headers = {**clinician, "Content-Type": "application/json"}
    assert_problem(httpx.post(server.url + NER, content=chunks(), headers=headers, timeout=30), 413)


@pytest.mark.parametrize("character", ["a", "é", "🤕", "\x7f", '"', "\u2028"])
@pytest.mark.usefixtures("still_well")
def test_the_longest_text_is_taken_however_it_is_escaped(
    server: Server, clinician: dict[str, str], character: str
) -> None:
    headers = {**clinician, "Content-Type": "application/json"}
    text = ("a" + character * 38 + " ") * 500
    for content in (json.dumps({"text": text}), json.dumps({"text": text}, ensure_ascii=False)):
        response = httpx.post(server.url + NER, content=content.encode(), headers=headers, timeout=60)
        assert response.status_code == 200, response.text


@pytest.mark.usefixtures("still_well")
def test_a_batch_of_64_notes_is_taken_and_one_over_its_total_is_not(server: Server, clinician: dict[str, str]) -> None:
    headers = {**clinician, "Content-Type": "application/json"}
    for length, status in ((1_500, 200), (6_000, 413)):
        items = [{"id": f"{n}", "input_data": {"text": f"{n} " + "🤕" * length}} for n in range(64)]
        content = json.dumps({"model_name": "clinical_ner", "items": items}).encode()
        response = httpx.post(server.url + BATCH, content=content, headers=headers, timeout=120)
        assert response.status_code == status, response.text


TEXTS = {
    "emoji": "I have a headache 🤕 and nausea 🤢",
    "family emoji": "👨‍👩‍👧‍👦 fever since Monday",
    "right to left": "حمى and fever, כאב and cough",
    "combining marks": "fe\u0301ver and na\u0308usea",
    "astral": "𝒻ever 𐍈 cough 😷",
    "controls": "fever\u200b\u202e cough\x07\x1b[31m",
    "one character": "x",
    "very long word": "a" * 19_000,
    "many sentences": "I have a fever and a cough. " * 700,
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.usefixtures("still_well")
def test_unusual_text_is_answered_with_exact_offsets(server: Server, clinician: dict[str, str], name: str) -> None:
    text = TEXTS[name]
    response = httpx.post(server.url + NER, json={"text": text}, headers=clinician, timeout=60)
    assert response.status_code == 200, response.text
    for entities in response.json()["entities"].values():
        assert all(text[entity["start"] : entity["end"]] == entity["text"] for entity in entities)


QUERIES = {
    "limit is a word": "/predictions/history?limit=CANARY-7f3a",
    "limit is zero": "/predictions/history?limit=0",
    "limit is huge": "/predictions/history?limit=999999999999999",
    "limit is negative": "/predictions/history?limit=-1",
    "cursor is rubbish": "/predictions/history?cursor=CANARY-7f3a",
    "patient is an injection": "/predictions/history?patient_id=%27%20OR%201%3D1--",
    "limit twice": "/predictions/history?limit=1&limit=2",
    "unknown parameter": "/predictions/history?CANARY-7f3a=1",
    "hours is zero": "/models/clinical_ner/performance?hours=0",
    "hours is a fraction": "/models/clinical_ner/performance?hours=1.5",
    "not ASCII": "/predictions/history?limit=%D9%A3",
}


@pytest.mark.parametrize("name", QUERIES)
@pytest.mark.usefixtures("still_well")
def test_a_query_of_the_wrong_form(server: Server, clinician: dict[str, str], name: str) -> None:
    assert_problem(httpx.get(server.url + BASE + QUERIES[name], headers=clinician), 422)


@pytest.mark.usefixtures("still_well")
def test_a_header_that_decides_something_may_not_come_twice(server: Server, clinician: dict[str, str]) -> None:
    token = clinician["Authorization"]
    for extra in (("Authorization", token), ("Idempotency-Key", "x"), ("Content-Type", "application/json")):
        headers = [("Authorization", token), ("Content-Type", "application/json"), ("Idempotency-Key", "y"), extra]
        assert_problem(httpx.post(server.url + NER, content=b'{"text": "fever"}', headers=headers), 422)


@pytest.mark.usefixtures("still_well")
def test_an_absurd_content_length_is_refused(server: Server, clinician: dict[str, str]) -> None:
    head = f"POST {NER} HTTP/1.1\r\nHost: x\r\nAuthorization: {clinician['Authorization']}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {'0' * 5000}24\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(head.encode())
        assert connection.recv(100).split()[1] in {b"400", b"413"}


@pytest.mark.usefixtures("still_well")
def test_bad_tokens_are_all_refused_alike(server: Server, clinician: dict[str, str]) -> None:
    good = clinician["Authorization"]
    answers = []
    for value in ("", "Bearer", "Basic abc", f"Bearer {CANARY}", good[:-3], good + "x", f"Token {good[7:]}"):
        response = httpx.post(server.url + NER, json={"text": "fever"}, headers={"Authorization": value})
        assert_problem(response, 401)
        assert response.headers["WWW-Authenticate"] == "Bearer"
        answers.append(response.json()["detail"])
    assert len(set(answers)) == 2  # no token at all, or not a valid one


@pytest.mark.usefixtures("still_well")
def test_half_a_request_and_a_hang_up_disturb_nobody(server: Server, clinician: dict[str, str]) -> None:
    payload = json.dumps({"text": f"{CANARY} fever"}).encode()
    head = f"POST {NER} HTTP/1.1\r\nHost: x\r\nAuthorization: {clinician['Authorization']}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    for sent in (head.encode()[:40], head.encode(), head.encode() + payload[:5], head.encode() + payload):
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            connection.sendall(sent)


@pytest.mark.usefixtures("still_well")
def test_a_long_user_agent_with_odd_bytes_is_recorded_harmlessly(server: Server, clinician: dict[str, str]) -> None:
    agent = b"odd\xff\xfe" + b"x" * 5000
    response = httpx.post(server.url + NER, json={"text": "fever"}, headers={**clinician, "User-Agent": agent})  # type: ignore[dict-item]
    assert response.status_code == 200
    shown = httpx.get(f"{server.url}{BASE}/predictions/{response.json()['prediction_id']}", headers=clinician).json()
    assert shown["user_agent"].startswith("odd")
    assert len(shown["user_agent"]) <= 256
