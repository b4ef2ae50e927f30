"""A key for each patient: made once, shared by all servers, wrapped anew without a pause, destroyed for good."""

import asyncio
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any

import boto3
import psycopg
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.ext.asyncio import AsyncEngine

from audit.data_keys import FIRST_KEY, DataKeys
from audit.envelope import Envelope, derive
from audit.erasure import erase, rewrap
from audit.history import FirstAnswers, History
from audit.key_encryption import KeyRing, KmsWrappingKey, LocalWrappingKey
from audit.record import Caller, Event, FirstAnswer, created_at, new_id, sealed_column
from audit.research import opened_records
from audit.trail import Trail
from database.engine import libpq_url, open_async_engine
from database.reading import Sight
from errors import InternalFault, SetupError
from tests.integration.test_trail import record

OLD, NEW = LocalWrappingKey(bytes(32)), LocalWrappingKey(b"n" * 32)
SEEN_BY_PATIENT = Sight(patient="p")


def erasing(patient: str) -> Event:
    caller = Caller(
        principal="officer",
        roles="admin",
        client_id="cli",
        purpose_of_use="HCOMPL",
        request_id=uuid.uuid4(),
        route="followup keys erase",
        ip_address=None,
        user_agent=None,
    )
    return Event(
        id=new_id(), caller=caller, action="erase", status=200, outcome="success", patients=(patient,), target=None,
        latency_ms=0.0,
    )  # fmt: skip


@pytest.mark.requirement("S4")
async def test_all_servers_share_the_key_that_was_made_first(async_engine: AsyncEngine) -> None:
    servers = [DataKeys(async_engine, KeyRing(OLD)) for _ in range(4)]
    keys = await asyncio.gather(*(server.current("patient:p") for server in servers for _ in range(3)))
    assert len({(key.id, key.key) for key in keys}) == 1
    other = await servers[0].current("patient:q")
    assert other.key != keys[0].key
    for server in servers:
        await server.close()


async def test_a_key_opens_only_with_its_wrapping_key_in_its_own_row(
    async_engine: AsyncEngine, engine: Engine, keys: DataKeys
) -> None:
    first = await keys.current("patient:p")
    await keys.current("patient:q")
    stranger = DataKeys(async_engine, KeyRing(NEW))
    with pytest.raises(InternalFault):
        await stranger.current("patient:p")
    with pytest.raises(SetupError, match="ENCRYPTION_KEY"):  # what an operator is told who gave another one
        await stranger.open()
    with engine.begin() as connection:  # somebody gives one patient the other's key
        connection.execute(text(
            "UPDATE data_keys SET wrapped_key = (SELECT wrapped_key FROM data_keys WHERE subject = 'patient:p')"
            " WHERE subject = 'patient:q'"
        ))  # fmt: skip
    fresh = DataKeys(async_engine, KeyRing(OLD))
    with pytest.raises(InternalFault):
        await fresh.current("patient:q")
    assert (await fresh.current("patient:p")).key == first.key


async def test_rotation_leaves_every_value_readable_and_needs_the_old_key_no_more(
    async_engine: AsyncEngine, database_url: str, app_url: str, keys: DataKeys
) -> None:
    trail = Trail(libpq_url(app_url), keys, timeout_s=2)
    await trail.open()
    written = [record(f"note {number}", patient=f"p{number}") for number in range(7)]
    await trail.record(written)
    owner = open_async_engine(database_url, pool_size=2)
    seen: list[tuple[int, int]] = []
    assert await rewrap(owner, KeyRing(NEW, [OLD]), lambda done, total: seen.append((done, total))) == 8
    assert seen[-1] == (8, 8)
    assert await rewrap(owner, KeyRing(NEW, [OLD]), lambda done, total: None) == 0
    await trail.record([record("written by a server that still has the old key", patient="late")])
    after = DataKeys(async_engine, KeyRing(NEW))
    await after.open()
    for each in written:
        shown = await History(async_engine, after).one(Sight(patient=str(each.patient_id)), each.id)
        assert shown["input_data"]["text"].startswith("note")
    assert after.digest("x").of(b"same") == keys.digest("x").of(b"same")
    with pytest.raises(InternalFault):
        await after.current("patient:late")  # until the next rewrap
    assert await rewrap(owner, KeyRing(NEW, [OLD]), lambda done, total: None) == 1
    assert (await after.current("patient:late")).subject == "patient:late"
    await trail.close()
    await after.close()
    await owner.dispose()


@pytest.mark.requirement("S4")
async def test_erasing_leaves_the_record_and_takes_what_was_said(
    async_engine: AsyncEngine, engine: Engine, app_url: str, keys: DataKeys
) -> None:
    trail = Trail(libpq_url(app_url), keys, timeout_s=2)
    await trail.open()
    mine, other, retry = record("mine", patient="p"), record("other", patient="q"), uuid.uuid4()
    answer = FirstAnswer(principal="dr", key=retry, request_mac=b"m", answer=b"CANARY", patients=("p",))
    await trail.record([mine], answer)
    await trail.record([other])
    with engine.begin() as connection:
        before = connection.execute(text("SELECT id, input FROM ml_predictions ORDER BY id")).all()
        assert erase(connection, "p", erasing("p")) == 1
    # A server that still has the key in memory must not seal anything new with it.
    late, beside = record("after the erasure, key still in memory", patient="p"), record("beside it", patient="q")
    await asyncio.gather(trail.record([late, beside]), trail.record([record("of nobody in particular")]))
    history = History(async_engine, keys)
    assert (await history.one(SEEN_BY_PATIENT, late.id))["input_data"]["text"].startswith("after the erasure")
    assert (await history.one(Sight(patient="q"), beside.id))["erased"] is False
    await keys.forget_destroyed()
    shown = await history.one(SEEN_BY_PATIENT, mine.id)
    assert shown["erased"] is True
    assert not {"input_data", "result"} & shown.keys()
    assert (await history.one(Sight(patient="q"), other.id))["input_data"] == {"text": "other"}
    assert await FirstAnswers(async_engine, keys).find("dr", retry) is None
    with engine.connect() as connection:
        after = connection.execute(text("SELECT id, input FROM ml_predictions ORDER BY id")).all()
        assert after[:2] == before
        assert len(after) == 5
        events = connection.execute(text("SELECT action, patient_id, principal FROM audit_events")).all()
    assert [tuple(event) for event in events] == [("erase", "p", "officer")]
    later = record("after the erasure", patient="p")  # the same person may come again, under a new key
    await trail.record([later])
    assert (await history.one(SEEN_BY_PATIENT, later.id))["input_data"] == {"text": "after the erasure"}
    await trail.close()


@pytest.mark.parametrize("what", ["the cipher text", "the key", "the key's wrapping key", "which key"])
async def test_what_does_not_open_is_shown_as_such_and_hides_nothing_beside_it(
    async_engine: AsyncEngine,
    database_url: str,
    app_url: str,
    keys: DataKeys,
    caplog: pytest.LogCaptureFixture,
    what: str,
) -> None:
    """As the server's role can write it: what an auditor or a patient reads must not break off at that row."""
    trail = Trail(libpq_url(app_url), keys, timeout_s=2)
    await trail.open()
    good, bad = record("good", patient="p"), record("bad", patient="p")
    await trail.record([good])
    key = await keys.current("patient:p")
    stored = {"key": key.id, "input": b"garbage"}
    if what != "the cipher text":
        stored = {"key": uuid.uuid4(), "input": key.seal(b"{}", sealed_column("input", bad.id))}
    with psycopg.connect(libpq_url(app_url), autocommit=True) as app:
        if what in {"the key", "the key's wrapping key"}:
            wrapping = OLD.id if what == "the key" else "local:unknown"
            app.execute(
                "INSERT INTO data_keys (id, subject, wrapping_key_id, wrapped_key) VALUES (%s, 'x', %s, 'garbage')",
                [stored["key"], wrapping],
            )
        app.execute(
            "INSERT INTO ml_predictions (created_at, id, request_id, route, model_id, model_name, model_version,"
            " model_digest, variant, principal, roles, client_id, patient_id, purpose_of_use, key_id, input, result,"
            " cache_hit, inference_time_ms, latency_ms) VALUES (%s, %s, %s, '/x', 1, 'm', 'v', 'd', 'champion', 'dr',"
            " '', 'c', 'p', 'CAREMGT', %s, %s, %s, false, 'NaN', 'Infinity')",
            [created_at(bad.id), bad.id, bad.id, stored["key"], stored["input"], stored["input"]],
        )
    history = History(async_engine, keys)
    items = {item["prediction_id"]: item for item in (await history.page(SEEN_BY_PATIENT, limit=10)).items}
    assert items[str(good.id)]["input_data"] == {"text": "good"}
    assert "unreadable" not in items[str(good.id)]
    shown = items[str(bad.id)]
    assert not {"result"} & shown.keys()
    if what == "which key":
        assert shown["erased"] is True  # a key that is not there and one that was destroyed cannot be told apart
    else:
        assert (shown["erased"], shown["unreadable"]) == (False, True)
        assert "does not open" in caplog.text
    assert (await history.one(SEEN_BY_PATIENT, bad.id))["prediction_id"] == str(bad.id)
    owner = open_async_engine(database_url, pool_size=1)
    opened = [None if each is None else each["input"] async for each in opened_records(owner, keys)]
    assert opened == [{"text": "good"}, *([] if what == "which key" else [None])]
    await owner.dispose()
    await trail.close()


@pytest.mark.requirement("S10")
@pytest.mark.parametrize("patient", ["'p'", "NULL"])
async def test_nothing_is_erased_under_a_legal_hold(engine: Engine, keys: DataKeys, patient: str) -> None:
    await keys.current("patient:p")
    with engine.begin() as connection:
        columns = "INSERT INTO legal_holds (id, patient_id, reason, placed_by)"
        connection.execute(text(f"{columns} VALUES (gen_random_uuid(), {patient}, 'x', 'y')"))
        with pytest.raises(SetupError, match="legal hold"):
            erase(connection, "p", erasing("p"))
        connection.execute(text("UPDATE legal_holds SET released_at = now(), released_by = 'y'"))
        assert erase(connection, "p", erasing("p")) == 1


async def test_records_of_the_first_schema_stay_readable(async_engine: AsyncEngine, engine: Engine) -> None:
    written = record("from before", patient="p")
    first = Envelope(derive(bytes(32), "records"), "1")
    sealed = {name: first.seal(b'{"n": 1}', sealed_column(name, written.id)) for name in ("input", "result")}
    for ring in (KeyRing(OLD), KeyRing(NEW, [OLD]), KeyRing(OLD, [NEW])):
        found = await DataKeys(async_engine, ring).by_id({FIRST_KEY})
        assert found[FIRST_KEY].open(sealed["input"], sealed_column("input", written.id)) == b'{"n": 1}'
    with pytest.raises(InternalFault):
        lost = await DataKeys(async_engine, KeyRing(NEW)).by_id({FIRST_KEY})
        lost[FIRST_KEY].open(sealed["input"], sealed_column("input", written.id))


@pytest.fixture
def kms(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """A KMS on loopback: (endpoint, key id)."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    endpoint = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while True:
        try:
            client = boto3.client("kms", endpoint_url=endpoint)
            key_id = client.create_key()["KeyMetadata"]["KeyId"]
            break
        except Exception:  # not up yet
            assert time.monotonic() < deadline
            time.sleep(0.3)
    yield endpoint, key_id
    server.terminate()
    server.wait(30)


async def test_keys_in_kms_wrap_and_unwrap_and_are_bound_to_their_row(
    async_engine: AsyncEngine, kms: tuple[str, str], database_url: str
) -> None:
    endpoint, key_id = kms
    wrapping = KmsWrappingKey(key_id, endpoint=endpoint)
    keys = DataKeys(async_engine, KeyRing(wrapping))
    made = await keys.current("patient:p")
    assert (
        await DataKeys(async_engine, KeyRing(KmsWrappingKey(key_id, endpoint=endpoint))).current("patient:p")
    ).key == (made.key)
    with psycopg.connect(libpq_url(database_url)) as connection:
        row: Any = connection.execute("SELECT wrapped_key, wrapping_key_id FROM data_keys").fetchone()
    assert made.key not in row[0]
    assert row[1] == f"kms:{key_id}"
    with pytest.raises(InternalFault):
        await wrapping.unwrap(row[0], "another row")
    owner = open_async_engine(database_url, pool_size=1)
    assert await rewrap(owner, KeyRing(OLD, [wrapping]), lambda done, total: None) == 1  # from KMS to a file and back
    assert (await DataKeys(async_engine, KeyRing(OLD)).current("patient:p")).key == made.key
    await owner.dispose()
    await keys.close()
