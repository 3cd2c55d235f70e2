"""Parity, and data from parity."""

import itertools

import pytest
import zfec
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from molia.base.errors import GeometryError
from molia.blobs.erasure import decode_stripe, encode_stripe
from molia.blobs.geometry import Geometry, StripeShape
from tests import oracles
from tests.vectors.load import vectors


def coded(size: int) -> tuple[StripeShape, dict[int, bytes]]:
    """The one stripe of a blob of `size` bytes and its stored blocks."""
    shape, data = Geometry.of(size).stripe(0), oracles.content(size)
    blocks = [data[j * shape.block_size :][: shape.block_size] for j in range(10)]
    blocks += encode_stripe(blocks, shape.block_size)
    return shape, {share: blocks[share] for share in shape.stored_shares}


def test_the_parity_vectors_hold() -> None:
    pinned = vectors("erasure")
    data = [bytes.fromhex(block) for block in pinned["data"]]
    assert [block.hex() for block in encode_stripe(data, 16)] == pinned["parity"]
    for row in pinned["stripes"]:
        shape, blocks = coded(row["size"])
        full = [blake3(blocks.get(share, b"")).hexdigest() for share in range(14)]
        assert full == row["block_digests"], shape


@given(st.binary(min_size=10, max_size=640).map(lambda data: data[: len(data) // 10 * 10]))
def test_parity_equals_the_sum_over_the_field(data: bytes) -> None:
    size = len(data) // 10
    blocks = [data[j * size : (j + 1) * size] for j in range(10)]
    assert encode_stripe(blocks, size) == oracles.parity(blocks)


@pytest.mark.parametrize("n", [14, 15, 64, 256])
def test_parity_10_to_13_is_the_same_for_any_number_of_shares(n: int) -> None:
    blocks = tuple(oracles.content(160)[j * 16 : (j + 1) * 16] for j in range(10))
    ours = encode_stripe(blocks, 16)
    assert zfec.Encoder(10, n).encode(blocks, (10, 11, 12, 13)) == ours
    assert oracles.parity(blocks, n=min(n, 64))[:4] == ours


@pytest.mark.parametrize("size", [1, 4097, 30_000, 40_960])
def test_any_four_blocks_may_be_lost(size: int) -> None:
    shape, blocks = coded(size)
    for lost in itertools.combinations(shape.stored_shares, 4):
        left = {share: block for share, block in blocks.items() if share not in lost}
        assert decode_stripe(left, shape, lost) == {share: blocks[share] for share in lost}


@given(st.integers(1, 1_400_000), st.data())
def test_what_was_lost_comes_back_from_any_enough_blocks(size: int, data: st.DataObject) -> None:
    shape, blocks = coded(size)
    order = data.draw(st.permutations(sorted(blocks)))
    left = {share: blocks[share] for share in order[: shape.needed]}
    wanted = data.draw(st.lists(st.sampled_from(sorted(blocks)), unique=True))
    assert decode_stripe(left, shape, wanted) == {share: blocks[share] for share in wanted}


@given(st.permutations(range(14)).map(lambda order: order[:10]))
def test_decoding_equals_the_inverse_matrix(shares: list[int]) -> None:
    shape, blocks = coded(40_960)
    left = {share: blocks[share] for share in shares}
    decoded = decode_stripe(left, shape, range(10))
    assert [decoded[share] for share in range(10)] == oracles.recover(left)


def test_decoding_twice_leaves_the_callers_blocks_as_they_were() -> None:
    shape, blocks = coded(40_960)
    left = {share: blocks[share] for share in (13, 12, 11, 10, 9, 8, 7, 6, 5, 4)}
    before = list(left.items())
    first = decode_stripe(left, shape, range(10))
    assert list(left.items()) == before
    assert decode_stripe(left, shape, range(10)) == first


def test_zfec_still_permutes_what_it_is_given() -> None:
    """When this fails the guard in erasure.py may go."""
    blocks = tuple(oracles.content(160)[j * 16 : (j + 1) * 16] for j in range(10))
    given_blocks = (*encode_stripe(blocks, 16), *blocks[:6])
    before = list(given_blocks)
    zfec.Decoder(10, 14).decode(given_blocks, (10, 11, 12, 13, 0, 1, 2, 3, 4, 5))
    assert list(given_blocks) != before


def test_a_corrupt_block_decodes_to_wrong_bytes_so_callers_must_verify() -> None:
    shape, blocks = coded(40_960)
    blocks[13] = bytes(len(blocks[13]))
    del blocks[0], blocks[1], blocks[2], blocks[10]
    assert decode_stripe(blocks, shape, (0,))[0] != coded(40_960)[1][0]


def test_too_few_blocks_are_refused() -> None:
    shape, blocks = coded(1_000_000)
    del blocks[0], blocks[1], blocks[2], blocks[3], blocks[10]
    with pytest.raises(GeometryError):
        decode_stripe(blocks, shape, (0,))


@pytest.mark.parametrize(("share", "size"), [(0, 1), (64, 4096), (-1, 4096), (9, 4096), (10, 4095)])
def test_a_block_of_a_size_or_number_that_the_stripe_has_not_is_refused(
    share: int, size: int
) -> None:
    shape, blocks = coded(30_000)
    with pytest.raises(GeometryError):
        decode_stripe(blocks | {share: bytes(size)}, shape, (1,))


@pytest.mark.parametrize("blocks", [[b"ab"] * 9, [b"ab"] * 11, [b"abc"] * 10])
def test_blocks_that_are_no_stripe_are_not_coded(blocks: list[bytes]) -> None:
    with pytest.raises(GeometryError):
        encode_stripe(blocks, 2)


def test_blocks_may_be_any_kind_of_buffer() -> None:
    data = oracles.content(40_000)
    blocks = [data[j * 4096 : (j + 1) * 4096] for j in range(10)]
    expected = encode_stripe(blocks, 4096)
    assert encode_stripe([memoryview(block) for block in blocks], 4096) == expected
    assert encode_stripe([bytearray(block) for block in blocks], 4096) == expected
