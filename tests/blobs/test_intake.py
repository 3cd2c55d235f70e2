"""Shares that come in: stored as sent, or refused for a reason, however the bytes come."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molia.base.cid import Cid, Codec
from molia.base.limits import WHOLE_SHARE
from molia.blobs import intake
from molia.blobs.intake import Fault, Intake, Kept, Refused, StoreBlock
from molia.blobs.manifest import cid_of_bytes, cid_of_manifest
from tests.blobs.remote import coded

BLOB = coded(2 * 2_621_440 + 5_000)
CID, MANIFEST = BLOB.manifest.cid, BLOB.manifest.encode()
DATA = b"a small blob" * 50


def stream_of(share: int, first: int = 0) -> bytes:
    """What a sender sends after the head."""
    return BLOB.leaves[share] + b"".join(BLOB.blocks[share, n] for n in range(first, 3))


class Disk:
    """Carries out an intake's effects at once, or later."""

    def __init__(self, it: Intake, *, lazy: bool = False) -> None:
        self.it, self.lazy = it, lazy
        self.blocks: dict[int, bytes] = {}
        self.leaves = b""
        self.whole: bytes | None = None
        self.end: intake.Effect | None = None

    def obey(self) -> None:
        """Do what is asked."""
        while effects := self.it.take_effects():
            for effect in effects:
                match effect:
                    case intake.StoreLeaves(leaves):
                        self.leaves = leaves
                        self.it.on_leaves_stored()
                    case intake.StoreWhole(data):
                        self.whole = data
                        self.it.on_leaves_stored()
                    case StoreBlock(index, block):
                        self.blocks[index] = block
                        if not self.lazy:
                            self.it.on_stored(index)
                    case Kept() | Refused():
                        self.end = effect

    def feed(self, data: bytes, *, step: int = 100_000) -> "Disk":
        """Send bytes and the end of the stream."""
        for at in range(0, len(data), step):
            self.it.on_bytes(data[at : at + step])
            self.obey()
        self.it.on_end()
        self.obey()
        return self


def share_in(share: int, *, first: int = 0) -> Intake:
    """An intake of one of the blob's shares."""
    return Intake(CID, share, manifest=MANIFEST, first_stripe=first)


@pytest.mark.parametrize("share", [0, 1, 2, 9, 10, 13])
def test_a_share_is_stored_as_it_was_sent(share: int) -> None:
    disk = Disk(share_in(share)).feed(stream_of(share))
    assert disk.end == Kept(3)
    assert disk.leaves == BLOB.leaves[share]
    assert disk.blocks == {n: BLOB.blocks[share, n] for n in range(3) if BLOB.blocks[share, n]}


@given(st.integers(0, 13), st.integers(50_000, 600_000), st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_it_goes_on_from_a_stripe_however_the_bytes_are_cut(
    share: int, step: int, first: int
) -> None:
    disk = Disk(share_in(share, first=first)).feed(stream_of(share, first), step=step)
    assert disk.end == Kept(3)
    stored = [n for n in range(first, 3) if BLOB.blocks[share, n]]
    assert sorted(disk.blocks) == stored


@given(st.integers(0, 524_287), st.integers(1, 255))
@settings(max_examples=30, deadline=None)
def test_no_damaged_byte_is_stored(at: int, flip: int) -> None:
    sent = bytearray(stream_of(3))
    sent[at % len(sent)] ^= flip
    disk = Disk(share_in(3)).feed(bytes(sent))
    assert isinstance(disk.end, Refused)
    assert disk.end.fault is Fault.BLOCK
    assert all(block == BLOB.blocks[3, n] for n, block in disk.blocks.items())
    assert disk.end.stripes == len(disk.blocks)
    assert not disk.it.wants_bytes


@given(st.integers(0, 2 * 262_144 + 95))
@settings(max_examples=30, deadline=None)
def test_a_stream_that_breaks_off_says_what_is_kept(size: int) -> None:
    disk = Disk(share_in(3)).feed(stream_of(3)[:size])
    kept = 0 if size < 96 else (size - 96) // 262_144
    assert disk.end == Refused(Fault.CUT_OFF, kept)
    disk.it.on_bytes(b"more")
    disk.it.on_end()
    assert disk.it.take_effects() == []


def test_more_than_there_is_is_refused() -> None:
    disk = Disk(share_in(3)).feed(stream_of(3) + b"x")
    assert disk.end == Refused(Fault.BLOCK, 1)  # the second block was not durable yet
    assert Disk(share_in(3, first=4)).feed(b"").end == Refused(Fault.BLOCK, 0)


@pytest.mark.parametrize(
    "encoded", [b"", MANIFEST[:-1], MANIFEST + b"x", coded(3_000_000).manifest.encode()]
)
def test_a_manifest_that_is_not_the_cids_is_refused(encoded: bytes) -> None:
    disk = Disk(Intake(CID, 3, manifest=encoded)).feed(stream_of(3))
    assert disk.end == Refused(Fault.MANIFEST, 0)
    assert disk.blocks == {}


def test_a_manifest_of_no_known_version_is_refused() -> None:
    encoded = b"\xa1\x61v\x02"
    disk = Disk(Intake(cid_of_manifest(encoded), 3, manifest=encoded)).feed(b"")
    assert disk.end == Refused(Fault.MANIFEST, 0)


def test_reading_stops_while_the_disk_is_behind() -> None:
    big = coded(7 * 2_621_440)
    it = Intake(big.manifest.cid, 0, manifest=big.manifest.encode())
    disk, sent = Disk(it, lazy=True), big.leaves[0]
    it.on_bytes(sent)
    for n in range(7):
        disk.obey()
        if not it.wants_bytes:
            break
        it.on_bytes(big.blocks[0, n])
    assert len(disk.blocks) == 4
    for n in range(3):
        it.on_stored(n)
    assert it.wants_bytes
    it.on_end()
    disk.obey()
    assert disk.end == Refused(Fault.CUT_OFF, 3)  # the fourth was not durable yet


def test_it_is_kept_only_once_all_is_durable() -> None:
    it = share_in(3)
    it.on_bytes(stream_of(3))
    it.on_end()
    effects = it.take_effects()
    assert not any(isinstance(e, Kept) for e in effects)
    for n in (1, 0):
        it.on_stored(n)
    assert it.take_effects() == []
    it.on_leaves_stored()
    assert it.take_effects() == [Kept(3)]


def test_small_blobs_are_taken_whole() -> None:
    cid = cid_of_bytes(DATA)

    def taken(data: bytes, size: int = len(DATA)) -> Disk:
        return Disk(Intake(cid, WHOLE_SHARE, size=size)).feed(data, step=100)

    assert (taken(DATA).end, taken(DATA).whole) == (Kept(1), DATA)
    assert taken(DATA[:-1]).end == Refused(Fault.CUT_OFF, 0)
    assert taken(DATA + b"x").end == Refused(Fault.BLOCK, 0)
    assert taken(DATA[:-1] + b"x").end == Refused(Fault.BLOCK, 0)
    assert Disk(Intake(Cid(Codec.RAW, bytes(32)), WHOLE_SHARE)).feed(b"").end == Refused(
        Fault.BLOCK, 0
    )
    empty = Disk(Intake(cid_of_bytes(b""), WHOLE_SHARE)).feed(b"")
    assert (empty.end, empty.whole) == (Kept(1), b"")
