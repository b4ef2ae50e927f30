"""The server's own role, in the hands of somebody who has its password: it changes nothing without an event."""

import asyncio
import json
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql

from audit.record import created_at, new_id
from database.engine import libpq_url, open_async_engine
from database.maintenance import Maintenance
from embedded.postgres import EmbeddedPostgres

Connection = psycopg.Connection[tuple[Any, ...]]
CLINICIAN, PATIENT = str(uuid.uuid4()), str(uuid.uuid4())


@pytest.fixture
def owner(database_url: str) -> Iterator[Connection]:
    with psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
        yield connection


@pytest.fixture
def app(postgres: EmbeddedPostgres, owner: Connection) -> Iterator[Connection]:
    with psycopg.connect(libpq_url(postgres.url("followup_app", owner.info.dbname)), autocommit=True) as connection:
        yield connection


def event(action: str, status: int = 200, **changes: Any) -> str:
    identity = new_id()
    document = {
        "created_at": created_at(identity).isoformat(),
        "id": str(identity),
        "request_id": str(uuid.uuid4()),
        "action": action,
        "route": "/test",
        "status": status,
        "roles": "admin",
        "client_id": "client",
        "purpose_of_use": "HSYSADMIN",
        "latency_ms": 1.0,
    }
    return json.dumps({name: value for name, value in (document | changes).items() if value is not None})


def events(owner: Connection) -> list[tuple[Any, ...]]:
    return owner.execute("SELECT action, principal, patient_id, target FROM audit_events ORDER BY id").fetchall()


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO care_team VALUES ('c', 'p', now(), NULL, 'a')",
        "UPDATE care_team SET until = NULL",
        "DELETE FROM care_team",
        "INSERT INTO break_glass (id, clinician, patient_id, key_id, reason, started_at, expires_at) VALUES"
        " (gen_random_uuid(), 'c', 'p', gen_random_uuid(), '', now(), now() + interval '5 minutes')",
        "UPDATE break_glass SET reviewed_by = 'a', reviewed_at = now()",
        "DELETE FROM break_glass",
        "INSERT INTO revocations (kind, value, revoked_by) VALUES ('sub', 's', 'a')",
        "UPDATE revocations SET until = now()",
        "DELETE FROM revocations",
        "INSERT INTO login_sessions VALUES ('x', now())",
        "UPDATE login_sessions SET last_seen = now()",
        "DELETE FROM login_sessions",
        "DELETE FROM idempotency_keys",
        "UPDATE idempotency_keys SET answer = ''",
        "SELECT record_change('{}', ARRAY['x'], 'a', 'p', 't')",
    ],
)
def test_it_changes_no_table_by_itself(app: Connection, statement: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        app.execute(statement.encode())


def test_a_care_team_changes_with_exactly_one_event_that_says_who_and_whom(app: Connection, owner: Connection) -> None:
    grant, withdraw = (
        "SELECT * FROM grant_care_team(%s, %s, %s, %s, %s)",
        "SELECT * FROM withdraw_care_team(%s, %s, %s, %s)",
    )
    assert app.execute(grant, [CLINICIAN, PATIENT, 7, "admin-1", event("configure")]).rowcount == 1
    assert app.execute(withdraw, [CLINICIAN, PATIENT, "admin-2", event("configure", 204)]).rowcount == 1
    assert app.execute(withdraw, [CLINICIAN, PATIENT, "admin-2", event("configure", 204)]).rowcount == 0
    assert events(owner) == [
        ("configure", "admin-1", PATIENT, CLINICIAN),
        ("configure", "admin-2", PATIENT, CLINICIAN),
    ]


@pytest.mark.parametrize(
    "broken",
    [
        "{}",
        event("read predictions"),
        event("configure", 403),
        event("configure", roles=None),
        event("configure", id=str(uuid.uuid4())),
        event("configure", created_at="2001-01-01T00:00:00Z"),
    ],
    ids=["empty", "another act", "a refusal", "no roles", "an id without a time", "another time"],
)
def test_without_an_event_of_its_own_there_is_no_change(app: Connection, owner: Connection, broken: str) -> None:
    with pytest.raises(psycopg.Error):
        app.execute("SELECT * FROM grant_care_team(%s, %s, NULL, %s, %s)", [CLINICIAN, PATIENT, "admin-1", broken])
    with pytest.raises(psycopg.Error):
        app.execute("SELECT revoke_access('sub', %s, NULL, 'admin-1', %s)", [CLINICIAN, broken])
    for table in ("care_team", "revocations", "audit_events"):
        count = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))
        assert owner.execute(count).fetchone() == (0,)


@pytest.mark.parametrize("spell", [str.lower, str.upper, str.title])
def test_nobody_grants_to_themselves_under_another_spelling(app: Connection, spell: Any) -> None:
    grant = "SELECT * FROM grant_care_team(%s, %s, NULL, %s, %s)"
    with pytest.raises(errors.InsufficientPrivilege):
        app.execute(grant, [spell(CLINICIAN), PATIENT, CLINICIAN, event("configure")])


def test_a_row_of_before_keeps_its_spelling_and_counts_under_every_other(app: Connection, owner: Connection) -> None:
    owner.execute("INSERT INTO care_team VALUES (%s, %s, now(), NULL, 'x')", [CLINICIAN.upper(), PATIENT.title()])
    related = "SELECT patient_id FROM care_relations WHERE clinician = %s"
    assert app.execute(related, [CLINICIAN]).fetchall() == [(PATIENT,)]
    app.execute("SELECT * FROM grant_care_team(%s, %s, 3, 'admin-1', %s)", [CLINICIAN, PATIENT, event("configure")])
    assert owner.execute("SELECT clinician, granted_by FROM care_team").fetchall() == [(CLINICIAN.upper(), "admin-1")]
    withdraw = "SELECT * FROM withdraw_care_team(%s, %s, 'admin-1', %s)"
    app.execute(withdraw, [CLINICIAN.title(), PATIENT.upper(), event("configure", 204)])
    assert app.execute(related, [CLINICIAN]).fetchall() == []


def test_a_revocation_is_never_shortened_whatever_its_spelling(app: Connection, owner: Connection) -> None:
    owner.execute("INSERT INTO revocations (kind, value, revoked_by) VALUES ('sub', %s, 'x')", [CLINICIAN.upper()])
    app.execute("SELECT revoke_access('sub', %s, 1, 'admin-1', %s)", [CLINICIAN, event("configure", 204)])
    assert owner.execute("SELECT value, until FROM revocations").fetchall() == [(CLINICIAN.upper(), None)]
    app.execute("SELECT revoke_access('origin_jti', %s, 1, 'a', %s)", [f"{CLINICIAN}@1700000000", event("configure")])
    assert [row[3] for row in events(owner)] == [f"sub:{CLINICIAN}", f"origin_jti:{CLINICIAN}@1700000000"]


def test_a_review_is_somebody_elses_under_every_spelling(app: Connection, owner: Connection) -> None:
    broken = uuid.uuid4()
    breaking = "SELECT * FROM break_the_glass(%s, %s, %s, %s, 'sealed', 60, NULL, 3, 10, false, %s)"
    app.execute(breaking, [broken, CLINICIAN.upper(), PATIENT, uuid.uuid4(), event("break glass", 201)])
    review = "SELECT * FROM review_break_glass(%s, %s, %s)"
    for own in (CLINICIAN, CLINICIAN.upper(), CLINICIAN.title()):
        assert app.execute(review, [broken, own, event("review break-glass", 204)]).fetchall() == []
    assert app.execute(review, [broken, "a-1", event("review break-glass", 204)]).fetchall() == [(PATIENT,)]
    assert events(owner) == [
        ("break glass", CLINICIAN, PATIENT, str(broken)),
        ("review break-glass", "a-1", PATIENT, str(broken)),
    ]


def test_sessions_go_forward_only_and_not_into_the_future(app: Connection, owner: Connection) -> None:
    now = datetime.now(UTC)
    for moment in (now, now - timedelta(minutes=20), now + timedelta(days=400)):
        app.execute("SELECT touch_sessions(%s, %s)", [[b"login"], [moment]])
        ((seen,),) = owner.execute("SELECT last_seen FROM login_sessions").fetchall()
        assert now <= seen < now + timedelta(minutes=1)


def test_only_what_has_expired_is_forgotten(app: Connection, owner: Connection) -> None:
    owner.execute("INSERT INTO login_sessions VALUES ('old', now() - interval '31 days'), ('new', now())")
    keys = "INSERT INTO idempotency_keys (principal, key, request_mac, key_version, answer, created_at) VALUES"
    owner.execute(f"{keys} ('old', gen_random_uuid(), '', 1, '', now() - interval '25 hours')".encode())
    owner.execute(f"{keys} ('new', gen_random_uuid(), '', 1, '', now())".encode())
    app.execute("SELECT forget_sessions(), forget_idempotency_keys()")
    assert owner.execute("SELECT convert_from(session, 'UTF8') FROM login_sessions").fetchall() == [("new",)]
    assert owner.execute("SELECT principal FROM idempotency_keys").fetchall() == [("new",)]


@pytest.mark.parametrize("role", ["followup_auditor", "followup_sealer"])
def test_no_other_role_may_call_any_of_it(postgres: EmbeddedPostgres, owner: Connection, role: str) -> None:
    query = (
        "SELECT proname, has_function_privilege(%s, p.oid, 'EXECUTE') FROM pg_proc AS p"
        " WHERE pronamespace = current_schema()::regnamespace AND prosecdef"
    )
    allowed = dict(owner.execute(query, [role]).fetchall())
    assert len(allowed) >= 9
    assert not any(allowed.values())


@pytest.mark.parametrize("number", [20220001, 20220002, 20220003, 20220004])
def test_a_lock_that_any_role_may_take_holds_up_no_month(
    postgres: EmbeddedPostgres, owner: Connection, app: Connection, number: int
) -> None:
    url = libpq_url(postgres.url("followup_auditor", owner.info.dbname))
    with psycopg.connect(url, autocommit=True) as auditor:
        auditor.execute("SELECT pg_advisory_lock(%s)", [number])
        app.execute("SET statement_timeout = '5s'")
        assert app.execute("SELECT ensure_partitions(3)").fetchone() == (0,)


GIANT = 9_000_000
# One of each column of the trail's tables that has no size of its own, and shapes that no reader expects.
GIANTS: dict[str, Any] = {"text": "x" * GIANT, "bytea": b"x" * GIANT, "ARRAY": ["x" * GIANT]}
ODD: list[tuple[str, str, str]] = [
    ("audit_events", "patients", "'{{a,b},{c,d}}'"),
    ("audit_events", "patients", "'{a,NULL}'"),
    ("audit_events", "patients", "'[5:6]={a,b}'"),
    ("audit_events", "target", "repeat(chr(1), 70000)"),
    ("ml_predictions", "answer_commitment", "'\\x00'"),
    ("ml_predictions", "answer_commitment", "decode(repeat('00', 33), 'hex')"),
]


def trail_row(table: str) -> dict[str, Any]:
    identity = new_id()
    row: dict[str, Any] = {"created_at": created_at(identity), "id": identity, "request_id": uuid.uuid4()}
    row |= {
        "route": "/x",
        "principal": "p",
        "roles": "",
        "client_id": "c",
        "purpose_of_use": "HOPERAT",
        "latency_ms": 1,
    }
    if table == "audit_events":
        return row | {"action": "x", "status": 200, "outcome": "success"}
    row |= {"model_id": 1, "model_name": "m", "model_version": "v", "model_digest": "d", "variant": "champion"}
    row |= {"key_id": uuid.uuid4(), "input": b"", "result": b"", "cache_hit": False, "inference_time_ms": 1}
    return row


def put(app: Connection, table: str, row: dict[str, Any], **literal: str) -> None:
    names = [*(name for name in row if name not in literal), *literal]
    values = [*("%s" for name in row if name not in literal), *literal.values()]
    statement = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(values)})".encode()
    app.execute(statement, [value for name, value in row.items() if name not in literal])


@pytest.mark.parametrize("table", ["audit_events", "ml_predictions"])
def test_it_puts_nothing_into_the_log_that_a_reader_could_not_carry(
    app: Connection, owner: Connection, table: str
) -> None:
    columns = owner.execute(
        "SELECT column_name, data_type FROM information_schema.columns"
        " WHERE table_name = %s AND data_type IN ('text', 'bytea', 'ARRAY', 'jsonb')",
        [table],
    ).fetchall()
    assert len(columns) >= 11
    put(app, table, trail_row(table))
    for name, kind in columns:
        with pytest.raises(errors.CheckViolation):
            put(app, table, trail_row(table) | {name: GIANTS[kind]})
    for where, name, literal in ODD:
        if where == table:
            with pytest.raises(errors.CheckViolation):
                put(app, table, trail_row(table), **{name: literal})
    assert owner.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() == (1,)


CHANGES = {
    "grant care team": "SELECT grant_care_team('c', %(text)s, 1, 'a', %(event)s)",
    "withdraw care team": "SELECT withdraw_care_team('c', 'p', %(text)s, %(event)s)",
    "break glass": "SELECT break_the_glass(gen_random_uuid(), 'c', %(text)s, gen_random_uuid(), 's', 60, 0, 3, 10,"
    " false, %(event)s)",
    "review break-glass": "SELECT review_break_glass(%(open)s, %(text)s, %(event)s)",
    "revoke": "SELECT revoke_access('sub', %(text)s, 1, 'a', %(event)s)",
}


@pytest.mark.parametrize("action", CHANGES)
def test_no_change_is_a_way_round_that(app: Connection, owner: Connection, action: str) -> None:
    app.execute("SELECT grant_care_team('c', 'p', 1, 'a', %s)", [event("grant care team")])
    opened = uuid.uuid4()
    breaking = "SELECT break_the_glass(%s, 'd', 'p', gen_random_uuid(), 's', 60, 0, 3, 10, false, %s)"
    app.execute(breaking, [opened, event("break glass")])
    before = events(owner)
    values = {"text": "p", "open": opened}
    for name in ("roles", "client_id", "purpose_of_use", "user_agent", "route"):
        with pytest.raises(errors.CheckViolation):
            app.execute(CHANGES[action].encode(), values | {"event": event(action, **{name: "x" * GIANT})})
    with pytest.raises((errors.CheckViolation, errors.ProgramLimitExceeded)):  # or no index holds it
        app.execute(CHANGES[action].encode(), values | {"text": "y" * GIANT, "event": event(action)})
    assert events(owner) == before
    app.execute(CHANGES[action].encode(), values | {"event": event(action)})
    assert len(events(owner)) == len(before) + 1


@pytest.mark.parametrize(
    "call",
    [
        "grant_care_team('c', 'p', {time}, 'a', %s)",
        "break_the_glass(gen_random_uuid(), 'c', 'p', gen_random_uuid(), 's', {time}, 0, 3, 10, false, %s)",
        "revoke_access('sub', 'c', {time}, 'a', %s)",
    ],
)
def test_what_gives_for_a_time_takes_nothing_away(app: Connection, owner: Connection, call: str) -> None:
    for minutes in (0, -5):
        action = {"g": "grant care team", "b": "break glass", "r": "revoke"}[call[0]]
        with pytest.raises(errors.InvalidParameterValue):
            app.execute(f"SELECT {call.format(time=minutes)}".encode(), [event(action)])
    assert events(owner) == []


def test_a_reason_has_a_size(app: Connection, owner: Connection) -> None:
    breaking = "SELECT break_the_glass(gen_random_uuid(), 'c', 'p', gen_random_uuid(), %s, 60, 0, 3, 10, false, %s)"
    with pytest.raises(errors.CheckViolation):
        app.execute(breaking, [b"x" * GIANT, event("break glass")])
    assert events(owner) == []


@pytest.mark.parametrize("action", ["archive partition", "restore trail"])
def test_it_speaks_for_nobody_who_has_the_seal_key(app: Connection, action: str) -> None:
    identity = new_id()
    with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
        app.execute(
            "INSERT INTO audit_events (created_at, id, request_id, action, route, status, outcome, principal, roles,"
            " client_id, purpose_of_use, latency_ms)"
            " VALUES (%s, %s, %s, %s, '/x', 200, 'success', 'p', '', 'c', 'HOPERAT', 1)",
            [created_at(identity), identity, uuid.uuid4(), action],
        )


@pytest.mark.parametrize("nothing", ["hard_stop", "most_open", "most_a_day", "confirmed"])
def test_a_ceiling_that_is_not_said_is_no_way_under_it(app: Connection, nothing: str) -> None:
    breaking = "SELECT outcome FROM break_the_glass(%s, 'c', 'p', %s, 'sealed', 60, %s, %s, %s, %s, %s)"

    def outcome(**changes: Any) -> Any:
        said = {"confirmed": 7, "most_open": 3, "most_a_day": 10, "hard_stop": False} | changes
        row = app.execute(breaking, [uuid.uuid4(), uuid.uuid4(), *said.values(), event("break glass", 201)]).fetchone()
        assert row is not None
        return row[0]

    if nothing in {"most_open", "most_a_day"}:
        assert outcome(**{nothing: None}) == "unconfirmed"
        return
    assert [outcome() for _ in range(4)] == ["broken"] * 3 + ["unconfirmed"]
    assert outcome(**{nothing: None}) == ("stopped" if nothing == "hard_stop" else "unconfirmed")


async def test_a_reader_who_keeps_a_transaction_open_holds_up_nobody_when_months_are_made(
    postgres: EmbeddedPostgres, owner: Connection, app: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    for parent in ("audit_events", "ml_predictions"):
        query = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass ORDER BY 1"
        months = [row[0] for row in owner.execute(query, [parent]) if not row[0].endswith("default")]
        for month in months[1:]:
            owner.execute(f"DROP TABLE {month}".encode())
    url = postgres.url("followup_auditor", owner.info.dbname)
    engine = open_async_engine(postgres.url("followup_app", owner.info.dbname), pool_size=1)
    with psycopg.connect(libpq_url(url)) as auditor:
        auditor.execute("SELECT count(*) FROM audit_events")
        auditor.execute("SELECT count(*) FROM ml_predictions")
        making = asyncio.create_task(Maintenance(engine).once())
        longest = 0.0
        while not making.done():
            started = time.perf_counter()
            await asyncio.to_thread(
                app.execute, "SELECT revoke_access('sub', 's', 1, 'a', %s)", [event("configure", 204)]
            )
            longest = max(longest, time.perf_counter() - started)
            await asyncio.sleep(0.01)
        await making
        assert longest < 1.5  # the trail waits for two seconds
        assert "next month has no partition of ml_predictions, audit_events" in caplog.text
    caplog.clear()
    await Maintenance(engine).once()
    assert "no partition" not in caplog.text
    await engine.dispose()


def test_readers_leave_connections_for_those_who_write(postgres: EmbeddedPostgres, owner: Connection) -> None:
    url = libpq_url(postgres.url("followup_auditor", owner.info.dbname))
    taken: list[Connection] = []
    with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
        for _ in range(30):
            taken.append(psycopg.connect(url))
    assert len(taken) <= 10
    for connection in taken:
        connection.close()
