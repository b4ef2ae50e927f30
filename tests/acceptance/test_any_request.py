"""Whatever the contract allows or forbids, sent at random: never an answer of 500 or above, each on record once."""

import os
import uuid
from typing import Any

import psycopg
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from access.dev_issuer import DevIssuer
from access.principal import Role
from api.openapi import document
from api.routes import TABLE
from database.engine import libpq_url
from tests.server import Server

CASES = int(os.environ.get("CASES", "300"))
SCHEMA = schemathesis.openapi.from_dict(document(TABLE.routes))
OPERATIONS = [result.ok() for result in SCHEMA.get_all_operations()]


@pytest.mark.timeout(1800)
@pytest.mark.requirement("S5")
def test_any_request_is_answered_without_a_fault_of_ours_and_recorded_once(server: Server, issuer: DevIssuer) -> None:
    sent: dict[str, tuple[int, str]] = {}
    token = issuer.token(list(Role), str(uuid.uuid4()))
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    cases = st.one_of([operation.as_strategy(generation_mode=mode) for operation in OPERATIONS for mode in modes])

    @settings(
        max_examples=CASES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def ask(case: Any) -> None:
        request_id = str(uuid.uuid4())
        headers = {"X-Request-ID": request_id, "Authorization": f"Bearer {token}"}
        response = case.call(base_url=server.url, headers=headers, timeout=30)
        sent[request_id] = (response.status_code, f"{case.method} {case.path}")

    ask()
    assert len(sent) >= CASES * 0.9
    assert {place: status for status, place in sent.values() if status >= 500} == {}
    with psycopg.connect(libpq_url(server.database_url)) as connection:
        ids = list(sent)
        events = connection.execute(
            "SELECT request_id::text, count(*) FROM audit_events WHERE request_id = ANY(%s::uuid[]) GROUP BY 1", [ids]
        ).fetchall()
        predictions = connection.execute(
            "SELECT request_id::text, count(*) FROM ml_predictions WHERE request_id = ANY(%s::uuid[]) GROUP BY 1", [ids]
        ).fetchall()
    assert {count for _, count in events} == {1}
    recorded = {name for name, _ in events} | {name for name, _ in predictions}
    assert {place for name, (_, place) in sent.items() if name not in recorded} == set()
    answered = {status for status, _ in sent.values()}
    print(
        f"{len(sent)} requests, statuses {sorted(answered)}, {len(events)} events, {len(predictions)} with predictions"
    )
