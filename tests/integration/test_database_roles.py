"""What each role of the database may do at all, whatever the code above it gets wrong."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg import errors, sql

from database.engine import libpq_url
from embedded.postgres import EmbeddedPostgres
from tests.trail_rows import id_of

APPEND_ONLY = (
    "ml_predictions",
    "audit_events",
    "audit_leaves",
    "audit_nodes",
    "audit_checkpoints",
    "audit_anchors",
    "audit_restorations",
    "model_signatures",
)
NOW = datetime.now(UTC).replace(microsecond=0)
KEY = uuid.UUID(int=1)

PREDICTION = {
    "created_at": NOW,
    "request_id": uuid.uuid4(),
    "route": "/predict",
    "model_id": 1,
    "model_name": "m",
    "model_version": "v",
    "model_digest": "d",
    "variant": "champion",
    "principal": "c-1",
    "roles": "clinician",
    "client_id": "client",
    "patient_id": None,
    "purpose_of_use": "CAREMGT",
    "key_id": KEY,
    "input": b"sealed",
    "result": b"sealed",
    "cache_hit": False,
    "inference_time_ms": 1.0,
    "latency_ms": 1.0,
}
EVENT = {
    "created_at": NOW,
    "request_id": uuid.uuid4(),
    "action": "read predictions",
    "route": "/predictions/history",
    "status": 200,
    "outcome": "success",
    "principal": "c-1",
    "roles": "clinician",
    "client_id": "client",
    "patient_id": None,
    "purpose_of_use": "CAREMGT",
    "latency_ms": 1.0,
}
ROWS = {
    "audit_leaves": {
        "leaf_index": 0,
        "source": "audit_events",
        "created_at": NOW,
        "row_id": uuid.uuid4(),
        "leaf_hash": b"h",
    },
    "audit_nodes": {"level": 1, "position": 0, "node_hash": b"h"},
    "audit_checkpoints": {"tree_size": 1, "root_hash": b"h", "note": "n", "horizon": 1},
    "audit_anchors": {"tree_size": 1, "place": "p"},
    "audit_restorations": {"created_at": NOW, "event_id": uuid.UUID(int=7)},
    "model_signatures": {
        "model_name": "m",
        "model_version": "v",
        "model_digest": "d",
        "meaning": "approved",
        "signer": "s",
        "signed_at": NOW,
        "signature": b"s",
    },
}

Connection = psycopg.Connection[tuple[object, ...]]


class Roles:
    """Connections of each role to one database, each statement its own transaction."""

    def __init__(self, postgres: EmbeddedPostgres, database_url: str) -> None:
        self.owner = psycopg.connect(libpq_url(database_url), autocommit=True)
        name = self.owner.info.dbname
        self.app, self.sealer, self.auditor = (
            psycopg.connect(libpq_url(postgres.url(f"followup_{role}", name)), autocommit=True)
            for role in ("app", "sealer", "auditor")
        )

    def close(self) -> None:
        for connection in (self.owner, self.app, self.sealer, self.auditor):
            connection.close()


@pytest.fixture
def roles(postgres: EmbeddedPostgres, database_url: str) -> Iterator[Roles]:
    roles = Roles(postgres, database_url)
    yield roles
    roles.close()


def insert(connection: Connection, table: str, row: dict[str, object]) -> uuid.UUID:
    """Insert a row, with an id of its own where the table has one."""
    row_id = id_of(NOW)
    values = {"id": row_id, **row} if table in {"ml_predictions", "audit_events"} else row
    columns = sql.SQL(", ").join(map(sql.Identifier, values))
    marks = sql.SQL(", ").join([sql.Placeholder()] * len(values))
    connection.execute(
        sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(sql.Identifier(table), columns, marks), list(values.values())
    )
    return row_id


def fill(roles: Roles) -> None:
    """One row in each append-only table, each written by who writes it in operation."""
    insert(roles.app, "ml_predictions", PREDICTION)
    insert(roles.app, "audit_events", EVENT)
    for table, row in ROWS.items():
        insert(roles.owner if table in {"model_signatures", "audit_restorations"} else roles.sealer, table, row)


def visible(connection: Connection, table: str, **settings: str) -> set[object]:
    """Ids that the connection sees once it has said who reads."""
    with connection.transaction():
        for name, value in settings.items():
            connection.execute("SELECT set_config(%s, %s, true)", [f"followup.{name}", value])
        return {row[0] for row in connection.execute(sql.SQL("SELECT id FROM {}").format(sql.Identifier(table)))}


def first_column(connection: Connection, table: str) -> str:
    query = (
        "SELECT column_name FROM information_schema.columns WHERE table_name = %s AND is_identity = 'NO'"
        " ORDER BY ordinal_position LIMIT 1"
    )
    row = connection.execute(query, [table]).fetchone()
    assert row is not None
    return str(row[0])


@pytest.mark.requirement("S6")
@pytest.mark.parametrize("role", ["app", "sealer", "auditor"])
@pytest.mark.parametrize("table", APPEND_ONLY)
def test_no_role_of_operation_changes_the_trail(roles: Roles, table: str, role: str) -> None:
    fill(roles)
    connection: Connection = getattr(roles, role)
    name = sql.Identifier(table)
    column = sql.Identifier(first_column(roles.owner, table))
    for statement in (
        sql.SQL("UPDATE {} SET {} = {}").format(name, column, column),
        sql.SQL("DELETE FROM {}").format(name),
        sql.SQL("TRUNCATE {}").format(name),
        sql.SQL("ALTER TABLE {} DISABLE TRIGGER ALL").format(name),
        sql.SQL("ALTER TABLE {} DISABLE ROW LEVEL SECURITY").format(name),
        sql.SQL("DROP TABLE {}").format(name),
    ):
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute(statement)
    assert roles.owner.execute(sql.SQL("SELECT count(*) FROM {}").format(name)).fetchone() == (1,)


@pytest.mark.requirement("P3")
@pytest.mark.requirement("S6")
@pytest.mark.parametrize("table", APPEND_ONLY)
def test_the_owners_own_change_is_refused_by_the_trigger(roles: Roles, table: str) -> None:
    fill(roles)
    name = sql.Identifier(table)
    column = sql.Identifier(first_column(roles.owner, table))
    change = sql.SQL("UPDATE {} SET {} = {}").format(name, column, column)
    for statement in (change, sql.SQL("DELETE FROM {}").format(name), sql.SQL("TRUNCATE {}").format(name)):
        with pytest.raises(errors.InsufficientPrivilege, match="append-only"):
            roles.owner.execute(statement)


def test_partitions_are_no_way_round(roles: Roles) -> None:
    fill(roles)
    for parent in ("ml_predictions", "audit_events"):
        query = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass"
        partitions = [str(row[0]) for row in roles.owner.execute(query, [parent])]
        assert len(partitions) > 3
        for partition in partitions:
            name = sql.Identifier(partition)
            for statement in ("SELECT * FROM {}", "DELETE FROM {}", "TRUNCATE {}", "INSERT INTO {} DEFAULT VALUES"):
                with pytest.raises(errors.InsufficientPrivilege):
                    roles.app.execute(sql.SQL(statement).format(name))
            with pytest.raises(errors.InsufficientPrivilege, match="append-only"):
                roles.owner.execute(sql.SQL("TRUNCATE {}").format(name))
        with pytest.raises(errors.InsufficientPrivilege, match="append-only"):
            roles.owner.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(f"{parent}_{NOW:%Y%m}")))


@pytest.mark.parametrize(("table", "row"), [("ml_predictions", PREDICTION), ("audit_events", EVENT)])
def test_a_row_cannot_claim_another_transaction(roles: Roles, table: str, row: dict[str, object]) -> None:
    """A row with an early transaction id would slip in behind what is sealed already."""
    with pytest.raises(errors.InsufficientPrivilege):
        insert(roles.app, table, {**row, "xid": "1"})
    insert(roles.app, table, row)
    query = sql.SQL("SELECT xid::text::bigint > 1 FROM {}").format(sql.Identifier(table))
    assert roles.owner.execute(query).fetchone() == (True,)


@pytest.mark.requirement("S1")
@pytest.mark.parametrize(("table", "row"), [("ml_predictions", PREDICTION), ("audit_events", EVENT)])
def test_nobody_is_nameless(roles: Roles, table: str, row: dict[str, object]) -> None:
    with pytest.raises(errors.CheckViolation):
        insert(roles.app, table, {**row, "principal": ""})


@pytest.mark.parametrize(("table", "row"), [("ml_predictions", PREDICTION), ("audit_events", EVENT)])
def test_who_does_not_say_who_reads_sees_nothing(roles: Roles, table: str, row: dict[str, object]) -> None:
    insert(roles.app, table, row)
    insert(roles.app, table, {**row, "patient_id": "p-1"})
    assert visible(roles.app, table) == set()
    nothing = {"author": "", "patient": "", "clinician": "", "everything": ""}
    assert visible(roles.app, table, **nothing) == set()
    assert visible(roles.app, table, everything="yes") == set()
    assert len(visible(roles.app, table, everything="on")) == 2


def test_predictions_are_seen_by_author_patient_and_clinician_and_nobody_else(roles: Roles) -> None:
    unlinked = insert(roles.app, "ml_predictions", PREDICTION)
    others = insert(roles.app, "ml_predictions", {**PREDICTION, "principal": "c-2"})
    first = insert(roles.app, "ml_predictions", {**PREDICTION, "patient_id": "p-1"})
    second = insert(roles.app, "ml_predictions", {**PREDICTION, "patient_id": "p-2", "principal": "c-2"})
    roles.owner.execute("INSERT INTO care_team VALUES ('c-9', 'p-1', now(), NULL, 'admin-1')")

    assert visible(roles.app, "ml_predictions", author="c-1") == {unlinked}
    assert visible(roles.app, "ml_predictions", author="c-2") == {others}
    assert visible(roles.app, "ml_predictions", patient="p-1") == {first}
    assert visible(roles.app, "ml_predictions", patient="p-2") == {second}
    assert visible(roles.app, "ml_predictions", clinician="c-9") == {first}
    assert visible(roles.app, "ml_predictions", clinician="c-1") == set()
    assert visible(roles.app, "ml_predictions", author="c-1", clinician="c-9", patient="p-2") == {
        unlinked,
        first,
        second,
    }
    assert visible(roles.app, "ml_predictions", author="nobody", patient="p-3", clinician="c-3") == set()


def test_events_are_seen_by_who_did_them_and_whom_they_were_about(roles: Roles) -> None:
    own = insert(roles.app, "audit_events", EVENT)
    about = insert(roles.app, "audit_events", {**EVENT, "patient_id": "p-1"})
    several = insert(roles.app, "audit_events", {**EVENT, "principal": "c-2", "patients": ["p-1", "p-2"]})
    assert visible(roles.app, "audit_events", author="c-1") == {own, about}
    assert visible(roles.app, "audit_events", author="c-2") == {several}
    assert visible(roles.app, "audit_events", patient="p-1") == {about, several}
    assert visible(roles.app, "audit_events", patient="p-2") == {several}
    assert visible(roles.app, "audit_events", patient="p-3") == set()


@pytest.mark.parametrize(
    ("since", "until", "related"),
    [
        ("now() - interval '1 day'", "NULL", True),
        ("now() - interval '1 day'", "now() + interval '1 minute'", True),
        ("now() - interval '1 day'", "now() - interval '1 second'", False),
        ("now() + interval '1 minute'", "NULL", False),
    ],
)
def test_a_care_team_counts_from_its_beginning_to_its_end(roles: Roles, since: str, until: str, related: bool) -> None:
    insert(roles.app, "ml_predictions", {**PREDICTION, "patient_id": "p-1"})
    roles.owner.execute(f"INSERT INTO care_team VALUES ('c-9', 'p-1', {since}, {until}, 'admin-1')".encode())
    assert bool(visible(roles.app, "ml_predictions", clinician="c-9")) is related


@pytest.mark.requirement("S2")
@pytest.mark.parametrize(("age_minutes", "related"), [(0, True), (59, True), (60, False), (90, False)])
def test_break_glass_counts_for_an_hour(roles: Roles, age_minutes: int, related: bool) -> None:
    insert(roles.app, "ml_predictions", {**PREDICTION, "patient_id": "p-1"})
    roles.owner.execute(
        "INSERT INTO break_glass (id, clinician, patient_id, key_id, reason, started_at, expires_at) SELECT"
        " %s, 'c-9', 'p-1', %s, 'sealed', start, start + interval '60 minutes'"
        " FROM (SELECT now() - make_interval(mins => %s) AS start) AS times",
        [uuid.uuid4(), KEY, age_minutes],
    )
    assert bool(visible(roles.app, "ml_predictions", clinician="c-9")) is related


def test_break_glass_is_an_hour_at_most_and_reviewed_by_somebody_else(roles: Roles) -> None:
    statement = (
        "INSERT INTO break_glass (id, clinician, patient_id, key_id, reason, started_at, expires_at)"
        " VALUES (%s, 'c-9', 'p-1', %s, 'sealed', now(), now() + interval '{}')"
    )
    for length in ("61 minutes", "0 minutes", "-1 minutes"):
        with pytest.raises(errors.CheckViolation):
            roles.owner.execute(statement.format(length).encode(), [uuid.uuid4(), KEY])
    roles.owner.execute(statement.format("60 minutes").encode(), [uuid.uuid4(), KEY])
    with pytest.raises(errors.CheckViolation):
        roles.owner.execute("UPDATE break_glass SET reviewed_by = 'c-9', reviewed_at = now()")
    for change in (
        "expires_at = expires_at + interval '1 minute'",
        "reason = ''",
        "clinician = 'c-1'",
        "reviewed_by = 'a-1', reviewed_at = now()",
    ):
        with pytest.raises(errors.InsufficientPrivilege):
            roles.app.execute(f"UPDATE break_glass SET {change}".encode())
    with pytest.raises(errors.InsufficientPrivilege):
        roles.app.execute("DELETE FROM break_glass")


def test_the_sealer_seals_and_writes_nothing_else(roles: Roles) -> None:
    fill(roles)
    assert len(visible(roles.sealer, "ml_predictions")) == 1
    assert len(visible(roles.sealer, "audit_events")) == 1
    for table, row in (("ml_predictions", PREDICTION), ("audit_events", EVENT)):
        with pytest.raises(errors.InsufficientPrivilege):
            insert(roles.sealer, table, row)
    with pytest.raises(errors.InsufficientPrivilege):
        insert(roles.sealer, "model_signatures", ROWS["model_signatures"])
    for table in ("data_keys", "break_glass", "care_team", "login_sessions", "revocations", "idempotency_keys"):
        with pytest.raises(errors.InsufficientPrivilege):
            roles.sealer.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table)))


def test_the_server_cannot_seal_or_approve(roles: Roles) -> None:
    for table, row in ROWS.items():
        with pytest.raises(errors.InsufficientPrivilege):
            insert(roles.app, table, row)
    for statement in (
        b"UPDATE ml_models SET alias = 'champion'",
        b"DELETE FROM revocations",
        b"DELETE FROM care_team",
        b"UPDATE revocations SET value = 'nobody'",
        b"DELETE FROM data_keys",
        b"CREATE TABLE mine (id int)",
        b"SET ROLE followup",
    ):
        with pytest.raises(errors.InsufficientPrivilege):
            roles.app.execute(statement)


def test_the_auditor_reads_and_writes_nothing(roles: Roles) -> None:
    fill(roles)
    for table in APPEND_ONLY:
        count = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))
        assert roles.auditor.execute(count).fetchone() == (1,)
    query = (
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' AND table_type LIKE '%TABLE'"
    )
    tables = [str(row[0]) for row in roles.owner.execute(query)]
    assert len(tables) > 20
    for table in tables:
        for right in ("INSERT", "UPDATE", "DELETE", "TRUNCATE"):
            of = "any_column" if right in {"INSERT", "UPDATE"} else "table"
            asked = roles.owner.execute(
                f"SELECT has_{of}_privilege('followup_auditor', %s, %s)".encode(), [table, right]
            )
            assert asked.fetchone() == (False,), (table, right)
    for table, row in (("ml_predictions", PREDICTION), ("audit_events", EVENT), *ROWS.items()):
        with pytest.raises(errors.InsufficientPrivilege):
            insert(roles.auditor, table, row)
    with pytest.raises(errors.InsufficientPrivilege):
        roles.auditor.execute("SELECT * FROM data_keys")


@pytest.mark.parametrize("role", ["followup_app", "followup_sealer", "followup_auditor"])
def test_no_role_of_operation_gets_round_its_policies(roles: Roles, role: str) -> None:
    rights = roles.owner.execute(
        "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = %s", [role]
    ).fetchone()
    assert rights == (False, False, False, False)
    owned = roles.owner.execute(
        "SELECT count(*) FROM pg_class WHERE relowner = %s::regrole AND relnamespace = 'public'::regnamespace", [role]
    )
    assert owned.fetchone() == (0,)
