"""The sealer: puts every committed row of the trail into the Merkle tree, and signs what the tree is.

Which rows are committed for good is not known from their ids: transactions commit out of order. So rows carry the id of
their transaction, and what is sealed is everything below the oldest transaction that still runs and could write
(audit/horizon.py): nothing can appear there any more. One pass is one transaction: leaves, inner nodes and the signed
checkpoint are there together or not at all, whatever dies when.

What was signed last is remembered outside the database too (`LastSigned`): a database that was put back, or emptied, by
somebody without the key must not be signed as if nothing had been there.

It is a process of its own with a role of its own; the server never has the signing key.
"""

import contextlib
import heapq
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, LiteralString

import psycopg
from psycopg import Connection, IsolationLevel

from audit.canonical import EVENTS, PREDICTIONS, SOURCES, leaf_bytes, row, selection
from audit.checkpoint import Checkpoint, Signer
from audit.continuing import ANOTHER_CLUSTER, restoration_to_go_on_from
from audit.horizon import finished_below
from audit.last_signed import LastSigned
from audit.making_way import make_way
from audit.merkle import Frontier, Node, leaf_hash
from audit.restoration import Stated, stated
from audit.stored_tree import Head, StoredTree
from errors import SetupError

log = logging.getLogger(__name__)

CHUNK_ROWS: Final = 5000
ALARM_LAG_S: Final = 5.0
_PAUSE_BEFORE_RECONNECT_S: Final = 0.25
_ROWS_A_FETCH: Final = 500

_NOW: Final[LiteralString] = """
SELECT array(SELECT xid::text::bigint FROM pg_snapshot_xip(now) AS xid), pg_snapshot_xmax(now)::text::bigint,
       EXISTS (SELECT FROM audit_restorations),
       coalesce((SELECT horizon FROM audit_checkpoints ORDER BY tree_size DESC LIMIT 1), 0)
FROM pg_current_snapshot() AS now
"""
# Asked for only where there is something to seal: it costs a transaction's number.
_TURN: Final[LiteralString] = "SELECT id FROM sealing_turn FOR UPDATE SKIP LOCKED"
# The first transaction, and the first that does not belong to the chunk any more.
_BOUNDS: Final[LiteralString] = """
WITH sealable AS (
    SELECT xid FROM ml_predictions AS r WHERE xid >= %(from)s::text::xid8 AND xid < %(to)s::text::xid8{predictions}
    UNION ALL
    SELECT xid FROM audit_events AS r WHERE xid >= %(from)s::text::xid8 AND xid < %(to)s::text::xid8{events}
)
SELECT (SELECT xid::text::bigint FROM sealable ORDER BY xid LIMIT 1),
       (SELECT xid::text::bigint FROM sealable ORDER BY xid OFFSET %(rows)s LIMIT 1)
"""
# Rows of a restored database may have numbers that its new transactions have yet to reach, and be sealed already. As a
# sub-select, which is looked up row by row: a join may be made by reading all leaves.
_NO_LEAF: Final[LiteralString] = (
    " AND (SELECT l.leaf_index FROM audit_leaves AS l"
    " WHERE l.row_id = r.id AND l.source = '{source}' AND l.created_at = r.created_at) IS NULL"
)
# Rows of the trail that no checkpoint covers: their transaction is at or above the last one's horizon.
_UNSEALED: Final[LiteralString] = (
    "xid >= (SELECT horizon FROM sealed) AND xid < (SELECT pg_snapshot_xmax(pg_current_snapshot()))"
    " AND (NOT (SELECT restored FROM sealed) OR (true{no_leaf}))"
)
OLDEST_UNSEALED: Final[LiteralString] = f"""
WITH sealed AS (
    SELECT coalesce((SELECT horizon FROM audit_checkpoints ORDER BY tree_size DESC LIMIT 1), 0)::text::xid8 AS horizon,
           EXISTS (SELECT FROM audit_restorations) AS restored
)
SELECT greatest(0, extract(epoch FROM clock_timestamp() - min(created_at)))::float8 FROM (
    SELECT created_at FROM ml_predictions AS r WHERE {_UNSEALED.format(no_leaf=_NO_LEAF.format(source=PREDICTIONS))}
    UNION ALL
    SELECT created_at FROM audit_events AS r WHERE {_UNSEALED.format(no_leaf=_NO_LEAF.format(source=EVENTS))}
) AS unsealed
"""  # noqa: S608 - no value is put into the text


_Leaf = tuple[int, str, str, str, bytes]


class AnotherSealer(Exception):
    """Somebody else seals just now."""


@dataclass(frozen=True, slots=True)
class _Range:
    """Which transactions a pass seals; `restored`: some of their rows may have a leaf already."""

    start: int
    end: int
    restored: bool

    def only_unsealed(self, source: LiteralString) -> LiteralString:
        return _NO_LEAF.format(source=source) if self.restored else ""


def seal_lag(connection: Connection[Any]) -> float:
    """Age in seconds of the oldest row that is not sealed, 0 if there is none."""
    found = connection.execute(OLDEST_UNSEALED).fetchone()
    return float(found[0]) if found is not None and found[0] is not None else 0.0


def _now() -> datetime:
    return datetime.now(UTC)


class Sealer:
    """Seals what can be sealed, chunk by chunk. Not thread-safe."""

    def __init__(
        self,
        connection: Connection[Any],
        signer: Signer,
        last: LastSigned | None = None,
        *,
        chunk_rows: int = CHUNK_ROWS,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._connection = connection
        self._connection.isolation_level = IsolationLevel.REPEATABLE_READ
        self._signer = signer
        self._tree = StoredTree(connection, signer.verifier)
        self._last = last or LastSigned(signer.verifier)
        self._clock = clock
        self._chunk_rows = chunk_rows

    def seal_all(self) -> int:
        """Chunk after chunk until nothing is left. Returns the number of rows sealed."""
        total = 0
        while sealed := self.seal_chunk():
            total += sealed
        return total

    def seal_chunk(self) -> int:
        """One pass. Returns the number of rows sealed, 0 when there is nothing to seal.

        Raises AnotherSealer, psycopg.Error, and SetupError when the database is not the one that was sealed before.
        """
        try:
            with self._connection.transaction():
                signed = self._pass()
        except psycopg.errors.UniqueViolation as error:
            if error.diag.constraint_name == "uq_audit_leaves_row_id_source_created_at":
                log.error(
                    "sealer: a row has the id of one that is sealed already; nothing is sealed until that is settled"
                )
            # Another sealer was faster: its commit came after our snapshot.
            raise AnotherSealer from error
        if signed is None:
            return 0
        sealed, checkpoint, note = signed
        self._last.keep(checkpoint, note)
        return sealed

    def _pass(self) -> tuple[int, Checkpoint, str] | None:
        found = self._connection.execute(_NOW).fetchone()
        assert found is not None
        running, following, restored, sealed_to = found
        if following < sealed_to and not restored:
            raise SetupError(ANOTHER_CLUSTER)
        head = self._tree.head()
        goes_on_from = self._refuse_another_past(head, following, restored=restored)
        horizon = finished_below(self._connection, running, following)
        frontier = head.frontier
        first = frontier.size
        if goes_on_from is not None:
            bound = horizon
            self._take_turn()
            self._add_leaves(frontier, self._restored_rows(goes_on_from))
        else:
            # A transaction that was left out once stays below what is sealed, whatever its role may do by now.
            due = self._chunk(_Range(head.horizon, max(horizon, head.horizon), restored))
            if due is None:
                return None
            bound = due.end
            self._take_turn()
            self._add_leaves(frontier, heapq.merge(*(self._rows(source, due) for source in SOURCES)))
        checkpoint = Checkpoint(self._signer.verifier.name, frontier.size, frontier.root, self._clock(), bound)
        note = self._signer.sign(checkpoint.body)
        self._connection.execute(
            "INSERT INTO audit_checkpoints (tree_size, root_hash, note, horizon) VALUES (%s, %b, %s, %s)",
            (frontier.size, frontier.root, note, bound),
        )
        return frontier.size - first, checkpoint, note

    def _refuse_another_past(self, head: Head, following: int, *, restored: bool) -> Stated | None:
        """The restoration to go on from, where one is next. Raises SetupError when nothing may be signed."""
        last, verifier = self._last, self._signer.verifier

        def statements() -> list[Stated]:
            return stated(self._connection, verifier) if restored else []

        went_back = following < head.horizon
        found = restoration_to_go_on_from(self._tree, head, last, statements, went_back=went_back)
        if found is not None:
            return found  # what was signed last stays what it is until more is signed
        if last.newest is None and head.frontier.size > 0 and not last.unproven:
            log.warning("sealer: there is no SEAL_STATE_FILE yet, so the database's last checkpoint is believed")
        last.unproven.clear()
        # Another sealer may have gone on meanwhile: what this one has seen must stay as well.
        last.newest = Checkpoint(verifier.name, head.frontier.size, head.frontier.root, self._clock(), 0)
        return None

    def _take_turn(self) -> None:
        """Nobody else seals until this transaction ends. Raises AnotherSealer, or SetupError when nobody can."""
        if self._connection.execute(_TURN).fetchone() is not None:
            return
        if self._connection.execute("SELECT FROM sealing_turn").fetchone() is None:
            raise SetupError("The row of sealing_turn is gone, so that nobody can seal: the schema was tampered with.")
        raise AnotherSealer

    def _chunk(self, due: _Range) -> _Range | None:
        """What of it this pass seals: whole transactions only, so that the horizon says all."""
        query = _BOUNDS.format(predictions=due.only_unsealed(PREDICTIONS), events=due.only_unsealed(EVENTS))
        parameters = {"from": str(due.start), "to": str(due.end), "rows": self._chunk_rows}
        bounds = self._connection.execute(query, parameters).fetchone()
        assert bounds is not None
        first, after = bounds
        if first is None:
            return None
        end = due.end if after is None else int(after if after > first else first + 1)
        return replace(due, end=end)

    def _add_leaves(self, frontier: Frontier, rows: Iterable[_Leaf]) -> None:
        leaves: list[tuple[int, str, str, str, bytes]] = []
        nodes: list[tuple[Node, bytes]] = []
        for _, created_at, row_id, source, hashed in rows:
            leaves.append((frontier.size, source, created_at, row_id, hashed))
            nodes.extend(frontier.append(hashed))
        with self._connection.cursor() as cursor:
            with cursor.copy(
                "COPY audit_leaves (leaf_index, source, created_at, row_id, leaf_hash) FROM STDIN"
            ) as copy:
                for leaf in leaves:
                    copy.write_row(leaf)
            with cursor.copy("COPY audit_nodes (level, position, node_hash) FROM STDIN") as copy:
                for node, hashed in nodes:
                    copy.write_row((node.level, node.position, hashed))

    def _rows(self, source: LiteralString, due: _Range) -> Iterator[_Leaf]:
        return self._read(
            source,
            f"r.xid >= %s::text::xid8 AND r.xid < %s::text::xid8{due.only_unsealed(source)}",
            (str(due.start), str(due.end)),
        )

    def _restored_rows(self, statement: Stated) -> Iterator[_Leaf]:
        """The statement, then every row without a leaf: those of before the restore have another cluster's numbers."""
        no_leaf: LiteralString = (
            "r.id <> %s AND NOT EXISTS (SELECT FROM audit_leaves AS l"
            " WHERE l.row_id = r.id AND l.source = %s AND l.created_at = r.created_at)"
        )
        yield from self._read(EVENTS, "r.id = %s", (statement.event_id,))
        yield from heapq.merge(*(self._read(source, no_leaf, (statement.event_id, source)) for source in SOURCES))

    def _read(self, source: LiteralString, which: LiteralString, parameters: Sequence[Any]) -> Iterator[_Leaf]:
        """(transaction, created_at, id, table, leaf's hash) in order, hashed as they come: rows may be large."""
        query: LiteralString = (
            f"SELECT r.xid::text::bigint, {selection(source)} FROM {source} AS r WHERE {which}"  # noqa: S608 - constants
            " ORDER BY r.xid, r.created_at, r.id"
        )
        with self._connection.cursor(name=f"sealing_{source}") as cursor:
            cursor.itersize = _ROWS_A_FETCH
            cursor.execute(query, parameters)
            for xid, *values in cursor:
                sealed = row(source, values)
                yield xid, sealed["created_at"], sealed["id"], source, leaf_hash(leaf_bytes(source, sealed))


def connect(database_url: str) -> Connection[Any]:
    """A connection for the sealer. Raises psycopg.OperationalError."""
    return psycopg.connect(
        database_url,
        application_name="followup-sealer",
        connect_timeout=3,
        autocommit=True,
        options="-c synchronous_commit=on -c idle_in_transaction_session_timeout=60s -c lock_timeout=1s"
        " -c timezone=UTC"
        " -c datestyle=ISO -c extra_float_digits=1",
    )


def run(
    database_url: str, signer: Signer, stop: threading.Event, *, every_s: float, last: LastSigned | None = None
) -> None:
    """Seal until `stop` is set. Comes back when PostgreSQL was away. Raises SetupError when it must not go on."""
    last = last or LastSigned(signer.verifier)  # outlives connections
    connection: Connection[Any] | None = None
    sealer: Sealer | None = None
    alarmed_at = float("-inf")
    while not stop.is_set():
        started = time.monotonic()
        try:
            if connection is None or connection.closed or sealer is None:
                connection = connect(database_url)
                sealer = Sealer(connection, signer, last)
            sealer.seal_all()
        except AnotherSealer:
            pass
        except psycopg.errors.LockNotAvailable:
            log.error("sealer: somebody holds or waits for a lock on its tables")
            assert connection is not None
            with contextlib.suppress(psycopg.Error):  # the next pass finds out
                make_way(connection)
        except (psycopg.Error, OSError) as error:
            # The class alone: a driver's message may quote values.
            log.error("sealer: the database cannot be used (%s)", type(error).__name__)
            if connection is not None:
                connection.close()
            connection = None
            stop.wait(_PAUSE_BEFORE_RECONNECT_S)
            continue
        if connection is not None and time.monotonic() - alarmed_at > ALARM_LAG_S:
            alarmed_at = time.monotonic()
            _alarm(connection)
        stop.wait(max(0.0, every_s - (time.monotonic() - started)))
    if connection is not None:
        connection.close()


def _alarm(connection: Connection[Any]) -> None:
    try:
        lag_s = seal_lag(connection)
    except psycopg.Error:
        return  # the next pass finds out, and says so
    if lag_s > ALARM_LAG_S:
        log.error("sealer: rows wait to be sealed for %.0f s; does a transaction that may write stay open?", lag_s)
