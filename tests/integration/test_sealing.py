"""The sealer: every committed row once, no gap, whatever commits late or dies; and the export that proves it."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine

from audit import verify
from audit.anchor import DirectoryAnchor, anchor_newest
from audit.checkpoint import BadNote, Signer
from audit.export import encode, export
from audit.last_signed import LastSigned
from audit.merkle import Frontier, Node
from audit.sealing import AnotherSealer, Sealer, connect, run, seal_lag
from database.engine import open_engine
from embedded.postgres import EmbeddedPostgres
from errors import SetupError
from tests.trail_rows import event, fill, id_of, insert, long_ago, make_signer, prediction

ROOT = Path(__file__).resolve().parents[2]


def name_of(database_url: str) -> str:
    return database_url.rpartition("/")[2].partition("?")[0]


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return make_signer(tmp_path)


@pytest.fixture
def app_url(postgres: EmbeddedPostgres, database_url: str) -> str:
    return postgres.url("followup_app", name_of(database_url))


@pytest.fixture
def sealer_url(postgres: EmbeddedPostgres, database_url: str) -> str:
    return postgres.url("followup_sealer", name_of(database_url))


@pytest.fixture
def auditor(postgres: EmbeddedPostgres, database_url: str) -> Iterator[Engine]:
    engine = open_engine(postgres.url("followup_auditor", name_of(database_url)))
    yield engine
    engine.dispose()


@pytest.fixture
def sealer(sealer_url: str, signer: Signer) -> Iterator[Sealer]:
    with connect(sealer_url) as connection:
        yield Sealer(connection, signer, chunk_rows=50)


def exported(engine: Engine, key: str | None = None) -> list[bytes]:
    def read(work: Any) -> Any:
        with engine.connect() as connection:
            return work(connection)

    return [encode(line) for line in export(read, key)]


def verified(engine: Engine, signer: Signer, anchors: dict[str, str] | None = None) -> verify.Report:
    return verify.verify(exported(engine), str(signer.verifier), anchors)


def tree_of(database_url: str) -> tuple[list[int], Frontier, dict[Node, bytes], list[Any]]:
    """Indexes, and what the tree must be by the leaves; inner nodes and checkpoints as stored."""
    frontier = Frontier()
    made = {}
    with psycopg.connect(database_url) as connection:
        leaves = connection.execute("SELECT leaf_index, leaf_hash FROM audit_leaves ORDER BY 1").fetchall()
        for _, hashed in leaves:
            made.update(frontier.append(hashed))
        stored = connection.execute("SELECT level, position, node_hash FROM audit_nodes").fetchall()
        assert {Node(level, position): hashed for level, position, hashed in stored} == made
        checkpoints = connection.execute("SELECT tree_size, root_hash, note FROM audit_checkpoints ORDER BY 1")
        return [index for index, _ in leaves], frontier, made, checkpoints.fetchall()


def test_every_row_is_sealed_once_in_chunks_and_the_export_verifies(
    app_url: str, database_url: str, sealer: Sealer, auditor: Engine, signer: Signer
) -> None:
    fill(app_url, 130, 90)
    assert sealer.seal_all() == 220
    assert sealer.seal_all() == 0
    indexes, frontier, _, checkpoints = tree_of(database_url)
    assert indexes == list(range(220))
    assert len(checkpoints) > 3
    assert checkpoints[-1][:2] == (220, frontier.root)
    assert signer.verifier.checkpoint(checkpoints[-1][2]).root == frontier.root
    report = verified(auditor, signer)
    assert report.findings == []
    assert (report.leaves, report.not_sealed_yet) == (220, 0)


def test_a_row_whose_transaction_stays_open_is_waited_for_not_skipped(
    app_url: str, sealer_url: str, sealer: Sealer, auditor: Engine, signer: Signer
) -> None:
    with psycopg.connect(app_url) as slow:
        insert(slow, "ml_predictions", [prediction()])  # its transaction has an id now, but does not commit
        fill(app_url, 5, 5)
        assert sealer.seal_all() == 0
        with psycopg.connect(sealer_url) as connection:
            assert 0 < seal_lag(connection) < 60
        report = verified(auditor, signer)
        assert (report.leaves, report.not_sealed_yet, report.findings) == (0, 10, [])
        slow.commit()
    assert sealer.seal_all() == 11
    with psycopg.connect(sealer_url) as connection:
        assert seal_lag(connection) == 0


def test_a_transaction_larger_than_a_chunk_is_sealed_whole(
    app_url: str, database_url: str, sealer: Sealer, auditor: Engine, signer: Signer
) -> None:
    with psycopg.connect(app_url) as connection:
        insert(connection, "ml_predictions", [prediction() for _ in range(120)])
        insert(connection, "audit_events", [event() for _ in range(30)])
    fill(app_url, 3, 3)
    assert sealer.seal_chunk() == 150
    assert sealer.seal_all() == 6
    assert verified(auditor, signer).findings == []


def test_values_that_json_cannot_carry_are_sealed_all_the_same(
    app_url: str, sealer: Sealer, auditor: Engine, signer: Signer
) -> None:
    odd = [
        prediction(confidence=value, model_id=2**63 - 1, ip_address="10.0.0.0/8")
        for value in (float("nan"), float("inf"), float("-inf"), -0.0, 1e-7, 3.4e38, 16777216.0, 0.1)
    ]
    with psycopg.connect(app_url) as connection:
        insert(connection, "ml_predictions", odd)
        insert(connection, "audit_events", [event(user_agent="\x01\x1f\x7f\u2028\ue000\U0001f600\u00e9</")])
    assert sealer.seal_all() == 9
    assert verified(auditor, signer).findings == []


def test_two_sealers_do_not_seal_twice(app_url: str, sealer_url: str, database_url: str, signer: Signer) -> None:
    fill(app_url, 150, 150)

    def seal() -> None:
        with connect(sealer_url) as connection:
            sealer = Sealer(connection, signer, chunk_rows=10)
            while True:
                try:
                    if not sealer.seal_chunk():
                        return
                except AnotherSealer:
                    time.sleep(0.001)

    threads = [threading.Thread(target=seal) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    indexes, frontier, _, checkpoints = tree_of(database_url)
    assert indexes == list(range(300))
    assert checkpoints[-1][:2] == (300, frontier.root)


def test_a_tree_that_was_tampered_with_is_not_sealed_further(
    app_url: str, postgres: EmbeddedPostgres, database_url: str, sealer: Sealer, tmp_path: Path, sealer_url: str
) -> None:
    fill(app_url, 10, 10)
    sealer.seal_all()
    fill(app_url, 1, 1)
    for change in (
        "UPDATE audit_nodes SET node_hash = sha256('x') WHERE level = 4",
        "DELETE FROM audit_nodes WHERE level = 4",
        "UPDATE audit_checkpoints SET horizon = horizon - 1 WHERE tree_size = 20",
        "UPDATE audit_checkpoints SET note = replace(note, 'time 2', 'time 1') WHERE tree_size = 20",
        "DELETE FROM audit_checkpoints",
        "INSERT INTO audit_leaves SELECT 20, source, created_at, gen_random_uuid(), leaf_hash FROM audit_leaves"
        " LIMIT 1",
    ):
        with psycopg.connect(postgres.url("postgres", name_of(database_url)), autocommit=True) as superuser:
            superuser.execute("SET session_replication_role = replica")
            for table in ("audit_nodes", "audit_checkpoints", "audit_leaves"):
                superuser.execute(f"CREATE TABLE kept_{table} AS SELECT * FROM {table}")
            superuser.execute(change)
            with pytest.raises(SetupError, match=r"tampered|signed"):
                sealer.seal_all()
            for table in ("audit_nodes", "audit_checkpoints", "audit_leaves"):
                superuser.execute(f"DELETE FROM {table}")
                superuser.execute(f"INSERT INTO {table} SELECT * FROM kept_{table}")
                superuser.execute(f"DROP TABLE kept_{table}")
    with connect(sealer_url) as connection, pytest.raises(SetupError, match="not signed with this sealer's key"):
        Sealer(connection, make_signer(tmp_path)).seal_all()
    assert sealer.seal_all() == 2


def test_a_database_of_another_cluster_is_refused(
    app_url: str, postgres: EmbeddedPostgres, database_url: str, sealer: Sealer, signer: Signer
) -> None:
    fill(app_url, 1, 1)
    sealer.seal_all()
    with psycopg.connect(postgres.url("postgres", name_of(database_url))) as superuser:
        superuser.execute("SET session_replication_role = replica")
        superuser.execute("UPDATE audit_checkpoints SET horizon = 1000000000000")
    with pytest.raises(SetupError, match="another cluster"):
        sealer.seal_all()


def test_the_sealer_cannot_write_the_trail_and_the_server_cannot_seal(app_url: str, sealer_url: str) -> None:
    for url, statement in (
        (sealer_url, "INSERT INTO audit_events (principal) VALUES ('x')"),
        (sealer_url, "DELETE FROM audit_leaves"),
        (sealer_url, "UPDATE audit_checkpoints SET horizon = 0"),
        (app_url, "INSERT INTO audit_checkpoints (tree_size, root_hash, note, horizon) VALUES (1, '', '', 1)"),
        (app_url, "DELETE FROM ml_predictions"),
    ):
        with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)


def test_the_sealer_comes_back_when_its_connection_breaks(
    app_url: str, sealer_url: str, postgres: EmbeddedPostgres, database_url: str, signer: Signer
) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(sealer_url, signer, stop), kwargs={"every_s": 0.05})
    thread.start()
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'followup-sealer'"
    try:
        with psycopg.connect(postgres.url("postgres", name_of(database_url)), autocommit=True) as superuser:
            for _ in range(5):
                fill(app_url, 20, 20)
                superuser.execute(kill)
            deadline = time.monotonic() + 10
            count = "SELECT count(*) FROM audit_leaves"
            while superuser.execute(count).fetchone() != (200,) and time.monotonic() < deadline:
                time.sleep(0.05)
    finally:
        stop.set()
        thread.join(10)
    indexes, frontier, _, checkpoints = tree_of(database_url)
    assert indexes == list(range(200))
    assert checkpoints[-1][:2] == (200, frontier.root)


def test_verify_runs_alone_on_a_file(
    app_url: str, sealer: Sealer, auditor: Engine, signer: Signer, tmp_path: Path
) -> None:
    fill(app_url, 5, 5)
    sealer.seal_all()
    lines = exported(auditor, str(signer.verifier))
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(b"".join(lines))
    bad.write_bytes(b"".join(lines).replace(b'"clinician"', b'"auditor"', 1))

    def alone(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", ROOT / "audit" / "verify.py", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = alone(good, "--key", str(signer.verifier))
    assert (done.returncode, done.stderr) == (0, "")
    assert "Everything holds." in done.stdout
    assert "CAUTION" in alone(good).stdout
    assert alone(bad, "--key", str(signer.verifier)).returncode == 1
    assert "changed row" in alone(bad).stdout
    assert alone(good, "--key", str(make_signer(tmp_path).verifier), "--json").returncode == 1
    found = json.loads(alone(bad, "--json").stdout)
    assert found["holds"] is False
    assert alone(tmp_path / "none").returncode == 2
    assert alone(good, "--key", "nonsense").returncode == 2


def test_a_sealer_killed_at_any_moment_leaves_no_gap(
    app_url: str, sealer_url: str, database_url: str, signer: Signer, tmp_path: Path
) -> None:
    key = next(tmp_path.glob("*.pem"))
    program = (
        "import sys, threading; from pathlib import Path; from audit.checkpoint import BadNote, Signer;"
        "from audit.sealing import run; print('up', flush=True);"
        "run(sys.argv[1], Signer.load(Path(sys.argv[2]), 'followup-test'), threading.Event(), every_s=0.01)"
    )
    total = 0
    for round_number in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", program, sealer_url, key],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        process.stdout.readline()
        fill(app_url, 60, 60)
        total += 120
        time.sleep(0.02 * round_number)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        process.stdout.close()
    with connect(sealer_url) as connection:
        Sealer(connection, signer).seal_all()
    indexes, frontier, _, checkpoints = tree_of(database_url)
    assert indexes == list(range(total))
    assert checkpoints[-1][:2] == (total, frontier.root)


CUT = (
    "DELETE FROM audit_events WHERE id IN (SELECT row_id FROM audit_leaves WHERE leaf_index >= {size})",
    "DELETE FROM ml_predictions WHERE id IN (SELECT row_id FROM audit_leaves WHERE leaf_index >= {size})",
    "DELETE FROM audit_leaves WHERE leaf_index >= {size}",
    "DELETE FROM audit_nodes WHERE (position + 1) * (1::bigint << level) > {size}",
    "DELETE FROM audit_checkpoints WHERE tree_size > {size}",
)


@pytest.fixture
def cut_back_to(postgres: EmbeddedPostgres, database_url: str) -> Callable[[int], None]:
    """What an administrator of the database can do so well that what is left holds together."""

    def cut(size: int) -> None:
        with psycopg.connect(postgres.url("postgres", name_of(database_url))) as superuser:
            superuser.execute("SET session_replication_role = replica")
            for statement in CUT:
                superuser.execute(statement.format(size=size))

    return cut


def sealed_twice(app_url: str, connection: psycopg.Connection[Any], signer: Signer, last: LastSigned) -> None:
    sealer = Sealer(connection, signer, last)
    for _ in range(2):
        fill(app_url, 10, 10)
        assert sealer.seal_all() == 20


@pytest.mark.parametrize("size", [20, 0])
def test_a_log_that_was_cut_back_is_not_signed(
    app_url: str, sealer_url: str, signer: Signer, tmp_path: Path, cut_back_to: Callable[[int], None], size: int
) -> None:
    """Neither by the sealer that runs, on a new connection too, nor by one that is started."""
    state = tmp_path / "state"
    last = LastSigned(signer.verifier, state)
    with connect(sealer_url) as connection:
        sealed_twice(app_url, connection, signer, last)
        assert signer.verifier.checkpoint(state.read_text()).size == 40
        assert state.stat().st_mode & 0o777 == 0o600
        cut_back_to(size)
        fill(app_url, 30, 30)
        with pytest.raises(SetupError, match="does not continue"):
            Sealer(connection, signer, last).seal_all()
        with pytest.raises(SetupError, match="does not continue"):
            Sealer(connection, signer, LastSigned(signer.verifier, state)).seal_all()
        count = connection.execute("SELECT count(*), max(tree_size) FROM audit_checkpoints").fetchone()
        assert count == ((1, 20) if size else (0, None))
        # Another past of the same and of a greater length is another past.
        state.unlink()
        assert Sealer(connection, signer).seal_all() == 60
        with pytest.raises(SetupError, match="does not continue"):
            Sealer(connection, signer, last).seal_all()


def test_an_anchor_is_remembered_where_the_state_is_lost(
    app_url: str, sealer_url: str, signer: Signer, tmp_path: Path, cut_back_to: Callable[[int], None]
) -> None:
    anchors = tmp_path / "anchors"
    anchors.mkdir()
    place = DirectoryAnchor(anchors)
    with connect(sealer_url) as connection:
        sealed_twice(app_url, connection, signer, LastSigned(signer.verifier))
        assert anchor_newest(connection, place, signer.verifier) == 40
        (anchors / "99.checkpoint").write_text("of somebody else\n")
        fill(app_url, 5, 5)
        started = LastSigned(signer.verifier)
        started.recall(signer.verifier, place)
        assert [known.size for known in started.unproven] == [40]
        assert Sealer(connection, signer, started).seal_all() == 10
        cut_back_to(20)
        fill(app_url, 5, 5)
        started = LastSigned(signer.verifier)
        started.recall(signer.verifier, place)
        with pytest.raises(SetupError, match="does not continue"):
            Sealer(connection, signer, started).seal_all()


def test_a_state_behind_the_tree_is_what_a_killed_sealer_leaves(
    app_url: str, sealer_url: str, signer: Signer, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with connect(sealer_url) as connection:
        for rows in (7, 9, 30):  # the state of the first stays: what came then was committed and not noted
            fill(app_url, rows, 0)
            assert Sealer(connection, signer, LastSigned(signer.verifier, state)).seal_all() == rows
            if rows == 7:
                first = state.read_text()
            state.write_text(first)
    state.write_text(first.replace("\n7\n", "\n8\n"))
    with pytest.raises(SetupError, match="SEAL_STATE_FILE"):
        LastSigned(signer.verifier, state)
    with pytest.raises(SetupError, match="SEAL_STATE_FILE"):
        LastSigned(signer.verifier, tmp_path / "none" / "state")


def test_a_forged_checkpoint_is_not_anchored(
    app_url: str, sealer_url: str, sealer: Sealer, signer: Signer, tmp_path: Path
) -> None:
    fill(app_url, 3, 3)
    sealer.seal_all()
    with connect(sealer_url) as connection:
        connection.execute(
            "INSERT INTO audit_checkpoints (tree_size, root_hash, note, horizon) VALUES (99, '', 'x', 1)"
        )
        with pytest.raises(BadNote):
            anchor_newest(connection, DirectoryAnchor(tmp_path), signer.verifier)
    assert list(tmp_path.glob("*.checkpoint")) == []


def test_a_row_is_of_the_time_in_its_id(app_url: str, sealer: Sealer) -> None:
    for table, made in (("ml_predictions", prediction()), ("audit_events", event())):
        for at in ("infinity", "-infinity", "0044-03-15 BC", made["created_at"] + timedelta(milliseconds=1)):
            with psycopg.connect(app_url) as connection, pytest.raises(psycopg.errors.CheckViolation):
                insert(connection, table, [{**made, "created_at": at}])
        for at in (datetime(2019, 12, 31, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)):
            with psycopg.connect(app_url) as connection, pytest.raises(psycopg.errors.CheckViolation):
                insert(connection, table, [{**made, "created_at": at, "id": id_of(at)}])
    assert sealer.seal_all() == 0


def test_two_rows_with_one_id_do_not_stop_sealing(
    app_url: str, postgres: EmbeddedPostgres, database_url: str, sealer: Sealer, auditor: Engine, signer: Signer
) -> None:
    one = event()
    with psycopg.connect(postgres.url("postgres", name_of(database_url))) as superuser:
        superuser.execute("ALTER TABLE audit_events DROP CONSTRAINT ck_audit_events_time_of_id")
        insert(superuser, "audit_events", [one, {**one, "created_at": one["created_at"] + timedelta(seconds=1)}])
    assert sealer.seal_all() == 2
    assert verified(auditor, signer).findings == []


def test_a_long_transaction_is_no_insertion(app_url: str, sealer: Sealer, auditor: Engine, signer: Signer) -> None:
    """Its rows are older than the last checkpoint; its number tells that they could not be sealed yet."""
    fill(app_url, 3, 3)
    sealer.seal_all()
    with psycopg.connect(app_url) as slow:
        insert(slow, "ml_predictions", [prediction(created_at=long_ago(minutes=30))])
        fill(app_url, 5, 5)
        assert sealer.seal_all() == 0
    report = verified(auditor, signer)
    assert (report.findings, report.not_sealed_yet) == ([], 11)
    assert sealer.seal_all() == 11


def test_a_row_that_hides_in_the_future_is_found(
    app_url: str, postgres: EmbeddedPostgres, database_url: str, sealer: Sealer, auditor: Engine, signer: Signer
) -> None:
    fill(app_url, 3, 3)
    sealer.seal_all()
    with psycopg.connect(postgres.url("postgres", name_of(database_url))) as superuser:
        superuser.execute("SET session_replication_role = replica")
        for xid in (10**9, 2**64 - 1):
            hidden = event()
            insert(superuser, "audit_events", [hidden])
            superuser.execute("UPDATE audit_events SET xid = %s::text::xid8 WHERE id = %s", (str(xid), hidden["id"]))
        insert(superuser, "ml_predictions", [prediction(created_at=datetime(2099, 1, 1, tzinfo=UTC))])
    messages = [finding.message.rpartition(": ")[2] for finding in verified(auditor, signer).findings]
    assert sorted(messages) == ["of a time that is still to come"] + 2 * ["of a transaction that there was not yet"]
