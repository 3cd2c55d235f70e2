"""A shard through its doors."""

import os
import threading
from pathlib import Path

import pytest

from molia.base.errors import Damaged, HomeLocked
from molia.base.ids import ObjectId
from molia.base.now import Now
from molia.store.disk import Buffer
from molia.store.index import ENTRY, Slice
from molia.store.keys import Kind, block_key
from molia.store.ops import Reply
from molia.store.shard import Delete, Guard, Put, Shard, ShardOptions, Transaction
from tests.store.shards import (
    NOW,
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

BLOCK = block_key(ObjectId(b"o" * 16), 1, 2)
WIDE = ShardOptions(ballast_bytes=0, reserve_bytes=0, map_bytes=64 << 20)


def one(op: Put | Delete, guard: Guard | None = None) -> list[Transaction]:
    """A batch of one operation."""
    return [Transaction((op,), guard)]


def test_what_is_put_is_read_in_all_its_ranges(tmp_path: Path) -> None:
    with opened(disk_at(tmp_path), WIDE) as shard:
        for size in (0, 1, 16_000, 20_000, 65_536, 65_537, 262_144, 1_000_000):
            value = os.urandom(size)
            put(shard, b"k%d" % size, value, kind=Kind.RECORD)
            for start, stop in (
                (0, None), (0, 0), (5, 3), (0, size), (size, size + 9), (1, 70_000), (65_536, None),
                (65_535, 65_537), (131_072, 196_608), (size // 2, size // 2 + 1), (2**40, None),
            ):  # fmt: skip
                for check in (True, False):
                    found = shard.get(
                        Kind.RECORD, b"k%d" % size, now=NOW, start=start, stop=stop, check=check
                    )
                    wanted = value[start:] if stop is None else value[start : max(start, stop)]
                    assert found == wanted, (size, start, stop, check)
            assert shard.size_of(Kind.RECORD, b"k%d" % size, now=NOW) == size
        assert shard.get(Kind.BLOCK, b"k1", now=NOW) is None
        assert shard.size_of(Kind.BLOCK, b"k1", now=NOW) is None


def test_buffers_of_any_kind_are_stored(tmp_path: Path) -> None:
    with opened(disk_at(tmp_path)) as shard:
        buffers: list[Buffer] = [b"abc", bytearray(b"abc"), memoryview(b"xabcx")[1:4]]
        for number, value in enumerate(buffers):
            shard.apply(one(Put(Kind.META, b"%d" % number, value)), NOW)
        assert set(contents(shard).values()) == {b"abc"}


def test_a_block_that_is_there_is_acknowledged_as_it_is(tmp_path: Path) -> None:
    with opened(disk_at(tmp_path)) as shard:
        assert shard.apply(one(Put(Kind.BLOCK, BLOCK, b"first")), NOW) == [Reply.APPLIED]
        frames = shard.stats().counters.frames
        assert shard.apply(one(Put(Kind.BLOCK, BLOCK, b"other")), NOW) == [Reply.APPLIED]
        assert shard.get(Kind.BLOCK, BLOCK, now=NOW) == b"first"
        assert shard.stats().counters.frames == frames
        shard.apply(one(Put(Kind.BLOCK, BLOCK, b"other", overwrite=True)), NOW)
        assert shard.get(Kind.BLOCK, BLOCK, now=NOW) == b"other"
        shard.checkpoint(NOW)
        shard.apply(one(Put(Kind.BLOCK, BLOCK, b"third")), NOW)
        assert shard.get(Kind.BLOCK, BLOCK, now=NOW) == b"other"


def test_deleting_what_is_not_there_writes_nothing(tmp_path: Path) -> None:
    with opened(disk_at(tmp_path)) as shard:
        assert shard.apply(one(Delete(Kind.META, b"nothing")), NOW) == [Reply.APPLIED]
        assert shard.stats().counters.frames == 0
        put(shard, b"a", b"1")
        delete(shard, b"a", b"b")
        assert shard.stats().counters.frames == 2
        delete(shard, b"a")
        assert shard.stats().counters.frames == 2
        assert contents(shard) == {}


def test_guards_see_earlier_transactions_of_their_batch(tmp_path: Path) -> None:
    with opened(disk_at(tmp_path)) as shard:
        put(shard, b"a", b"1")
        row = Put(Kind.META, b"a", b"2")
        batch = [
            Transaction((row,), Guard(Kind.META, b"a", b"1")),
            Transaction((Put(Kind.META, b"a", b"3"),), Guard(Kind.META, b"a", b"1")),
            Transaction((Delete(Kind.META, b"a"),), Guard(Kind.META, b"a", b"2")),
            Transaction((Put(Kind.META, b"b", b"x"),), Guard(Kind.META, b"a", None)),
            Transaction((Put(Kind.META, b"c", b"x"),), Guard(Kind.META, b"b", None)),
            Transaction((Put(Kind.META, b"d", b"x", expiry=1),)),
            Transaction((Put(Kind.META, b"e", b"x"),), Guard(Kind.META, b"d", None)),
        ]
        applied, refused = Reply.APPLIED, Reply.REFUSED
        wanted = [applied, refused, applied, applied, refused, applied, applied]
        assert shard.apply(batch, NOW) == wanted
        assert {key for _, key in contents(shard)} == {b"b", b"e"}


def test_operations_of_one_transaction_see_each_other(tmp_path: Path) -> None:
    with opened(disk_at(tmp_path)) as shard:
        shard.apply(
            [
                Transaction(
                    (
                        Put(Kind.BLOCK, BLOCK, b"1"),
                        Delete(Kind.BLOCK, BLOCK),
                        Put(Kind.BLOCK, BLOCK, b"2"),
                        Put(Kind.BLOCK, BLOCK, b"3"),
                        Delete(Kind.META, b"absent"),
                    )
                )
            ],
            NOW,
        )
        assert shard.get(Kind.BLOCK, BLOCK, now=NOW) == b"2"
        assert shard.stats().counters.frames == 3


def test_a_value_expires_when_its_second_has_come(tmp_path: Path) -> None:
    with opened(disk_at(tmp_path)) as shard:
        soon = int(NOW.unix_s) + 10
        put(shard, b"a", b"1", expiry=soon)
        put(shard, BLOCK, b"old", kind=Kind.BLOCK, expiry=soon)
        late = NOW.after(10)
        for checkpointed in (False, True):
            assert shard.get(Kind.META, b"a", now=NOW.after(9.9)) == b"1", checkpointed
            assert shard.get(Kind.META, b"a", now=late) is None
            assert shard.size_of(Kind.META, b"a", now=late) is None
            assert shard.scan(Kind.META, b"", now=late, limit=9) == []
            shard.checkpoint(NOW)
        guard = Guard(Kind.META, b"a", None)
        assert shard.apply(one(Put(Kind.BLOCK, BLOCK, b"new"), guard), late) == [Reply.APPLIED]
        assert shard.get(Kind.BLOCK, BLOCK, now=late) == b"new"


def test_a_scan_pages_through_memory_and_index_alike(tmp_path: Path) -> None:
    with opened(disk_at(tmp_path), WIDE) as shard:
        wanted = {}
        for number in range(900):
            key = b"p" + (number * 7919 % 900).to_bytes(2)
            wanted[key] = number
            shard.apply(one(Put(Kind.META, key, bytes(number % 50))), NOW)
            if number in (300, 600):
                shard.checkpoint(NOW)
        dropped = sorted(wanted)[::3]
        for first in range(0, len(dropped), 50):
            delete(shard, *dropped[first : first + 50])
        put(shard, b"o", b"before")
        put(shard, b"q", b"behind")
        left = [key for key in sorted(wanted) if key not in set(dropped)]
        for limit in (1, 7, 100, 10_000):
            seen: list[bytes] = []
            while page := shard.scan(
                Kind.META, b"p", now=NOW, after=seen[-1] if seen else b"", limit=limit
            ):
                assert len(page) <= limit
                seen += [row.key for row in page]
                if limit == 1 and len(seen) > 20:
                    break
            assert seen == left[: len(seen)]
            assert limit == 1 or seen == left
        assert [row.key for row in shard.scan(Kind.META, b"p\x01", now=NOW, limit=5)] == [
            key for key in left if key.startswith(b"p\x01")
        ][:5]


def test_segments_roll_and_everything_stays(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    with opened(disk) as shard:
        for key, value in values(200, 1_000):
            put(shard, key, value)
        assert len(shard.audit_segments()) >= 6
        assert audit_all(shard) == (0, set())
        before = contents(shard)
        assert len(before) == 200
    for rebuild in (False, True):
        with opened(disk, rebuild=rebuild) as shard:
            assert contents(shard) == before
            assert audit_all(shard) == (0, set())


def test_a_shard_has_one_writer(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    with opened(disk), pytest.raises(HomeLocked):
        open_shard(disk)
    shard, _ = open_shard(disk)
    shard.close(NOW)
    shard.close(NOW)
    with opened(disk):
        pass


def test_a_clean_start_reads_next_to_nothing(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    shard, report = open_shard(disk, WIDE)
    assert report.created
    for key, value in values(100, 20_000):
        put(shard, key, value)
    before = contents(shard)
    shard.close(NOW)
    shard, report = open_shard(disk, WIDE)
    assert (report.frames_replayed, report.truncated_bytes, report.damage_count) == (0, 0, 0)
    assert report.bytes_scanned < 20_000
    assert not report.index_rebuilt
    assert contents(shard) == before
    shard.close(NOW)


def test_idle_work_vouches_for_the_last_batch_once(tmp_path: Path) -> None:
    with opened(disk_at(tmp_path)) as shard:
        put(shard, b"a", b"1")
        assert shard.work(NOW.after(0.5), idle=True) == NOW.mono_s + 1.0
        assert shard.stats().counters.marks == 0
        assert shard.work(NOW.after(2), idle=False) is not None
        assert shard.stats().counters.marks == 0
        shard.work(NOW.after(2), idle=True)
        assert shard.stats().counters.marks == 1
        assert shard.work(NOW.after(3), idle=True) is None
        assert shard.stats().counters.marks == 1


def test_work_checkpoints_in_slices_when_there_are_enough_keys(tmp_path: Path) -> None:
    options = ShardOptions(
        ballast_bytes=0, reserve_bytes=0, map_bytes=64 << 20, checkpoint_keys=100, slice_keys=10
    )
    disk = disk_at(tmp_path)
    with opened(disk, options) as shard:
        for key, value in values(99, 10):
            put(shard, key, value)
        shard.work(NOW, idle=False)
        assert shard.stats().counters.checkpoints == 0
        put(shard, b"last", b"1")
        steps = 0
        while shard.stats().counters.checkpoints == 0:
            commits = shard.stats().counters.index_commits
            assert shard.work(NOW, idle=False) == NOW.mono_s or steps
            assert shard.stats().counters.index_commits <= commits + 1
            put(shard, b"during%d" % steps, b"2")
            steps += 1
        assert steps >= 10
        before = contents(shard)
        assert len(before) == 100 + steps
    shard, report = open_shard(disk, options)
    assert report.frames_replayed <= steps
    assert contents(shard) == before
    shard.close(NOW)


def test_a_large_index_is_written_for_more_keys_at_once(tmp_path: Path) -> None:
    options = ShardOptions(
        ballast_bytes=0, reserve_bytes=0, map_bytes=64 << 20, checkpoint_keys=10, slice_keys=50
    )

    def keys_of_a_checkpoint(shard: Shard) -> int:
        before, count = shard.stats().counters.checkpoints, 0
        while shard.stats().counters.checkpoints == before:
            put(shard, b"one more %d" % shard.stats().counters.frames, b"1")
            count += 1
            while (shard.work(NOW, idle=False) or 0) == NOW.mono_s:
                pass
        return count

    disk = disk_at(tmp_path)
    with opened(disk, options) as shard:
        assert keys_of_a_checkpoint(shard) == 10
        for count, many in ((500, 25), (5_000, 30)):
            for key, value in values(count, 10):
                put(shard, key, value)
            shard.checkpoint(NOW)
            assert abs(keys_of_a_checkpoint(shard) - many) <= 1
    with opened(disk, options) as shard:
        assert keys_of_a_checkpoint(shard) == 30


def test_many_keys_in_memory_never_pile_up(tmp_path: Path) -> None:
    options = ShardOptions(
        ballast_bytes=0, reserve_bytes=0, map_bytes=64 << 20, checkpoint_keys=50, slice_keys=20
    )
    with opened(disk_at(tmp_path), options) as shard:
        for key, value in values(1_000, 10):
            put(shard, key, value)
            assert len(shard._memtable) <= 4 * 50 + 1
            if len(shard._memtable) > 100:
                shard.work(NOW, idle=False)  # begun, and then nobody calls it for long


def test_readers_see_whole_values_while_the_writer_writes_and_punches(tmp_path: Path) -> None:
    options = ShardOptions(
        segment_bytes=256 * 1024, ballast_bytes=0, reserve_bytes=0, map_bytes=64 << 20,
        checkpoint_keys=20, slice_keys=3, punch_bytes=1,
    )  # fmt: skip
    keys = [b"k%d" % number for number in range(8)]
    stop = threading.Event()
    wrong: list[object] = []
    reads = [0]

    def read(shard: Shard) -> None:
        while not stop.is_set():
            for number, key in enumerate(keys):
                for check in (True, False):
                    try:
                        value = shard.get(Kind.BLOCK, key, now=NOW, check=check)
                    except Damaged as error:
                        wrong.append(error)
                        return
                    if value is None or len(value) != 40_000 or len(set(value)) != 1:
                        wrong.append((number, value and len(value)))
                        return
                    reads[0] += 1

    with opened(disk_at(tmp_path), options) as shard:
        for key in keys:
            put(shard, key, bytes(40_000), kind=Kind.BLOCK)
        threads = [threading.Thread(target=read, args=(shard,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for turn in range(300):
            put(shard, keys[turn % 8], bytes((turn % 256,)) * 40_000, kind=Kind.BLOCK)
            for _ in range(4):
                shard.work(NOW, idle=False)
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert reads[0] > 0
        assert shard.stats().counters.punched_values > 50


def test_a_long_value_read_before_is_the_newest_one_whatever_happened_since(
    tmp_path: Path,
) -> None:
    first, second = os.urandom(100_000), os.urandom(90_000)
    with opened(disk_at(tmp_path)) as shard:

        def read() -> bytes | None:
            """Read it twice, so that the second time it is remembered, and in pieces."""
            whole = [shard.get(Kind.META, b"long", now=NOW) for _ in range(2)]
            piece = shard.get(Kind.META, b"long", now=NOW, start=70_000, stop=80_000, check=False)
            assert whole[0] == whole[1]
            assert piece == (None if whole[0] is None else whole[0][70_000:80_000])
            return whole[0]

        put(shard, b"long", first)
        assert read() == first
        shard.checkpoint(NOW)
        assert read() == first
        put(shard, b"long", second)
        assert read() == second
        shard.checkpoint(NOW)
        assert read() == second
        delete(shard, b"long")
        assert read() is None
        shard.checkpoint(NOW)
        assert read() is None
        put(shard, b"long", first)
        assert read() == first
        place = shard._reader.find(b"\x07long")
        assert place is not None
        shard.checkpoint(NOW)
        assert read() == first
        gone = ENTRY.pack(*ENTRY.unpack(place)[:4], 1)
        shard._index.write_slice(Slice([(b"\x07long", gone)], {}))  # as what has expired goes
        assert read() is None


def test_readers_go_on_when_their_files_are_let_go(tmp_path: Path) -> None:
    options = ShardOptions(
        segment_bytes=8192, ballast_bytes=0, reserve_bytes=0, map_bytes=64 << 20, open_files=3
    )
    with opened(disk_at(tmp_path), options) as shard:
        expected = dict(values(60, 2_000))
        for key, value in expected.items():
            put(shard, key, value)
        wrong: list[bytes] = []

        def read() -> None:
            for _ in range(20):
                for key, value in expected.items():
                    if shard.get(Kind.META, key, now=NOW) != value:
                        wrong.append(key)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert len(shard._files) <= 3


def test_the_numbers_add_up(tmp_path: Path) -> None:
    with opened(disk_at(tmp_path), WIDE) as shard:
        for key, value in values(50, 30_000):
            put(shard, key, value, kind=Kind.RECORD)
        stats = shard.stats()
        assert stats.keys == 50
        assert stats.unapplied_bytes > 50 * 30_000
        assert stats.log_bytes > 50 * 30_000
        assert (stats.failure, stats.full, stats.punchable_bytes) == ("", False, 0)
        now = work_until_idle(shard)
        shard.checkpoint(now)
        assert shard.stats().unapplied_bytes == 0
        live = shard.stats().live_bytes
        assert live >= 50 * 30_000
        delete(shard, *[key for key, _ in values(25, 1)], kind=Kind.RECORD)
        assert shard.stats().punchable_bytes >= 25 * 20_000
        shard.checkpoint(Now(now.mono_s + 60, now.unix_s + 60))
        assert shard.stats().keys == 25
        assert shard.stats().live_bytes == live // 2


def test_a_wrong_entry_is_found_also_when_its_key_was_written_again(tmp_path: Path) -> None:
    """A checkpoint keeps the entry with the higher place, and the wrong one may lead too far."""
    disk = disk_at(tmp_path)
    with opened(disk) as shard:
        put(shard, b"key", b"old")
        shard.checkpoint(NOW)
        astray = ENTRY.pack(999, 5_000, 3, 0, 0)
        tagged = bytes((Kind.META,)) + b"key"
        shard._index.write_slice(Slice([(tagged, astray)], {}, force=True))
        put(shard, b"key", b"new")
        assert shard.get(Kind.META, b"key", now=NOW) == b"new"
        wrong, _ = shard.audit_index(Kind.META)
        assert wrong == [(Kind.META, b"key")]
        assert shard.reindex(wrong, NOW) == 1
        assert shard.audit_index(Kind.META)[0] == []
    with opened(disk) as shard:
        assert shard.get(Kind.META, b"key", now=NOW) == b"new"
