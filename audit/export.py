"""The sealed export: every leaf in order with its full row, the signed checkpoints between them, rows without a leaf.

NDJSON, made in chunks by key, each in a read of its own: leaves and rows are never changed, so that no transaction must
stay open while somebody reads slowly. `audit/verify.py` says whether it holds.
"""

import base64
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, LiteralString

from sqlalchemy import Connection

from audit.canonical import EVENTS, PREDICTIONS, SOURCES, row, selection, time_text

FORMAT: Final = "followup-audit-export/1"
CHUNK_ROWS: Final = 1000

Line = dict[str, Any]
Read = Callable[[Callable[[Connection], Any]], Any]  # runs a read in a transaction of its own and returns its result

_HEAD: Final[LiteralString] = "SELECT tree_size, horizon FROM audit_checkpoints ORDER BY tree_size DESC LIMIT 1"
_LEAVES: Final[LiteralString] = f"""
SELECT l.leaf_index, l.source, {time_text("l.created_at")}, l.row_id::text, l.leaf_hash FROM audit_leaves AS l
WHERE l.leaf_index >= %(first)s AND l.leaf_index < %(end)s ORDER BY l.leaf_index
"""  # noqa: S608 - no value is put into the text
_CHECKPOINTS: Final[LiteralString] = """
SELECT c.tree_size, c.note, array(SELECT a.place FROM audit_anchors AS a WHERE a.tree_size = c.tree_size ORDER BY 1)
FROM audit_checkpoints AS c WHERE c.tree_size > %(first)s AND c.tree_size <= %(end)s ORDER BY c.tree_size
"""


def head(connection: Connection) -> tuple[int, int, int]:
    """(leaves, leaves that a checkpoint covers, horizon). They differ only where somebody tampered."""
    checkpoint = connection.exec_driver_sql(_HEAD).fetchone()
    leaves = connection.exec_driver_sql("SELECT coalesce(max(leaf_index) + 1, 0) FROM audit_leaves").scalar_one()
    size, horizon = checkpoint if checkpoint is not None else (0, 0)
    return (leaves if leaves > size else size), size, horizon


def sealed_chunk(connection: Connection, first: int, end: int) -> list[Line]:
    """The lines of leaves `first` to `end` - 1 and of the checkpoints behind them."""
    span = {"first": first, "end": end}
    rows: dict[int, Any] = {}
    for source in SOURCES:
        query = (
            f"SELECT l.leaf_index, {selection(source)} FROM audit_leaves AS l JOIN {source} AS r"  # noqa: S608
            " ON r.created_at = l.created_at AND r.id = l.row_id"
            " WHERE l.source = %(source)s AND l.leaf_index >= %(first)s AND l.leaf_index < %(end)s"
        )
        for index, *values in connection.exec_driver_sql(query, {**span, "source": source}):
            rows[index] = row(source, values)
    checkpoints: dict[int, Line] = {}
    for size, note, places in connection.exec_driver_sql(_CHECKPOINTS, span):
        checkpoints[size] = {"kind": "checkpoint", "note": note, "anchored": places}
    lines: list[Line] = []
    for index, source, created_at, row_id, hashed in connection.exec_driver_sql(_LEAVES, span):
        while checkpoints and (earliest := min(checkpoints)) <= index:
            lines.append(checkpoints.pop(earliest))
        lines.append(
            {
                "kind": "leaf",
                "index": index,
                "source": source,
                "created_at": created_at,
                "id": row_id,
                "hash": base64.b64encode(hashed).decode(),
                "row": rows.get(index),
            }
        )
    lines.extend(checkpoints[size] for size in sorted(checkpoints))
    return lines


def unsealed_chunk(connection: Connection, source: str, size: int, after: tuple[Any, Any] | None) -> list[Any]:
    """(created_at, id, line) of rows without a leaf below `size`, by key, from behind `after`."""
    key = "AND (r.created_at, r.id) > (%(at)s, %(id)s)" if after else ""
    query = (
        f"SELECT r.created_at::text, r.id::text, r.xid::text, {selection(source)} FROM {source} AS r"  # noqa: S608
        " WHERE NOT EXISTS (SELECT FROM audit_leaves AS l WHERE l.row_id = r.id AND l.source = %(source)s"
        f" AND l.created_at = r.created_at AND l.leaf_index < %(size)s) {key}"
        " ORDER BY r.created_at, r.id LIMIT %(rows)s"
    )
    at, last = after or (None, None)
    parameters = {"source": source, "size": size, "rows": CHUNK_ROWS, "at": at, "id": last}
    return [
        (at, row_id, {"kind": "unsealed", "source": source, "xid": xid, "row": row(source, values)})
        for at, row_id, xid, *values in connection.exec_driver_sql(query, parameters)
    ]


def export(
    read: Read, verifier_key: str | None, progress: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[Line]:
    """The lines of an export, as documents. `progress` is told of leaves done and to be done."""
    leaves, _, _ = read(head)
    yield header(leaves, verifier_key)
    for first in range(0, leaves, CHUNK_ROWS):
        end = min(first + CHUNK_ROWS, leaves)
        yield from read(partial(sealed_chunk, first=first, end=end))
        progress(end, leaves)
    unsealed = 0
    for source in (PREDICTIONS, EVENTS):
        after = None
        while True:
            chunk = read(partial(unsealed_chunk, source=source, size=leaves, after=after))
            yield from (line for _, _, line in chunk)
            unsealed += len(chunk)
            if len(chunk) < CHUNK_ROWS:
                break
            after = chunk[-1][:2]
    finished_at, xmax = read(_now)
    yield {"kind": "end", "leaves": leaves, "unsealed": unsealed, "finished_at": finished_at, "xmax": xmax}


def _now(connection: Connection) -> tuple[str, str]:
    """The server's time, and the first transaction that was not there yet: asked last, as rows come in meanwhile."""
    found = connection.exec_driver_sql(
        f"SELECT {time_text('clock_timestamp()')}, pg_snapshot_xmax(pg_current_snapshot())::text"
    ).one()
    return str(found[0]), str(found[1])


def header(leaves: int, verifier_key: str | None) -> Line:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "kind": "header",
        "format": FORMAT,
        "leaves": leaves,
        "verifier_key": verifier_key,
        "exported_at": now,
    }


def encode(line: Line) -> bytes:
    """One line of NDJSON."""
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"
