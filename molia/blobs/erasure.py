"""Parity of a stripe, and a stripe from its parity. The one importer of zfec.

The code is zfec's systematic Reed-Solomon over GF(2^8), polynomial 0x11d, shares numbered from 0.
Parity 10..13 comes out the same for any number of shares up to 256, so more can be added later.
Three habits of zfec 1.6 are kept away from callers: `Decoder.decode` reorders the sequence that it
is given in place, it never returns when a share number comes twice, and it turns one corrupt share
into wrong bytes without a word. So it gets fresh tuples of distinct numbers here, and whoever
calls checks the blocks against their digests before and after.
Source: docs/reference/blob-format.md, "Erasure code"; https://github.com/tahoe-lafs/zfec.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

import zfec

from molia.base.errors import GeometryError
from molia.base.limits import DATA_SHARES, SHARES_MAX, TOTAL_SHARES
from molia.blobs.geometry import StripeShape

Buffer = bytes | bytearray | memoryview
PARITY_SHARES: Final = tuple(range(DATA_SHARES, TOTAL_SHARES))


def encode_stripe(blocks: Sequence[Buffer], block_size: int) -> list[bytes]:
    """Return the 4 parity blocks of a stripe, each of `block_size` bytes.

    blocks: the 10 data blocks, unpadded; short and empty ones count as filled up with zeros.
    Drops the GIL; full blocks are read where they lie. Raises GeometryError for other counts or
    for a block above `block_size`.
    """
    return _encode(_padded(blocks, block_size), PARITY_SHARES)


def decode_stripe(
    blocks: Mapping[int, Buffer], shape: StripeShape, wanted: Sequence[int]
) -> dict[int, bytes]:
    """Return the blocks of the `wanted` shares, unpadded, from enough others.

    blocks: by share, unpadded, each known to be sound: a corrupt one gives wrong bytes silently.
    An empty data block need not be given. Shares from 14 on are parity that was added later. Drops
    the GIL. Raises GeometryError when too few are given, or one has not the size that `shape` says.
    """
    for share, block in blocks.items():
        if not 0 <= share < SHARES_MAX or len(block) != shape.size_of(share):
            raise GeometryError(f"block of {len(block)} bytes as share {share} of {shape}")
    if all(share in blocks for share in wanted):
        return {share: bytes(blocks[share]) for share in wanted}
    data = _data_blocks(blocks, shape)
    missing_parity = tuple(s for s in wanted if s >= DATA_SHARES and s not in blocks)
    parity = dict(zip(missing_parity, _encode(data, missing_parity), strict=True))
    found: dict[int, bytes] = {}
    for share in wanted:
        if share in blocks:
            found[share] = bytes(blocks[share])
        elif share < DATA_SHARES:
            found[share] = bytes(data[share][: shape.size_of(share)])
        else:
            found[share] = parity[share]
    return found


def _data_blocks(blocks: Mapping[int, Buffer], shape: StripeShape) -> tuple[Buffer, ...]:
    """Return the 10 padded data blocks, decoding those that are not given."""
    known: dict[int, Buffer] = {}
    for share, size in enumerate(shape.block_sizes):
        if size == 0:
            known[share] = _zeros(shape.block_size)
        elif share in blocks:
            known[share] = _pad(blocks[share], shape.block_size)
    for share in sorted(share for share in blocks if share >= DATA_SHARES):
        if len(known) < DATA_SHARES:
            known[share] = blocks[share]
    if len(known) < DATA_SHARES:
        raise GeometryError(f"{len(known)} blocks of a stripe that needs {DATA_SHARES}")
    if all(share < DATA_SHARES for share in known):
        return tuple(known[share] for share in range(DATA_SHARES))
    # the tuples are made for this call alone, since zfec permutes even a tuple in place
    return tuple(_coders()[1].decode(tuple(known.values()), tuple(known)))


def _encode(data: Sequence[Buffer], shares: Sequence[int]) -> list[bytes]:
    if not shares:
        return []
    parity: list[bytes] = _coders()[0].encode(tuple(data), tuple(shares))
    return parity


def _padded(blocks: Sequence[Buffer], block_size: int) -> tuple[Buffer, ...]:
    if len(blocks) != DATA_SHARES:
        raise GeometryError(f"{len(blocks)} data blocks, not {DATA_SHARES}")
    return tuple(_pad(block, block_size) for block in blocks)


def _pad(block: Buffer, block_size: int) -> Buffer:
    if len(block) == block_size:
        return block
    if len(block) > block_size:
        raise GeometryError(f"a block of {len(block)} bytes where {block_size} fit")
    if not block:
        return _zeros(block_size)
    return bytes(block) + bytes(block_size - len(block))


@lru_cache(maxsize=8)  # block sizes are the seven powers of two from 4 to 256 KiB
def _zeros(size: int) -> bytes:
    return bytes(size)


@lru_cache(maxsize=1)
def _coders() -> tuple[zfec.Encoder, zfec.Decoder]:
    """Return the coders; they hold tables that are only read, so threads share them."""
    return zfec.Encoder(DATA_SHARES, SHARES_MAX), zfec.Decoder(DATA_SHARES, SHARES_MAX)
