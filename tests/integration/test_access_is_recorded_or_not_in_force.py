"""What changes who may see what is in force together with its one event, or not at all."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest

from access.dev_issuer import DevIssuer
from database.engine import libpq_url
from tests.conftest import bearer
from tests.server import BASE, Server

REASON = "Found unconscious, nobody of the care team can be reached"
IN_FORCE = {
    "break": "SELECT count(*) FROM break_glass WHERE patient_id = %s",
    "review": "SELECT count(*) FROM break_glass WHERE patient_id = %s AND reviewed_at IS NOT NULL",
    "grant": "SELECT count(*) FROM care_team WHERE patient_id = %s AND until IS NULL",
    "withdraw": "SELECT count(*) FROM care_team WHERE patient_id = %s AND until <= now()",
    "revoke": "SELECT count(*) FROM revocations WHERE value = %s",
}


@contextmanager
def trail_that_cannot_be_written(server: Server) -> Iterator[None]:
    with psycopg.connect(libpq_url(server.database_url)) as connection:
        connection.execute("LOCK TABLE audit_events IN SHARE ROW EXCLUSIVE MODE")
        yield
        connection.rollback()


def found(server: Server, query: str, value: str) -> Any:
    with psycopg.connect(libpq_url(server.database_url)) as connection:
        row = connection.execute(query, [value]).fetchone()
    assert row is not None
    return row[0]


def acts(server: Server, issuer: DevIssuer, what: str, patient: str) -> Callable[[], httpx.Response]:
    """Sends one act about a patient; what must be there before it is made here."""
    person = f"c-{uuid.uuid4()}"
    doctor, admin = bearer(issuer, "clinician", subject=person), bearer(issuer, "admin", subject=f"a-{uuid.uuid4()}")

    def send(method: str, path: str, headers: dict[str, str], **options: Any) -> httpx.Response:
        return httpx.request(method, server.url + BASE + path, headers=headers, timeout=30, **options)

    glass = {"patient_id": patient, "reason": REASON, "minutes": 5}
    team = f"/care-team/{person}/{patient}"
    if what == "break":
        return lambda: send("POST", "/break-glass", doctor, json=glass)
    if what == "review":
        broken = send("POST", "/break-glass", doctor, json=glass).json()["id"]
        return lambda: send("POST", f"/break-glass/{broken}/review", admin)
    if what == "grant":
        return lambda: send("PUT", team, admin)
    if what == "withdraw":
        assert send("PUT", team, admin).status_code == 200
        return lambda: send("DELETE", team, admin)
    return lambda: send("POST", "/access/revocations", admin, json={"kind": "sub", "value": patient})


@pytest.mark.requirement("S5")
@pytest.mark.parametrize("what", IN_FORCE)
def test_it_is_recorded_once_or_not_in_force(server: Server, issuer: DevIssuer, what: str) -> None:
    patient = f"p-{uuid.uuid4()}"
    act = acts(server, issuer, what, patient)
    with trail_that_cannot_be_written(server):
        refused = act()
        assert refused.status_code == 503
        assert found(server, IN_FORCE[what], patient) == 0
    assert found(server, IN_FORCE[what], patient) == 0
    server.wait_until_ready()
    done = act()
    assert done.status_code in {200, 201, 204}
    assert found(server, IN_FORCE[what], patient) == 1
    request = done.headers["x-request-id"]
    assert found(server, "SELECT count(*) FROM audit_events WHERE request_id = %s", request) == 1
    about = "SELECT patient_id FROM audit_events WHERE request_id = %s"
    assert found(server, about, request) == (None if what == "revoke" else patient)
