"""Reads that rest on a stranger's supplement: the right bytes, or an end without the last block."""

from collections.abc import AsyncGenerator, AsyncIterator
from types import SimpleNamespace
from typing import cast

import anyio
import pytest

from molia.base.cid import Cid, Codec
from molia.base.errors import IntegrityFailure, SharesOutOfReach
from molia.base.hashing import blake3_digest
from molia.blobs.elastic import Supplement
from molia.blobs.manifest import Manifest
from molia.node import network_readers
from molia.node.network_readers import AddedReader, NetworkReader, Reads
from molia.node.whereabouts import Find

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


CID, SIZE = Cid(Codec.MANIFEST, blake3_digest(b"manifest")), len(DATA)
TRUE, FALSE, SHORT = (Supplement(CID, (bytes([n]) * 32,)) for n in range(3))
"""One by which the blob is read, one by which another is, and one by which too little is."""


class Told:
    """Readers' other half: hands out what strangers say, and hears what was not true."""

    def __init__(self, *said: Supplement) -> None:
        self._said, self.untrue = said, list[Supplement]()

    async def supplements(self, _find: object, _here: object) -> AsyncGenerator[Supplement, None]:
        """Yield what is not known to be wrong."""
        for each in self._said:
            if each not in self.untrue:
                yield each

    def note_untrue(self, added: Supplement) -> None:
        """Remember it."""
        self.untrue.append(added)


class Short(NetworkReader):
    """A reader that has too few shares but for those that were added."""

    async def _read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        if self._added not in (TRUE.roots, FALSE.roots):
            raise SharesOutOfReach(CID, reachable=9, needed=10, asked=())
        data = DATA if self._added == TRUE.roots else bytes(SIZE)
        for at in range(start // BLOCK * BLOCK, stop, BLOCK):
            yield data[max(at, start) : min(at + BLOCK, stop)]


def read(told: Told, start: int, stop: int, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return what is read of a blob that needs added shares."""
    monkeypatch.setattr(network_readers, "NetworkReader", Short)
    manifest = SimpleNamespace(size=SIZE, content=blake3_digest(DATA))
    reader = Short(cast("Reads", told), cast("Find", None), cast("Manifest", manifest), ())

    async def go() -> bytes:
        return b"".join([chunk async for chunk in reader.read(start, stop)])

    return anyio.run(go)


def test_a_range_is_read_by_the_next_supplement_when_one_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = Told(FALSE, SHORT, TRUE)
    assert read(told, 1_500, 4_200, monkeypatch) == DATA[1_500:4_200]
    assert told.untrue == [FALSE]
    assert read(Told(SHORT, TRUE), 0, SIZE, monkeypatch) == DATA


def test_the_whole_is_read_by_the_next_supplement_the_next_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = Told(FALSE, TRUE)
    with pytest.raises(IntegrityFailure):
        read(told, 0, SIZE, monkeypatch)
    assert read(told, 0, SIZE, monkeypatch) == DATA


def test_without_any_the_shares_are_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    for told in (Told(), Told(SHORT)):
        with pytest.raises(SharesOutOfReach):
            read(told, 0, SIZE, monkeypatch)
