"""Torn tails, damage, lost indexes, big tails."""

import os
from pathlib import Path

import pytest

from molia.base.errors import Damaged
from molia.base.ids import ObjectId
from molia.store.frame import encode_head, store_seed
from molia.store.keys import Kind, block_key
from molia.store.ops import Reply
from molia.store.os_disk import OsDisk
from molia.store.shard import Delete, Put, ShardOptions, Transaction
from tests.store.shards import (
    NOW,
    TINY,
    audit_all,
    contents,
    delete,
    disk_at,
    open_shard,
    opened,
    put,
    values,
    work_until_idle,
)  # fmt: skip

WIDE = ShardOptions(ballast_bytes=0, reserve_bytes=0, map_bytes=256 << 20)


def newest_segment(root: Path) -> Path:
    """The segment that is being written."""
    return max((root / "shard-00" / "seg").iterdir())


def lose_index(root: Path) -> None:
    """Remove the index, as a careless operator would."""
    for path in (root / "shard-00").glob("index-*/*"):
        path.unlink()


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("cut", [1, 40, 49, 150, 549, 600, 1_000, 1_097])
def test_a_torn_batch_goes_as_a_whole_and_the_rest_stays(
    tmp_path: Path, cut: int, lost: bool
) -> None:
    disk = disk_at(tmp_path)
    with opened(disk, WIDE) as shard:
        put(shard, b"kept", b"1")
        size = newest_segment(tmp_path).stat().st_size
        shard.apply(
            [Transaction((Put(Kind.META, b"x", bytes(500)), Put(Kind.META, b"y", bytes(500))))], NOW
        )
    segment = newest_segment(tmp_path)
    os.truncate(segment, segment.stat().st_size - cut)
    torn = segment.stat().st_size - size
    if lost:
        lose_index(tmp_path)
    shard, report = open_shard(disk, WIDE)
    assert report.truncated_bytes == torn
    assert report.damage_count == 0
    assert report.index_rebuilt == lost
    assert contents(shard) == {(Kind.META, b"kept"): b"1"}
    put(shard, b"new", b"2")
    shard._release()
    with opened(disk, WIDE, rebuild=True) as shard:
        assert set(contents(shard)) == {(Kind.META, b"kept"), (Kind.META, b"new")}


def test_garbage_behind_the_end_is_a_torn_tail(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    with opened(disk, WIDE) as shard:
        put(shard, b"kept", b"1")
    with newest_segment(tmp_path).open("ab") as file:
        file.write(os.urandom(5_000) + b"MOF1" + os.urandom(300) + bytes(4_096))
    shard, report = open_shard(disk, WIDE)
    assert report.truncated_bytes == 5_000 + 304 + 4_096
    assert report.damage_count == 0
    assert contents(shard) == {(Kind.META, b"kept"): b"1"}
    shard._release()


def test_values_that_look_like_frames_are_never_taken_for_them(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    foreign = store_seed(b"another store's!")
    forged = b"".join(
        encode_head(Kind.META, 0, b"evil", b"", lsn, 2**40, 0, 0, foreign) for lsn in range(1, 200)
    )
    with opened(disk, WIDE) as shard:
        put(shard, b"own", b"1")
        replayed = newest_segment(tmp_path).read_bytes()
        put(shard, b"value", replayed + forged)
    segment = newest_segment(tmp_path)
    data = bytearray(segment.read_bytes())
    data[len(replayed) + 4] ^= 1  # the head of the last frame; its value is searched for frames
    segment.write_bytes(data)
    shard, report = open_shard(disk, WIDE)
    assert report.damage_count == 0
    assert report.truncated_bytes == len(data) - len(replayed)
    assert contents(shard) == {(Kind.META, b"own"): b"1"}
    shard._release()


def test_damage_that_later_frames_vouch_for_is_reported_and_not_cut_off(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    with opened(disk, WIDE) as shard:
        put(shard, b"a", b"1" * 300)
        at = newest_segment(tmp_path).stat().st_size
        put(shard, b"b", b"2" * 300)
        put(shard, b"c", b"3" * 300)
        work_until_idle(shard)
    segment = newest_segment(tmp_path)
    for offset, reason in ((at + 60, "value"), (at + 20, "frame")):
        data = bytearray(segment.read_bytes())
        data[offset] ^= 4
        segment.write_bytes(data)
        lose_index(tmp_path)
        segment_before = segment.read_bytes()
        shard, report = open_shard(disk, WIDE)
        assert report.damage_count == 1
        assert reason in report.damaged[0].reason
        assert report.truncated_bytes == 0
        assert shard.get(Kind.META, b"a", now=NOW) == b"1" * 300
        assert shard.get(Kind.META, b"c", now=NOW) == b"3" * 300
        if reason == "value":
            assert report.damaged[0].key == b"b"
            with pytest.raises(Damaged) as caught:
                shard.get(Kind.META, b"b", now=NOW)
            assert (caught.value.kind, caught.value.key) == (Kind.META, b"b")
            assert shard.stats().counters.damaged_reads == 1
        shard._release()
        segment.write_bytes(segment_before)  # once more, without the seal of this start
        for other in segment.parent.iterdir():
            if other != segment:
                other.unlink()


def test_a_damaged_overwrite_does_not_bring_the_old_value_back(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    with opened(disk, WIDE) as shard:
        put(shard, b"a", b"old")
        at = newest_segment(tmp_path).stat().st_size
        put(shard, b"a", b"new")
        put(shard, b"b", b"1")
        shard.checkpoint(NOW)
    segment = newest_segment(tmp_path)
    data = bytearray(segment.read_bytes())
    data[at + 30] ^= 1
    segment.write_bytes(data)
    shard, report = open_shard(disk, WIDE)
    assert report.damage_count == 1
    with pytest.raises(Damaged):
        shard.get(Kind.META, b"a", now=NOW)
    shard._release()


def test_a_deleted_key_stays_deleted_when_the_index_is_rebuilt(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    with opened(disk) as shard:
        for key, value in values(60, 1_500):
            put(shard, key, value)
        delete(shard, *[key for key, _ in values(30, 1)])
        before = contents(shard)
        assert len(before) == 30
    for _ in range(2):
        with opened(disk, rebuild=True) as shard:
            assert contents(shard) == before


@pytest.mark.parametrize("rot", ["empty", "noise", "no checkpoint"])
def test_a_broken_index_is_rebuilt_by_itself(tmp_path: Path, rot: str) -> None:
    disk = disk_at(tmp_path)
    with opened(disk) as shard:
        for key, value in values(60, 1_500):
            put(shard, key, value)
        before = contents(shard)
        shard.checkpoint(NOW)
    data = next((tmp_path / "shard-00").glob("index-*/data.mdb"))
    if rot == "noise":
        data.write_bytes(os.urandom(data.stat().st_size))
    elif rot == "empty":
        data.write_bytes(b"")
    else:
        data.unlink()
    shard, report = open_shard(disk, TINY)
    assert report.index_rebuilt
    assert report.damage_count == 0
    assert contents(shard) == before
    assert audit_all(shard) == (0, set())
    shard.close(NOW)
    assert len(list((tmp_path / "shard-00").glob("index-*"))) == 1
    shard, report = open_shard(disk, TINY)
    assert not report.index_rebuilt
    shard.close(NOW)


def test_what_a_writer_left_under_way_is_removed(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    shard, _ = open_shard(disk)
    put(shard, b"a", b"1")
    shard.close(NOW)
    seg = tmp_path / "shard-00" / "seg"
    (seg / "00000000000000ff.cmp").write_bytes(b"half a compaction")
    (seg / "0000000000000009.log").write_bytes(b"MOLIASEG, a header that was cut o")
    (tmp_path / "shard-00" / "delta-7").mkdir()
    shard, report = open_shard(disk)
    assert report.damage_count == 0
    assert report.removed_files == ("shard-00/seg/0000000000000009.log",)
    assert not (tmp_path / "shard-00" / "delta-7").exists()
    assert not (seg / "00000000000000ff.cmp").exists()
    put(shard, b"b", b"2")
    assert len(contents(shard)) == 2
    shard._release()
    with opened(disk, rebuild=True) as shard:
        assert len(contents(shard)) == 2


@pytest.mark.parametrize("what", ["gone", "header", "seal"])
def test_a_sealed_segment_that_is_lost_or_hurt_is_damage(tmp_path: Path, what: str) -> None:
    disk = disk_at(tmp_path)
    with opened(disk) as shard:
        for key, value in values(100, 1_000):
            put(shard, key, value)
    victim = sorted((tmp_path / "shard-00" / "seg").iterdir())[1]
    data = bytearray(victim.read_bytes())
    if what == "gone":
        victim.unlink()
    else:
        data[{"header": 20, "seal": -3}[what]] ^= 1
        victim.write_bytes(data)
    shard, report = open_shard(disk, rebuild=True)
    assert report.damage_count >= 1
    assert report.truncated_bytes == 0
    left = contents(shard)
    assert len(left) == 100 if what != "gone" else 60 < len(left) < 100
    shard._release()


def test_a_big_tail_is_recovered(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    value = os.urandom(1_000)
    count = 40_000
    with opened(disk, WIDE) as shard:
        for first in range(0, count, 1_000):
            batch = [
                Transaction((Put(Kind.BLOCK, block_key(ObjectId(bytes(16)), 1, n), value),))
                for n in range(first, first + 1_000)
            ]
            assert shard.apply(batch, NOW) == [Reply.APPLIED] * 1_000
    for replayed in (count, 0):
        shard, report = open_shard(disk, WIDE)
        keys = shard.stats().keys
        shard._release()
        assert keys == count
        assert report.frames_replayed == replayed
        assert report.damage_count == 0


def test_replaying_bounds_its_memory_by_going_into_the_index(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    with opened(disk) as shard:
        for key, value in values(300, 1_000):
            put(shard, key, value)
        before = contents(shard)
    small = ShardOptions(
        segment_bytes=32 * 1024, ballast_bytes=0, reserve_bytes=0, map_bytes=64 << 20,
        checkpoint_keys=20, slice_keys=7,
    )  # fmt: skip
    shard, report = open_shard(disk, small)
    assert report.frames_replayed >= 300
    assert contents(shard) == before
    assert audit_all(shard) == (0, set())
    shard._release()


# ------------------------------------------------------------------------ punching


def test_deleting_gives_the_space_back(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    value = os.urandom(256 * 1024)
    keys = [block_key(ObjectId(bytes((n,)) * 16), 0, n) for n in range(40)]
    with opened(disk, WIDE) as shard:
        for key in keys:
            put(shard, key, value, kind=Kind.BLOCK)
        if not _can_punch(disk):
            pytest.skip("this file system cannot punch holes")
        segment = newest_segment(tmp_path)
        before = segment.stat().st_blocks * 512
        shard.apply([Transaction(tuple(Delete(Kind.BLOCK, key) for key in keys[::2]))], NOW)
        assert shard.work(NOW.after(5), idle=True) is not None
        assert shard.stats().counters.punched_values == 0, "not before the delete is in the index"
        now = work_until_idle(shard)
        assert now.mono_s - NOW.mono_s <= 30
        assert segment.stat().st_blocks * 512 <= before - 20 * 250_000
        assert shard.stats().punchable_bytes == 0
        assert shard.stats().counters.punched_values == 20
        for number, key in enumerate(keys):
            assert shard.get(Kind.BLOCK, key, now=NOW) == (value if number % 2 else None)
        assert audit_all(shard) == (0, set())
        log_bytes = shard.stats().log_bytes
    for rebuild in (False, True):
        shard, report = open_shard(disk, WIDE, rebuild=rebuild)
        assert report.damage_count == 0
        assert len(contents(shard)) == 20
        assert abs(shard.stats().log_bytes - log_bytes) < 10_000
        assert shard.stats().punchable_bytes == 0
        assert audit_all(shard) == (0, set())
        shard._release()


def test_a_writer_that_ends_between_punching_and_noting_it_counts_no_value_twice(
    tmp_path: Path,
) -> None:
    disk = disk_at(tmp_path)
    if not _can_punch(disk):
        pytest.skip("this file system cannot punch holes")
    shard, _ = open_shard(disk, WIDE)
    for number in range(20):
        put(shard, b"%d" % number, os.urandom(256 * 1024))
    for number in range(1, 20):
        delete(shard, b"%d" % number)
    for round_number in range(3):
        now = NOW.after(10 * round_number)
        for _ in range(1_000):
            now = now.after(1)
            shard.work(now, idle=True)
            if shard.stats().counters.punched_values:
                break
        assert shard.stats().counters.punched_values > 0, "it punches what is on the list"
        put(shard, b"0", os.urandom(256 * 1024))
        shard.close(now)  # brings the row of the segment into the index, not the list's rest
        shard, _ = open_shard(disk, WIDE)
    work_until_idle(shard)
    used = sum(path.stat().st_blocks * 512 for path in newest_segment(tmp_path).parent.iterdir())
    assert abs(shard.stats().log_bytes - used) < 20 * 4_096
    shard._release()


def _can_punch(disk: OsDisk) -> bool:
    file = disk.open("probe", create=True)
    file.write(0, [bytes(8192)])
    return file.punch(0, 4096)


def test_a_rebuild_from_frames_accepts_holes_only_where_the_key_has_moved_on(
    tmp_path: Path,
) -> None:
    disk = disk_at(tmp_path)
    with opened(disk, WIDE) as shard:
        put(shard, b"dead", os.urandom(40_000))
        put(shard, b"alive", os.urandom(40_000))
        delete(shard, b"dead")
        work_until_idle(shard)
        if not shard.stats().counters.punched_values:
            pytest.skip("this file system cannot punch holes")
    lose_index(tmp_path)
    segment = newest_segment(tmp_path)
    copy = segment.read_bytes()
    shard, report = open_shard(disk, WIDE)
    assert (report.index_rebuilt, report.damage_count) == (True, 0)
    assert [key for _, key in contents(shard)] == [b"alive"]
    shard._release()
    # now a hole where the key is alive: that is damage, and the value is never served
    for other in segment.parent.iterdir():
        other.unlink()
    segment.write_bytes(copy)
    at = copy.index(b"alive") + 8_192
    file = disk.open(f"shard-00/seg/{segment.name}")
    file.punch(at, 16_384)
    file.close()
    lose_index(tmp_path)
    shard, report = open_shard(disk, WIDE)
    assert report.damage_count >= 1
    assert {damage.key for damage in report.damaged} >= {b"alive"}
    with pytest.raises(Damaged):
        shard.get(Kind.META, b"alive", now=NOW)
    shard._release()


def test_where_nothing_can_be_punched_the_list_of_the_dead_is_dropped(tmp_path: Path) -> None:
    disk = OsDisk(str(tmp_path), plain=True)
    with opened(disk, WIDE) as shard:
        put(shard, b"dead", bytes(40_000))
        delete(shard, b"dead")
        work_until_idle(shard)
        assert shard.stats().counters.punched_bytes == 0
        assert shard.stats().punchable_bytes == 0
