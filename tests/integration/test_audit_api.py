"""The routes of the audit trail, as the server's own role under row-level security."""

import base64
import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from starlette.responses import Response

from access.principal import Principal, Role
from api.routes import audit as routes
from api.routing import Admitted
from api.visit import Visit
from audit import merkle, verify
from audit.checkpoint import Signer, Verifier
from audit.proofs import seal_lag
from audit.record import Caller
from audit.sealing import Sealer, connect
from database.engine import open_async_engine
from embedded.postgres import EmbeddedPostgres
from errors import InvalidInput, NotFound, NotSealedYet
from tests.trail_rows import event, fill, insert, long_ago, make_signer, prediction


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return make_signer(tmp_path)


@pytest.fixture
def urls(postgres: EmbeddedPostgres, database_url: str) -> dict[str, str]:
    name = database_url.rpartition("/")[2].partition("?")[0]
    return {role: postgres.url(f"followup_{role}", name) for role in ("app", "sealer")}


@pytest.fixture
async def system(urls: dict[str, str]) -> AsyncIterator[Any]:
    engine = open_async_engine(urls["app"], pool_size=4)
    yield SimpleNamespace(engine=engine)
    await engine.dispose()


def seal(urls: dict[str, str], signer: Signer) -> None:
    with connect(urls["sealer"]) as connection:
        Sealer(connection, signer).seal_all()


def admitted(role: Role, subject: str = "me", query: dict[str, str] | None = None, **path: str) -> Admitted:
    caller = Caller(
        principal=subject,
        roles=role,
        client_id="app",
        purpose_of_use="CAREMGT",
        request_id=uuid.uuid4(),
        route="/",
        ip_address=None,
        user_agent=None,
    )
    return Admitted(
        principal=Principal(subject, frozenset({role}), "app", 0, "t"),
        visit=Visit(caller),
        body=None,
        idempotency=None,
        path_parameters=path,
        query=query or {},
    )


async def body_of(response: Response) -> bytes:
    sent = bytearray()

    async def send(message: Any) -> None:
        sent.extend(message.get("body", b""))

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    await response({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send)
    return bytes(sent)


async def test_each_reader_gets_their_own_log_in_pages(system: Any, urls: dict[str, str]) -> None:
    with psycopg.connect(urls["app"]) as connection:
        insert(connection, "ml_predictions", [prediction(principal="dr", patient_id="p1") for _ in range(5)])
        insert(connection, "audit_events", [event(principal="dr", patient_id="p2") for _ in range(4)])
        insert(connection, "audit_events", [event(principal="p1", patient_id="p1")])

    async def read(role: Role, subject: str, **query: str) -> Any:
        return json.loads(await body_of(await routes.events(system, admitted(role, subject, query))))

    everything = await read(Role.AUDITOR, "a")
    assert len(everything["items"]) == 10
    assert everything["next_cursor"] is None
    pages: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        page = await read(Role.AUDITOR, "a", limit="3", **cursor)
        pages += page["items"]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert pages == everything["items"]
    own = await read(Role.PATIENT, "p1")
    assert {entry["principal"] for entry in own["items"]} == {"dr", "p1"}
    assert {entry["patient_id"] for entry in own["items"]} == {"p1"}
    assert all(entry["ip_address"] is None for entry in own["items"] if entry["principal"] == "dr")
    doctors = await read(Role.CLINICIAN, "dr")
    assert {entry["principal"] for entry in doctors["items"]} == {"dr"}
    assert (await read(Role.PATIENT, "p3"))["items"] == []
    assert len((await read(Role.AUDITOR, "a", patient_id="p2"))["items"]) == 4
    assert len((await read(Role.AUDITOR, "a", principal="p1"))["items"]) == 1
    later = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    assert (await read(Role.AUDITOR, "a", since=later))["items"] == []
    for wrong in ({"cursor": "x"}, {"cursor": base64.urlsafe_b64encode(b"\xff" * 24).decode()}, {"since": "now"}):
        with pytest.raises(InvalidInput):
            await read(Role.AUDITOR, "a", **wrong)


async def test_a_prediction_is_proven_to_a_signed_root(system: Any, urls: dict[str, str], signer: Signer) -> None:
    mine = prediction()
    with pytest.raises(NotFound):
        await routes.checkpoint(system, admitted(Role.AUDITOR))
    fill(urls["app"], 20, 20)
    with psycopg.connect(urls["app"]) as connection:
        insert(connection, "ml_predictions", [mine])
    identity = str(mine["id"])
    with pytest.raises(NotSealedYet) as refused:
        await routes.proof(system, admitted(Role.AUDITOR, prediction_id=identity))
    assert refused.value.retry_after_s == 1
    seal(urls, signer)
    fill(urls["app"], 9, 9)
    seal(urls, signer)
    shown = json.loads(await body_of(await routes.proof(system, admitted(Role.AUDITOR, prediction_id=identity))))
    said = Verifier.parse(str(signer.verifier)).checkpoint(shown["checkpoint"])
    path = [base64.b64decode(part) for part in shown["inclusion_proof"]]
    hashed = merkle.leaf_hash(shown["leaf"].encode())
    assert base64.b64decode(shown["leaf_hash"]) == hashed
    assert said.size == shown["tree_size"] == 59
    assert merkle.includes(hashed, shown["leaf_index"], said.size, path, said.root)
    assert json.loads(shown["leaf"])["row"]["id"] == identity
    note = await body_of(await routes.checkpoint(system, admitted(Role.AUDITOR)))
    assert note.decode() == shown["checkpoint"]
    asked = admitted(Role.AUDITOR, query={"from": "41", "to": "59"})
    grown = json.loads(await body_of(await routes.consistency_proof(system, asked)))
    older = signer.verifier.checkpoint(grown["from_checkpoint"])
    path = [base64.b64decode(part) for part in grown["consistency_proof"]]
    assert merkle.extends(41, 59, path, older.root, said.root)
    for unknown in (str(uuid.uuid4()), "x", str(prediction()["id"])):
        with pytest.raises(NotFound):
            await routes.proof(system, admitted(Role.AUDITOR, prediction_id=unknown))
    with pytest.raises(NotFound):
        await routes.consistency_proof(system, admitted(Role.AUDITOR, query={"from": "40", "to": "59"}))


async def test_the_server_knows_how_far_sealing_lags(system: Any, urls: dict[str, str], signer: Signer) -> None:
    async def lag() -> float:
        async with system.engine.connect() as connection:
            return float(await connection.run_sync(seal_lag))

    assert await lag() == 0
    with psycopg.connect(urls["app"]) as connection:
        insert(connection, "audit_events", [event(created_at=long_ago(seconds=30))])
    assert 30 <= await lag() < 60
    seal(urls, signer)
    assert await lag() == 0


async def test_the_sealed_export_verifies(system: Any, urls: dict[str, str], signer: Signer) -> None:
    fill(urls["app"], 60, 60)
    seal(urls, signer)
    fill(urls["app"], 1, 1)
    asked = admitted(Role.AUDITOR, query={"format": "sealed"})
    lines = (await body_of(await routes.export_trail(system, asked))).splitlines()
    report = verify.verify(lines, str(signer.verifier))
    assert (report.leaves, report.not_sealed_yet, report.findings) == (120, 2, [])


async def test_fhir_audit_events_have_what_the_standard_requires(system: Any, urls: dict[str, str]) -> None:
    with psycopg.connect(urls["app"]) as connection:
        insert(connection, "ml_predictions", [prediction()])
        insert(connection, "audit_events", [event(status=status) for status in (200, 403, 503)])
        insert(connection, "audit_events", [event(patient_id="no id: spaces", target=None, ip_address=None)])
    lines = (await body_of(await routes.export_trail(system, admitted(Role.AUDITOR)))).splitlines()
    resources = [json.loads(line) for line in lines]
    assert len(resources) == 5
    assert [resource["outcome"] for resource in resources[:4]] == ["0", "0", "4", "8"]
    for resource in resources:
        assert resource["resourceType"] == "AuditEvent"
        assert datetime.fromisoformat(resource["recorded"]).tzinfo is not None
        assert resource["action"] in set("CRUDE")
        assert resource["type"] == {
            "system": "http://terminology.hl7.org/CodeSystem/audit-event-type",
            "code": "rest",
            "display": "RESTful Operation",
        }
        assert resource["subtype"][0]["system"] == "http://hl7.org/fhir/restful-interaction"
        (agent,) = resource["agent"]
        assert agent["requestor"] is True
        assert agent["who"]["identifier"]["value"]
        assert agent.get("network", {"type": "2"})["type"] == "2"
        assert resource["source"]["observer"]
        assert resource["purposeOfEvent"][0]["coding"][0]["code"] == "CAREMGT"
        for entity in resource["entity"]:
            assert entity["what"]["identifier"]["value"]
            assert {"system", "code"} <= entity["type"].keys()
        assert not _empty(resource)
    about = [entity for entity in resources[0]["entity"] if entity["type"]["code"] == "1"]
    assert about[0]["what"]["reference"] == "Patient/patient-1"
    assert "reference" not in resources[4]["entity"][1]["what"]


def _empty(value: Any) -> bool:
    """FHIR's JSON has no empty objects, arrays, texts or nulls."""
    if isinstance(value, dict):
        return not value or any(map(_empty, value.values()))
    if isinstance(value, list):
        return not value or any(map(_empty, value))
    return value is None or value == ""
