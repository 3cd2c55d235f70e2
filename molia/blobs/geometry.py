"""Where each byte of a blob lies: stripes, blocks and their sizes. Pure arithmetic.

Source: docs/reference/blob-format.md, "Geometry".
"""

from dataclasses import dataclass
from typing import Final

from molia.base.errors import GeometryError
from molia.base.limits import (
    BLOB_SIZE_MAX,
    BLOCK_SIZE_MAX,
    BLOCK_SIZE_MIN,
    DATA_SHARES,
    TOTAL_SHARES,
)

STRIPE_SIZE_MAX: Final = DATA_SHARES * BLOCK_SIZE_MAX
"""Bytes of a full stripe: 2,621,440."""
_SMALL_BLOCK_SIZE_MAX: Final = BLOCK_SIZE_MAX // 2


@dataclass(frozen=True, slots=True)
class StripeShape:
    """One stripe: `size` bytes of the blob from `offset` on, in blocks of `block_size`."""

    index: int
    offset: int
    size: int
    block_size: int

    @property
    def block_sizes(self) -> tuple[int, ...]:
        """Unpadded sizes of the 10 data blocks, 0 for an empty one; parity is always full."""
        return tuple(self.size_of(share) for share in range(DATA_SHARES))

    @property
    def stored_shares(self) -> tuple[int, ...]:
        """The shares that have a block here: all 14 but those whose data block is empty."""
        return tuple(share for share in range(TOTAL_SHARES) if self.size_of(share) > 0)

    @property
    def needed(self) -> int:
        """How many stored blocks give the stripe back; the empty ones are known to be zeros."""
        return -(-self.size // self.block_size)

    def size_of(self, share: int) -> int:
        """Return the stored size of a share's block; 0 when it is empty."""
        if share >= DATA_SHARES:
            return self.block_size
        return min(max(self.size - share * self.block_size, 0), self.block_size)

    def shares_of(self, start: int, stop: int) -> tuple[int, ...]:
        """Return the data shares that hold the stripe's part of the blob's bytes [start, stop)."""
        low = max(start, self.offset) - self.offset
        high = min(stop, self.offset + self.size) - self.offset
        if low >= high:
            return ()
        return tuple(range(low // self.block_size, -(-high // self.block_size)))


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a blob of `size` bytes is cut: `stripe_count` stripes of 10 blocks of `block_size`."""

    size: int
    block_size: int
    stripe_count: int

    @classmethod
    def of(cls, size: int) -> "Geometry":
        """Return the geometry of a blob of `size` bytes. Raises GeometryError outside 0..1 TiB."""
        if not 0 <= size <= BLOB_SIZE_MAX:
            raise GeometryError(f"a blob has 0 to {BLOB_SIZE_MAX} bytes, not {size}")
        if size > DATA_SHARES * _SMALL_BLOCK_SIZE_MAX:
            block_size = BLOCK_SIZE_MAX
        else:
            block_size = _smallest_block(size)
        return cls(size, block_size, -(-size // (DATA_SHARES * block_size)))

    @property
    def stored_shares(self) -> tuple[int, ...]:
        """The shares that have any block: all, but those of a single stripe that are empty."""
        if self.stripe_count > 1:
            return tuple(range(TOTAL_SHARES))
        return self.stripe(0).stored_shares

    def stripe(self, index: int) -> StripeShape:
        """Return stripe `index`. Raises GeometryError when the blob has no such stripe."""
        if not 0 <= index < self.stripe_count:
            raise GeometryError(f"stripe {index} of {self.stripe_count}")
        stripe_size = DATA_SHARES * self.block_size
        offset = index * stripe_size
        left = self.size - offset
        if left > stripe_size:
            return StripeShape(index, offset, stripe_size, self.block_size)
        return StripeShape(index, offset, left, _smallest_block(left))

    def stripes_of(self, start: int, stop: int) -> range:
        """Return the indexes of the stripes that hold the blob's bytes [start, stop)."""
        low, high = max(start, 0), min(stop, self.size)
        if low >= high:
            return range(0)
        stripe_size = DATA_SHARES * self.block_size
        return range(low // stripe_size, -(-high // stripe_size))


def _smallest_block(size: int) -> int:
    """Return the smallest power of two of at least 4 KiB of which ten hold `size` bytes."""
    per_block = -(-size // DATA_SHARES)
    return max(BLOCK_SIZE_MIN, 1 << max(per_block - 1, 0).bit_length())
