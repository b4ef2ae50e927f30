"""The audit trail on a real PostgreSQL: durable before it answers, shared commits, and what happens when it can't."""

import asyncio
import contextlib
import os
import signal
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.ext.asyncio import AsyncEngine

from audit.data_keys import DataKeys
from audit.history import FirstAnswers, History
from audit.record import Caller, FirstAnswer, ModelIdentity, Record, created_at, new_id
from audit.trail import KeyTaken, Trail
from database.engine import libpq_url
from database.maintenance import Maintenance
from database.reading import Sight
from embedded.postgres import EmbeddedPostgres
from errors import AuditUnavailable, InvalidInput, NotFound
from tests.conftest import eventually

MODEL = ModelIdentity(id=1, name="clinical_ner", version="v1", digest="0" * 64)


def record(text: str = "a note", *, principal: str = "dr", patient: str | None = None, **changes: Any) -> Record:
    caller = Caller(
        principal=principal,
        roles="clinician",
        client_id="app",
        purpose_of_use="CAREMGT",
        request_id=uuid.uuid4(),
        route="/predict",
        ip_address=changes.pop("ip_address", "127.0.0.1"),
        user_agent=changes.pop("user_agent", "test"),
    )
    values: dict[str, Any] = {
        "id": new_id(),
        "caller": caller,
        "model": MODEL,
        "patient_id": patient,
        "input_json": b'{"text": "%s"}' % text.encode(),
        "result_json": b'{"entities": {}}',
        "confidence": 0.5,
        "cache_hit": False,
        "inference_time_ms": 1.5,
        "latency_ms": 2.5,
    }
    return Record(**{**values, **changes})


@pytest.fixture
async def trail(app_url: str, keys: DataKeys) -> AsyncIterator[Trail]:
    trail = Trail(libpq_url(app_url), keys, timeout_s=2)
    await trail.open()
    yield trail
    await trail.close()


def count(database_url: str, table: str = "ml_predictions") -> int:
    with psycopg.connect(libpq_url(database_url)) as connection:
        row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    return int(row[0])


async def test_when_record_returns_the_row_is_there(trail: Trail, database_url: str) -> None:
    await trail.record([record()])
    assert count(database_url) == 1


async def test_many_at_once_are_all_written_in_few_commits(trail: Trail, database_url: str) -> None:
    with psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
        query = "SELECT count(DISTINCT xmin::text), count(*) FROM ml_predictions"
        await asyncio.gather(*(trail.record([record()]) for _ in range(500)))
        row = connection.execute(query).fetchone()
    assert row is not None
    assert row[1] == 500
    assert row[0] < 50


async def test_what_was_written_comes_back_as_it_was(trail: Trail, async_engine: AsyncEngine, keys: DataKeys) -> None:
    written = record("Ünïcode 👩‍⚕️ ", patient="p-1", principal="p-1")
    await trail.record([written])
    shown = await History(async_engine, keys).one(Sight(patient="p-1"), written.id)
    assert shown["input_data"] == {"text": "Ünïcode 👩‍⚕️ "}
    assert shown["result"] == {"entities": {}}
    assert shown["created_at"] == created_at(written.id)
    assert shown["ip_address"] == "127.0.0.1"
    assert shown["patient_id"] == "p-1"


async def test_nothing_of_the_contents_is_in_the_database_in_plain(trail: Trail, database_url: str) -> None:
    await trail.record([record("CANARY-NOTE")])
    with psycopg.connect(libpq_url(database_url)) as connection:
        rows = connection.execute("SELECT p::text, input, result FROM ml_predictions p").fetchall()
    assert not any(b"CANARY-NOTE" in value or b"entities" in value for row in rows for value in row[1:])
    assert "CANARY-NOTE" not in rows[0][0]


async def test_a_row_the_database_refuses_fails_alone(trail: Trail, database_url: str) -> None:
    good = [trail.record([record()]) for _ in range(5)]
    bad = [trail.record([record(ip_address="not an address")]), trail.record([record(user_agent="\ud800")])]
    outcomes = await asyncio.gather(*good, *bad, return_exceptions=True)
    assert outcomes[:5] == [None] * 5
    assert [type(outcome) for outcome in outcomes[5:]] == [AuditUnavailable] * 2
    assert count(database_url) == 5


async def test_records_of_one_request_are_written_together(trail: Trail, database_url: str) -> None:
    with pytest.raises(AuditUnavailable):
        await trail.record([record(), record(ip_address="not an address"), record()])
    assert count(database_url) == 0


async def test_a_caller_that_goes_away_does_not_disturb_the_others(trail: Trail, database_url: str) -> None:
    tasks = [asyncio.create_task(trail.record([record()])) for _ in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 10
    assert count(database_url) >= 10


async def test_a_connection_that_was_cut_is_made_anew_without_an_error(
    trail: Trail, database_url: str, app_url: str
) -> None:
    await trail.record([record()])
    with psycopg.connect(libpq_url(app_url), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND usename = current_user AND pid <> pg_backend_pid()"
        )
    await trail.record([record()])
    assert count(database_url) == 2


@pytest.fixture
def freeze(postgres: EmbeddedPostgres) -> Any:
    """Stops all processes of the server; the test lets them go on."""
    stopped: list[int] = []

    def change(number: signal.Signals) -> None:
        if number == signal.SIGSTOP:
            postmaster = postgres.process_id()
            assert postmaster is not None
            stopped[:] = [postmaster, *children(postmaster)]
        for process_id in stopped:
            with contextlib.suppress(ProcessLookupError):  # a connection that has ended since
                os.kill(process_id, number)

    yield change
    change(signal.SIGCONT)


def children(parent: int) -> list[int]:
    with open(f"/proc/{parent}/task/{parent}/children") as listing:  # noqa: PTH123 - not a file
        return [int(number) for number in listing.read().split()]


async def test_a_frozen_database_gives_503_in_time_and_comes_back_by_itself(
    trail: Trail, database_url: str, freeze: Callable[[signal.Signals], None]
) -> None:
    await trail.record([record()])
    freeze(signal.SIGSTOP)
    outcomes = await asyncio.wait_for(
        asyncio.gather(*(trail.record([record()]) for _ in range(10)), return_exceptions=True), timeout=8
    )
    assert [type(outcome) for outcome in outcomes] == [AuditUnavailable] * 10
    with pytest.raises(AuditUnavailable):
        await asyncio.wait_for(trail.record([record()]), timeout=0.5)
    freeze(signal.SIGCONT)
    await eventually(lambda: trail.reachable)
    await trail.record([record()])
    assert count(database_url) >= 2


async def test_that_the_database_is_gone_is_noticed_without_any_request(
    trail: Trail, freeze: Callable[[signal.Signals], None]
) -> None:
    freeze(signal.SIGSTOP)
    await eventually(lambda: not trail.reachable)
    freeze(signal.SIGCONT)
    await eventually(lambda: trail.reachable)


async def test_maintenance_forgets_old_keys_only(
    trail: Trail, async_engine: AsyncEngine, keys: DataKeys, engine: Engine, database_url: str
) -> None:
    old, new = uuid.uuid4(), uuid.uuid4()
    for key in (old, new):
        await trail.record([record()], first_answer(key, b"answer"))
    with engine.begin() as connection:
        statement = text("UPDATE idempotency_keys SET created_at = now() - interval '25 hours' WHERE key = :key")
        connection.execute(statement, {"key": old})
    await Maintenance(async_engine).once()
    answers = FirstAnswers(async_engine, keys)
    assert await answers.find("dr", old) is None
    assert await answers.find("dr", new) is not None
    assert count(database_url) == 2


async def test_work_that_was_given_up_never_touches_the_connection_of_those_after_it(
    database_url: str, app_url: str, async_engine: AsyncEngine, keys: DataKeys
) -> None:
    """A key that another session holds makes a commit late; what comes after must not share its transaction."""
    key = uuid.uuid4()
    trail = Trail(libpq_url(app_url), keys, timeout_s=0.5)
    await trail.open()
    holder = await psycopg.AsyncConnection.connect(libpq_url(database_url))
    await holder.execute(
        "INSERT INTO idempotency_keys (principal, key, request_mac, key_version, answer) VALUES ('dr', %s, '', 1, '')",
        [key],
    )
    late = [record(), record(ip_address="not an address")]
    with pytest.raises(AuditUnavailable):
        await trail.record(late, first_answer(key, b"late"))
    await eventually(lambda: trail.reachable)
    good = [record() for _ in range(20)]
    for each in good:
        await trail.record([each])
    await holder.rollback()
    await holder.close()
    await asyncio.sleep(0.3)
    history = History(async_engine, keys)
    seen = {item["prediction_id"] for item in (await history.page(Sight(author="dr"), limit=50)).items}
    assert seen == {str(each.id) for each in good}
    await trail.close()
    with psycopg.connect(libpq_url(database_url)) as connection:
        await eventually(lambda: _backends(connection) == 0)


def _backends(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND application_name = 'followup-trail'"
    ).fetchone()
    connection.rollback()
    assert row is not None
    return int(row[0])


def first_answer(key: uuid.UUID, answer: bytes) -> FirstAnswer:
    return FirstAnswer(principal="dr", key=key, request_mac=b"mac", answer=answer)


async def test_of_two_requests_with_one_key_only_the_first_is_written(
    trail: Trail, database_url: str, async_engine: AsyncEngine, keys: DataKeys
) -> None:
    key = uuid.uuid4()
    outcomes = await asyncio.gather(
        *(trail.record([record()], first_answer(key, b"%d" % number)) for number in range(8)),
        trail.record([record()]),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), *[KeyTaken] * 7, type(None)]
    with pytest.raises(KeyTaken):
        await trail.record([record()], first_answer(key, b"late"))
    assert count(database_url) == 2
    answers = FirstAnswers(async_engine, keys)
    assert await answers.find("dr", key) == (b"mac", b"0", [])
    assert await answers.find("somebody else", key) is None


async def test_history_pages_newest_first_without_gap_or_repeat(
    trail: Trail, async_engine: AsyncEngine, keys: DataKeys
) -> None:
    written = [record(f"note {number}") for number in range(23)]
    for each in written:
        await trail.record([each])
    history = History(async_engine, keys)
    seen: list[str] = []
    cursor = None
    while True:
        page = await history.page(Sight(author="dr"), limit=5, cursor=cursor)
        seen += [item["prediction_id"] for item in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert seen == [str(each.id) for each in reversed(written)]


async def test_a_reader_sees_only_what_is_theirs(trail: Trail, async_engine: AsyncEngine, keys: DataKeys) -> None:
    mine, about_me, foreign = record(principal="me"), record(patient="me"), record(patient="other")
    await trail.record([mine, about_me, foreign])
    history = History(async_engine, keys)

    async def visible(sight: Sight) -> set[str]:
        return {item["prediction_id"] for item in (await history.page(sight, limit=50)).items}

    assert await visible(Sight(author="me")) == {str(mine.id)}
    assert await visible(Sight(clinician="me")) == set()
    assert await visible(Sight(author="me", patient="me")) == {str(mine.id), str(about_me.id)}
    assert await visible(Sight()) == set()
    with pytest.raises(NotFound):
        await history.one(Sight(author="me"), foreign.id)
    everything = (await history.page(Sight(author="auditor", everything=True), limit=50)).items
    assert len(everything) == 3
    assert not any("input_data" in item or "result" in item for item in everything)


@pytest.mark.parametrize("cursor", ["", "x", "!" * 22, "AAAAAAAAAAAAAAAAAAAAAA", "' OR 1=1 --"])
async def test_a_cursor_that_is_not_ours_is_refused(async_engine: AsyncEngine, keys: DataKeys, cursor: str) -> None:
    with pytest.raises(InvalidInput):
        await History(async_engine, keys).page(Sight(author="dr"), limit=5, cursor=cursor)
