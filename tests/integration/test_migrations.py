"""Migrations: the schema they make is the one that tables.py declares, and they run both ways."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import ProgrammingError

from database.engine import open_async_engine, open_engine
from database.migrate import downgrade, upgrade
from database.safety import refuse_powerful_role
from database.tables import PARTITIONED, Table
from embedded.postgres import EmbeddedPostgres

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.filterwarnings("ignore:Can't validate argument 'dialect_options'")  # SQLAlchemy, on reading NOT VALID
def test_the_migrated_schema_is_the_declared_one(engine: Engine) -> None:
    def ours(_object: object, name: str | None, kind: str, _reflected: bool, _other: object) -> bool:
        return not (kind == "table" and name and name.startswith((*(f"{t}_" for t in PARTITIONED), "alembic_version")))

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": ours, "compare_type": True})
        assert compare_metadata(context, Table.metadata) == []


def test_down_leaves_nothing_and_up_again_works(engine: Engine) -> None:
    downgrade(engine)
    assert inspect(engine).get_table_names() == ["alembic_version"]
    with engine.connect() as connection:
        assert (
            connection.execute(text("SELECT count(*) FROM pg_proc WHERE proname = 'ensure_partitions'")).scalar() == 0
        )
    upgrade(engine)
    assert "ml_predictions" in inspect(engine).get_table_names()


def test_several_processes_may_migrate_at_once(empty_database_url: str) -> None:
    command = [sys.executable, "-m", "alembic", "upgrade", "head"]
    environment = {**os.environ, "DATABASE_URL": empty_database_url}
    processes = [subprocess.Popen(command, cwd=ROOT, env=environment) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]


def test_partitions_are_made_ahead_and_a_row_of_any_time_finds_a_place(engine: Engine) -> None:
    with engine.begin() as connection:
        assert connection.execute(text("SELECT ensure_partitions(3)")).scalar() == 0
        assert connection.execute(text("SELECT ensure_partitions(5)")).scalar() == 6
        insert = text(
            "INSERT INTO ml_performance_logs (window_start, model_name, model_version, instance, window_s, requests,"
            " errors, shed, cache_hits) VALUES (:at, 'm', 'v', 'i', 10, 0, 0, 0, 0) RETURNING tableoid::regclass::text"
        )
        now = datetime.now(UTC)
        assert connection.execute(insert, {"at": now}).scalar() == f"ml_performance_logs_{now:%Y%m}"
        assert connection.execute(insert, {"at": now + timedelta(days=4000)}).scalar() == "ml_performance_logs_default"


def test_a_month_that_cannot_be_made_keeps_no_other_from_being_made(engine: Engine) -> None:
    insert = text(
        "INSERT INTO ml_performance_logs (window_start, model_name, model_version, instance, window_s, requests,"
        " errors, shed, cache_hits) VALUES (date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'"
        " + interval '4 months 1 day', 'm', 'v', 'i', 10, 0, 0, 0, 0)"
    )
    with engine.begin() as connection:
        connection.execute(insert)  # in the default partition, as that month is not there yet
    with engine.begin() as connection:
        assert connection.execute(text("SELECT ensure_partitions(6)")).scalar() == 3 * 3 - 1
        assert connection.execute(text("SELECT ensure_partitions(1000000)")).scalar() == 3 * 18


OF_THE_OLD_SERVER = (
    "INSERT INTO care_team (clinician, patient_id, granted_by) VALUES ('c', 'p', 'a')"
    " ON CONFLICT (clinician, patient_id) DO UPDATE SET until = excluded.until",
    "UPDATE care_team SET until = now()",
    "INSERT INTO break_glass (id, clinician, patient_id, key_id, reason, started_at, expires_at) VALUES"
    " (gen_random_uuid(), 'c', 'p', gen_random_uuid(), '', now(), now() + interval '5 minutes')",
    "UPDATE break_glass SET reviewed_by = 'a', reviewed_at = now()",
    "INSERT INTO revocations (kind, value, revoked_by) VALUES ('sub', 's', 'a') ON CONFLICT (kind, value)"
    " DO UPDATE SET until = excluded.until",
    "INSERT INTO login_sessions VALUES ('x', now()) ON CONFLICT (session) DO UPDATE SET last_seen = now()",
    "DELETE FROM login_sessions WHERE last_seen < now()",
    "DELETE FROM idempotency_keys WHERE created_at < now()",
    "SELECT ensure_partitions(3)",
)


async def test_servers_of_before_go_on_until_the_last_step_of_an_upgrade(
    postgres: EmbeddedPostgres, empty_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    owner = open_engine(empty_database_url)
    app = open_engine(postgres.url_as("followup_app", empty_database_url))
    server = open_async_engine(postgres.url_as("followup_app", empty_database_url), pool_size=1)
    upgrade(owner, "0004")
    for statement in OF_THE_OLD_SERVER:
        with app.begin() as connection:
            connection.execute(text(statement))
    await refuse_powerful_role(server)
    assert "alembic upgrade head" in caplog.text
    caplog.clear()
    upgrade(owner)
    for statement in OF_THE_OLD_SERVER[:-1]:
        with pytest.raises(ProgrammingError, match="permission denied"), app.begin() as connection:
            connection.execute(text(statement))
    await refuse_powerful_role(server)
    assert caplog.text == ""
    downgrade(owner, "0004")
    with app.begin() as connection:
        connection.execute(text(OF_THE_OLD_SERVER[0]))
    await server.dispose()
    app.dispose()
    owner.dispose()
