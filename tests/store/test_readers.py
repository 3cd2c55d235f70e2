"""Readers in other processes over a long time: dead ones cost nothing, none holds on for long."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from molia.base.limits import LMDB_READERS_MAX
from molia.store.delta import epochs
from molia.store.keys import Kind
from molia.store.shard import Put, Shard, Transaction
from tests.store.processes import SHARED, Keeper, now, reader_of, spawn
from tests.store.shards import NOW, contents, disk_at, open_shard
from tests.store.test_compaction import fill, thin, until

OPTIONS = replace(SHARED, checkpoint_keys=1_000, segment_bytes=1 << 20, slice_keys=1_000)


@contextmanager
def process(verb: str, path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a reader in a process of its own, from when it has said its first line."""
    made = spawn(verb, str(path), stdin=subprocess.PIPE)
    try:
        assert made.stdout is not None
        assert made.stdout.readline()
        yield made
    finally:
        made.kill()
        made.communicate()


def churn(shard: Shard, rounds: int) -> None:
    """Overwrite the same thousand keys, with a checkpoint after each round."""
    for number in range(rounds):
        value = b"%d" % number
        ops = tuple(Put(Kind.META, b"k%05d" % key, value) for key in range(1_000))
        shard.apply([Transaction(ops)], NOW)
        shard.checkpoint(NOW)


def index_bytes(path: Path) -> int:
    """Return the size of the index."""
    (data,) = path.glob("shard-00/index-*/data.mdb")
    return data.stat().st_size


def test_a_reader_that_was_killed_while_it_read_stops_costing_space(tmp_path: Path) -> None:
    shard, _ = open_shard(disk_at(tmp_path), OPTIONS)
    churn(shard, 20)
    steady = index_bytes(tmp_path)
    with process("hold", tmp_path):
        churn(shard, 20)
        held = index_bytes(tmp_path)
        assert held > 2 * steady, "an old snapshot keeps its pages"
        assert shard.stats().reader_lag >= 20
    churn(shard, 40)
    assert index_bytes(tmp_path) < 1.5 * held, "its pages are used again"
    stats = shard.stats()
    assert stats.counters.readers_cleared == 1
    assert stats.reader_lag <= 1
    shard._release()


def test_a_dead_reader_is_found_while_nothing_is_written(tmp_path: Path) -> None:
    shard, _ = open_shard(disk_at(tmp_path), replace(OPTIONS, sweep_s=3_600.0))
    churn(shard, 1)
    with process("hold", tmp_path):
        assert shard.stats().reader_lag == 0
    due_s = shard.work(NOW, idle=True)
    when = NOW
    for _ in range(20):
        assert due_s is not None
        when = when.after(max(0.0, due_s - when.mono_s))
        due_s = shard.work(when, idle=True)
    assert shard.stats().counters.readers_cleared == 1
    shard._release()


def test_a_long_scan_in_another_process_holds_no_snapshot_for_long(tmp_path: Path) -> None:
    """Each page of it is a read transaction of its own."""
    shard, _ = open_shard(disk_at(tmp_path), OPTIONS)
    for first in range(0, 30_000, 1_000):
        ops = tuple(Put(Kind.META, b"s%06d" % key, b"") for key in range(first, first + 1_000))
        shard.apply([Transaction(ops)], NOW)
    shard.checkpoint(NOW)
    lags = []
    with process("scan", tmp_path), process("scan", tmp_path) as second:
        for _ in range(60):
            churn(shard, 1)
            lags.append(shard.stats().reader_lag)
        assert second.stdout is not None
        assert second.stdout.readline() == b"scanned\n"
    # a slow machine may stop a reader at a bad moment, but not at most of them
    assert sorted(lags)[30] <= 2, f"a snapshot stayed over many commits: {lags}"
    assert max(lags) < 60, f"a snapshot stayed over all commits: {lags}"
    shard._release()


def test_more_readers_may_come_and_go_than_there_are_slots(tmp_path: Path) -> None:
    """Two at a time, killed each time: their slots are free again."""
    shard, _ = open_shard(disk_at(tmp_path), OPTIONS)
    churn(shard, 1)
    for _ in range(5):
        with process("hold", tmp_path), process("hold", tmp_path):
            pass
        churn(shard, 1)
    assert shard.stats().counters.readers_cleared == 10
    shard._release()


@pytest.mark.parametrize("rebuild", [False, True])
def test_epochs_only_grow_over_many_restarts_and_a_reader_follows_them(
    tmp_path: Path, rebuild: bool
) -> None:
    keeper, seen = Keeper(tmp_path), [0]
    try:
        keeper.start()
        reader = reader_of(tmp_path)
        for number in range(6):
            keeper.put(b"key", b"%d" % number)
            assert reader.get(Kind.META, b"key", now=now()) == b"%d" % number
            (epoch,) = epochs(disk_at(tmp_path), "shard-00")
            assert epoch > seen[-1]
            seen.append(epoch)
            keeper.kill()
            assert reader.get(Kind.META, b"key", now=now()) == b"%d" % number
            keeper.start(rebuild=rebuild)
        reader.close()
    finally:
        keeper.kill()


def test_a_reader_that_comes_late_finds_the_newest_epoch_beside_old_remains(
    tmp_path: Path,
) -> None:
    disk = disk_at(tmp_path)
    shard, _ = open_shard(disk, SHARED)
    churn(shard, 1)
    expected = contents(shard)
    shard._release()
    for epoch in (1, 5):  # as a killed writer may leave them
        disk.make_dir(f"shard-00/delta-{epoch}")
    keeper = Keeper(tmp_path)
    try:
        keeper.start()
        assert epochs(disk, "shard-00") == [6]
        reader = reader_of(tmp_path)
        assert contents(reader) == expected
        reader.close()
    finally:
        keeper.kill()


def test_the_lock_file_of_an_index_has_no_holes(tmp_path: Path) -> None:
    """Touching one on a full disk would end the process."""
    shard, _ = open_shard(disk_at(tmp_path), OPTIONS)
    for lock in tmp_path.glob("shard-00/*/lock.mdb"):
        status = lock.stat()
        assert status.st_blocks * 512 >= status.st_size >= 64 * LMDB_READERS_MAX
    assert len(list(tmp_path.glob("shard-00/*/lock.mdb"))) == 2, "the index's and the delta's"
    shard._release()


def test_an_index_is_not_used_across_a_fork(tmp_path: Path) -> None:
    shard, _ = open_shard(disk_at(tmp_path), OPTIONS)
    churn(shard, 1)
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            shard.get(Kind.BLOCK, b"nothing", now=NOW)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert shard.get(Kind.BLOCK, b"nothing", now=NOW) is None, "its own process still may"
    shard._release()


def test_what_a_compaction_moved_is_read_while_its_writer_starts_anew(tmp_path: Path) -> None:
    """The delta of the run before leads to outputs that the index does not know yet."""
    disk = disk_at(tmp_path)
    shard, _ = open_shard(disk, replace(SHARED, compact=True))
    stored = fill(shard)
    thin(shard, stored)
    until(shard, "move")
    shard.work(NOW, idle=True)
    shard.work(NOW, idle=True)
    shard._release()
    reader = reader_of(tmp_path)
    assert contents(reader) == stored
    reader._reader._files.forget_all()  # as one with more segments than it holds open
    with process("begin", tmp_path):
        assert contents(reader) == stored
    reader.close()
