"""Sectors that cannot be read when a shard opens: damage, and never a store that stays closed."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from molia.base.errors import Damaged, ShardUnavailable
from molia.base.limits import UNREADABLE_PAGES_MAX
from molia.store.keys import Kind
from molia.store.ops import RecoveryReport
from molia.store.segment import HEADER_SIZE
from molia.store.shard import Shard
from molia.store.unreadable import PatchedFile, Patience
from tests.store.bad_sector import BadSector
from tests.store.shards import NOW, TINY, Named, contents, open_shard, opened, put, values

WIDE = replace(TINY, segment_bytes=1 << 20)
SIZE, COUNT = 9_000, 12


def segments(root: Path) -> list[Path]:
    """All segments, the oldest first."""
    return sorted((root / "shard-00" / "seg").iterdir())


def spoil(disk: BadSector, path: Path, low: int, size: int = 512) -> None:
    """Let the disk read these bytes no more."""
    disk.name = str(path.relative_to(disk.path_of("")))
    disk.low, disk.high = low, low + size


def filled(root: Path) -> BadSector:
    """Return a disk with a shard that was killed, with a checkpoint in the middle."""
    disk = BadSector(root)
    with opened(disk, WIDE) as shard:
        for number, (key, value) in enumerate(values(COUNT, SIZE)):
            put(shard, key, value)
            if number == COUNT // 2:
                shard.checkpoint(NOW)
    return disk


def found_in(shard: Shard, *, but: bytes) -> dict[Named, bytes | None]:
    """Return what a shard has, but for a key."""
    rows = shard.scan(Kind.META, b"", now=NOW, limit=1_000)
    keys = [row.key for row in rows if row.key != but]
    return {(Kind.META, key): shard.get(Kind.META, key, now=NOW) for key in keys}


EVERYTHING: dict[Named, bytes | None] = {
    (Kind.META, key): value for key, value in values(COUNT, SIZE)
}


def opens_with_everything(disk: BadSector, *, rebuild: bool) -> RecoveryReport:
    """Check that a shard has all that was put, and takes more; return what its opening found."""
    shard, report = open_shard(disk, WIDE, rebuild=rebuild)
    try:
        assert contents(shard) == EVERYTHING
        put(shard, b"new", b"value")
    finally:
        shard._release()
    with opened(disk, WIDE) as shard:
        assert contents(shard) == EVERYTHING | {(Kind.META, b"new"): b"value"}
    return report


@pytest.mark.parametrize("rebuild", [False, True])
def test_a_header_that_cannot_be_read_is_damage_and_loses_nothing(
    tmp_path: Path, rebuild: bool
) -> None:
    disk = filled(tmp_path)
    spoil(disk, segments(tmp_path)[-1], 0)
    report = opens_with_everything(disk, rebuild=rebuild)
    assert [damage.reason for damage in report.damaged] == ["the segment's header is damaged"]


@pytest.mark.parametrize("rebuild", [False, True])
def test_a_footer_that_cannot_be_read_is_damage_and_loses_nothing(
    tmp_path: Path, rebuild: bool
) -> None:
    disk = filled(tmp_path)
    with opened(disk, WIDE):
        pass  # what was open is sealed
    sealed = segments(tmp_path)[0]
    spoil(disk, sealed, sealed.stat().st_size - 100)
    assert opens_with_everything(disk, rebuild=rebuild).damage_count > 0


@pytest.mark.parametrize("inside", [-20, 5_000])
@pytest.mark.parametrize("hit", [COUNT - 3, COUNT - 1])
def test_what_cannot_be_read_of_the_open_end_is_damage_and_is_not_cut_off(
    tmp_path: Path, hit: int, inside: int
) -> None:
    """It was acknowledged perhaps, and others behind it were."""
    disk = filled(tmp_path)
    segment = segments(tmp_path)[-1]
    was = segment.read_bytes()
    key, value = list(values(COUNT, SIZE))[hit]
    spoil(disk, segment, was.index(value) + inside, 8)
    left = {name: value for name, value in EVERYTHING.items() if name[1] != key}
    shard, report = open_shard(disk, WIDE)
    try:
        assert report.damage_count > 0
        assert report.truncated_bytes == 0
        assert found_in(shard, but=key) == left
        with pytest.raises(Damaged) if inside > 0 else nullcontext():
            assert shard.get(Kind.META, key, now=NOW) is None
    finally:
        shard._release()
    assert segment.read_bytes()[: len(was)] == was
    left[Kind.META, b"new"] = b"value"
    with opened(disk, WIDE) as shard:
        put(shard, b"new", b"value")
        assert found_in(shard, but=key) == left
    disk.name = ""
    with opened(disk, WIDE, rebuild=True) as shard:
        assert found_in(shard, but=key) == left


@pytest.mark.parametrize("rebuild", [False, True])
def test_a_disk_that_reads_next_to_nothing_is_believed_nothing(
    tmp_path: Path, rebuild: bool
) -> None:
    """It may be a cable: what does not open today is there tomorrow."""
    disk = BadSector(tmp_path)
    count = UNREADABLE_PAGES_MAX // 2
    with opened(disk, WIDE) as shard:
        for key, value in values(count, SIZE):
            put(shard, key, value)
    was = {path: path.read_bytes() for path in segments(tmp_path)}
    assert sum(map(len, was.values())) > UNREADABLE_PAGES_MAX * HEADER_SIZE
    spoil(disk, segments(tmp_path)[-1], 0, 1 << 30)
    with pytest.raises(ShardUnavailable, match="Input/output error"):
        open_shard(disk, WIDE, rebuild=rebuild)
    assert {path: path.read_bytes() for path in segments(tmp_path)} == was
    disk.name = ""
    with opened(disk, WIDE) as shard:
        assert len(contents(shard)) == count


def test_a_page_that_could_not_be_read_once_reads_the_same_ever_after(tmp_path: Path) -> None:
    """Who searches for frames would never end if a place were a frame in every other read."""
    disk = BadSector(tmp_path)
    (tmp_path / "file").write_bytes(b"x" * 10_000)
    disk.name, disk.low, disk.high = "file", 5_000, 5_008
    file = PatchedFile(disk.open("file", writable=False), Patience())
    was = file.read(0, 20_000)
    assert was == b"x" * 4096 + bytes(4096) + b"x" * (10_000 - 8192)
    disk.high = 0
    for low, high in ((0, 20_000), (4_000, 4_200), (5_000, 5_001), (8_190, 9_000), (9_000, 12_000)):
        assert file.read(low, high - low) == was[low:high]
    assert file.is_unreadable(8_191, 8_192)
    assert not file.is_unreadable(8_192, 10_000)
