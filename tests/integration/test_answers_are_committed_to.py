"""What a caller was told is what the record says they were told, by every predicting route."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest

from audit import verify
from database.engine import libpq_url
from tests.server import Server

WEEK = {
    "measurements": [
        {
            "pain_score_facial": 2,
            "pain_score_self_reported": day,
            "respiratory_rate": 15,
            "symptom_severity_score": 2,
        }
        for day in range(7)
    ]
}
CALLS: dict[str, Any] = {
    "/predict": {"model_name": "clinical_ner", "input_data": {"text": "no fever"}},
    "/predict/symptom-analysis": {"text": "Kopfschmerz \U0001f600 and fever, 1.0, e5"},
    "/predict/deterioration": {**WEEK, "explain": True},
}


@pytest.fixture
def owner(server: Server) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(libpq_url(server.database_url), autocommit=True) as connection:
        yield connection


def recorded(owner: psycopg.Connection[Any], prediction_id: str) -> bytes | None:
    found = owner.execute("SELECT answer_commitment FROM ml_predictions WHERE id = %s", (prediction_id,)).fetchone()
    assert found is not None
    return None if found[0] is None else bytes(found[0])


@pytest.mark.parametrize(("path", "body"), CALLS.items())
def test_an_answer_is_what_its_record_is_committed_to(
    api: httpx.Client, owner: psycopg.Connection[Any], path: str, body: Any
) -> None:
    nonces = set()
    for _ in range(2):  # the second from the cache, where there is one
        answer = api.post(path, json=body).raise_for_status().json()
        assert verify.commitment_to(answer) == recorded(owner, answer["prediction_id"])
        nonces.add(answer["commitment_nonce"])
        answer["metadata"]["cache_hit"] = not answer["metadata"]["cache_hit"]
        assert verify.commitment_to(answer) != recorded(owner, answer["prediction_id"])
    assert len(nonces) == 2


def test_each_item_of_a_batch_is_committed_to_by_itself(api: httpx.Client, owner: psycopg.Connection[Any]) -> None:
    items = [{"id": str(number), "input_data": {"text": f"cough for {number} days"}} for number in range(3)]
    items.append({"id": "bad", "input_data": {"nothing": 1}})
    batch = api.post("/predict/batch", json={"model_name": "clinical_ner", "items": items}).raise_for_status().json()
    *answered, refused = batch["items"]
    assert "commitment_nonce" not in refused
    assert "commitment_nonce" not in batch
    for item in answered:
        assert verify.commitment_to(verify.answer_to(batch, item["prediction_id"])) == recorded(
            owner, item["prediction_id"]
        )


def test_an_answer_that_is_given_again_is_the_same_to_the_byte(
    api: httpx.Client, owner: psycopg.Connection[Any]
) -> None:
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    body = CALLS["/predict"]
    first = api.post("/predict", json=body, headers=headers)
    again = api.post("/predict", json=body, headers=headers)
    assert (again.content, again.headers.get("Idempotent-Replayed", "true")) == (first.content, "true")
    answer = json.loads(again.content)
    assert verify.commitment_to(answer) == recorded(owner, answer["prediction_id"])
