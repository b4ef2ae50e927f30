"""S10: six years, legal holds, and archives that are verified before anything is dropped."""

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
from tests.trail_rows import fill, insert, make_signer, prediction

OLD = "ml_predictions_201903"
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
    """Rows of March 2019 and of today, sealed; seals again at each call."""
    name = database_url.rpartition("/")[2].partition("?")[0]
    with psycopg.connect(database_url) as connection:
        connection.execute(
            f"CREATE TABLE {OLD} PARTITION OF ml_predictions FOR VALUES FROM ('2019-03-01Z') TO ('2019-04-01Z')"
        )
    app = postgres.url("followup_app", name)
    with psycopg.connect(app) as connection:
        rows = [prediction(created_at=datetime(2019, 3, 5, 12, n, tzinfo=UTC), patient_id="old") for n in range(30)]
        insert(connection, "ml_predictions", rows)
    fill(app, 20, 20)
    with connect(postgres.url("followup_sealer", name)) as connection:
        sealer = Sealer(connection, signer)
        assert sealer.seal_all() == 70
        yield sealer.seal_all


def tables(engine: Engine) -> bool:
    with engine.connect() as connection:
        return connection.exec_driver_sql(f"SELECT to_regclass('{OLD}')").scalar() is not None


def run(engine: Engine, folder: Path, **changes: Any) -> Any:
    options: dict[str, Any] = {"seal": seal, "unseal": unseal, "by": "keeper", "before": "2019-04", **changes}
    return list(archive(engine, folder=folder, **options))


def test_a_due_month_is_archived_and_the_trail_still_verifies(
    engine: Engine, sealed: Callable[[], int], signer: Signer, tmp_path: Path
) -> None:
    (done,) = run(engine, tmp_path)
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


def test_nothing_is_archived_before_its_time(engine: Engine, sealed: Callable[[], int], tmp_path: Path) -> None:
    now = datetime.now(UTC)
    for before in (f"{now:%Y-%m}", f"{now.year - 6}-12", "2019-13", "yesterday"):
        with pytest.raises(SetupError):
            run(engine, tmp_path, before=before)
    with pytest.raises(SetupError, match="6 years"):
        run(engine, tmp_path, now=datetime(2025, 3, 31, tzinfo=UTC))
    assert tables(engine)
    assert list(tmp_path.glob("*.archive")) == []


@pytest.mark.parametrize("patient", ["old", None])
def test_a_legal_hold_keeps_a_month(
    engine: Engine, sealed: Callable[[], int], tmp_path: Path, patient: str | None
) -> None:
    with engine.begin() as connection:
        place_hold(connection, patient, "a lawsuit", by="counsel")
        place_hold(connection, "somebody else", "another", by="counsel")
    with pytest.raises(SetupError, match="legal hold"):
        run(engine, tmp_path)
    assert tables(engine)
    with engine.begin() as connection:
        assert release_holds(connection, patient, by="counsel") == 1
        assert release_holds(connection, patient, by="counsel") == 0
    assert len(run(engine, tmp_path)) == 1
    assert sealed() == 4  # two holds placed, one released, one archive: all in the trail


def test_what_is_not_as_it_was_sealed_is_not_dropped(
    engine: Engine, sealed: Callable[[], int], tmp_path: Path, postgres: EmbeddedPostgres, database_url: str
) -> None:
    with pytest.raises(SetupError, match="read back"):
        run(engine, tmp_path, unseal=lambda piece: unseal(piece).replace(b'"patient_id":"old"', b'"patient_id":"new"'))
    name = database_url.rpartition("/")[2].partition("?")[0]
    with psycopg.connect(postgres.url("postgres", name)) as superuser:
        superuser.execute("SET session_replication_role = replica")
        superuser.execute(f"UPDATE {OLD} SET principal = 'x' WHERE id = (SELECT id FROM {OLD} LIMIT 1)")
    with pytest.raises(SetupError, match="not what was sealed"):
        run(engine, tmp_path)
    assert tables(engine)
    assert list(tmp_path.glob("*.archive")) == []
