"""Six years of retention (45 CFR 164.316(b)(2)), and what stands against erasing earlier or at all: legal holds.

A month that is due is written to an encrypted archive, read back and verified, and only then dropped. Its leaves stay,
so that every proof stays valid; an event in the trail says that it was archived, which is why a verifier does not take
its rows for deleted.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, LiteralString
from uuid import uuid4

from sqlalchemy import Connection, Engine

from audit.canonical import SOURCES, leaf_bytes, row, selection
from audit.export import encode
from audit.merkle import leaf_hash
from audit.record import created_at, new_id
from errors import SetupError

FORMAT: Final = "followup-audit-archive/1"
ARCHIVED: Final = "archive partition"  # the verifier knows it by these words
RETENTION_YEARS: Final = 6
_MONTH: Final = re.compile(r"(\d{4})-(0[1-9]|1[0-2])")
_LENGTH_BYTES: Final = 4
_CHUNK_ROWS: Final = 1000

Cipher = Callable[[bytes], bytes]

_PARTITIONS: Final[LiteralString] = """
SELECT p.relname FROM pg_inherits JOIN pg_class AS p ON p.oid = inhrelid
WHERE inhparent = to_regclass(%(parent)s) ORDER BY p.relname
"""
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
        " WHERE released_at IS NULL AND patient_id IS NOT DISTINCT FROM %(patient)s",
        {"by": by, "patient": patient_id},
    ).rowcount
    if released:
        _record(connection, "change legal hold", by=by, patient_id=patient_id, target="released")
    return released


def archive(
    engine: Engine, before: str, folder: Path, *, seal: Cipher, unseal: Cipher, by: str, now: datetime | None = None
) -> Iterator[Archived]:
    """Archive every month before `before` (YYYY-MM), oldest first, as the owner of the tables.

    Raises SetupError, and leaves that month where it is, when a month is not due, is under a legal hold, holds rows
    that are not sealed or not what was sealed, or when its archive does not read back as written.
    """
    if not _MONTH.fullmatch(before):
        raise SetupError("A month is written as 2026-11.")
    _refuse_early(before, now or datetime.now(UTC))
    for source in SOURCES:
        for partition in _due(engine, source, before):
            yield _archive_one(engine, source, partition, folder, seal=seal, unseal=unseal, by=by)


def _refuse_early(before: str, now: datetime) -> None:
    year, month = int(before[:4]), int(before[5:])
    if datetime(year + RETENTION_YEARS, month, 1, tzinfo=UTC) > now:
        raise SetupError(f"Records are kept for {RETENTION_YEARS} years: months that late are not archived yet.")


def _due(engine: Engine, source: str, before: str) -> list[str]:
    with engine.connect() as connection:
        names = connection.exec_driver_sql(_PARTITIONS, {"parent": source}).scalars().all()
    return [name for name in names if re.fullmatch(rf"{source}_\d{{6}}", name) and name[-6:] < before.replace("-", "")]


def _archive_one(
    engine: Engine, source: str, partition: str, folder: Path, *, seal: Cipher, unseal: Cipher, by: str
) -> Archived:
    file = folder / f"{partition}.archive"
    with engine.connect() as connection:
        _refuse_held(connection, partition)
        written = _write(connection, source, partition, file, seal)
    try:
        _verify(engine, source, partition, file, unseal=unseal, written=written)
        _drop(engine, source, partition, written=written, by=by)
    except SetupError:
        file.unlink()  # the month stays; after any other error it may be gone, and the archive is what there is
        raise
    return Archived(partition, written, file)


def _drop(engine: Engine, source: str, partition: str, *, written: int, by: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL lock_timeout = '5s'")
        connection.exec_driver_sql("LOCK TABLE legal_holds IN SHARE MODE")  # none comes while we look
        connection.exec_driver_sql(f"ALTER TABLE {source} DETACH PARTITION {partition}")
        _refuse_held(connection, partition)
        found = connection.exec_driver_sql(f"SELECT count(*) FROM {partition}").scalar_one()  # noqa: S608 - checked name
        if found != written:
            raise SetupError("Rows came into a month while it was archived; it stays where it is.")
        _record(connection, ARCHIVED, by=by, patient_id=None, target=partition)
        connection.exec_driver_sql(f"DROP TABLE {partition}")


def _refuse_held(connection: Connection, partition: str) -> None:
    held = connection.exec_driver_sql(
        "SELECT 1 FROM legal_holds AS h WHERE h.released_at IS NULL AND (h.patient_id IS NULL"  # noqa: S608
        f" OR EXISTS (SELECT FROM {partition} AS r WHERE r.patient_id = h.patient_id)) LIMIT 1"
    ).fetchone()
    if held is not None:
        raise SetupError(f"{partition} is under a legal hold.")


def _write(connection: Connection, source: str, partition: str, file: Path, seal: Cipher) -> int:
    """Pieces of NDJSON, each sealed and led by its length. Returns the number of rows."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    except FileExistsError as error:
        raise SetupError(f"There is an archive of {partition} already; it is not overwritten.") from error
    except OSError as error:
        raise SetupError("The archive cannot be written there.") from error
    with os.fdopen(descriptor, "wb") as output:
        try:
            rows = _write_pieces(connection, source, partition, output, seal)
        except BaseException:
            file.unlink()
            raise
        output.flush()
        os.fsync(output.fileno())
    return rows


def _write_pieces(connection: Connection, source: str, partition: str, output: BinaryIO, seal: Cipher) -> int:
    rows = 0
    _put(output, seal(encode({"kind": "header", "format": FORMAT, "partition": partition})))
    after: tuple[Any, Any] | None = None
    while chunk := _chunk(connection, source, partition, after):
        _put(output, seal(b"".join(encode(line) for _, _, line in chunk)))
        rows += len(chunk)
        after = chunk[-1][:2]
    _put(output, seal(encode({"kind": "end", "leaves": rows})))
    return rows


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
