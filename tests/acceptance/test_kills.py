"""kill -9 of the server, PostgreSQL, Valkey and the sealer in turns, under load: nothing that was answered is lost.

KILL_CYCLES=200 python -m pytest -s tests/acceptance/test_kills.py    takes about twenty minutes
"""

import asyncio
import os
import random
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from access.dev_issuer import DevIssuer
from audit.checkpoint import Signer
from database.engine import libpq_url
from embedded.postgres import EmbeddedPostgres
from embedded.valkey import EmbeddedValkey
from tests.acceptance.test_under_load import own_servers, rows, send
from tests.conftest import bearer, eventually
from tests.sealer import Sealer
from tests.server import ROOT, Server

__all__ = ["own_servers"]
CYCLES = int(os.environ.get("KILL_CYCLES", "4"))


def kill_family(parent: int) -> None:
    """A server and the processes that it started."""
    children = [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    for process_id in (parent, *children):
        with suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGKILL)


def sealed(server: Server) -> dict[str, Any]:
    """Counts of what is in the trail and in its tree."""
    query = """
        SELECT (SELECT count(*) FROM ml_predictions) + (SELECT count(*) FROM audit_events) AS rows,
               count(*) AS leaves, count(DISTINCT (source, row_id)) AS distinct_rows,
               coalesce(max(leaf_index) + 1, 0) AS next_index,
               (SELECT coalesce(max(tree_size), 0) FROM audit_checkpoints) AS tree_size
        FROM audit_leaves
    """
    with psycopg.connect(libpq_url(server.database_url), row_factory=psycopg.rows.dict_row) as connection:
        found = connection.execute(query).fetchone()
    assert found is not None
    return found


@pytest.mark.requirement("S5")
@pytest.mark.requirement("S6")
@pytest.mark.timeout(300 + 20 * CYCLES)
async def test_nothing_answered_is_lost_and_everything_is_sealed_once_whoever_is_killed(
    own_servers: tuple[Server, EmbeddedPostgres, EmbeddedValkey], issuer: DevIssuer, tmp_path: Path
) -> None:
    server, postgres, valkey = own_servers
    sealer = Sealer(postgres.url_as("followup_sealer", server.database_url), tmp_path)
    sealer.start()
    draw = random.Random(0)
    received: list[str] = []
    failures = 0
    restarted: list[EmbeddedPostgres | EmbeddedValkey] = []
    for cycle in range(CYCLES):
        stop = asyncio.Event()
        first = cycle * 10**6
        # A token of its own for each cycle: they live for fifteen minutes.
        load = asyncio.create_task(
            send(server, bearer(issuer, "clinician"), range(first, first + 10**6), at_once=16, stop=stop)
        )
        await asyncio.sleep(draw.uniform(0.3, 1.2))
        victim = ("server", "postgres", "valkey", "sealer")[cycle % 4]
        if victim == "server":
            await asyncio.to_thread(server.kill)
        elif victim == "sealer":
            await asyncio.to_thread(sealer.kill)
        else:
            program: EmbeddedPostgres | EmbeddedValkey = postgres if victim == "postgres" else valkey
            process_id = program.process_id()
            assert process_id is not None
            await asyncio.to_thread(kill_family, process_id)
        await asyncio.sleep(0.3)  # what is under way meets the failure
        stop.set()
        ids, failed = await load
        received += ids
        failures += len(failed)
        if victim == "server":
            await asyncio.to_thread(server.start)
        elif victim == "sealer":
            sealer.start()
        else:
            again = (EmbeddedPostgres if victim == "postgres" else EmbeddedValkey)(tmp_path)
            await asyncio.to_thread(again.start)
            restarted.append(again)
            await asyncio.to_thread(server.wait_until_ready)
    assert received
    assert len(set(received)) == len(received)
    missing = set(received) - rows(server)
    await eventually(lambda: (seen := sealed(server))["rows"] == seen["tree_size"], within_s=60)
    seen = sealed(server)
    print(
        f"{CYCLES} kills; answers received {len(received)}, refused or cut off {failures}, missing {len(missing)};"
        f" rows {seen['rows']}, sealed {seen['leaves']}, gaps {seen['next_index'] - seen['leaves']},"
        f" duplicates {seen['leaves'] - seen['distinct_rows']}"
    )
    assert missing == set()
    assert seen["rows"] == seen["leaves"] == seen["distinct_rows"] == seen["next_index"] == seen["tree_size"]
    sealer.stop()
    export = tmp_path / "trail.ndjson"
    token = issuer.token(["auditor"], "auditor")
    told = {"FOLLOWUP_TOKEN": token, "SEAL_KEY_FILE": str(sealer.key_file)}
    done = await asyncio.to_thread(server.followup, "audit", "export", export, **told)
    assert (done.returncode, done.stderr) == (0, "")
    key = str(Signer.load(sealer.key_file, "followup-ml").verifier)
    command = [sys.executable, "audit/verify.py", str(export), "--key", key]
    verifying = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
    assert await verifying.wait() == 0
    for each in restarted:
        each.stop()
