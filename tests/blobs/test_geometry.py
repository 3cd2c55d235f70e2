"""Where each byte of a blob lies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base.errors import GeometryError
from molia.base.limits import BLOB_SIZE_MAX
from molia.blobs.geometry import STRIPE_SIZE_MAX, Geometry
from tests import oracles
from tests.vectors.load import vectors

sizes = st.one_of(st.integers(0, 12_000_000), st.integers(0, BLOB_SIZE_MAX))


def test_every_vector_of_block_sizes_holds() -> None:
    for row in vectors("geometry"):
        geometry = Geometry.of(row["size"])
        assert (geometry.block_size, geometry.stripe_count) == (row["block"], row["stripes"])
        if row["stripes"]:
            shape, last = geometry.stripe(row["stripes"] - 1), row["last"]
            assert (shape.offset, shape.size) == (last["offset"], last["size"])
            assert shape.block_size == last["block"]
            assert list(shape.block_sizes) == last["blocks"]


@given(st.integers(1, 12_000_000))
def test_stripes_equal_those_of_a_walk_through_the_blob(size: int) -> None:
    geometry = Geometry.of(size)
    shapes = [geometry.stripe(i) for i in range(geometry.stripe_count)]
    assert [(s.offset, s.size, s.block_size) for s in shapes] == oracles.stripes(size)
    assert all(sum(s.block_sizes) == s.size for s in shapes)


@given(sizes, st.data())
def test_a_range_names_the_blocks_that_hold_its_bytes_and_no_others(
    size: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, size))
    stop = min(size, start + data.draw(st.integers(0, 3 * STRIPE_SIZE_MAX)))
    geometry = Geometry.of(size)
    covered = 0
    for index in geometry.stripes_of(start, stop):
        shape = geometry.stripe(index)
        shares = shape.shares_of(start, stop)
        assert shares, "a stripe of the range has a block of it"
        for share in shares:
            low = shape.offset + share * shape.block_size
            part = min(stop, low + shape.size_of(share)) - max(start, low)
            assert part > 0, "a block of the range has a byte of it"
            covered += part
    assert covered == stop - start


@given(sizes.filter(bool))
def test_a_stripe_needs_as_many_blocks_as_hold_its_bytes(size: int) -> None:
    geometry = Geometry.of(size)
    shape = geometry.stripe(geometry.stripe_count - 1)
    assert shape.needed == sum(1 for block in shape.block_sizes if block)
    assert len(shape.stored_shares) == shape.needed + 4


@pytest.mark.parametrize("size", [-1, BLOB_SIZE_MAX + 1])
def test_a_size_that_no_blob_has_is_refused(size: int) -> None:
    with pytest.raises(GeometryError):
        Geometry.of(size)


@pytest.mark.parametrize(("size", "index"), [(0, 0), (1, 1), (1, -1), (5_242_881, 3)])
def test_a_stripe_that_is_not_there_is_refused(size: int, index: int) -> None:
    with pytest.raises(GeometryError):
        Geometry.of(size).stripe(index)
