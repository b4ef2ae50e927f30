"""`followup keys …`: the keys that seal what is held about people."""

import asyncio
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from commands.shared import console, explained

app = typer.Typer(help="Keys of patients: rotate what wraps them, erase a person's.", no_args_is_help=True)


@app.command()
@explained
def rotate() -> None:
    """Wrap all keys with the present ENCRYPTION_KEY or KMS key, while servers go on.

    Give servers and this command the new key, and the old one in ENCRYPTION_KEYS_OLD; take it away afterwards.
    """
    from access.principal import Role
    from audit.erasure import rewrap
    from bootstrap import key_ring
    from commands.operator import operating
    from database.engine import open_async_engine
    from settings import owner_database_url

    bars = Progress(console=Console(stderr=True), transient=True)
    with operating(Role.ADMIN) as operator, bars:
        ring, task = key_ring(operator.settings), bars.add_task("Wrapping keys", total=None)

        def show(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        async def run() -> int:
            engine = open_async_engine(owner_database_url(), pool_size=1)
            try:
                return await rewrap(engine, ring, show)
            finally:
                await engine.dispose()

        wrapped = asyncio.run(run())
        with operator.engine.begin() as connection:
            operator.record(connection, "rotate keys", target=ring.current.id)
    console.print(f"{wrapped} keys wrapped anew", highlight=False)


@app.command()
@explained
def erase(patient: Annotated[str, typer.Argument(help="Cognito sub of the patient.")]) -> None:
    """Destroy a patient's key: what was said about them can't be read any more, that it happened stays on record.

    Servers forget the key within seconds. Backups made before still hold it, wrapped: rotate and destroy the old key.
    """
    from access.principal import Role
    from audit.erasure import erase as destroy
    from commands.operator import operating
    from database.subjects import canonical_subject

    patient = canonical_subject(patient)
    with operating(Role.ADMIN) as operator, operator.engine.begin() as connection:
        destroyed = destroy(connection, patient, operator.event("erase", patients=[patient]))
    console.print("Erased." if destroyed else "There was no key of this patient; nothing was held.", highlight=False)


@app.command()
@explained
def status() -> None:
    """How many keys there are, by what wraps them."""
    from sqlalchemy import text

    from commands.shared import database

    query = text("""
        SELECT CASE WHEN destroyed_at IS NULL THEN wrapping_key_id ELSE 'destroyed' END AS wrapped_by, count(*)
        FROM data_keys GROUP BY 1 ORDER BY 1
    """)
    table = Table("wrapped by", "keys", box=None)
    with database() as engine, engine.connect() as connection:
        for wrapped_by, count in connection.execute(query):
            table.add_row(wrapped_by, str(count))
    console.print(table)
