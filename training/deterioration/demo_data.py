"""Fill a laptop's database with simulated patients, so that training and prediction can be tried without anyone's data.

Refuses to mix: where the tables hold a row that is not from the simulator, nothing is written or removed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import psycopg
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from errors import SetupError
from training.deterioration.simulator import DECLINE_LABEL, ID_PREFIX, SOURCE, simulate
from training.progress import Progress

_TABLES: Final = {
    "patient_measurements": (
        "patient_id",
        "measurement_date",
        "pain_score_facial",
        "pain_score_self_reported",
        "respiratory_rate",
        "symptom_severity_score",
    ),
    "patient_outcomes": ("patient_id", "outcome_date", "label", "source"),
}
_PRESENT = text("""
    SELECT (SELECT count(*) FROM patient_measurements) + (SELECT count(*) FROM patient_outcomes)
""")
_REAL = text("""
    SELECT (SELECT count(*) FROM patient_measurements WHERE NOT starts_with(patient_id, :prefix))
         + (SELECT count(*) FROM patient_outcomes WHERE source <> :source OR NOT starts_with(patient_id, :prefix))
""")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was written; the series end on `last_day`."""

    patients: int
    measurements: int
    declines: int
    last_day: date


def load_demo_data(
    engine: Engine,
    patients: int = 600,
    days: int = 90,
    seed: int = 7,
    progress: Progress | None = None,
    *,
    replace: bool = False,
) -> Loaded:
    """Write a simulated cohort whose last day is yesterday, in one transaction.

    Raises SetupError when the tables are missing, hold rows that are not simulated, or hold simulated rows and
    `replace` is not set.
    """
    say = progress or (lambda what, done, total: None)
    try:
        missing = [table for table in _TABLES if not inspect(engine).has_table(table)]
        if missing:
            raise SetupError(f"The database has no table {' and no '.join(missing)}; run the migrations first.")
        with engine.begin() as connection:
            _make_room(connection, replace=replace)
            last_day: date = connection.execute(text("SELECT CURRENT_DATE - 1")).scalar_one()
            say("simulating patients", 0, 3)
            cohort = simulate(patients, days, seed=seed, last_day=last_day)
            say("writing measurements", 1, 3)
            measurements = _copy(connection, "patient_measurements", cohort.measurement_rows())
            say("writing outcomes", 2, 3)
            declines = _copy(connection, "patient_outcomes", cohort.outcome_rows())
    except (SQLAlchemyError, psycopg.Error) as error:
        raise SetupError("The demo data could not be written; check the role's rights on both tables.") from error
    return Loaded(patients, measurements, declines, last_day)


def _make_room(connection: Connection, *, replace: bool) -> None:
    for table in _TABLES:
        connection.execute(text(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"))
    real = connection.execute(_REAL, {"source": SOURCE, "prefix": ID_PREFIX}).scalar_one()
    if real:
        raise SetupError(f"The database holds {real} rows that are not simulated; demo data never mix with real data.")
    present = connection.execute(_PRESENT).scalar_one()
    if present and not replace:
        raise SetupError(f"The database already holds {present} simulated rows; ask to replace them.")
    if present:
        connection.execute(
            text("DELETE FROM patient_outcomes WHERE label = :label AND source = :source"),
            {"label": DECLINE_LABEL, "source": SOURCE},
        )
        connection.execute(
            text("DELETE FROM patient_measurements WHERE starts_with(patient_id, :prefix)"), {"prefix": ID_PREFIX}
        )


def _copy(connection: Connection, table: str, rows: Iterable[tuple[Any, ...]]) -> int:
    """COPY rows into a table; the number of rows."""
    count = 0
    driver = connection.connection.driver_connection
    assert driver is not None
    with driver.cursor() as cursor, cursor.copy(f"COPY {table} ({', '.join(_TABLES[table])}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)
            count += 1
    return count
