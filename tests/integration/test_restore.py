"""A backup is restored: the sealer goes on from a signed statement of what was lost, and from nothing else."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from access.dev_issuer import CLIENT_ID, ISSUER, DevIssuer
from audit import verify
from audit.anchor import DirectoryAnchor, anchor_newest
from audit.checkpoint import Checkpoint, Signer
from audit.export import encode, export
from audit.key_encryption import new_root_key
from audit.last_signed import LastSigned
from audit.record import Caller, Event, new_id
from audit.restoration import RESTORED, Restoration, put_on_record, state
from audit.sealing import Sealer, connect, seal_lag
from database.engine import libpq_url, open_engine
from embedded.postgres import EmbeddedPostgres, find_binaries
from errors import SetupError
from tests.trail_rows import event, fill, insert, make_signer

ROOT = Path(__file__).resolve().parents[2]
Forge = Callable[["House", Restoration], str]


@dataclass
class House:
    """One database with its sealer's key, state file and anchors."""

    postgres: EmbeddedPostgres
    database: str
    signer: Signer
    folder: Path

    def url(self, role: str) -> str:
        return libpq_url(self.postgres.url(role, self.database))

    @property
    def place(self) -> DirectoryAnchor:
        (self.folder / "anchors").mkdir(exist_ok=True)
        return DirectoryAnchor(self.folder / "anchors")

    def last(self, *, with_state: bool = True, with_anchors: bool = True) -> LastSigned:
        """What a sealer that is started knows."""
        last = LastSigned(self.signer.verifier, self.folder / "state" if with_state else None)
        if with_anchors:
            last.recall(self.signer.verifier, self.place)
        return last

    def fill(self, rows: int) -> None:
        fill(self.url("followup_app"), rows, rows)

    def seal(self, last: LastSigned | None = None, *, anchored: bool = False) -> int:
        with connect(self.url("followup_sealer")) as connection:
            sealed = Sealer(connection, self.signer, last or self.last()).seal_all()
            if anchored:
                assert anchor_newest(connection, self.place, self.signer.verifier)
        return sealed

    def statement(self, last: LastSigned | None = None, reason: str = "the disk broke") -> Restoration:
        with psycopg.connect(self.url("followup")) as connection:
            known = last or self.last()
            now = datetime.now(UTC)
            return state(connection, self.signer.verifier, known, by="ann", reason=reason, now=now)

    def put(self, target: str) -> None:
        """As the owner of the tables, who may write any event."""
        engine = open_engine(self.postgres.url("followup", self.database))
        caller = Caller(
            principal="ann",
            roles="admin",
            client_id="c",
            purpose_of_use="HSYSADMIN",
            request_id=uuid.uuid4(),
            route="followup on a host",
            ip_address=None,
            user_agent=None,
        )
        said = Event(
            id=new_id(),
            caller=caller,
            action=RESTORED,
            status=200,
            outcome="success",
            patients=(),
            target=target,
            latency_ms=0.0,
        )
        with engine.begin() as connection:
            put_on_record(connection, said)
        engine.dispose()

    def lines(self) -> list[bytes]:
        engine = open_engine(self.postgres.url("followup_auditor", self.database))

        def read(work: Any) -> Any:
            with engine.connect() as connection:
                return work(connection)

        lines = [encode(line) for line in export(read, None)]
        engine.dispose()
        return lines

    def report(self) -> verify.Report:
        return verify.verify(self.lines(), str(self.signer.verifier), verify.read_anchors(self.folder / "anchors"))

    def copy(self) -> "House":
        """Its files as they are, under another name in the same cluster."""
        name = f"copy_{uuid.uuid4().hex}"
        with psycopg.connect(libpq_url(self.postgres.url("postgres", "postgres")), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {self.database} OWNER followup".encode())
        return replace(self, database=name)


@pytest.fixture
def house(postgres: EmbeddedPostgres, database_url: str, tmp_path: Path) -> House:
    """With twenty sealed rows, ten of them anchored."""
    name = database_url.rpartition("/")[2].partition("?")[0]
    house = House(postgres, name, make_signer(tmp_path), tmp_path)
    house.fill(5)
    assert house.seal(anchored=True) == 10
    house.fill(5)
    assert house.seal() == 10
    return house


@pytest.fixture
def restored(house: House) -> House:
    """Rows were sealed and anchored after the backup was taken, which holds six that were not sealed yet."""
    house.fill(3)
    backup = house.copy()
    assert house.seal(anchored=True) == 6
    house.fill(4)
    assert house.seal(anchored=True) == 8
    house.fill(2)
    assert house.seal() == 4
    return backup


@pytest.fixture(scope="module")
def other_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path_factory.mktemp("other"))
    server.start()
    yield server
    server.stop()


def dumped(house: House, to: EmbeddedPostgres, burn: int) -> House:
    """Through pg_dump and pg_restore into a cluster with fewer transactions behind it."""
    name = f"restored_{uuid.uuid4().hex}"
    to.create_database(name)
    into = replace(house, postgres=to, database=name)
    file = house.folder / f"{name}.dump"
    for program, arguments, url in (
        ("pg_dump", ["-Fc", "-f", str(file), "-d"], house.url("postgres")),
        ("pg_restore", [str(file), "--exit-on-error", "-d"], into.url("postgres")),
    ):
        done = subprocess.run([find_binaries() / program, *arguments, url], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    with psycopg.connect(into.url("postgres"), autocommit=True) as connection:
        for _ in range(burn):
            connection.execute("SELECT pg_current_xact_id()")
    return into


def test_nothing_is_signed_after_a_restore_before_somebody_says_so(restored: House) -> None:
    restored.fill(2)
    for last in (restored.last(), restored.last(with_state=False), restored.last(with_anchors=False)):
        with pytest.raises(SetupError, match="does not continue"):
            restored.seal(last)


@pytest.mark.requirement("S6")
def test_the_sealer_goes_on_from_a_signed_statement_and_says_what_was_lost(restored: House) -> None:
    restored.fill(2)  # the server was up before anybody said so
    said = restored.statement()
    assert (said.signed_last.size, said.size) == (38, 20)
    restored.put(said.signed(restored.signer))
    assert restored.seal(anchored=True) == 6 + 4 + 1
    restored.fill(20)
    assert restored.seal(anchored=True) == 40
    report = restored.report()
    assert report.findings == []
    assert (report.leaves, report.not_sealed_yet, report.anchors, report.anchors_lost) == (71, 0, 3, 2)
    assert [(one.leaf, one.leaves_lost, one.by, one.reason) for one in report.restored] == [
        (20, 18, "ann", "the disk broke")
    ]
    assert report.code(key_was_given=True) == verify.HOLDS
    said_so = verify.show(report, key_was_given=True)
    assert "restored from a backup at leaf 20" in said_so
    assert "18 sealed records lost (the disk broke)" in said_so
    for last in (restored.last(), restored.last(with_state=False), restored.last(with_anchors=False)):
        restored.fill(1)
        assert restored.seal(last) == 2
    with connect(restored.url("followup_sealer")) as connection:
        assert seal_lag(connection) == 0


@pytest.mark.requirement("S6")
@pytest.mark.timeout(120)
def test_a_restore_into_a_cluster_with_fewer_transactions(house: House, other_cluster: EmbeddedPostgres) -> None:
    """Restored rows have numbers that the new cluster reaches later; none is sealed twice and none left out."""
    with psycopg.connect(house.url("postgres"), autocommit=True) as connection:
        while connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone() < (6000,):
            pass
    house.fill(3)
    house.seal(anchored=True)
    house.fill(4)  # in the backup, and not sealed
    restored = dumped(house, other_cluster, burn=0)
    house.seal(anchored=True)
    restored.fill(2)
    with pytest.raises(SetupError):
        restored.seal()
    with pytest.raises(SetupError, match="another cluster"):
        restored.seal(LastSigned(restored.signer.verifier))
    restored.put(restored.statement().signed(restored.signer))
    assert restored.seal(anchored=True) == 8 + 4 + 1
    with psycopg.connect(restored.url("postgres"), autocommit=True) as connection:
        horizons = [h for (h,) in connection.execute("SELECT horizon FROM audit_checkpoints ORDER BY tree_size")]
        assert horizons[-1] < horizons[-2]
        restored.fill(3)
        assert restored.seal() == 6
        while connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone() < (7000,):
            pass  # past the numbers of all that was restored
        assert restored.seal() == 0
        restored.fill(3)
        assert restored.seal(anchored=True) == 6
        unsealed = (
            "SELECT count(*) FROM (SELECT id FROM ml_predictions UNION ALL SELECT id FROM audit_events) AS r"
            " WHERE NOT EXISTS (SELECT FROM audit_leaves WHERE row_id = r.id)"
        )
        assert connection.execute(unsealed).fetchone() == (0,)
        assert seal_lag(connection) == 0
    report = restored.report()
    assert (report.findings, report.leaves, report.not_sealed_yet) == ([], 26 + 13 + 12, 0)
    assert [one.leaves_lost for one in report.restored] == [8]
    restored.fill(1)
    assert restored.report().not_sealed_yet == 2


def test_a_whole_copy_in_a_new_cluster_lost_nothing_and_says_so(house: House, other_cluster: EmbeddedPostgres) -> None:
    with psycopg.connect(house.url("postgres"), autocommit=True) as connection:
        while connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone() < (20_000,):
            pass
    house.fill(1)
    house.seal()
    moved = dumped(house, other_cluster, burn=0)
    moved.fill(2)
    with pytest.raises(SetupError, match="another cluster"):
        moved.seal()
    moved.put(moved.statement().signed(moved.signer))
    assert moved.seal() == 5
    report = moved.report()
    assert (report.findings, [one.leaves_lost for one in report.restored]) == ([], [0])


def another_key(house: House, said: Restoration) -> str:
    return said.signed(make_signer(house.folder))


def unsigned(_house: House, said: Restoration) -> str:
    return json.dumps({"statement": said.document})


def changed_after_signing(house: House, said: Restoration) -> str:
    return said.signed(house.signer).replace("the disk broke", "nothing broke.")


def of_another_size(house: House, said: Restoration) -> str:
    return replace(said, size=said.size - 1).signed(house.signer)


def of_another_root(house: House, said: Restoration) -> str:
    return replace(said, root=bytes(32)).signed(house.signer)


def from_less_than_was_signed(house: House, said: Restoration) -> str:
    last = replace(said.signed_last, size=said.signed_last.size - 1)
    return replace(said, signed_last=last).signed(house.signer)


def from_more_than_was_signed(house: House, said: Restoration) -> str:
    last = replace(said.signed_last, size=said.signed_last.size + 1)
    return replace(said, signed_last=last).signed(house.signer)


def from_another_root(house: House, said: Restoration) -> str:
    return replace(said, signed_last=replace(said.signed_last, root=bytes(32))).signed(house.signer)


def of_another_log(house: House, said: Restoration) -> str:
    return replace(said, origin="another-log").signed(house.signer)


FORGERIES: list[Forge] = [
    another_key,
    unsigned,
    changed_after_signing,
    of_another_size,
    of_another_root,
    from_less_than_was_signed,
    from_more_than_was_signed,
    from_another_root,
    of_another_log,
    lambda _house, _said: "",
    lambda _house, _said: "[" * 10_000,
    lambda _house, _said: '{"statement": {}, "signature": 5}',
]


@pytest.mark.requirement("S6")
@pytest.mark.parametrize("forge", FORGERIES)
def test_the_sealer_goes_on_from_no_other_statement_and_the_verifier_takes_none(restored: House, forge: Forge) -> None:
    restored.put(forge(restored, restored.statement()))
    for last in (restored.last(), restored.last(with_anchors=False), restored.last(with_state=False)):
        with pytest.raises(SetupError):
            restored.seal(last)
    # A sealer that knows nothing believes the database, as it says; whoever reads the export is told.
    (restored.folder / "state").unlink()
    if forge not in {from_less_than_was_signed, from_more_than_was_signed, from_another_root}:
        assert restored.seal(LastSigned(restored.signer.verifier)) == 7
        kinds = {finding.kind for finding in restored.report().findings}
        assert kinds == {"restore", "truncated"}
    else:
        with pytest.raises(SetupError, match="not from what was signed last"):
            restored.seal(LastSigned(restored.signer.verifier))


@pytest.mark.requirement("S6")
def test_a_second_restore_with_the_first_statement_is_refused(restored: House) -> None:
    again = restored.copy()
    target = restored.statement().signed(restored.signer)
    restored.put(target)
    assert restored.seal(anchored=True) == 7
    restored.fill(30)
    assert restored.seal(anchored=True) == 60
    again.put(target)
    for last in (again.last(), again.last(with_state=False), again.last(with_anchors=False)):
        with pytest.raises(SetupError):
            again.seal(last)
    late = restored.copy()
    late.put(target)  # once more, in the tree that goes on
    assert late.seal() == 1
    assert [finding.kind for finding in late.report().findings] == ["restore"]


@pytest.mark.parametrize("knows", [{}, {"with_state": False}, {"with_anchors": False}])
def test_a_second_restore_with_its_own_statement_goes_on(restored: House, knows: dict[str, bool]) -> None:
    """To before the first: what was lost then is lost now too, and its anchors are explained."""
    again = restored.copy()
    restored.put(restored.statement().signed(restored.signer))
    assert restored.seal(anchored=True) == 7
    said = again.statement()
    assert (said.signed_last.size, [lost.size for lost in said.also_lost]) == (27, [34])
    again.put(said.signed(again.signer))
    assert again.seal(again.last(**knows)) == 7
    again.fill(20)
    assert again.seal(again.last(**knows), anchored=True) == 40
    report = again.report()
    assert (report.findings, report.anchors_lost, report.anchors) == ([], 3, 2)


def test_a_restore_to_after_an_earlier_one_has_both_in_its_tree(restored: House) -> None:
    restored.put(restored.statement().signed(restored.signer))
    assert restored.seal(anchored=True) == 7
    again = restored.copy()
    restored.fill(6)
    assert restored.seal(anchored=True) == 12
    again.put(again.statement().signed(again.signer))
    assert again.seal() == 1
    again.fill(1)
    assert again.seal(again.last(with_state=False)) == 2
    report = again.report()
    assert (report.findings, [one.leaf for one in report.restored]) == ([], [20, 27])


def test_there_is_nothing_to_state_where_nothing_was_restored(house: House, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="nothing is to be stated"):
        house.statement()
    house.fill(2)
    with pytest.raises(SetupError, match="nothing is to be stated"):
        house.statement()
    with pytest.raises(SetupError, match="Neither SEAL_STATE_FILE nor AUDIT_ANCHOR"):
        house.statement(LastSigned(house.signer.verifier))
    with pytest.raises(SetupError, match="Say why"):
        house.statement(reason="  ")
    with psycopg.connect(house.url("followup_sealer")) as sealer:
        sealer.execute("SELECT id FROM sealing_turn FOR UPDATE")
        with pytest.raises(SetupError, match="at work"):
            house.statement()


@pytest.mark.requirement("S6")
def test_an_anchor_that_contradicts_the_statement_is_found(restored: House) -> None:
    said = restored.statement()
    restored.put(said.signed(restored.signer))
    restored.seal()
    lines, key = restored.lines(), str(restored.signer.verifier)
    last = said.signed_last

    def looked_at(**anchors: Checkpoint) -> list[str]:
        notes = {name: restored.signer.sign(anchor.body) for name, anchor in anchors.items()}
        return [finding.kind for finding in verify.verify(lines, key, notes).findings]

    between = replace(last, size=30, root=bytes(32), time=last.time - timedelta(microseconds=5), horizon=last.horizon)
    assert looked_at(exact=last, between=between) == []
    assert looked_at(other=replace(last, root=bytes(32))) == ["truncated"]
    assert looked_at(later=replace(between, time=last.time + timedelta(microseconds=1))) == ["truncated"]
    assert looked_at(further=replace(between, horizon=last.horizon + 1)) == ["truncated"]
    assert looked_at(one=between, two=replace(between, root=b"\1" * 32)) == ["anchor"]
    smaller = replace(between, size=29, time=between.time + timedelta(microseconds=2))
    assert looked_at(one=between, two=smaller) == ["anchor"]
    assert looked_at(before=replace(between, size=20)) == ["anchor"]
    assert looked_at(larger=replace(between, size=last.size + 1)) == ["truncated"]


@pytest.mark.requirement("S6")
def test_only_the_next_checkpoint_may_go_back_and_no_further_than_was_said(restored: House) -> None:
    """A horizon that goes back later, or further, would let rows of old transactions in."""
    said = restored.statement()
    restored.put(said.signed(restored.signer))
    restored.seal()
    restored.fill(1)
    restored.seal()
    documents = [json.loads(line) for line in restored.lines()]
    places = [number for number, line in enumerate(documents) if line["kind"] == "checkpoint"]
    key = str(restored.signer.verifier)

    def with_horizon(number: int, horizon: int) -> list[str]:
        note = documents[number]["note"]
        checkpoint = restored.signer.verifier.checkpoint(note)
        forged = [*documents]
        forged[number] = {**documents[number], "note": restored.signer.sign(replace(checkpoint, horizon=horizon).body)}
        return [finding.kind for finding in verify.verify(map(encode, forged), key).findings]

    assert with_horizon(places[-2], said.xid) == []
    assert with_horizon(places[-2], said.xid - 1) == ["checkpoint"]
    assert with_horizon(places[-1], said.xid - 1) == ["checkpoint"]


def test_an_event_of_that_name_without_the_seal_key_explains_nothing(house: House) -> None:
    pretended = event(action=RESTORED, outcome="success", target="{}")
    with psycopg.connect(house.url("followup_app")) as server, pytest.raises(psycopg.errors.InsufficientPrivilege):
        insert(server, "audit_events", [pretended])
    with psycopg.connect(house.url("followup")) as owner:
        insert(owner, "audit_events", [pretended])
    with psycopg.connect(house.url("followup_app")) as server, pytest.raises(psycopg.errors.InsufficientPrivilege):
        server.execute("INSERT INTO audit_restorations VALUES (now(), gen_random_uuid())")
    assert house.seal() == 1
    assert [finding.kind for finding in house.report().findings] == ["restore"]


def test_an_administrator_or_auditor_says_so_by_command(restored: House, issuer: DevIssuer) -> None:
    key_file = next(restored.folder.glob("*.pem"))
    environment = {
        **os.environ,
        "DATABASE_URL": restored.postgres.url("followup", restored.database),
        "SEALER_DATABASE_URL": restored.postgres.url("followup_sealer", restored.database),
        "SEAL_KEY_FILE": str(key_file),
        "SEAL_STATE_FILE": str(restored.folder / "state"),
        "AUDIT_ANCHOR": f"dir:{restored.folder / 'anchors'}",
        "AUDIT_ORIGIN": restored.signer.verifier.name,
        "ENCRYPTION_KEY": new_root_key(),
        "COGNITO_ISSUER": ISSUER,
        "COGNITO_CLIENT_IDS": CLIENT_ID,
        "COGNITO_JWKS_FILE": str(issuer.jwks_file),
    }

    def followup(role: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment["FOLLOWUP_TOKEN"] = issuer.token([role], "ann")
        command = [sys.executable, "-m", "cli", "audit", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    refused = followup("clinician", "restored", "--reason", "the disk broke")
    assert (refused.returncode, "admin or auditor" in refused.stderr) == (1, True)
    assert followup("auditor", "restored", "--reason", "").returncode == 1
    done = followup("auditor", "restored", "--reason", "the disk broke")
    assert (done.returncode, done.stderr) == (0, "")
    assert "20 sealed records restored, 18 lost" in done.stdout
    assert restored.seal() == 7
    assert restored.report().findings == []
    again = followup("auditor", "restored", "--reason", "the disk broke")
    assert (again.returncode, "nothing is to be stated" in again.stderr) == (1, True)
