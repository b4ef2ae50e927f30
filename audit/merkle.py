"""The Merkle tree of RFC 6962: roots, proofs that a leaf is in a tree, proofs that a tree begins a later one.

Pure arithmetic and SHA-256. Where hashes are kept is somebody else's business: a proof says which complete subtrees it
needs, and a lookup gives their hashes. The hash of a complete subtree never changes, so it may be stored for good.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()


class Node(NamedTuple):
    """The complete subtree over the 2^level leaves from position * 2^level on; level 0 is a leaf."""

    level: int
    position: int


Lookup = Callable[[Node], bytes]
Parts = tuple[Node, ...]  # complete subtrees side by side, from left to right


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(0x00 ‖ data), RFC 6962 section 2.1."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 ‖ left ‖ right), RFC 6962 section 2.1."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def complete_subtrees(start: int, end: int) -> Parts:
    """The complete subtrees that cover leaves start to end - 1, where `start` is aligned as inside a Merkle tree."""
    parts = []
    while start < end:
        level = (end - start).bit_length() - 1
        parts.append(Node(level, start >> level))
        start += 1 << level
    return tuple(parts)


def fold(hashes: Sequence[bytes]) -> bytes:
    """The root over subtrees that stand side by side, each smaller than the one to its left."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


class Frontier:
    """The right edge of a growing tree: the hashes of its complete subtrees, largest first."""

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        if size.bit_count() != len(hashes):
            raise ValueError("A frontier has one hash for each complete subtree.")
        self._size = size
        self._hashes = list(hashes)

    @classmethod
    def load(cls, size: int, lookup: Lookup) -> "Frontier":
        return cls(size, [lookup(node) for node in complete_subtrees(0, size)])

    @property
    def size(self) -> int:
        return self._size

    @property
    def root(self) -> bytes:
        return fold(self._hashes)

    def copy(self) -> "Frontier":
        return Frontier(self._size, self._hashes)

    def append(self, hashed_leaf: bytes) -> Iterator[tuple[Node, bytes]]:
        """Add a leaf. Gives the inner nodes that it completes, from the bottom up."""
        index, level, joined = self._size, 0, hashed_leaf
        completed = []
        while index & 1:
            joined = node_hash(self._hashes.pop(), joined)
            index >>= 1
            level += 1
            completed.append((Node(level, index), joined))
        self._hashes.append(joined)
        self._size += 1
        return iter(completed)


def inclusion_path(index: int, size: int) -> list[Parts]:
    """What the audit path of leaf `index` in the tree of `size` leaves is made of (RFC 6962 section 2.1.1).

    Raises ValueError when there is no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError("There is no such leaf in this tree.")
    path: list[Parts] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(complete_subtrees(middle, end))
            end = middle
        else:
            path.append(complete_subtrees(start, middle))
            start = middle
    return path[::-1]


def consistency_path(older: int, newer: int) -> list[Parts]:
    """What the proof that the tree of `older` leaves is the start of that of `newer` is made of (section 2.1.2).

    Raises ValueError unless 0 < older <= newer.
    """
    if not 0 < older <= newer:
        raise ValueError("A consistency proof goes from a tree that is not empty to one at least as large.")
    path: list[Parts] = []
    start, end = 0, newer
    whole = True  # the verifier knows the older root, as long as what is left is all of the older tree
    while older != end:
        middle = start + _split(end - start)
        if older <= middle:
            path.append(complete_subtrees(middle, end))
            end = middle
        else:
            path.append(complete_subtrees(start, middle))
            start = middle
            whole = False
    if not whole:
        path.append(complete_subtrees(start, end))
    return path[::-1]


def needed(path: Sequence[Parts]) -> list[Node]:
    """Every complete subtree whose hash a path needs, so that they can be fetched at once."""
    return [node for parts in path for node in parts]


def proof(path: Sequence[Parts], lookup: Lookup) -> list[bytes]:
    """The hashes of a path."""
    return [fold([lookup(node) for node in parts]) for parts in path]


def includes(hashed_leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether the leaf is at `index` of the tree with this root (RFC 9162 section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    node, last, current = index, size - 1, hashed_leaf
    for sibling in path:
        if last == 0:
            return False
        if node & 1 or node == last:
            current = node_hash(sibling, current)
            while not node & 1 and node != 0:
                node >>= 1
                last >>= 1
        else:
            current = node_hash(current, sibling)
        node >>= 1
        last >>= 1
    return last == 0 and current == root


def extends(older: int, newer: int, path: Sequence[bytes], older_root: bytes, newer_root: bytes) -> bool:
    """Whether the tree of `newer` leaves begins with that of `older` (RFC 9162 section 2.1.4.2)."""
    if not 0 < older <= newer:
        return False
    if older == newer:
        return not path and older_root == newer_root
    hashes = list(path)
    if older & (older - 1) == 0:
        hashes.insert(0, older_root)
    if not hashes:
        return False
    node, last = older - 1, newer - 1
    while node & 1:
        node >>= 1
        last >>= 1
    first = second = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not node & 1 and node != 0:
                node >>= 1
                last >>= 1
        else:
            second = node_hash(second, sibling)
        node >>= 1
        last >>= 1
    return last == 0 and first == older_root and second == newer_root


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << ((size - 1).bit_length() - 1)
