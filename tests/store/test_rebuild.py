"""An index made anew from sorted runs is the one that was lost, and little of it is in memory."""

import errno
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from molia.sim.disk import Fault, SimDisk
from molia.sim.entropy import SeededEntropy
from molia.sim.index_watch import around_commits
from molia.sim.shard_reader import release
from molia.store import opening
from molia.store.disk import Disk
from molia.store.index import TAGS
from molia.store.keys import DATA_KINDS, Kind
from molia.store.shard import Delete, Put, Shard, Transaction
from tests.store.shards import (
    NOW,
    TINY,
    audit_all,
    contents,
    delete,
    disk_at,
    open_shard,
    put,
    work_until_idle,
)  # fmt: skip

ROOT = Path(__file__).parents[2]
OPTIONS = replace(TINY, checkpoint_keys=40, slice_keys=1_000)


def churn(shard: Shard, seed: int, *, ops: int = 1_500) -> None:
    """Put, overwrite and delete, so that most keys lie in several runs."""
    rng = random.Random(seed)
    for _ in range(ops // 10):
        batch = []
        for _ in range(10):
            kind = rng.choice(DATA_KINDS)
            key = b"%04d" % rng.randrange(300)
            if rng.random() < 0.25:
                batch.append(Transaction((Delete(kind, key),)))
            else:
                size = rng.choice((0, 30, 700, 20_000 if rng.random() < 0.2 else 5))
                put = Put(kind, key, rng.randbytes(size), overwrite=True)
                batch.append(Transaction((put,)))
        shard.apply(batch, NOW)


def state(shard: Shard) -> tuple[object, ...]:
    """Return what the index says: entries, live numbers, and what waits to be punched."""
    shard.checkpoint(NOW)
    with shard._index.read() as snapshot:
        entries = {
            TAGS[kind] + key: packed
            for kind in DATA_KINDS
            for key, packed in snapshot.page(kind, b"", b"", 10_000)
        }
    rows = {
        sid: (row.live_bytes, row.live_frames) for sid, row in shard._rows.items() if row.frames
    }
    dead = {(dead.segment_id, dead.value_offset) for dead in shard._index.dead_page(10_000)}
    return entries, rows, dead


@pytest.mark.parametrize("seed", range(4))
def test_the_index_made_anew_is_the_one_that_was(tmp_path: Path, seed: int) -> None:
    disk = disk_at(tmp_path)
    shard, _ = open_shard(disk, OPTIONS)
    churn(shard, seed)
    expected, before = contents(shard), state(shard)
    shard.close(NOW)
    shard, report = open_shard(disk, OPTIONS, rebuild=True)
    assert report.index_rebuilt
    assert not report.damage_count
    assert contents(shard) == expected
    assert state(shard) == before
    assert audit_all(shard) == (0, set())
    assert not disk.exists("shard-00/rebuild")
    assert shard.stats().counters.index_commits < 25, "it is filled in a few large slices"
    shard._release()


def test_what_was_punched_already_is_counted_and_not_punched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_DEAD_PAGE", 3)
    disk, options = disk_at(tmp_path), replace(OPTIONS, punch_bytes=1 << 30)
    shard, _ = open_shard(disk, options)
    for number in range(40):
        put(shard, b"%02d" % number, bytes([number]) * 30_000, kind=Kind.BLOCK)
    delete(shard, *(b"%02d" % number for number in range(0, 40, 2)), kind=Kind.BLOCK)
    work_until_idle(shard, NOW)
    before = shard.stats()
    assert before.counters.punched_values == 20
    shard._release()
    shard, report = open_shard(disk, options, rebuild=True)
    assert not report.damage_count
    after = shard.stats()
    assert (after.punchable_bytes, after.keys) == (0, 20)
    assert abs(after.log_bytes - before.log_bytes) < 4_096, "but for a seal"
    work_until_idle(shard, NOW)
    assert shard.stats().counters.punched_values == 0
    shard._release()


def test_runs_that_a_cut_left_are_in_nobodys_way(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    shard, _ = open_shard(disk, OPTIONS)
    churn(shard, 1)
    expected = contents(shard)
    shard._release()
    disk.make_dir("shard-00/rebuild")
    disk.open("shard-00/rebuild/000000.run", create=True).write(0, [b"\xff" * 100])
    for rebuild in (True, False):
        shard, _ = open_shard(disk, OPTIONS, rebuild=rebuild)
        assert contents(shard) == expected
        assert not disk.exists("shard-00/rebuild")
        shard._release()


@pytest.mark.parametrize("call", ["write", "open"])
def test_runs_that_do_not_fit_stay_in_memory_and_nothing_is_lost(tmp_path: Path, call: str) -> None:
    disk = SimDisk(tmp_path, SeededEntropy(1))
    shard, _ = open_shard(disk, OPTIONS)
    churn(shard, 2, ops=400)
    expected = contents(shard)
    shard.close(NOW)
    release(shard, disk)
    for countdown in range(1, 6):
        disk.faults = [Fault("write", countdown, errno.ENOSPC)]
        shard, _ = open_shard(disk, OPTIONS, rebuild=True)
        disk.faults = []
        assert contents(shard) == expected
        shard.close(NOW)
        release(shard, disk)


def test_an_index_that_does_not_fit_stays_in_memory_and_nothing_is_lost(tmp_path: Path) -> None:
    disk: Disk = disk_at(tmp_path)
    shard, _ = open_shard(disk, OPTIONS)
    churn(shard, 3)
    expected = contents(shard)
    shard.close(NOW)
    rng = random.Random(5)
    with around_commits(is_full=lambda: rng.random() < 0.5):
        shard, _ = open_shard(disk, OPTIONS, rebuild=True)
        assert contents(shard) == expected
    shard._release()
    shard, _ = open_shard(disk, OPTIONS)
    assert contents(shard) == expected
    assert audit_all(shard) == (0, set())
    shard._release()


MEASURE = """
import json, resource, sys
from dataclasses import replace
from pathlib import Path
from tests.store.shards import TINY, NOW, disk_at, open_shard
options = replace(TINY, checkpoint_keys=10_000, slice_keys=5_000, map_bytes=1 << 30,
                  segment_bytes=4 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
shard, report = open_shard(disk_at(Path(sys.argv[1])), options, rebuild=sys.argv[2] == "rebuild")
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([after - before, shard.stats().keys]))
shard._release()
"""


def test_the_memory_that_a_rebuild_takes_does_not_grow_with_the_index(tmp_path: Path) -> None:
    taken = []
    for count in (60_000, 180_000):
        path = tmp_path / str(count)
        options = replace(
            TINY, checkpoint_keys=50_000, slice_keys=5_000, map_bytes=1 << 30,
            segment_bytes=4 << 20,
        )  # fmt: skip
        shard, _ = open_shard(disk_at(path), options)
        for first in range(0, count, 1_000):
            ops = tuple(
                Put(Kind.META, b"%016d" % (number * 7_919 % 1_000_003), b"")
                for number in range(first, first + 1_000)
            )
            shard.apply([Transaction(ops)], NOW)
        shard.close(NOW)
        command = [sys.executable, "-c", MEASURE, str(path), "rebuild"]
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ}, capture_output=True, check=True
        )
        kib, keys = json.loads(done.stdout)
        assert keys == count
        taken.append(kib)
    # LMDB's map counts as memory: its pages are the file's, at about 100 bytes a key
    assert taken[1] - taken[0] < 120_000 * 250 / 1024
