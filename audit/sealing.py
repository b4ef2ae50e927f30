"""The sealer: puts every committed row of the trail into the Merkle tree, and signs what the tree is.

Which rows are committed for good is not known from their ids: transactions commit out of order. So rows carry the id of
their transaction, and what is sealed is everything below the oldest transaction that still runs and could write
(audit/horizon.py): nothing can appear there any more. One pass is one transaction: leaves, inner nodes and the signed
checkpoint are there together or not at all, whatever dies when.

What was signed last is remembered outside the database too (`LastSigned`): a database that was put back, or emptied, by
somebody without the key must not be signed as if nothing had been there.

It is a process of its own with a role of its own; the server never has the signing key.
"""

import heapq
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, LiteralString

import psycopg
from psycopg import Connection, IsolationLevel

from audit.canonical import EVENTS, PREDICTIONS, SOURCES, leaf_bytes, row, selection
from audit.checkpoint import BadNote, Checkpoint, Signer
from audit.horizon import finished_below
from audit.last_signed import LastSigned
from audit.merkle import Frontier, Node, complete_subtrees, consistency_path, extends, leaf_hash, needed, proof
from errors import SetupError

log = logging.getLogger(__name__)

CHUNK_ROWS: Final = 5000
ALARM_LAG_S: Final = 5.0
_PAUSE_BEFORE_RECONNECT_S: Final = 0.25
_ROWS_A_FETCH: Final = 500

_STATE: Final[LiteralString] = """
SELECT array(SELECT xid::text::bigint FROM pg_snapshot_xip(now) AS xid), pg_snapshot_xmax(now)::text::bigint,
       c.tree_size, c.root_hash, c.note, c.horizon
FROM pg_current_snapshot() AS now
LEFT JOIN (SELECT * FROM audit_checkpoints ORDER BY tree_size DESC LIMIT 1) AS c ON true
"""
# Asked for only where there is something to seal: it costs a transaction's number.
_TURN: Final[LiteralString] = "SELECT id FROM sealing_turn FOR UPDATE SKIP LOCKED"
# The first transaction, and the first that does not belong to the chunk any more.
_BOUNDS: Final[LiteralString] = """
WITH sealable AS (
    SELECT xid FROM ml_predictions WHERE xid >= %(from)s::text::xid8 AND xid < %(to)s::text::xid8
    UNION ALL
    SELECT xid FROM audit_events WHERE xid >= %(from)s::text::xid8 AND xid < %(to)s::text::xid8
)
SELECT (SELECT xid::text::bigint FROM sealable ORDER BY xid LIMIT 1),
       (SELECT xid::text::bigint FROM sealable ORDER BY xid OFFSET %(rows)s LIMIT 1)
"""
NODES: Final[LiteralString] = """
SELECT level, position, node_hash FROM audit_nodes
WHERE (level, position) IN (SELECT * FROM unnest(%(levels)s::smallint[], %(positions)s::bigint[]))
UNION ALL
SELECT 0, leaf_index, leaf_hash FROM audit_leaves WHERE leaf_index = ANY(%(leaves)s::bigint[])
"""
# Rows of the trail that no checkpoint covers: their transaction is at or above the last one's horizon.
OLDEST_UNSEALED: Final[LiteralString] = """
WITH sealed AS (SELECT coalesce(max(horizon), 0)::text::xid8 AS horizon FROM audit_checkpoints)
SELECT greatest(0, extract(epoch FROM clock_timestamp() - min(created_at)))::float8 FROM (
    SELECT created_at FROM ml_predictions WHERE xid >= (SELECT horizon FROM sealed)
    UNION ALL
    SELECT created_at FROM audit_events WHERE xid >= (SELECT horizon FROM sealed)
) AS unsealed
"""


class AnotherSealer(Exception):
    """Somebody else seals just now."""


@dataclass(frozen=True, slots=True)
class _State:
    """What the database says at the start of a pass: how far transactions are finished, and the last checkpoint."""

    horizon: int
    size: int
    root: bytes | None
    note: str | None
    sealed_to: int


def seal_lag(connection: Connection[Any]) -> float:
    """Age in seconds of the oldest row that is not sealed, 0 if there is none."""
    found = connection.execute(OLDEST_UNSEALED).fetchone()
    return float(found[0]) if found is not None and found[0] is not None else 0.0


def load_nodes(connection: Connection[Any], nodes: list[Node]) -> dict[Node, bytes]:
    """The hashes of complete subtrees; those that are not stored are missing."""
    inner = [node for node in nodes if node.level > 0]
    parameters = {
        "levels": [node.level for node in inner],
        "positions": [node.position for node in inner],
        "leaves": [node.position for node in nodes if node.level == 0],
    }
    found = connection.execute(NODES, parameters)
    return {Node(level, position): bytes(hashed) for level, position, hashed in found}


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
        state = self._state()
        frontier = self._check(state)
        self._refuse_another_past(frontier)
        bound = self._chunk_end(state)
        if bound is None:
            return None
        self._take_turn()
        first = frontier.size
        self._add_leaves(frontier, state.sealed_to, bound)
        checkpoint = Checkpoint(self._signer.verifier.name, frontier.size, frontier.root, self._clock(), bound)
        note = self._signer.sign(checkpoint.body)
        self._connection.execute(
            "INSERT INTO audit_checkpoints (tree_size, root_hash, note, horizon) VALUES (%s, %b, %s, %s)",
            (frontier.size, frontier.root, note, bound),
        )
        return frontier.size - first, checkpoint, note

    def _refuse_another_past(self, frontier: Frontier) -> None:
        """Raises SetupError unless the tree begins with what was signed last, and with what was anchored."""
        for known in (*self._last.unproven, self._last.newest):
            if known is not None and known.size > 0 and not self._begins_with(known, frontier):
                log.error("sealer: what was signed before is not in the database any more; nothing is signed")
                raise SetupError(
                    "The stored tree does not continue what was signed last: records were removed, or the database was"
                    " put back to an earlier state. docs/audit.md says what to do."
                )
        if self._last.newest is None and frontier.size > 0 and not self._last.unproven:
            log.warning("sealer: there is no SEAL_STATE_FILE yet, so the database's last checkpoint is believed")
        self._last.unproven.clear()
        # Another sealer may have gone on meanwhile: what this one has seen must stay as well.
        self._last.newest = Checkpoint(self._signer.verifier.name, frontier.size, frontier.root, self._clock(), 0)

    def _begins_with(self, known: Checkpoint, frontier: Frontier) -> bool:
        if known.size >= frontier.size:
            return (known.size, known.root) == (frontier.size, frontier.root)
        path = consistency_path(known.size, frontier.size)
        hashes = load_nodes(self._connection, needed(path))
        try:
            between = proof(path, hashes.__getitem__)
        except KeyError:
            return False
        return extends(known.size, frontier.size, between, known.root, frontier.root)

    def _state(self) -> _State:
        found = self._connection.execute(_STATE).fetchone()
        assert found is not None
        running, following, size, root, note, sealed_to = found
        if sealed_to is not None and following < sealed_to:
            raise SetupError(
                "The database has fewer transactions than were sealed already: it was restored into another cluster."
            )
        # A transaction that was left out once stays below what is sealed, whatever its role may do by now.
        horizon = max(finished_below(self._connection, running, following), sealed_to or 0)
        return _State(horizon, size or 0, None if root is None else bytes(root), note, sealed_to or 0)

    def _take_turn(self) -> None:
        """Nobody else seals until this transaction ends. Raises AnotherSealer, or SetupError when nobody can."""
        if self._connection.execute(_TURN).fetchone() is not None:
            return
        if self._connection.execute("SELECT FROM sealing_turn").fetchone() is None:
            raise SetupError("The row of sealing_turn is gone, so that nobody can seal: the schema was tampered with.")
        raise AnotherSealer

    def _check(self, state: _State) -> Frontier:
        """The tree's right edge, which must be that of the last signed checkpoint. Raises SetupError if it isn't."""
        if state.note is None:
            if self._connection.execute("SELECT 1 FROM audit_leaves LIMIT 1").fetchone():
                raise SetupError("There are sealed leaves but no checkpoint: the trail was tampered with.")
            return Frontier()
        try:
            signed = self._signer.verifier.checkpoint(state.note)
        except BadNote as error:
            raise SetupError("The last checkpoint is not signed with this sealer's key.") from error
        if (signed.size, signed.root, signed.horizon) != (state.size, state.root, state.sealed_to):
            raise SetupError("The last checkpoint is not what was signed: the trail was tampered with.")
        stored = self._stored_frontier(signed.size)
        if stored is None or stored.root != signed.root:
            raise SetupError("The stored tree is not the one that was signed last: the trail was tampered with.")
        return stored

    def _stored_frontier(self, size: int) -> Frontier | None:
        """Read anew at each pass: a handful of hashes by primary key costs less than trusting memory."""
        if self._connection.execute("SELECT 1 FROM audit_leaves WHERE leaf_index >= %s LIMIT 1", (size,)).fetchone():
            return None
        hashes = load_nodes(self._connection, list(complete_subtrees(0, size)))
        try:
            return Frontier.load(size, hashes.__getitem__)
        except KeyError:
            return None

    def _chunk_end(self, state: _State) -> int | None:
        """Up to which transaction this pass seals: whole transactions only, so that the horizon says all."""
        parameters = {"from": str(state.sealed_to), "to": str(state.horizon), "rows": self._chunk_rows}
        bounds = self._connection.execute(_BOUNDS, parameters).fetchone()
        assert bounds is not None
        first, after = bounds
        if first is None:
            return None
        if after is None:
            return state.horizon
        return int(after if after > first else first + 1)

    def _add_leaves(self, frontier: Frontier, from_xid: int, to_xid: int) -> None:
        leaves: list[tuple[int, str, str, str, bytes]] = []
        nodes: list[tuple[Node, bytes]] = []
        streams = [self._rows(source, from_xid, to_xid) for source in SOURCES]
        for _, created_at, row_id, source, hashed in heapq.merge(*streams):
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

    def _rows(self, source: str, from_xid: int, to_xid: int) -> Iterator[tuple[int, str, str, str, bytes]]:
        """(transaction, created_at, id, table, leaf's hash) in order, hashed as they come: rows may be large."""
        query: LiteralString = (
            f"SELECT r.xid::text::bigint, {selection(source)} FROM {_table(source)} AS r"  # noqa: S608 - constants
            " WHERE r.xid >= %s::text::xid8 AND r.xid < %s::text::xid8 ORDER BY r.xid, r.created_at, r.id"
        )
        with self._connection.cursor(name=f"sealing_{source}") as cursor:
            cursor.itersize = _ROWS_A_FETCH
            cursor.execute(query, (str(from_xid), str(to_xid)))
            for xid, *values in cursor:
                sealed = row(source, values)
                yield xid, sealed["created_at"], sealed["id"], source, leaf_hash(leaf_bytes(source, sealed))


def _table(source: str) -> LiteralString:
    return PREDICTIONS if source == PREDICTIONS else EVENTS


def connect(database_url: str) -> Connection[Any]:
    """A connection for the sealer. Raises psycopg.OperationalError."""
    return psycopg.connect(
        database_url,
        application_name="followup-sealer",
        connect_timeout=3,
        autocommit=True,
        options="-c synchronous_commit=on -c idle_in_transaction_session_timeout=60s -c timezone=UTC"
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
