"""What somebody without a token can write into a table that may not be emptied for six years."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import psycopg
import pytest

from access.dev_issuer import DevIssuer, demo_subject
from api.tally import StrangerTally
from audit.data_keys import DataKeys
from audit.record import Event
from audit.trail import Trail
from database.engine import libpq_url
from embedded.postgres import EmbeddedPostgres
from errors import AuditUnavailable
from registry.store import StoredModel
from tests.conftest import bearer
from tests.server import BASE, Server

QUOTA = 20
UPGRADE = {
    **{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"},
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


@pytest.fixture(scope="module")
def strict(
    tmp_path_factory: pytest.TempPathFactory,
    postgres: EmbeddedPostgres,
    issuer: DevIssuer,
    deterioration_model: StoredModel,
) -> Iterator[Server]:
    """A server of its own that grants strangers twenty requests a minute and knows no Redis."""
    url = postgres.create_database(f"strict_{uuid.uuid4().hex}")
    quotas = {"QUOTA_ANONYMOUS_PER_MINUTE": str(QUOTA), "QUOTA_PER_MINUTE": str(QUOTA)}
    log = tmp_path_factory.mktemp("strict") / "server.log"
    server = Server(url, postgres.url_as("followup_app", url), issuer, log, quotas)
    server.register([deterioration_model])
    server.start()
    yield server
    server.stop()


def rows(server: Server, where: str) -> list[dict[str, Any]]:
    with psycopg.connect(libpq_url(server.database_url), row_factory=psycopg.rows.dict_row) as connection:
        return connection.execute(f"SELECT * FROM audit_events WHERE {where} ORDER BY id").fetchall()


def test_what_a_stranger_sends_beyond_the_quota_is_one_event_and_a_persons_each_one_of_its_own(
    strict: Server, issuer: DevIssuer
) -> None:
    clinician = bearer(issuer, "clinician")
    with httpx.Client(base_url=strict.url) as client:
        statuses = [client.get(f"{BASE}/models").status_code for _ in range(100)]
        statuses += [client.get("/socket", headers=UPGRADE).status_code for _ in range(50)]
        statuses += [
            client.get(f"{BASE}/models", headers=[("Authorization", "x"), ("Authorization", "y")]).status_code
            for _ in range(10)
        ]
        of_a_person = [client.get(f"{BASE}/models", headers=clinician).status_code for _ in range(60)]
        of_a_person += [client.get("/socket", headers={**clinician, **UPGRADE}).status_code for _ in range(5)]
    strict.stop()  # writes what was counted
    strict.start()
    known = rows(strict, f"principal = '{demo_subject('clinician')}'")
    assert len(known) == len(of_a_person) == 65
    assert {row["action"] for row in known[60:]} == {"unknown"}
    strangers = rows(strict, "principal = 'anonymous'")
    counted = [row for row in strangers if row["status"] == 429]
    # A minute may turn while the test runs: then there are two quotas.
    assert len(counted) == 1
    assert QUOTA <= len(strangers) - 1 <= 2 * QUOTA
    refused = sum(int(row["target"].removesuffix(" requests")) for row in counted)
    assert refused + len(strangers) - 1 == len(statuses)
    assert {str(row["ip_address"]) for row in counted} == {"127.0.0.1"}
    assert {(row["outcome"], row["route"]) for row in counted} == {("limited", "unknown")}


@pytest.fixture
async def trail(app_url: str, keys: DataKeys) -> AsyncIterator[Trail]:
    trail = Trail(libpq_url(app_url), keys, timeout_s=2)
    await trail.open()
    yield trail
    await trail.close()


async def test_strangers_from_everywhere_share_one_event(trail: Trail, app_url: str, database_url: str) -> None:
    told: list[None] = []
    tally = StrangerTally(trail, told=lambda: told.append(None))
    for number in range(5000):
        tally.count(f"10.{number // 256 // 256}.{number // 256 % 256}.{number % 256}")
    for number in range(100):
        tally.count(f"2001:db8::{number:x}")
    await tally.flush()
    await tally.flush()
    with psycopg.connect(libpq_url(database_url)) as connection:
        found = connection.execute("SELECT host(ip_address), target FROM audit_events").fetchall()
    assert len(found) == 1001
    assert dict(found)[None] == "4100 requests"
    assert len(told) == 5100


class Away:
    """A trail that cannot be written until it can."""

    def __init__(self) -> None:
        self.away = True
        self.events: list[Event] = []

    async def event(self, event: Event) -> None:
        await asyncio.sleep(0)
        if self.away:
            raise AuditUnavailable
        self.events.append(event)


async def test_what_cannot_be_written_is_counted_on_and_written_once() -> None:
    trail = Away()
    tally = StrangerTally(trail)  # type: ignore[arg-type]
    for address in ("192.0.2.1", None, "192.0.2.1"):
        tally.count(address)
    await tally.flush()
    tally.count("192.0.2.1")
    trail.away = False
    await tally.flush()
    await tally.close()
    assert {(event.caller.ip_address, event.target) for event in trail.events} == {
        ("192.0.2.1", "3 requests"),
        (None, "1 requests"),
    }
