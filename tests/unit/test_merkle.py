"""The Merkle tree against the vectors of certificate transparency, and against the definition of RFC 6962 itself."""

import hashlib
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.merkle import (
    EMPTY_ROOT,
    Frontier,
    Node,
    consistency_path,
    extends,
    fold,
    includes,
    inclusion_path,
    leaf_hash,
    needed,
    node_hash,
    proof,
)

# The eight leaves and the roots of the first 1 to 8 of them, as published with certificate transparency's own tests.
LEAVES = [bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")] + [
    bytes.fromhex("606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
PUBLISHED_PATHS = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
PUBLISHED_CONSISTENCY = {
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    middle = 1
    while middle * 2 < len(leaves):
        middle *= 2
    return hashlib.sha256(b"\x01" + naive_root(leaves[:middle]) + naive_root(leaves[middle:])).digest()


def grown(leaves: Sequence[bytes]) -> tuple[Frontier, Callable[[Node], bytes]]:
    frontier = Frontier()
    stored = {}
    for index, leaf in enumerate(leaves):
        stored[Node(0, index)] = leaf_hash(leaf)
        stored.update(frontier.append(leaf_hash(leaf)))
    return frontier, stored.__getitem__


def test_published_roots() -> None:
    assert Frontier().root == EMPTY_ROOT
    for size, root in enumerate(ROOTS, 1):
        assert grown(LEAVES[:size])[0].root.hex() == root


@pytest.mark.parametrize(("where", "path"), PUBLISHED_PATHS.items())
def test_published_inclusion_proofs(where: tuple[int, int], path: list[str]) -> None:
    index, size = where
    _, lookup = grown(LEAVES)
    made = proof(inclusion_path(index, size), lookup)
    assert [part.hex() for part in made] == path
    assert includes(leaf_hash(LEAVES[index]), index, size, made, bytes.fromhex(ROOTS[size - 1]))


@pytest.mark.parametrize(("sizes", "path"), PUBLISHED_CONSISTENCY.items())
def test_published_consistency_proofs(sizes: tuple[int, int], path: list[str]) -> None:
    older, newer = sizes
    _, lookup = grown(LEAVES)
    made = proof(consistency_path(older, newer), lookup)
    assert [part.hex() for part in made] == path
    roots = [bytes.fromhex(ROOTS[size - 1]) for size in sizes]
    assert extends(older, newer, made, *roots)


@given(st.integers(0, 300))
def test_a_frontier_gives_the_root_of_the_definition_and_can_be_loaded_again(size: int) -> None:
    leaves = [index.to_bytes(2) for index in range(size)]
    frontier, lookup = grown(leaves)
    assert frontier.root == naive_root(leaves)
    loaded = Frontier.load(size, lookup)
    assert (loaded.size, loaded.root) == (size, frontier.root)


@given(st.data())
def test_every_leaf_is_proven_in_every_tree_and_nowhere_else(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 200))
    index = data.draw(st.integers(0, size - 1))
    leaves = [number.to_bytes(2) for number in range(size)]
    frontier, lookup = grown(leaves)
    made = proof(inclusion_path(index, size), lookup)
    hashed = leaf_hash(leaves[index])
    assert includes(hashed, index, size, made, frontier.root)
    assert not includes(leaf_hash(b"another"), index, size, made, frontier.root)
    assert not includes(hashed, index, size, [*made, bytes(32)], frontier.root)
    if made:
        assert not includes(hashed, index, size, made[:-1], frontier.root)
        wrong = data.draw(st.integers(0, size - 1).filter(lambda other: other != index))
        assert not includes(hashed, wrong, size, made, frontier.root)
    assert not includes(hashed, size, size, made, frontier.root)


@given(st.data())
def test_every_tree_is_the_start_of_the_later_ones_and_of_no_other(data: st.DataObject) -> None:
    newer = data.draw(st.integers(1, 200))
    older = data.draw(st.integers(1, newer))
    leaves = [number.to_bytes(2) for number in range(newer)]
    frontier, lookup = grown(leaves)
    older_root = naive_root(leaves[:older])
    made = proof(consistency_path(older, newer), lookup)
    assert extends(older, newer, made, older_root, frontier.root)
    changed = naive_root([b"changed", *leaves[1:older]])
    assert not extends(older, newer, made, changed, frontier.root)
    assert not extends(older, newer, [*made, bytes(32)], older_root, frontier.root)
    if made:
        assert not extends(older, newer, made[:-1], older_root, frontier.root)


def test_a_path_needs_complete_subtrees_only() -> None:
    frontier, lookup = grown([bytes([index]) for index in range(13)])
    for index in range(13):
        for level, position in needed(inclusion_path(index, 13)):
            assert (position + 1) << level <= 13
            lookup(Node(level, position))
    assert fold([node_hash(b"a", b"b")]) == node_hash(b"a", b"b")
    assert frontier.copy().root == frontier.root


@pytest.mark.parametrize(("index", "size"), [(0, 0), (-1, 3), (3, 3)])
def test_there_is_no_proof_of_what_is_not_there(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="no such leaf"):
        inclusion_path(index, size)
    with pytest.raises(ValueError, match="consistency proof"):
        consistency_path(0 if index < 1 else index + 1, size)
