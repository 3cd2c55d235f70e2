"""A share's Merkle tree over the digests of its blocks, shaped as in RFC 9162.

A leaf is the plain BLAKE3 of a block, an inner node is H[merkle-node](left ‖ right), the root of
one leaf is the leaf. A leaf list is flat: 32 bytes per block, in stripe order. There is no prefix
byte for leaves: nodes are hashed in a mode of their own, and a list's length is known from the
blob's size.
Source: RFC 9162, section 2.1; docs/reference/blob-format.md, "Share roots".
"""

from collections.abc import Sequence

from molia.base.errors import GeometryError
from molia.base.hashing import DIGEST_SIZE, purpose_digest


class Frontier:
    """The root of a growing list in memory of O(log n): the roots of its full subtrees."""

    __slots__ = ("_peaks", "count")

    def __init__(self) -> None:
        self.count = 0
        self._peaks: list[bytes] = []

    def append(self, leaf: bytes) -> None:
        """Take the next leaf; about one hash each on average."""
        assert len(leaf) == DIGEST_SIZE, "a leaf is a digest"
        node, carry = leaf, self.count
        while carry & 1:  # as in counting: every trailing 1 is a subtree that this leaf completes
            node = _node(self._peaks.pop(), node)
            carry >>= 1
        self._peaks.append(node)
        self.count += 1

    def root(self) -> bytes:
        """Return the root of the leaves so far; at least one. Raises GeometryError for none."""
        if not self._peaks:
            raise GeometryError("a tree without leaves has no root")
        node = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            node = _node(peak, node)
        return node


def share_root(leaves: bytes | bytearray | memoryview) -> bytes:
    """Return the root of a flat leaf list of 32 bytes per block, at least one.

    Raises GeometryError for an empty or ragged list. About 0.7 us per leaf.
    """
    level = _split(leaves)
    while len(level) > 1:
        level = _next_level(level)
    return level[0]


def inclusion_path(leaves: bytes | bytearray | memoryview, index: int) -> list[bytes]:
    """Return the sibling hashes from leaf `index` up to the root. Raises GeometryError."""
    return path_in(tree_of(leaves), index)


def tree_of(leaves: bytes | bytearray | memoryview) -> tuple[bytes, ...]:
    """Return the levels of a tree as flat lists, the leaves first: many paths cost one of these.

    Twice the size of the leaves. Raises GeometryError for an empty or ragged list.
    """
    level = _split(leaves)
    levels = [bytes(leaves)]
    while len(level) > 1:
        level = _next_level(level)
        levels.append(b"".join(level))
    return tuple(levels)


def path_in(tree: Sequence[bytes], index: int) -> list[bytes]:
    """Return the sibling hashes from leaf `index` of a tree to its root. Raises GeometryError."""
    count = len(tree[0]) // DIGEST_SIZE
    if not 0 <= index < count:
        raise GeometryError(f"leaf {index} of {count}")
    path = []
    for level in tree[:-1]:
        at = (index ^ 1) * DIGEST_SIZE
        if at < len(level):  # the odd last node of a level goes up alone
            path.append(level[at : at + DIGEST_SIZE])
        index //= 2
    return path


def path_length(index: int, leaf_count: int) -> int:
    """Return how many hashes the path of a leaf has."""
    length = 0
    while leaf_count > 1:
        length += index ^ 1 < leaf_count
        index, leaf_count = index // 2, -(-leaf_count // 2)
    return length


def verify_path(
    *, root: bytes, leaf: bytes, index: int, leaf_count: int, path: Sequence[bytes]
) -> bool:
    """Tell whether `leaf` is leaf `index` of the `leaf_count` leaves below `root`."""
    if not 0 <= index < leaf_count or len(leaf) != DIGEST_SIZE:
        return False
    node, used = leaf, 0
    while leaf_count > 1:
        if index ^ 1 < leaf_count:
            if used == len(path) or len(path[used]) != DIGEST_SIZE:
                return False
            sibling, used = path[used], used + 1
            node = _node(sibling, node) if index & 1 else _node(node, sibling)
        index, leaf_count = index // 2, -(-leaf_count // 2)
    return used == len(path) and node == root


def _node(left: bytes, right: bytes) -> bytes:
    return purpose_digest("merkle-node", left + right)


def _next_level(level: list[bytes]) -> list[bytes]:
    """Return the parents: pairs from the left, and an odd last node goes up as it is."""
    above = [_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    if len(level) & 1:
        above.append(level[-1])
    return above


def _split(leaves: bytes | bytearray | memoryview) -> list[bytes]:
    flat = bytes(leaves)
    if not flat or len(flat) % DIGEST_SIZE:
        raise GeometryError(f"a leaf list of {len(flat)} bytes")
    return [flat[i : i + DIGEST_SIZE] for i in range(0, len(flat), DIGEST_SIZE)]
