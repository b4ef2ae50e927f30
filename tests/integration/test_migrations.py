"""Migrations: the schema they make is the one that tables.py declares, and they run both ways."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from database.migrate import downgrade, upgrade
from database.tables import PARTITIONED, Table

ROOT = Path(__file__).resolve().parents[2]


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
