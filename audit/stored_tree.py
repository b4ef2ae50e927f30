"""The tree as the database has it, checked against what was signed: its right edge, and what a proof is made of.

Read anew each time: a handful of hashes by primary key costs less than trusting memory.
"""

from dataclasses import dataclass
from typing import Any, Final, LiteralString

from psycopg import Connection

from audit.checkpoint import BadNote, Checkpoint, Verifier
from audit.merkle import (
    Frontier,
    Node,
    Parts,
    complete_subtrees,
    consistency_path,
    extends,
    includes,
    inclusion_path,
    needed,
    proof,
)
from errors import SetupError

NODES: Final[LiteralString] = """
SELECT level, position, node_hash FROM audit_nodes
WHERE (level, position) IN (SELECT * FROM unnest(%(levels)s::smallint[], %(positions)s::bigint[]))
UNION ALL
SELECT 0, leaf_index, leaf_hash FROM audit_leaves WHERE leaf_index = ANY(%(leaves)s::bigint[])
"""
_HEAD: Final[LiteralString] = (
    "SELECT tree_size, root_hash, note, horizon FROM audit_checkpoints ORDER BY tree_size DESC LIMIT 1"
)


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the tree, and below which transaction everything is in it."""

    frontier: Frontier
    horizon: int


class StoredTree:
    """The tree in one database. Ask it in one transaction that sees one state."""

    def __init__(self, connection: Connection[Any], verifier: Verifier) -> None:
        self._connection = connection
        self._verifier = verifier

    def head(self) -> Head:
        """What was signed last here. Raises SetupError when the stored tree is not that."""
        found = self._connection.execute(_HEAD).fetchone()
        if found is None:
            if self._connection.execute("SELECT 1 FROM audit_leaves LIMIT 1").fetchone():
                raise SetupError("There are sealed leaves but no checkpoint: the trail was tampered with.")
            return Head(Frontier(), 0)
        size, root, note, horizon = found
        try:
            signed = self._verifier.checkpoint(note)
        except BadNote as error:
            raise SetupError("The last checkpoint is not signed with this sealer's key.") from error
        if (signed.size, signed.root, signed.horizon) != (size, bytes(root), horizon):
            raise SetupError("The last checkpoint is not what was signed: the trail was tampered with.")
        frontier = self._frontier(signed.size)
        if frontier is None or frontier.root != signed.root:
            raise SetupError("The stored tree is not the one that was signed last: the trail was tampered with.")
        return Head(frontier, signed.horizon)

    def _frontier(self, size: int) -> Frontier | None:
        beyond = "SELECT 1 FROM audit_leaves WHERE leaf_index >= %s LIMIT 1"
        if self._connection.execute(beyond, (size,)).fetchone():
            return None
        hashes = self._load(complete_subtrees(0, size))
        try:
            return Frontier.load(size, hashes.__getitem__)
        except KeyError:
            return None

    def begins_with(self, known: Checkpoint, head: Head) -> bool:
        """Whether the tree continues the one of that checkpoint; every tree continues the empty one."""
        size, root = head.frontier.size, head.frontier.root
        if known.size == 0:
            return True
        if known.size >= size:
            return (known.size, known.root) == (size, root)
        between = self._proof(consistency_path(known.size, size))
        return between is not None and extends(known.size, size, between, known.root, root)

    def has_leaf(self, index: int, hashed: bytes, head: Head) -> bool:
        """Whether that is the leaf at `index`, by all the hashes above it."""
        size, root = head.frontier.size, head.frontier.root
        if index >= size:
            return False
        path = self._proof(inclusion_path(index, size))
        return path is not None and includes(hashed, index, size, path, root)

    def _proof(self, path: list[Parts]) -> list[bytes] | None:
        hashes = self._load(tuple(needed(path)))
        try:
            return proof(path, hashes.__getitem__)
        except KeyError:
            return None

    def _load(self, nodes: Parts) -> dict[Node, bytes]:
        found = self._connection.execute(NODES, node_parameters(nodes))
        return {Node(level, position): bytes(hashed) for level, position, hashed in found}


def node_parameters(nodes: Parts) -> dict[str, list[int]]:
    """What NODES asks for."""
    inner = [node for node in nodes if node.level > 0]
    return {
        "levels": [node.level for node in inner],
        "positions": [node.position for node in inner],
        "leaves": [node.position for node in nodes if node.level == 0],
    }
