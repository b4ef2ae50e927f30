"""Alembic's entry: `alembic upgrade head` with OWNER_DATABASE_URL, or a connection handed over by database.migrate."""

from alembic import context
from sqlalchemy import Connection, text

from database.engine import open_engine
from database.tables import PARTITIONED, Table
from settings import owner_database_url


def _ours(_object: object, name: str | None, kind: str, _reflected: bool, _compare_to: object) -> bool:
    return not (kind == "table" and name is not None and name.startswith(tuple(f"{table}_" for table in PARTITIONED)))


def _run(connection: Connection) -> None:
    # Several processes may start at once: the first migrates, the others wait and find nothing to do. Not for ever: any
    # role of the database may take such a lock.
    connection.execute(text("SET LOCAL lock_timeout = '120s'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(20220002)"))
    connection.execute(text("SET LOCAL lock_timeout = '5s'"))
    context.configure(connection=connection, target_metadata=Table.metadata, include_object=_ours, compare_type=True)
    context.run_migrations()


if context.is_offline_mode():
    context.configure(dialect_name="postgresql", target_metadata=Table.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
elif (handed_over := context.config.attributes.get("connection")) is not None:
    _run(handed_over)
else:
    if not owner_database_url():
        raise SystemExit("Not set: OWNER_DATABASE_URL. docs/deploying.md says what it is.")
    with open_engine(owner_database_url()).begin() as opened:
        _run(opened)
