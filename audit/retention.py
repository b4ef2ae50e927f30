"""Six years of retention (45 CFR 164.316(b)(2)), and what stands against erasing earlier or at all: legal holds.

A month that is due is written to an encrypted archive, read back and verified, and only then dropped. Its leaves stay,
so that every proof stays valid; an event in the trail says that it was archived, which is why a verifier does not take
its rows for deleted. That event carries a statement signed with the seal key, because whoever owns the database can
write events too: which leaves exactly, and the digest of the archive.
"""

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, LiteralString
from uuid import uuid4

import psycopg
import rfc8785
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from audit.canonical import EVENTS, SOURCES, leaf_bytes, row, selection
from audit.checkpoint import BadNote, Signer
from audit.export import encode
from audit.merkle import leaf_hash
from audit.record import created_at, new_id
from errors import SetupError

FORMAT: Final = "followup-audit-archive/1"
ARCHIVED: Final = "archive partition"  # the verifier knows it by these words
STATEMENT: Final = "followup-audit-archived/1"  # what is signed begins with this line
RETENTION_YEARS: Final = 6
_MONTH: Final = re.compile(r"(\d{4})-(0[1-9]|1[0-2])")
_LENGTH_BYTES: Final = 4
_CHUNK_ROWS: Final = 1000
_LOCK_TRIES: Final = 5
_LOCK_WAIT_S: Final = 0.5  # the server cannot write while we wait for the lock
_TIME: Final = "%Y-%m-%dT%H:%M:%S.%fZ"

Cipher = Callable[[bytes], bytes]

_PARTITIONS: Final[LiteralString] = """
SELECT p.relname FROM pg_inherits JOIN pg_class AS p ON p.oid = inhrelid
WHERE inhparent = to_regclass(%(parent)s) ORDER BY p.relname
"""
_CHECKPOINT: Final[LiteralString] = (
    "SELECT note FROM audit_checkpoints WHERE tree_size > %(leaf)s ORDER BY tree_size LIMIT 1"
)
_EVENT: Final[LiteralString] = """
INSERT INTO audit_events (created_at, id, request_id, action, route, status, outcome, principal, roles, client_id,
    patient_id, target, purpose_of_use, latency_ms)
VALUES (%(at)s, %(id)s, %(request)s, %(action)s, 'command line', 200, 'success', %(by)s, '', 'command line',
    %(patient)s, %(target)s, 'HOPERAT', 0)
"""


@dataclass(frozen=True, slots=True)
class Archived:
    """One month of one table that was archived."""

    partition: str
    rows: int
    file: Path


@dataclass(slots=True)
class _Written:
    """What is in an archive that was written."""

    file: Path
    leaves: list[int] = field(default_factory=list)


def place_hold(connection: Connection, patient_id: str | None, reason: str, *, by: str) -> None:
    """From now on nothing of this patient (None: of anybody) is erased or archived."""
    connection.exec_driver_sql(
        "INSERT INTO legal_holds (id, patient_id, reason, placed_by) VALUES (%(id)s, %(patient)s, %(reason)s, %(by)s)",
        {"id": uuid4(), "patient": patient_id, "reason": reason, "by": by},
    )
    _record(connection, "change legal hold", by=by, patient_id=patient_id, target="placed")


def release_holds(connection: Connection, patient_id: str | None, *, by: str) -> int:
    """End the holds on this patient (None: those on everybody). Returns how many there were."""
    released = connection.exec_driver_sql(
        "UPDATE legal_holds SET released_by = %(by)s, released_at = now()"
        " WHERE released_at IS NULL"
        " AND canonical_subject(patient_id) IS NOT DISTINCT FROM canonical_subject(%(patient)s)",
        {"by": by, "patient": patient_id},
    ).rowcount
    if released:
        _record(connection, "change legal hold", by=by, patient_id=patient_id, target="released")
    return released


def archive(
    engine: Engine,
    before: str,
    folder: Path,
    *,
    seal: Cipher,
    unseal: Cipher,
    by: str,
    signer: Signer,
    now: datetime | None = None,
) -> Iterator[Archived]:
    """Archive every month before `before` (YYYY-MM), oldest first, as the owner of the tables.

    `signer` has the seal key. Raises SetupError, and leaves that month where it is, when a month is not due, is under
    a legal hold, holds rows that are not sealed, not for six years or not what was sealed, or when its archive does
    not read back as written.
    """
    if not _MONTH.fullmatch(before):
        raise SetupError("A month is written as 2026-11.")
    moment = now or datetime.now(UTC)
    _refuse_early(before, moment)
    for source in SOURCES:
        for partition in _due(engine, source, before):
            one = _Month(engine, source, partition, folder, by, signer, moment)
            yield one.archive(seal, unseal)


def _refuse_early(before: str, now: datetime) -> None:
    year, month = int(before[:4]), int(before[5:])
    if datetime(year + RETENTION_YEARS, month, 1, tzinfo=UTC) > now:
        raise SetupError(f"Records are kept for {RETENTION_YEARS} years: months that late are not archived yet.")


def _due(engine: Engine, source: str, before: str) -> list[str]:
    with engine.connect() as connection:
        names = connection.exec_driver_sql(_PARTITIONS, {"parent": source}).scalars().all()
    return [name for name in names if re.fullmatch(rf"{source}_\d{{6}}", name) and name[-6:] < before.replace("-", "")]


@dataclass(frozen=True, slots=True)
class _Month:
    """One month of one table on its way into an archive."""

    engine: Engine
    source: str
    partition: str
    folder: Path
    by: str
    signer: Signer
    moment: datetime

    @property
    def file(self) -> Path:
        return self.folder / f"{self.partition}.archive"

    def archive(self, seal: Cipher, unseal: Cipher) -> Archived:
        if self.file.exists():
            raise SetupError(f"There is an archive of {self.partition} already; it is not overwritten.")
        part = self.folder / f".{self.partition}.{os.getpid()}.part"
        try:
            with self.engine.connect() as connection:
                _refuse_held(connection, self.source, self.partition)
                written = _write(connection, self.source, self.partition, part, seal)
                self._refuse_sealed_late(connection, written)
            _verify(self.engine, self.source, self.partition, part, unseal=unseal, written=len(written.leaves))
            self._drop(written)
        finally:
            part.unlink(missing_ok=True)
        return Archived(self.partition, len(written.leaves), self.file)

    def _refuse_sealed_late(self, connection: Connection, written: _Written) -> None:
        """The time of a row is its writer's word; that of the checkpoint which covers it is signed."""
        if not written.leaves:
            return
        found = connection.exec_driver_sql(_CHECKPOINT, {"leaf": max(written.leaves)}).fetchone()
        try:
            if found is None:
                raise BadNote
            sealed = self.signer.verifier.checkpoint(found[0]).time
        except BadNote as error:
            raise SetupError("There is no checkpoint over these rows that is signed with SEAL_KEY_FILE.") from error
        due = f"{sealed.year + RETENTION_YEARS:04d}{sealed.strftime(_TIME)[4:]}"
        if due > self.moment.strftime(_TIME):
            raise SetupError(f"{self.partition} was sealed less than {RETENTION_YEARS} years ago; it stays.")

    def _drop(self, written: _Written) -> None:
        """The archive gets its name just before the commit; when there is none, it goes again."""
        target = self._statement(written)
        for attempt in range(1, _LOCK_TRIES + 1):
            try:
                with self.engine.begin() as connection:
                    self._detach_and_drop(connection, len(written.leaves), target)
                    _rename(written.file, self.file)
            except OperationalError as error:
                self._take_back()
                if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
                    raise SetupError(f"{self.partition}: the database failed; see whether it is still there.") from None
                if attempt == _LOCK_TRIES:
                    raise SetupError(f"{self.partition} stays: others use the table all the time.") from None
                time.sleep(_LOCK_WAIT_S)
            except BaseException:
                self._take_back()
                raise
            else:
                return

    def _take_back(self) -> None:
        """Remove the archive, unless its month may be gone: then it is what there is."""
        with contextlib.suppress(SQLAlchemyError), self.engine.connect() as connection:
            if self.partition in connection.exec_driver_sql(_PARTITIONS, {"parent": self.source}).scalars().all():
                self.file.unlink(missing_ok=True)

    def _detach_and_drop(self, connection: Connection, written: int, target: str) -> None:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{int(_LOCK_WAIT_S * 1000)}ms'")
        connection.exec_driver_sql("LOCK TABLE legal_holds IN SHARE MODE")  # none comes while we look
        connection.exec_driver_sql(f"ALTER TABLE {self.source} DETACH PARTITION {self.partition}")
        _refuse_held(connection, self.source, self.partition)
        query = f"SELECT count(*) FROM {self.partition}"  # noqa: S608 - checked name
        if connection.exec_driver_sql(query).scalar_one() != written:
            raise SetupError("Rows came into a month while it was archived; it stays where it is.")
        _record(connection, ARCHIVED, by=self.by, patient_id=None, target=target)
        connection.exec_driver_sql(f"DROP TABLE {self.partition}")

    def _statement(self, written: _Written) -> str:
        """What was archived, signed with the seal key, canonical JSON."""
        with written.file.open("rb") as archive:
            digest = hashlib.file_digest(archive, "sha256").hexdigest()
        statement: dict[str, Any] = {
            "origin": self.signer.verifier.name,
            "partition": self.partition,
            "rows": len(written.leaves),
            "leaves": _ranges(written.leaves),
            "sha256": digest,
            "time": self.moment.astimezone(UTC).strftime(_TIME),
        }
        text = rfc8785.dumps(statement).decode()
        signature = self.signer.signature(f"{STATEMENT}\n{text}")
        return rfc8785.dumps({"signature": signature, "statement": statement}).decode()


def _ranges(leaves: Iterable[int]) -> list[int]:
    """Leaves not archived and archived by turns: [3, 2, 1, 4] are leaves 3 and 4, and 6 to 9."""
    ranges: list[int] = []
    end = 0
    for leaf in sorted(leaves):
        if ranges and leaf == end:
            ranges[-1] += 1
        else:
            ranges += [leaf - end, 1]
        end = leaf + 1
    return ranges


def _rename(part: Path, file: Path) -> None:
    try:
        os.link(part, file)  # unlike a rename, this never replaces what is there
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise SetupError("The archive cannot be written there.") from error


def _refuse_held(connection: Connection, source: str, partition: str) -> None:
    one = "canonical_subject(h.patient_id)"
    several = f" OR EXISTS (SELECT FROM unnest(r.patients) AS named WHERE canonical_subject(named) = {one})"
    named = several if source == EVENTS else ""
    held = connection.exec_driver_sql(
        "SELECT 1 FROM legal_holds AS h WHERE h.released_at IS NULL AND (h.patient_id IS NULL"  # noqa: S608
        f" OR EXISTS (SELECT FROM {partition} AS r WHERE canonical_subject(r.patient_id) = {one}{named})) LIMIT 1"
    ).fetchone()
    if held is not None:
        raise SetupError(f"{partition} is under a legal hold.")


def _write(connection: Connection, source: str, partition: str, file: Path, seal: Cipher) -> _Written:
    """Pieces of NDJSON, each sealed and led by its length."""
    written = _Written(file)
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o400), "wb") as output:
            written.leaves.extend(_write_pieces(connection, source, partition, output, seal))
            output.flush()
            os.fsync(output.fileno())
    except OSError as error:
        raise SetupError(f"The archive of {partition} cannot be written there.") from error
    return written


def _write_pieces(connection: Connection, source: str, partition: str, output: BinaryIO, seal: Cipher) -> list[int]:
    leaves: list[int] = []
    _put(output, seal(encode({"kind": "header", "format": FORMAT, "partition": partition})))
    after: tuple[Any, Any] | None = None
    while chunk := _chunk(connection, source, partition, after):
        _put(output, seal(b"".join(encode(line) for _, _, line in chunk)))
        leaves.extend(line["index"] for _, _, line in chunk)
        after = chunk[-1][:2]
    _put(output, seal(encode({"kind": "end", "leaves": len(leaves)})))
    return leaves


def _chunk(connection: Connection, source: str, partition: str, after: tuple[Any, Any] | None) -> list[Any]:
    key = "WHERE (r.created_at, r.id) > (%(at)s, %(id)s)" if after else ""
    query = (
        f"SELECT r.created_at::text, r.id::text, l.leaf_index, l.leaf_hash, {selection(source)} FROM {partition} AS r"  # noqa: S608
        " LEFT JOIN audit_leaves AS l ON l.row_id = r.id AND l.source = %(source)s AND l.created_at = r.created_at"
        f" {key} ORDER BY r.created_at, r.id LIMIT %(rows)s"
    )
    at, last = after or (None, None)
    lines = []
    parameters = {"source": source, "rows": _CHUNK_ROWS, "at": at, "id": last}
    for created, row_id, index, hashed, *values in connection.exec_driver_sql(query, parameters):
        if index is None:
            raise SetupError(f"{partition} has rows that are not sealed; it stays where it is.")
        stored = row(source, values)
        if leaf_hash(leaf_bytes(source, stored)) != hashed:
            raise SetupError(f"{partition} has rows that are not what was sealed; it stays where it is.")
        lines.append((created, row_id, {"kind": "leaf", "index": index, "source": source, "row": stored}))
    return lines


def _put(output: BinaryIO, piece: bytes) -> None:
    output.write(len(piece).to_bytes(_LENGTH_BYTES, "big") + piece)


def read_archive(file: Path, unseal: Cipher) -> Iterator[dict[str, Any]]:
    """The lines of an archive: a header, leaves with their rows, an end. Raises what `unseal` raises, or SetupError."""
    with file.open("rb") as pieces:
        while length := pieces.read(_LENGTH_BYTES):
            piece = pieces.read(int.from_bytes(length, "big"))
            if len(piece) != int.from_bytes(length, "big"):
                raise SetupError("The archive was cut off.")
            yield from map(json.loads, unseal(piece).split(b"\n")[:-1])


def _verify(engine: Engine, source: str, partition: str, file: Path, *, unseal: Cipher, written: int) -> None:
    """Read the archive back: each row must give the leaf that is in the tree."""
    hashes: dict[int, bytes] = {}
    seen, ended = 0, False
    with engine.connect() as connection:
        for line in read_archive(file, unseal):
            if line["kind"] == "leaf":
                hashes[line["index"]] = leaf_hash(leaf_bytes(source, line["row"]))
                seen += 1
            ended = line["kind"] == "end" and line["leaves"] == seen
            if len(hashes) >= _CHUNK_ROWS or ended:
                _compare(connection, hashes)
                hashes.clear()
    if not ended or seen != written:
        raise SetupError(f"The archive of {partition} does not read back as it was written.")


def _compare(connection: Connection, hashes: dict[int, bytes]) -> None:
    query = "SELECT leaf_index, leaf_hash FROM audit_leaves WHERE leaf_index = ANY(%(indexes)s::bigint[])"
    stored = {index: bytes(hashed) for index, hashed in connection.exec_driver_sql(query, {"indexes": list(hashes)})}
    if stored != hashes:
        raise SetupError("An archive does not read back as what was sealed.")


def _record(connection: Connection, action: str, *, by: str, patient_id: str | None, target: str) -> None:
    """The trail has acts of the command line too."""
    identity = new_id()
    connection.exec_driver_sql(
        _EVENT,
        {
            "at": created_at(identity),
            "id": identity,
            "request": uuid4(),
            "action": action,
            "by": by,
            "patient": patient_id,
            "target": target,
        },
    )
