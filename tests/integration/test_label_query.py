"""A site's own query for declines: read-only, two columns, and no database message that could quote a value."""

from datetime import date

import pytest

from database.engine import open_engine
from errors import SetupError
from training.deterioration.datasets import BY_QUERY, read_outcomes_by


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("SELECT 'p'", "two columns"),
        ("SELECT 'p', '2026-01-01'", "two columns"),
        ("SELECT NULL, DATE '2026-01-01'", "two columns"),
        ("SELECT 'Quatermain', 'Quatermain'::date", "does not run"),
        ("DELETE FROM patient_outcomes RETURNING patient_id, outcome_date", "does not run"),
        ("nonsense", "does not run"),
        ("", "does not run"),
    ],
)
def test_a_query_that_is_none_is_refused(database_url: str, query: str, why: str) -> None:
    engine = open_engine(database_url)
    with pytest.raises(SetupError, match=why) as refused:
        read_outcomes_by(engine, query)
    engine.dispose()
    assert "Quatermain" not in str(refused.value)


def test_its_rows_are_declines(database_url: str) -> None:
    engine = open_engine(database_url)
    found = read_outcomes_by(engine, "SELECT 7, DATE '2026-01-02' UNION SELECT 8, DATE '2026-01-03' ORDER BY 1")
    engine.dispose()
    assert found == [
        ("7", date(2026, 1, 2), "decline", BY_QUERY),
        ("8", date(2026, 1, 3), "decline", BY_QUERY),
    ]
