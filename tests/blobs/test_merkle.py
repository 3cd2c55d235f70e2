"""A share's root."""

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from molia.base.errors import GeometryError
from molia.blobs.merkle import Frontier, inclusion_path, share_root, verify_path
from tests import oracles
from tests.vectors.load import vectors

counts = st.integers(1, 200)


def leaves(count: int) -> list[bytes]:
    """Leaf i is BLAKE3 of i as 4 bytes."""
    return [blake3(i.to_bytes(4, "big")).digest() for i in range(count)]


def test_the_root_vectors_hold() -> None:
    for row in vectors("merkle"):
        assert share_root(b"".join(leaves(row["leaves"]))).hex() == row["root"]


@given(counts)
def test_the_root_equals_the_rfcs_recursion(count: int) -> None:
    assert share_root(b"".join(leaves(count))) == oracles.merkle_root(leaves(count))


@given(counts)
def test_a_growing_list_has_the_same_root_at_every_length(count: int) -> None:
    frontier = Frontier()
    for i, leaf in enumerate(leaves(count)):
        frontier.append(leaf)
        if i % 37 == 0 or i == count - 1:
            assert frontier.root() == oracles.merkle_root(leaves(i + 1))


@given(counts, st.data())
def test_a_path_proves_its_leaf_and_no_other(count: int, data: st.DataObject) -> None:
    every, index = leaves(count), data.draw(st.integers(0, count - 1))
    flat = b"".join(every)
    root, path = share_root(flat), inclusion_path(flat, index)

    def holds(**change: object) -> bool:
        proof = {"root": root, "leaf": every[index], "index": index, "leaf_count": count}
        return verify_path(**{**proof, "path": path, **change})  # type: ignore[arg-type]

    assert holds()
    assert not holds(leaf=blake3(b"other").digest())
    assert not holds(root=blake3(b"other").digest())
    assert not holds(path=[*path, root])
    assert not holds(leaf_count=index)
    assert not holds(leaf=every[index][:31])
    if path:
        assert not holds(path=path[:-1])
        assert not holds(path=[*path[:-1], b"short"])
        assert not holds(index=index ^ 1)


@pytest.mark.parametrize("flat", [b"", bytes(31), bytes(33)])
def test_a_ragged_list_has_no_root(flat: bytes) -> None:
    with pytest.raises(GeometryError):
        share_root(flat)


def test_an_empty_tree_has_no_root_and_no_paths() -> None:
    with pytest.raises(GeometryError):
        Frontier().root()
    for index in (-1, 2):
        with pytest.raises(GeometryError):
            inclusion_path(bytes(64), index)
