"""Care team, emergency access, revocations, log-off and quotas over real HTTP, and on the command line."""

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import psycopg
import pytest

from access.dev_issuer import CLIENT_ID, ISSUER, DevIssuer
from database.engine import libpq_url
from embedded.postgres import EmbeddedPostgres
from registry.store import StoredModel
from tests.conftest import bearer
from tests.integration.test_cli import followup
from tests.server import BASE, Server

NOTE = "/predict/symptom-analysis"
REASON = "Found unconscious, nobody of the care team can be reached"


class People:
    """Clients by role, each a person of their own."""

    def __init__(self, server: Server, issuer: DevIssuer) -> None:
        self._server, self._issuer = server, issuer
        self._open: list[httpx.Client] = []
        self.url = server.url

    def __call__(self, *roles: str, subject: str | None = None, **claims: Any) -> httpx.Client:
        token = self._issuer.token(roles, subject or f"{roles[0]}-{uuid.uuid4()}", **claims)
        client = httpx.Client(
            base_url=self._server.url + BASE, headers={"Authorization": f"Bearer {token}"}, timeout=30
        )
        self._open.append(client)
        return client

    def close(self) -> None:
        for client in self._open:
            client.close()


@pytest.fixture
def people(server: Server, issuer: DevIssuer) -> Iterator[People]:
    people = People(server, issuer)
    yield people
    people.close()


def person(role: str) -> str:
    return f"{role}-{uuid.uuid4()}"


def note(patient_id: str | None = None) -> dict[str, Any]:
    return {"text": f"Mild cough (visit {uuid.uuid4().hex[:8]})", "patient_id": patient_id}


def eventually_answers(client: httpx.Client, path: str, status: int, **options: Any) -> None:
    deadline = time.monotonic() + 10
    method = "POST" if options else "GET"
    while client.request(method, path, **options).status_code != status:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_clinician_predicts_for_the_care_team_alone(people: People) -> None:
    clinician, patient, other = person("clinician"), person("patient"), person("patient")
    doctor, admin = people("clinician", subject=clinician), people("admin")
    assert doctor.post(NOTE, json=note(patient)).status_code == 403
    granted = admin.put(f"/care-team/{clinician}/{patient}", params={"days": 7})
    assert granted.status_code == 200
    assert granted.json()["until"] is not None
    eventually_answers(doctor, NOTE, 200, json=note(patient))
    assert doctor.post(NOTE, json=note(other)).status_code == 403
    assert doctor.post(NOTE, json=note()).status_code == 200  # about nobody in particular
    items = [{"id": "mine", "input_data": {"text": "fever"}, "patient_id": patient}]
    items.append({"id": "not mine", "input_data": {"text": "fever"}, "patient_id": other})
    batch = doctor.post("/predict/batch", json={"model_name": "clinical_ner", "items": items}).json()["items"]
    assert [item.get("problem", {}).get("status") for item in batch] == [None, 403]
    (member,) = admin.get(f"/care-team/{clinician}").json()["items"]
    assert member["patient_id"] == patient
    assert admin.delete(f"/care-team/{clinician}/{patient}").status_code == 204
    assert admin.delete(f"/care-team/{clinician}/{patient}").status_code == 404
    eventually_answers(doctor, NOTE, 403, json=note(patient))


@pytest.mark.requirement("S2")
def test_break_glass_takes_hold_at_once_ends_and_is_reviewed(people: People, server: Server) -> None:
    clinician, patient = person("clinician"), person("patient")
    doctor, auditor = people("clinician", subject=clinician), people("auditor")
    assert people("patient", subject=patient).post(NOTE, json=note()).status_code == 200
    assert doctor.get("/predictions/history", params={"patient_id": patient}).json()["items"] == []
    assert doctor.post(NOTE, json=note(patient)).status_code == 403

    body = {"patient_id": patient, "reason": REASON, "minutes": 60}
    answer = doctor.post("/break-glass", json=body)
    assert answer.status_code == 201
    broken = answer.json()
    assert set(broken) == {"id", "expires_at"}
    assert doctor.post(NOTE, json=note(patient)).status_code == 200
    (record, *_) = reversed(doctor.get("/predictions/history", params={"patient_id": patient}).json()["items"])
    assert record["result"] is not None
    assert REASON not in server.log.read_text()
    assert "break-glass" in server.log.read_text()

    (mine,) = doctor.get("/break-glass").json()["items"]
    assert (mine["patient_id"], mine["reason"], mine["reviewed_by"]) == (patient, REASON, None)
    assert people("clinician").get("/break-glass").json()["items"] == []
    waiting = auditor.get("/break-glass", params={"unreviewed": "true"}).json()["items"]
    assert broken["id"] in {item["id"] for item in waiting}
    assert doctor.post(f"/break-glass/{broken['id']}/review").status_code == 403
    itself = people("clinician", "auditor", subject=clinician)
    assert itself.post(f"/break-glass/{broken['id']}/review").status_code == 403
    assert auditor.post(f"/break-glass/{broken['id']}/review").status_code == 204
    assert people("admin").post(f"/break-glass/{broken['id']}/review").status_code == 409
    assert auditor.post(f"/break-glass/{uuid.uuid4()}/review").status_code == 404
    assert auditor.post("/break-glass/not-a-uuid/review").status_code == 404

    with psycopg.connect(libpq_url(server.database_url), autocommit=True) as owner:
        owner.execute(
            "UPDATE break_glass SET started_at = now() - interval '1 hour', expires_at = now() WHERE id = %s",
            [broken["id"]],
        )
    eventually_answers(doctor, NOTE, 403, json=note(patient))
    items = doctor.get("/predictions/history", params={"patient_id": patient}).json()["items"]
    assert items == []


@pytest.mark.parametrize(
    "changes",
    [
        {"reason": "too short"},
        {"reason": " " * 40},
        {"reason": "x" * 501},
        {"minutes": 61},
        {"minutes": 0},
        {"minutes": 1.5},
        {"patient_id": ""},
        {"patient_id": None},
        {"patient_id": "a b"},
        {"more": 1},
    ],
    ids=str,
)
def test_emergency_access_needs_a_patient_a_reason_and_an_end(people: People, changes: dict[str, Any]) -> None:
    body = {"patient_id": "p-1", "reason": REASON, "minutes": 60, **changes}
    assert people("clinician").post("/break-glass", json=body).status_code == 422


@pytest.mark.parametrize("role", ["patient", "ml-engineer", "approver", "auditor", "admin", "service"])
def test_only_clinicians_break_the_glass(people: People, role: str) -> None:
    body = {"patient_id": "p-1", "reason": REASON, "minutes": 60}
    assert people(role).post("/break-glass", json=body).status_code == 403


@pytest.mark.parametrize("role", ["patient", "clinician", "ml-engineer", "approver", "auditor", "service"])
def test_only_administrators_configure(people: People, role: str) -> None:
    client = people(role)
    assert client.put("/care-team/c-1/p-1").status_code == 403
    assert client.delete("/care-team/c-1/p-1").status_code == 403
    assert client.get("/care-team/c-1").status_code == 403
    assert client.post("/access/revocations", json={"kind": "sub", "value": "c-1"}).status_code == 403


def test_a_service_predicts_for_whom_it_names_and_reads_nothing_back(people: People) -> None:
    null = {"cognito:groups": None, "username": None, "origin_jti": None}
    assert people("service", **null).get("/models").status_code == 401  # not what Cognito makes
    service, person_in_group = people("service"), people("service", "clinician")
    for client, status in ((service, 200), (person_in_group, 403)):
        assert httpx.get(f"{people.url}/metrics", headers=client.headers).status_code == status
    answer = service.post(NOTE, json=note(person("patient")))
    assert answer.status_code == 200
    for path in ("/models", "/stats", "/predictions/history", f"/predictions/{answer.json()['prediction_id']}"):
        assert service.get(path).status_code == 403


def test_nobody_puts_themselves_on_a_care_team_and_administrators_read_no_reasons(people: People) -> None:
    both, patient = person("clinician"), person("patient")
    itself = people("admin", "clinician", subject=both)
    assert itself.put(f"/care-team/{both}/{patient}").status_code == 403
    assert itself.post(NOTE, json=note(patient)).status_code == 403
    body = {"patient_id": patient, "reason": REASON, "minutes": 5}
    broken = people("clinician").post("/break-glass", json=body).json()["id"]
    mine = itself.post("/break-glass", json=body).json()["id"]

    def reasons(client: httpx.Client) -> dict[str, str | None]:
        return {item["id"]: item["reason"] for item in client.get("/break-glass").json()["items"]}

    assert reasons(people("admin"))[broken] is None
    assert (reasons(itself)[broken], reasons(itself)[mine]) == (None, REASON)
    assert reasons(people("auditor"))[broken] == REASON


@pytest.mark.requirement("S7")
@pytest.mark.parametrize("kind", ["sub", "jti", "origin_jti"])
def test_who_is_revoked_is_out_within_seconds(people: People, kind: str) -> None:
    identifiers = {"sub": person("clinician"), "jti": str(uuid.uuid4()), "origin_jti": str(uuid.uuid4())}
    doctor = people(
        "clinician", subject=identifiers["sub"], jti=identifiers["jti"], origin_jti=identifiers["origin_jti"]
    )
    assert doctor.get("/models").status_code == 200
    answer = people("admin").post("/access/revocations", json={"kind": kind, "value": identifiers[kind], "hours": 1})
    assert answer.status_code == 204
    assert doctor.get("/models").status_code == 401
    assert people("clinician").get("/models").status_code == 200


def test_the_command_line_grants_withdraws_and_revokes(people: People, server: Server, issuer: DevIssuer) -> None:
    clinician, patient = person("clinician"), person("patient")
    doctor = people("clinician", subject=clinician)

    operator = person("admin")
    production = {
        "DATABASE_URL": server.app_database_url,
        "OWNER_DATABASE_URL": server.database_url,
        "ENCRYPTION_KEY": server.encryption_key,
        "COGNITO_ISSUER": ISSUER,
        "COGNITO_CLIENT_IDS": CLIENT_ID,
        "COGNITO_JWKS_FILE": str(issuer.jwks_file),
    }

    def run(*arguments: str, role: str = "admin") -> subprocess.CompletedProcess[str]:
        return followup("access", *arguments, **production, FOLLOWUP_TOKEN=issuer.token([role], operator))

    assert run("grant", clinician, patient, "--days", "3").returncode == 0
    eventually_answers(doctor, NOTE, 200, json=note(patient))
    (listed,) = json.loads(run("team", clinician, "--json").stdout)
    assert listed["patient_id"] == patient
    assert listed["granted_by"] == operator
    assert run("grant", clinician, patient, role="clinician").returncode == 1
    assert patient in run("team", clinician).stdout
    assert run("withdraw", clinician, patient).returncode == 0
    assert run("withdraw", clinician, patient).returncode == 1
    eventually_answers(doctor, NOTE, 403, json=note(patient))
    for wrong in ((), ("--sub", "a", "--jti", "b"), ("--sub", ""), ("--sub", "a b")):
        done = run("revoke", *wrong)
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1
    assert run("grant", operator, patient).returncode == 1
    assert run("revoke", "--sub", clinician).returncode == 0
    eventually_answers(doctor, "/models", 401)
    assert run("restore", "--sub", clinician, role="clinician").returncode == 1
    assert run("restore", "--sub", clinician).returncode == 0
    eventually_answers(doctor, "/models", 200)
    assert run("restore", "--sub", clinician).returncode == 1
    assert run("revoke", "--sub", clinician).returncode == 0
    eventually_answers(doctor, "/models", 401)
    assert run("revoke", "--sub", operator).returncode == 0
    assert "revoked" in run("team", clinician).stderr
    with psycopg.connect(libpq_url(server.database_url)) as owner:
        recorded = owner.execute(
            "SELECT action, patient_id FROM audit_events WHERE principal = %s ORDER BY created_at, id", [operator]
        ).fetchall()
    assert ("grant care team", patient) in recorded
    assert ("withdraw care team", patient) in recorded
    assert ("revoke", None) in recorded
    assert [action for action, _ in recorded].count("restore") == 1


def test_an_answer_says_how_much_is_left(people: People) -> None:
    client = people("clinician")
    first, second = client.get("/models").headers, client.get("/nothing").headers
    assert first["ratelimit-limit"] == second["ratelimit-limit"]
    assert int(first["ratelimit-remaining"]) > int(second["ratelimit-remaining"])
    assert 1 <= int(first["ratelimit-reset"]) <= 60


@pytest.fixture
def small(
    tmp_path: Path,
    postgres: EmbeddedPostgres,
    issuer: DevIssuer,
    valkey_socket: str,
    ner_model: StoredModel,
    deterioration_model: StoredModel,
) -> Iterator[Server]:
    """A server with small quotas."""
    database_url = postgres.create_database(f"small_{uuid.uuid4().hex}")
    server = Server(
        database_url=database_url,
        app_database_url=postgres.url_as("followup_app", database_url),
        issuer=issuer,
        log=tmp_path / "server.log",
        environment={"REDIS_SOCKET": valkey_socket, "QUOTA_PER_MINUTE": "20", "QUOTA_ANONYMOUS_PER_MINUTE": "5"},
    )
    server.register([ner_model, deterioration_model])
    server.start()
    yield server
    server.stop()


def test_over_quota_is_429_with_when_to_come_back(small: Server, issuer: DevIssuer) -> None:
    while time.time() % 60 > 50:  # the whole test within one minute
        time.sleep(0.5)
    with httpx.Client(base_url=small.url + BASE, timeout=30) as client:
        mine, others = bearer(issuer, "clinician", subject=person("clinician")), bearer(issuer, "auditor")
        items = [{"id": str(number), "input_data": {"text": "fever"}} for number in range(15)]
        batch = {"model_name": "clinical_ner", "items": items}
        answer = client.post("/predict/batch", json=batch, headers=mine)
        assert answer.status_code == 200
        assert answer.headers["ratelimit-remaining"] == "5"
        answers = [client.get("/models", headers=mine) for _ in range(7)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
        refused = answers[-1]
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["type"] == "urn:followup:problem:too-many-requests"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["ratelimit-limit"] == "20"
        assert refused.headers["ratelimit-remaining"] == "0"
        assert client.get("/models", headers=others).status_code == 200
        twice = [("X-Request-ID", str(uuid.uuid4()))] * 2  # what is refused before anybody asks for a token
        assert [client.get("/models", headers=twice).status_code for _ in range(3)] == [422] * 3
        assert [client.get("/models").status_code for _ in range(3)] == [401] * 2 + [429]
        assert [client.get("/models", headers=twice).status_code for _ in range(2)] == [429] * 2
        assert (
            client.get("/models", headers=others).status_code == 200
        )  # who has a token is not kept out by who has none
        assert httpx.get(f"{small.url}/readyz").status_code == 200


def test_an_answer_is_given_again_only_to_who_may_still_see_it(server: Server, issuer: DevIssuer) -> None:
    clinician, patient = str(uuid.uuid4()), str(uuid.uuid4())
    server.relate(clinician, patient)
    headers = bearer(issuer, "clinician", subject=clinician) | {"Idempotency-Key": str(uuid.uuid4())}
    body = {"text": "chest pain, took warfarin", "patient_id": patient}

    def ask() -> httpx.Response:
        return httpx.post(f"{server.url}{BASE}/predict/symptom-analysis", json=body, headers=headers, timeout=30)

    first, again = ask(), ask()
    assert first.status_code == 200
    assert again.content == first.content
    admin = bearer(issuer, "admin")
    withdrawn = httpx.delete(f"{server.url}{BASE}/care-team/{clinician}/{patient}", headers=admin)
    assert withdrawn.status_code == 204
    assert ask().status_code == 403


@pytest.mark.requirement("S2")
def test_above_the_ceiling_break_glass_is_confirmed_and_comes_first(people: People) -> None:
    doctor, auditor = people("clinician"), people("auditor")

    def breaking(patient: str, **more: str) -> httpx.Response:
        return doctor.post("/break-glass", json={"patient_id": patient, "reason": REASON, **more})

    assert [breaking(person("patient")).status_code for _ in range(3)] == [201] * 3
    patient = str(uuid.uuid4())
    refused = breaking(patient)
    problem = refused.json()
    assert (refused.status_code, problem["type"]) == (409, "urn:followup:problem:confirmation-needed")
    assert patient not in refused.text
    assert REASON not in refused.text
    assert breaking(str(uuid.uuid4()), confirmation=problem["confirmation"]).status_code == 409
    loud = breaking(patient.upper(), confirmation=problem["confirmation"])
    assert loud.status_code == 201
    first = auditor.get("/break-glass", params={"limit": 1, "unreviewed": "true"}).json()
    assert first["items"][0]["id"] == loud.json()["id"]
    assert first["items"][0]["above_ceiling"] is True
    assert first["next_cursor"]
    mine = doctor.get("/break-glass", params={"limit": 2}).json()
    rest = doctor.get("/break-glass", params={"limit": 2, "cursor": mine["next_cursor"]}).json()
    assert len({item["id"] for item in (*mine["items"], *rest["items"])}) == 4
    for reason in ("..........", "\u200b" * 20, "\u3164" * 20, "aaaaaaaaaaaa"):
        answer = doctor.post("/break-glass", json={"patient_id": patient, "reason": reason})
        assert answer.status_code == 422


def test_another_spelling_is_the_same_person(people: People) -> None:
    admin_sub, doctor_sub, patient = (str(uuid.uuid4()) for _ in range(3))
    admin, doctor = people("admin", "clinician", subject=admin_sub), people("clinician", subject=doctor_sub)
    for own in (admin_sub, admin_sub.upper(), admin_sub.title()):
        assert admin.put(f"/care-team/{own}/{patient}").status_code == 403
    assert admin.put(f"/care-team/{doctor_sub.upper()}/{patient.upper()}").status_code == 200
    eventually_answers(doctor, NOTE, 200, json=note(patient))
    assert doctor.post(NOTE, json=note(patient.upper())).status_code == 200
    shown = people("patient", subject=patient.upper()).get("/predictions/history").json()["items"]
    assert {record["patient_id"] for record in shown} == {patient}
    assert len(shown) == 2
    assert admin.delete(f"/care-team/{doctor_sub}/{patient.title()}").status_code == 204
    eventually_answers(doctor, NOTE, 403, json=note(patient))


def test_a_login_without_a_name_is_revoked_by_its_person_and_its_moment(people: People, issuer: DevIssuer) -> None:
    subject, signed_in = str(uuid.uuid4()), int(time.time()) - 60
    claims = jwt.decode(issuer.token(["clinician"], subject), options={"verify_signature": False})
    del claims["origin_jti"]
    unnamed = people("clinician", subject=subject, auth_time=signed_in, origin_jti=None)
    assert unnamed.get("/models").status_code == 401  # null is no name: such tokens leave the claim out
    key = issuer._key
    token = jwt.encode({**claims, "auth_time": signed_in}, key, algorithm="RS256", headers={"kid": "followup-demo-1"})
    with httpx.Client(base_url=people.url + BASE, headers={"Authorization": f"Bearer {token}"}) as nameless:
        assert nameless.get("/models").status_code == 200
        body = {"kind": "origin_jti", "value": f"{subject.upper()}@{signed_in}"}
        assert people("admin").post("/access/revocations", json=body).status_code == 204
        assert nameless.get("/models").status_code == 401
    assert people("clinician", subject=subject).get("/models").status_code == 200  # another login goes on
