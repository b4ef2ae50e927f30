"""S10: six years, legal holds, and archives that are verified before anything is dropped."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine

from audit import verify
from audit.checkpoint import Signer
from audit.envelope import Envelope
from audit.export import encode, export
from audit.retention import archive, place_hold, read_archive, release_holds
from audit.sealing import Sealer, connect
from embedded.postgres import EmbeddedPostgres
from errors import InternalFault, SetupError
from tests.trail_rows import event, fill, insert, make_signer, prediction

OLD = "ml_predictions_202001"
OLD_EVENTS = "audit_events_202001"
ENVELOPE = Envelope(bytes(32), "archives")


def seal(plain: bytes) -> bytes:
    return ENVELOPE.seal(plain, "archive")


def unseal(sealed: bytes) -> bytes:
    return ENVELOPE.open(sealed, "archive")


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return make_signer(tmp_path)


@pytest.fixture
def sealed(
    postgres: EmbeddedPostgres, engine: Engine, database_url: str, signer: Signer
) -> Iterator[Callable[[], int]]:
    """Rows of January 2020, sealed then, and of today; seals again at each call."""
    name = database_url.rpartition("/")[2].partition("?")[0]
    make_old_month(database_url, "ml_predictions")
    app = postgres.url("followup_app", name)
    with psycopg.connect(app) as connection:
        rows = [prediction(created_at=datetime(2020, 1, 5, 12, n, tzinfo=UTC), patient_id="old") for n in range(30)]
        insert(connection, "ml_predictions", rows)
    with connect(postgres.url("followup_sealer", name)) as connection:
        assert Sealer(connection, signer, clock=lambda: datetime(2020, 1, 5, 13, tzinfo=UTC)).seal_all() == 30
        fill(app, 20, 20)
        sealer = Sealer(connection, signer)
        assert sealer.seal_all() == 40
        yield sealer.seal_all


def make_old_month(database_url: str, table: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(
            f"CREATE TABLE {table}_202001 PARTITION OF {table} FOR VALUES FROM ('2020-01-01Z') TO ('2020-02-01Z')"
        )


def tables(engine: Engine) -> bool:
    with engine.connect() as connection:
        return connection.exec_driver_sql(f"SELECT to_regclass('{OLD}')").scalar() is not None


def run(engine: Engine, folder: Path, signer: Signer, **changes: Any) -> Any:
    options: dict[str, Any] = {
        "signer": signer,
        "seal": seal,
        "unseal": unseal,
        "by": "keeper",
        "before": "2020-02",
        **changes,
    }
    return list(archive(engine, folder=folder, **options))


def test_a_due_month_is_archived_and_the_trail_still_verifies(
    engine: Engine, sealed: Callable[[], int], signer: Signer, tmp_path: Path
) -> None:
    (done,) = run(engine, tmp_path, signer)
    assert (done.partition, done.rows) == (OLD, 30)
    assert not tables(engine)
    assert b"clinical_ner" not in done.file.read_bytes()
    lines = list(read_archive(done.file, unseal))
    assert len(lines) == 32
    assert sealed() == 1  # the event that says so

    def read(work: Any) -> Any:
        with engine.connect() as connection:
            return work(connection)

    exported = [encode(line) for line in export(read, None)]
    report = verify.verify(exported, str(signer.verifier))
    assert (report.findings, report.archived, report.leaves) == ([], 30, 71)
    forged = [line.replace(b"archive partition", b"something else...") for line in exported]
    assert len(verify.verify(forged, str(signer.verifier)).findings) == 31  # 30 deleted rows and the changed event
    with pytest.raises(InternalFault):
        done.file.chmod(0o600)
        done.file.write_bytes(done.file.read_bytes()[:-1] + b"x")
        list(read_archive(done.file, unseal))


def test_nothing_is_archived_before_its_time(
    engine: Engine, sealed: Callable[[], int], signer: Signer, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    for before in (f"{now:%Y-%m}", f"{now.year - 6}-12", "2019-13", "yesterday"):
        with pytest.raises(SetupError):
            run(engine, tmp_path, signer, before=before)
    with pytest.raises(SetupError, match="6 years"):
        run(engine, tmp_path, signer, now=datetime(2026, 1, 31, tzinfo=UTC))
    assert tables(engine)
    assert list(tmp_path.glob("*.archive")) == []


@pytest.mark.parametrize("patient", ["old", None])
def test_a_legal_hold_keeps_a_month(
    engine: Engine, sealed: Callable[[], int], signer: Signer, tmp_path: Path, patient: str | None
) -> None:
    with engine.begin() as connection:
        place_hold(connection, patient, "a lawsuit", by="counsel")
        place_hold(connection, "somebody else", "another", by="counsel")
    with pytest.raises(SetupError, match="legal hold"):
        run(engine, tmp_path, signer)
    assert tables(engine)
    with engine.begin() as connection:
        assert release_holds(connection, patient, by="counsel") == 1
        assert release_holds(connection, patient, by="counsel") == 0
    assert len(run(engine, tmp_path, signer)) == 1
    assert sealed() == 4  # two holds placed, one released, one archive: all in the trail


def test_what_is_not_as_it_was_sealed_is_not_dropped(
    engine: Engine,
    sealed: Callable[[], int],
    signer: Signer,
    tmp_path: Path,
    postgres: EmbeddedPostgres,
    database_url: str,
) -> None:
    with pytest.raises(SetupError, match="read back"):
        run(
            engine,
            tmp_path,
            signer,
            unseal=lambda piece: unseal(piece).replace(b'"patient_id":"old"', b'"patient_id":"new"'),
        )
    name = database_url.rpartition("/")[2].partition("?")[0]
    with psycopg.connect(postgres.url("postgres", name)) as superuser:
        superuser.execute("SET session_replication_role = replica")
        superuser.execute(f"UPDATE {OLD} SET principal = 'x' WHERE id = (SELECT id FROM {OLD} LIMIT 1)")
    with pytest.raises(SetupError, match="not what was sealed"):
        run(engine, tmp_path, signer)
    assert tables(engine)
    assert list(tmp_path.glob("*archive*")) == []


def verified(engine: Engine, signer: Signer) -> verify.Report:
    with engine.connect() as connection:
        return verify.verify(map(encode, export(lambda work: work(connection), None)), str(signer.verifier))


def as_superuser(postgres: EmbeddedPostgres, database_url: str, *statements: str) -> None:
    name = database_url.rpartition("/")[2].partition("?")[0]
    with psycopg.connect(postgres.url("postgres", name)) as superuser:
        superuser.execute("SET session_replication_role = replica")
        for statement in statements:
            superuser.execute(statement)


def archive_event(**changes: Any) -> dict[str, Any]:
    return event(action="archive partition", outcome="success", patient_id=None, patients=None, **changes)


def test_an_event_of_the_database_administrator_explains_no_loss(
    engine: Engine,
    sealed: Callable[[], int],
    signer: Signer,
    tmp_path: Path,
    postgres: EmbeddedPostgres,
    database_url: str,
) -> None:
    """The attack: a bogus event that the honest sealer seals, a leaf dated back, any record gone."""
    run(engine, tmp_path, signer)
    sealed()
    with engine.connect() as connection:
        (true,) = connection.exec_driver_sql("SELECT target FROM audit_events WHERE action = 'archive partition'").one()
    said = json.loads(true)
    more = {**said, "statement": {**said["statement"], "rows": 40, "leaves": [0, 40]}}
    stranger = make_signer(tmp_path)
    text = verify.canonical(more["statement"])
    forged = {"statement": more["statement"], "signature": stranger.signature(f"{verify.ARCHIVE_FORMAT}\n{text}")}
    for bogus in ("ml_predictions_202001", json.dumps(more), json.dumps(forged), true):
        with psycopg.connect(database_url) as owner:
            insert(owner, "audit_events", [archive_event(target=bogus)])
    assert sealed() == 4
    report = verified(engine, signer)
    assert [finding.kind for finding in report.findings] == ["archive"] * 3  # the true one again says nothing new
    as_superuser(
        postgres,
        database_url,
        "UPDATE audit_leaves SET created_at = '2020-01-05Z' WHERE leaf_index = 31",
        "DELETE FROM ml_predictions WHERE id = (SELECT row_id FROM audit_leaves WHERE leaf_index = 31)",
        "DELETE FROM audit_events WHERE id = (SELECT row_id FROM audit_leaves WHERE leaf_index = 31)",
    )
    report = verified(engine, signer)
    assert [(f.kind, f.leaf) for f in report.findings if f.kind == "deleted row"] == [("deleted row", 31)]
    assert report.archived == 30


def test_the_seal_key_itself_does_not_archive_what_was_sealed_lately(
    engine: Engine,
    sealed: Callable[[], int],
    signer: Signer,
    tmp_path: Path,
    postgres: EmbeddedPostgres,
    database_url: str,
) -> None:
    name = database_url.rpartition("/")[2].partition("?")[0]
    late = [prediction(created_at=datetime(2020, 1, 9, tzinfo=UTC))]
    with psycopg.connect(postgres.url("followup_app", name)) as connection:
        insert(connection, "ml_predictions", late)
    assert sealed() == 1
    with pytest.raises(SetupError, match="less than 6 years"):
        run(engine, tmp_path, signer)
    assert tables(engine)
    with pytest.raises(SetupError, match="signed with SEAL_KEY_FILE"):
        run(engine, tmp_path, make_signer(tmp_path))
    statement = {"origin": "followup-test", "rows": 1, "leaves": [70, 1], "time": f"{datetime.now(UTC):%FT%T.%fZ}"}
    text = verify.canonical(statement)
    signature = signer.signature(f"{verify.ARCHIVE_FORMAT}\n{text}")
    with psycopg.connect(database_url) as owner:
        target = verify.canonical({"signature": signature, "statement": statement})
        insert(owner, "audit_events", [archive_event(target=target)])
    assert sealed() == 1
    as_superuser(postgres, database_url, f"DELETE FROM {OLD} WHERE created_at = '2020-01-09Z'")
    (finding,) = verified(engine, signer).findings
    assert (finding.kind, finding.leaf) == ("archive", 70)
    assert "before its time" in finding.message


def test_a_hold_keeps_what_only_names_the_patient_among_others(
    engine: Engine, sealed: Callable[[], int], signer: Signer, tmp_path: Path, database_url: str
) -> None:
    make_old_month(database_url, "audit_events")
    at = datetime(2020, 1, 9, tzinfo=UTC)
    with psycopg.connect(database_url) as owner:
        insert(owner, "audit_events", [event(created_at=at, patient_id=None, patients=["another", "held"])])
    with engine.begin() as connection:
        place_hold(connection, "held", "a lawsuit", by="counsel")
    with pytest.raises(SetupError, match=f"{OLD_EVENTS} is under a legal hold"):
        run(engine, tmp_path, signer)


def test_a_table_that_is_always_in_use_is_left_and_the_archive_removed(
    engine: Engine, sealed: Callable[[], int], signer: Signer, tmp_path: Path, database_url: str
) -> None:
    with psycopg.connect(database_url) as reader:
        reader.execute("SELECT count(*) FROM ml_predictions")  # its lock stays until the transaction ends
        with pytest.raises(SetupError, match="others use the table"):
            run(engine, tmp_path, signer)
        assert tables(engine)
        assert (
            list(tmp_path.glob("*archive*")) + list(tmp_path.glob(".*archive*")) + list(tmp_path.glob(".*part")) == []
        )
    assert len(run(engine, tmp_path, signer)) == 1
