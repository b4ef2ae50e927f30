"""No role that cannot write to the trail decides when it is sealed; one that might is waited for, never passed over."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import Connection, errors, sql

from audit.horizon import finished_below
from audit.making_way import make_way
from audit.sealing import AnotherSealer, Sealer, connect, run
from database.engine import libpq_url
from embedded.postgres import EmbeddedPostgres
from errors import SetupError
from tests.trail_rows import fill, insert, make_signer, prediction

MODES = (
    "ACCESS SHARE",
    "ROW SHARE",
    "ROW EXCLUSIVE",
    "SHARE UPDATE EXCLUSIVE",
    "SHARE",
    "SHARE ROW EXCLUSIVE",
    "EXCLUSIVE",
    "ACCESS EXCLUSIVE",
)
ROWS = ("KEY SHARE", "SHARE", "NO KEY UPDATE", "UPDATE")
TRAIL = ("ml_predictions", "audit_events", "audit_leaves", "audit_nodes", "audit_checkpoints", "audit_anchors")
Session = Connection[Any]


@pytest.fixture
def sealer(postgres: EmbeddedPostgres, database_url: str, tmp_path: Path) -> Iterator[Sealer]:
    with connect(libpq_url(postgres.url_as("followup_sealer", database_url))) as connection:
        yield Sealer(connection, make_signer(tmp_path))


@pytest.fixture
def superuser(postgres: EmbeddedPostgres, database_url: str) -> Iterator[Session]:
    with psycopg.connect(libpq_url(postgres.url_as("postgres", database_url)), autocommit=True) as connection:
        yield connection


@pytest.fixture
def login(superuser: Session) -> Iterator[Callable[..., Session]]:
    """Makes a role with some attributes, lets a statement name it as {role}, and logs in as it."""
    made: list[str] = []
    sessions: list[Session] = []

    def make(attributes: str = "", *statements: str, dbname: str = "") -> Session:
        name = f"stranger_{uuid.uuid4().hex[:12]}"
        superuser.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'p' {attributes}".encode())
        made.append(name)
        for statement in statements:
            superuser.execute(statement.replace("{role}", name).encode())
        info = superuser.info
        session = psycopg.connect(host=info.host, user=name, password="p", dbname=dbname or info.dbname)
        sessions.append(session)
        return session

    yield make
    for session in sessions:
        session.close()
    for name in made:
        superuser.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
        superuser.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def number_of(session: Session) -> int:
    """Gives the open transaction a number, as writing would."""
    found = session.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
    assert found is not None
    return int(found[0])


def grab(session: Session, statement: str) -> bool:
    """Try it in the open transaction and keep what it locks."""
    try:
        with session.transaction():
            session.execute(statement.encode())
    except (errors.InsufficientPrivilege, errors.WrongObjectType):
        return False
    return True


@pytest.mark.requirement("S6")
@pytest.mark.parametrize("role", ["followup_auditor", "followup_app"])
def test_whatever_a_role_of_operation_locks_sealing_goes_on(
    postgres: EmbeddedPostgres, database_url: str, app_url: str, sealer: Sealer, superuser: Session, role: str
) -> None:
    every = "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p', 'v') AND relnamespace = 'public'::regnamespace"
    tables = [str(name) for (name,) in superuser.execute(every.encode())]
    if role == "followup_app":
        tables = [*TRAIL, "sealing_turn"]  # some locks on others give a number, and a writer's is waited for
    fill(app_url, 3, 3)
    assert sealer.seal_all() == 6
    with psycopg.connect(libpq_url(postgres.url_as(role, database_url))) as holder:
        holder.execute("SET idle_in_transaction_session_timeout = 0")
        for number in (20220001, 20220002, 20220003, 20220004):
            holder.execute("SELECT pg_advisory_lock(%s)", (number,))
        holder.execute("SELECT count(*) FROM audit_leaves")
        locked = [
            (table, mode) for table in tables for mode in MODES if grab(holder, f"LOCK TABLE {table} IN {mode} MODE")
        ]
        rows = [
            (table, strength)
            for table in tables
            for strength in ROWS
            if grab(holder, f"SELECT 1 FROM {table} FOR {strength}")
        ]
        assert not {table for table, _ in (*locked, *rows)} & {"sealing_turn"}
        assert not {table for table, _ in rows} & set(TRAIL)
        assert {mode for table, mode in locked if table in TRAIL} == {"ACCESS SHARE"}
        if role == "followup_auditor":
            number_of(holder)
        fill(app_url, 5, 5)
        assert sealer.seal_all() == 10


@pytest.mark.requirement("S6")
def test_a_reader_with_an_open_transaction_does_not_hold_the_sealer(
    postgres: EmbeddedPostgres, database_url: str, app_url: str, sealer: Sealer, superuser: Session
) -> None:
    with psycopg.connect(libpq_url(postgres.url_as("followup_auditor", database_url))) as reader:
        reader.execute("SET idle_in_transaction_session_timeout = 0")
        held = number_of(reader)
        for _ in range(3):
            fill(app_url, 2, 2)
            assert sealer.seal_all() == 4
        assert superuser.execute("SELECT min(horizon) > %s FROM audit_checkpoints", (held,)).fetchone() == (True,)
        with pytest.raises(errors.InsufficientPrivilege):
            insert(reader, "ml_predictions", [prediction()])


@pytest.mark.requirement("S6")
def test_a_writer_is_waited_for_beside_readers_and_its_row_is_never_skipped(
    postgres: EmbeddedPostgres, database_url: str, app_url: str, sealer: Sealer, superuser: Session
) -> None:
    auditor = libpq_url(postgres.url_as("followup_auditor", database_url))
    with psycopg.connect(auditor) as early, psycopg.connect(app_url) as writer, psycopg.connect(auditor) as late:
        number_of(early)
        fill(app_url, 1, 1)
        held = number_of(writer)  # it has written nothing yet
        number_of(late)
        fill(app_url, 2, 2)
        assert sealer.seal_all() == 2
        assert superuser.execute("SELECT max(horizon) <= %s FROM audit_checkpoints", (held,)).fetchone() == (True,)
        insert(writer, "ml_predictions", [prediction()])
        assert sealer.seal_all() == 0
        writer.commit()
        assert sealer.seal_all() == 5
    (unsealed,) = superuser.execute(
        "SELECT count(*) FROM ml_predictions AS r WHERE NOT EXISTS (SELECT FROM audit_leaves WHERE row_id = r.id)"
    ).fetchone() or (None,)
    assert unsealed == 0


HARMLESS = {
    "with no rights at all": ("", ()),
    "that reads": ("IN ROLE followup_auditor", ()),
    "that monitors": ("IN ROLE pg_monitor", ()),
    "with a table of its own": (
        "",
        (
            "CREATE SCHEMA {role} AUTHORIZATION {role}",
            "CREATE TABLE {role}.own (a int)",
            "ALTER TABLE {role}.own OWNER TO {role}",
        ),
    ),
    "with a function of its own": (
        "",
        (
            "CREATE SCHEMA {role} AUTHORIZATION {role}",
            "CREATE FUNCTION {role}.own() RETURNS int SECURITY DEFINER LANGUAGE sql RETURN 1",
            "ALTER FUNCTION {role}.own OWNER TO {role}",
        ),
    ),
}
MIGHT_WRITE = {
    "that may become the server": ("NOINHERIT IN ROLE followup_app", ()),
    "that may become the owner": ("NOINHERIT IN ROLE followup", ()),
    "that may become the sealer": ("NOINHERIT IN ROLE followup_sealer", ()),
    "that is a superuser": ("SUPERUSER", ()),
    "that may become a superuser": ("NOINHERIT IN ROLE postgres", ()),
    "that makes roles": ("CREATEROLE", ()),
    "that writes everywhere": ("NOINHERIT IN ROLE pg_write_all_data", ()),
    "that runs programs": ("NOINHERIT IN ROLE pg_execute_server_program", ()),
    "that inserts": ("", ("GRANT INSERT ON audit_events TO {role}",)),
    "that inserts a column": ("", ("GRANT INSERT (principal) ON ml_predictions TO {role}",)),
    "that inserts into a partition": ("", ("GRANT INSERT (id) ON audit_events_default TO {role}",)),
    "that inserts through a view": (
        "",
        ("CREATE VIEW door_{role} AS SELECT * FROM audit_events", "GRANT INSERT ON door_{role} TO {role}"),
    ),
    "that runs what another owns": (
        "",
        (
            "CREATE FUNCTION door_{role}() RETURNS int SECURITY DEFINER LANGUAGE sql RETURN 1",
            "REVOKE ALL ON FUNCTION door_{role} FROM PUBLIC",
            "GRANT EXECUTE ON FUNCTION door_{role} TO {role}",
        ),
    ),
    "whose table acts for another": (
        "",
        (
            "CREATE SCHEMA {role} AUTHORIZATION {role}",
            "CREATE TABLE {role}.own (a int)",
            "ALTER TABLE {role}.own OWNER TO {role}",
            "CREATE FUNCTION door_{role}() RETURNS trigger SECURITY DEFINER LANGUAGE plpgsql AS 'BEGIN END'",
            "REVOKE ALL ON FUNCTION door_{role} FROM PUBLIC",
            "CREATE TRIGGER t AFTER INSERT ON {role}.own EXECUTE FUNCTION door_{role}()",
        ),
    ),
}


@pytest.mark.parametrize(("attributes", "statements"), HARMLESS.values(), ids=HARMLESS)
def test_a_stranger_that_cannot_write_is_left_out(
    login: Callable[..., Session], app_url: str, sealer: Sealer, attributes: str, statements: tuple[str, ...]
) -> None:
    number_of(login(attributes, *statements))
    fill(app_url, 2, 2)
    assert sealer.seal_all() == 4


@pytest.mark.parametrize(("attributes", "statements"), MIGHT_WRITE.values(), ids=MIGHT_WRITE)
def test_a_stranger_that_might_write_is_waited_for(
    login: Callable[..., Session], app_url: str, sealer: Sealer, attributes: str, statements: tuple[str, ...]
) -> None:
    stranger = login(attributes, *statements)
    number_of(stranger)
    fill(app_url, 2, 2)
    assert sealer.seal_all() == 0
    stranger.rollback()
    assert sealer.seal_all() == 4


def test_who_becomes_the_server_later_in_the_transaction_is_not_passed_over(
    login: Callable[..., Session], app_url: str, sealer: Sealer
) -> None:
    stranger = login("NOINHERIT IN ROLE followup_app")
    number_of(stranger)
    fill(app_url, 2, 2)
    assert sealer.seal_all() == 0
    stranger.execute("SET ROLE followup_app")
    insert(stranger, "ml_predictions", [prediction()])
    stranger.execute("RESET ROLE")
    stranger.commit()
    assert sealer.seal_all() == 5


def test_another_database_holds_nobody_even_by_its_superuser(
    login: Callable[..., Session], postgres: EmbeddedPostgres, app_url: str, sealer: Sealer
) -> None:
    number_of(login("SUPERUSER", dbname="postgres"))
    fill(app_url, 2, 2)
    assert sealer.seal_all() == 4


def test_what_cannot_be_told_holds_the_horizon(superuser: Session) -> None:
    gone = number_of(superuser)  # nobody holds its lock any more
    with superuser.transaction():
        assert finished_below(superuser, [gone, gone + 1], gone + 5) == gone
        assert finished_below(superuser, [], gone + 5) == gone + 5


def test_only_one_sealer_has_the_turn_and_a_lost_row_is_said(
    postgres: EmbeddedPostgres, database_url: str, app_url: str, sealer: Sealer, superuser: Session
) -> None:
    fill(app_url, 2, 2)
    with psycopg.connect(libpq_url(postgres.url_as("followup_sealer", database_url))) as other:
        other.execute("SELECT id FROM sealing_turn FOR UPDATE")
        with pytest.raises(AnotherSealer):
            sealer.seal_all()
    superuser.execute("DELETE FROM sealing_turn")
    with pytest.raises(SetupError, match="sealing_turn"):
        sealer.seal_all()
    superuser.execute("INSERT INTO sealing_turn VALUES (1)")
    assert sealer.seal_all() == 4


@pytest.mark.requirement("S6")
@pytest.mark.parametrize("table", ["audit_checkpoints", "audit_leaves", "ml_predictions", "sealing_turn"])
def test_readers_that_queue_for_a_lock_are_ended(
    postgres: EmbeddedPostgres, database_url: str, app_url: str, superuser: Session, tmp_path: Path, table: str
) -> None:
    """CREATE RULE waits for the strongest lock before it asks whether it may; everybody waits behind it."""
    auditor = libpq_url(postgres.url_as("followup_auditor", database_url))
    stop = threading.Event()
    sealer_url = libpq_url(postgres.url_as("followup_sealer", database_url))
    fill(app_url, 2, 2)
    with psycopg.connect(auditor) as reader, psycopg.connect(auditor, autocommit=True) as queue:
        grab(reader, f"SELECT count(*) FROM {table}")
        outcome: list[BaseException] = []

        def wait_for_the_lock() -> None:
            try:
                queue.execute(f"CREATE RULE r AS ON INSERT TO {table} DO INSTEAD NOTHING".encode())
            except psycopg.Error as error:
                outcome.append(error)

        waiting = threading.Thread(target=wait_for_the_lock)
        waiting.start()
        sealing = threading.Thread(target=run, args=(sealer_url, make_signer(tmp_path), stop), kwargs={"every_s": 0.05})
        try:
            time.sleep(0.3)
            sealing.start()
            deadline = time.monotonic() + 20
            while superuser.execute("SELECT count(*) FROM audit_leaves").fetchone() != (4,):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            waiting.join(10)
        finally:
            stop.set()
            sealing.join(10)
        assert len(outcome) == 1


def test_the_owner_who_waits_for_a_lock_is_not_ended(
    postgres: EmbeddedPostgres, database_url: str, superuser: Session
) -> None:
    sealer_url = libpq_url(postgres.url_as("followup_sealer", database_url))
    with (
        psycopg.connect(libpq_url(postgres.url_as("followup_auditor", database_url))) as reader,
        psycopg.connect(libpq_url(database_url), autocommit=True) as owner,
        connect(sealer_url) as sealer,
    ):
        reader.execute("SELECT count(*) FROM audit_leaves")
        owner.execute("SET lock_timeout = '1s'")
        waiting = threading.Thread(target=lambda: grab(owner, "LOCK TABLE audit_leaves IN ACCESS EXCLUSIVE MODE"))
        waiting.start()
        time.sleep(0.3)
        assert make_way(sealer) == 0
        reader.rollback()
        waiting.join(10)
        assert owner.execute("SELECT 1").fetchone() == (1,)
