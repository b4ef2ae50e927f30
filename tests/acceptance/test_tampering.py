"""S6: a superuser who gets round roles and triggers changes the trail at random; each change is found.

    TAMPERINGS=10000 python -m pytest tests/acceptance/test_tampering.py -s

Each tampering happens in a transaction that is exported, verified and rolled back. The anchor is the last checkpoint
before somebody began to tamper; the verifier knows the key.
"""

import os
import random
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from sqlalchemy import Connection

from audit import verify
from audit.canonical import COLUMNS, leaf_bytes, row, selection
from audit.checkpoint import Checkpoint, Signer
from audit.export import encode, export
from audit.merkle import Frontier, leaf_hash
from audit.sealing import Sealer, connect
from database.engine import open_engine
from embedded.postgres import EmbeddedPostgres
from tests.trail_rows import event, fill, make_signer, prediction

TAMPERINGS: Final = int(os.environ.get("TAMPERINGS", "300"))
TABLES: Final = ("ml_predictions", "audit_events")
NUMBERS: Final = {"model_id", "status", "confidence", "inference_time_ms", "latency_ms"}
Chance = random.Random


def execute(connection: Connection, statement: str, *values: Any) -> Any:
    return connection.exec_driver_sql(statement, values or None)


def any_row(connection: Connection, chance: Chance, table: str) -> tuple[Any, Any]:
    rows = execute(connection, f"SELECT created_at, id FROM {table} ORDER BY id").fetchall()
    return tuple(chance.choice(rows))  # type: ignore[return-value]


def changed(name: str, kind: str, before: Any, chance: Chance) -> Any:  # noqa: PLR0911
    """Another value of the column's own type; of bytes one bit."""
    if isinstance(before, bytes):
        position = chance.randrange(len(before) * 8)
        flipped = bytearray(before)
        flipped[position // 8] ^= 1 << position % 8
        return bytes(flipped)
    if kind == "bytes":
        return os.urandom(4)
    if isinstance(before, bool):
        return not before
    if name in NUMBERS:
        return 0.5 if before is None else before + chance.choice([-1, 1, 3])
    if kind == "time":
        return before + chance.choice([-1, 1]) * timedelta(microseconds=chance.choice([1, 1000, 10**6]))
    if name in {"id", "request_id", "key_id"}:
        return uuid.uuid4()
    if name == "patients":
        return [*(before or []), "patient-9"]
    if name == "ip_address":
        return chance.choice(["198.51.100.9", "192.0.2.7/31", "2001:db8::8"])
    empty = [] if name == "principal" else [""]  # a constraint refuses that one
    return chance.choice([f"{before}x", "auditor", *empty]) if before else "somebody"


def flip(connection: Connection, chance: Chance) -> str:
    table = chance.choice(TABLES)
    name, kind = chance.choice(COLUMNS[table])
    where = any_row(connection, chance, table)
    condition = "created_at = %s AND id = %s"
    (before,) = execute(connection, f"SELECT {name} FROM {table} WHERE {condition}", *where).fetchone()
    nullable = name in {"patient_id", "user_agent", "ip_address", "confidence", "target", "detail"}
    after = None if nullable and before is not None and chance.random() < 0.3 else changed(name, kind, before, chance)
    if str(after) == str(before):
        after = "198.51.100.77" if name == "ip_address" else after
    execute(connection, f"UPDATE {table} SET {name} = %s WHERE {condition}", after, *where)
    return f"{table}.{name}"


def flip_and_forge_the_leaf(connection: Connection, chance: Chance) -> str:
    table = chance.choice(TABLES)
    at, identity = any_row(connection, chance, table)
    execute(connection, f"UPDATE {table} SET principal = 'another' WHERE created_at = %s AND id = %s", at, identity)
    query = f"SELECT {selection(table)} FROM {table} AS r WHERE r.created_at = %s AND r.id = %s"
    values = execute(connection, query, at, identity).fetchone()
    hashed = leaf_hash(leaf_bytes(table, row(table, values)))
    execute(connection, "UPDATE audit_leaves SET leaf_hash = %s WHERE row_id = %s", hashed, identity)
    return table


def delete(connection: Connection, chance: Chance) -> str:
    table = chance.choice(TABLES)
    _, identity = any_row(connection, chance, table)
    execute(connection, f"DELETE FROM {table} WHERE id = %s", identity)
    kind = chance.choice(["row", "row and leaf", "leaf", "row and leaf, rest closed up"])
    if kind == "leaf":
        table = chance.choice(TABLES)
        _, identity = any_row(connection, chance, table)
    if kind != "row":
        statement = "DELETE FROM audit_leaves WHERE row_id = %s RETURNING leaf_index"
        (index,) = execute(connection, statement, identity).fetchone()
        if kind.endswith("closed up"):
            execute(connection, "UPDATE audit_leaves SET leaf_index = -leaf_index WHERE leaf_index > %s", index)
            execute(connection, "UPDATE audit_leaves SET leaf_index = -leaf_index - 1 WHERE leaf_index < 0")
    return kind


def insert(connection: Connection, chance: Chance) -> str:
    """A row of another time, whose number no sealer reaches or has passed, or with a leaf that is forged."""
    table = chance.choice(TABLES)
    made = prediction() if table == "ml_predictions" else event()
    kinds = (
        "time to come",
        "transaction to come",
        "old transaction",
        "forged leaf at the end",
        "forged leaf in another's",
    )
    kind = chance.choice(kinds)
    if kind == "time to come":
        made["created_at"] += timedelta(seconds=chance.uniform(400, 10**9))
    if kind == "transaction to come":
        made["xid"] = str(chance.choice([2**64 - 1, chance.randint(10**7, 2**63)]))
    if kind == "old transaction":
        made["xid"] = str(chance.randint(1, 700))
    names = ", ".join(made)
    values = ", ".join("%s::text::xid8" if name == "xid" else "%s" for name in made)
    execute(connection, f"INSERT INTO {table} ({names}) VALUES ({values})", *made.values())
    if kind.startswith("forged"):
        query = f"SELECT {selection(table)} FROM {table} AS r WHERE r.id = %s"
        stored = row(table, execute(connection, query, made["id"]).fetchone())
        hashed = leaf_hash(leaf_bytes(table, stored))
        (size,) = execute(connection, "SELECT max(leaf_index) + 1 FROM audit_leaves").fetchone()
        if kind.endswith("end"):
            statement = "INSERT INTO audit_leaves VALUES (%s, %s, %s, %s, %s)"
            execute(connection, statement, size, table, made["created_at"], made["id"], hashed)
        else:
            columns = "source = %s, created_at = %s, row_id = %s, leaf_hash = %s"
            statement = f"UPDATE audit_leaves SET {columns} WHERE leaf_index = %s"
            execute(connection, statement, table, made["created_at"], made["id"], hashed, chance.randrange(size))
    return kind


def reorder(connection: Connection, chance: Chance) -> str:
    """Two leaves change places."""
    (size,) = execute(connection, "SELECT count(*) FROM audit_leaves").fetchone()
    one, other = chance.sample(range(size), 2)
    for before, after in ((one, -1), (other, one), (-1, other)):
        execute(connection, "UPDATE audit_leaves SET leaf_index = %s WHERE leaf_index = %s", after, before)
    return "two leaves"


def swap(connection: Connection, chance: Chance) -> str:
    """Two rows of one table change their contents, or their identities, which comes to the same."""
    table = chance.choice(TABLES)
    rows = execute(connection, f"SELECT created_at, id FROM {table}").fetchall()
    (one_at, one), (other_at, other) = chance.sample(rows, 2)
    spare = uuid.uuid4()
    for before, after_at, after in ((one, one_at, spare), (other, one_at, one), (spare, other_at, other)):
        execute(connection, f"UPDATE {table} SET created_at = %s, id = %s WHERE id = %s", after_at, after, before)
    return table


def truncate(connection: Connection, chance: Chance) -> str:
    """The last rows, leaves and checkpoints go, so that what is left holds together: only the anchor knows."""
    sizes = [size for (size,) in execute(connection, "SELECT tree_size FROM audit_checkpoints ORDER BY 1").fetchall()]
    keep = chance.choice(sizes[:-1])
    for table in TABLES:
        statement = f"DELETE FROM {table} WHERE id IN (SELECT row_id FROM audit_leaves WHERE leaf_index >= %s)"
        execute(connection, statement, keep)
    execute(connection, "DELETE FROM audit_leaves WHERE leaf_index >= %s", keep)
    execute(connection, "DELETE FROM audit_checkpoints WHERE tree_size > %s", keep)
    return "tail"


def cut_and_rewrite_the_end(connection: Connection, chance: Chance) -> str:
    """As above, and the file says that it was made just after what is left was signed: then the anchor is newer."""
    return f"{truncate(connection, chance)}, end rewritten"


def rewrite(connection: Connection, chance: Chance) -> str:
    """A row, its leaf and every checkpoint, signed with a key of the tamperer's own or with the stolen one."""
    flip_and_forge_the_leaf(connection, chance)
    frontier = Frontier()
    roots = {}
    for index, hashed in execute(connection, "SELECT leaf_index, leaf_hash FROM audit_leaves ORDER BY 1").fetchall():
        frontier.append(hashed)
        roots[index + 1] = frontier.root
    forger = chance.choice(SIGNERS)
    for size, note in execute(connection, "SELECT tree_size, note FROM audit_checkpoints").fetchall():
        said = Checkpoint.parse(note.rpartition("\n\n")[0] + "\n")
        forged = forger.sign(Checkpoint(said.origin, size, roots[size], said.time, said.horizon).body)
        statement = "UPDATE audit_checkpoints SET root_hash = %s, note = %s WHERE tree_size = %s"
        execute(connection, statement, roots[size], forged, size)
    return "with the stolen key" if forger is SIGNERS[0] else "with another key"


def explain_away(connection: Connection, chance: Chance) -> str:
    """A record goes; its leaf is dated back, and an event that the honest sealer sealed says that it was archived."""
    table = chance.choice(TABLES)
    _, identity = any_row(connection, chance, table)
    (index,) = execute(connection, "SELECT leaf_index FROM audit_leaves WHERE row_id = %s", identity).fetchone()
    by = chance.choice(["a name", "another key", "a statement of other leaves"])
    statement = {
        "origin": "followup-test",
        "partition": f"{table}_202001",
        "rows": 1,
        "leaves": [index, 1],
        "sha256": "0" * 64,
        "time": "2026-02-01T00:00:00.000000Z",
    }
    text = f"{verify.ARCHIVE_FORMAT}\n{verify.canonical(statement)}"
    target = f"{table}_202001"
    if by == "another key":
        target = verify.canonical({"signature": SIGNERS[1].signature(text), "statement": statement})
    if by == "a statement of other leaves":
        signature = SIGNERS[0].signature(text)
        target = verify.canonical({"signature": signature, "statement": {**statement, "leaves": [index + 1, 1]}})
    made = event(action=verify.ARCHIVED, outcome="success", target=target)
    marks = ", ".join(["%s"] * len(made))
    execute(connection, f"INSERT INTO audit_events ({', '.join(made)}) VALUES ({marks})", *made.values())
    _seal_as_the_sealer_would(connection, made["created_at"], made["id"])
    execute(connection, "UPDATE audit_leaves SET created_at = '2020-01-05Z' WHERE leaf_index = %s", index)
    execute(connection, f"DELETE FROM {table} WHERE id = %s", identity)
    return by


def _seal_as_the_sealer_would(connection: Connection, created_at: Any, identity: uuid.UUID) -> None:
    frontier = Frontier()
    for (hashed,) in execute(connection, "SELECT leaf_hash FROM audit_leaves ORDER BY leaf_index").fetchall():
        frontier.append(hashed)
    query = f"SELECT xid::text::bigint, {selection('audit_events')} FROM audit_events AS r WHERE r.id = %s"
    xid, *values = execute(connection, query, identity).fetchone()
    hashed = leaf_hash(leaf_bytes("audit_events", row("audit_events", values)))
    insert_leaf = "INSERT INTO audit_leaves VALUES (%s, 'audit_events', %s, %s, %s)"
    execute(connection, insert_leaf, frontier.size, created_at, identity, hashed)
    frontier.append(hashed)
    note = SIGNERS[0].sign(Checkpoint("followup-test", frontier.size, frontier.root, datetime.now(UTC), xid + 1).body)
    values = (frontier.size, frontier.root, note, xid + 1)
    execute(
        connection,
        "INSERT INTO audit_checkpoints (tree_size, root_hash, note, horizon) VALUES (%s, %s, %s, %s)",
        *values,
    )


SIGNERS: Final[list[Signer]] = []  # the true one, a forger's
KINDS: Final[tuple[Callable[[Connection, Chance], str], ...]] = (
    flip,
    flip_and_forge_the_leaf,
    delete,
    insert,
    reorder,
    swap,
    truncate,
    cut_and_rewrite_the_end,
    rewrite,
    explain_away,
)
WEIGHTS: Final = (8, 2, 4, 4, 3, 3, 1, 1, 1, 2)


def findings(
    connection: Connection, key: str, anchors: dict[str, str], *, end_rewritten: bool = False
) -> verify.Report:
    documents = list(export(lambda work: work(connection), None))
    if end_rewritten:
        notes = [line["note"] for line in documents if line["kind"] == "checkpoint"]
        signed = max(Checkpoint.parse(note.rpartition("\n\n")[0] + "\n").time for note in notes)
        documents[-1]["finished_at"] = (signed + timedelta(microseconds=1)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return verify.verify(map(encode, documents), key, anchors)


@pytest.mark.requirement("S6")
@pytest.mark.timeout(300 + TAMPERINGS)
def test_every_tampering_by_a_superuser_is_found(postgres: EmbeddedPostgres, database_url: str, tmp_path: Path) -> None:
    name = database_url.rpartition("/")[2].partition("?")[0]
    fill(postgres.url("followup_app", name), 90, 60)
    signer = make_signer(tmp_path)
    SIGNERS[:] = [signer, make_signer(tmp_path)]
    with connect(postgres.url("followup_sealer", name)) as connection:
        assert Sealer(connection, signer, chunk_rows=20).seal_all() == 150
    with psycopg.connect(database_url) as connection:
        last = connection.execute("SELECT tree_size, note FROM audit_checkpoints ORDER BY 1 DESC LIMIT 1").fetchone()
    assert last is not None
    anchors = {f"{last[0]}.checkpoint": last[1]}
    key = str(signer.verifier)
    engine = open_engine(postgres.url("postgres", name))
    seed = int(os.environ.get("SEED", "20261123"))
    chance = random.Random(seed)
    done: Counter[str] = Counter()
    missed = []
    with engine.connect() as superuser:
        execute(superuser, "SET session_replication_role = replica")
        for table in TABLES:  # what the schema alone would refuse
            for constraint in ("time_of_id", "fits"):
                execute(superuser, f"ALTER TABLE {table} DROP CONSTRAINT ck_{table}_{constraint}")
        superuser.commit()
        untouched = findings(superuser, key, anchors)
        assert (untouched.findings, untouched.leaves, untouched.anchors) == ([], 150, 1)
        superuser.rollback()
        for number in range(TAMPERINGS):
            (tamper,) = chance.choices(KINDS, WEIGHTS)
            what = tamper(superuser, chance)
            report = findings(superuser, key, anchors, end_rewritten=tamper is cut_and_rewrite_the_end)
            if report.code(key_was_given=True) == verify.HOLDS:
                missed.append((number, tamper.__name__, what))
            done[tamper.__name__] += 1
            superuser.rollback()
        assert findings(superuser, key, anchors).holds  # nothing stayed
    engine.dispose()
    sys.stdout.write(f"{sum(done.values())} tamperings, seed {seed}: {dict(done)}; missed: {len(missed)}\n")
    assert missed == []
