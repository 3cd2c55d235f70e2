"""Reads that rest on a stranger's supplement: the right bytes, or an end without the last block."""

from collections.abc import AsyncIterator
from typing import cast

import anyio
import pytest

from molia.base.errors import IntegrityFailure
from molia.base.hashing import blake3_digest
from molia.node.network_readers import AddedReader, NetworkReader

BLOCK = 1_000
DATA = bytes(n % 251 for n in range(10 * BLOCK))


class Passes:
    """Gives other bytes with each pass over it, as holders may who answer for different shares."""

    def __init__(self, *passes: bytes) -> None:
        self._passes, self.size = list(passes), len(DATA)

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield what a pass gives of a range, block by block."""
        data = self._passes.pop(0)
        for at in range(start // BLOCK * BLOCK, stop, BLOCK):
            yield data[max(at, start) : min(at + BLOCK, stop)]


def got(passes: Passes, start: int, stop: int) -> bytes:
    """Return what a reader of the range is given; what it had before an error is in the error."""
    reader = AddedReader(cast("NetworkReader", passes), blake3_digest(DATA))
    parts: list[bytes] = []

    async def go() -> None:
        async for chunk in reader.read(start, stop):
            parts[len(parts) :] = [chunk]

    try:
        anyio.run(go)
    except IntegrityFailure as error:
        error.add_note(f"{sum(map(len, parts))} bytes")
        raise
    return b"".join(parts)


@pytest.mark.parametrize(
    ("start", "stop"), [(0, len(DATA)), (0, 10), (1_500, 4_200), (9_999, 10_000)]
)
def test_a_sound_blob_is_given_as_it_is(start: int, stop: int) -> None:
    assert got(Passes(DATA, DATA), start, stop) == DATA[start:stop]


def test_of_another_blob_the_last_block_of_the_whole_and_nothing_of_a_range_is_given() -> None:
    wrong = bytes(BLOCK) + DATA[BLOCK:]
    with pytest.raises(IntegrityFailure) as caught:
        got(Passes(wrong), 0, len(DATA))
    assert caught.value.__notes__ == ["9000 bytes"]
    with pytest.raises(IntegrityFailure) as caught:
        got(Passes(wrong, DATA), 5_000, 6_000)
    assert caught.value.__notes__ == ["0 bytes"]


def test_a_range_that_changes_between_the_passes_ends_before_the_change() -> None:
    later = DATA[:6_500] + b"x" + DATA[6_501:]
    with pytest.raises(IntegrityFailure) as caught:
        got(Passes(DATA, later), 5_500, 8_000)
    assert caught.value.__notes__ == ["500 bytes"]
