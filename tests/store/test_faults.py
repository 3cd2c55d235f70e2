"""A disk that fails once, at every possible call: nothing acknowledged is lost."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from molia.base.errors import NoSpace, ShardUnavailable
from molia.base.now import Now
from molia.sim.disk import Fault, SimDisk
from molia.sim.entropy import SeededEntropy
from molia.store.index import Index
from molia.store.keys import Kind
from molia.store.lmdb_env import Env, IndexFailed, IndexFull
from molia.store.shard import Delete, Put, Shard, ShardOptions, Transaction
from tests.store.bad_sector import BadSector
from tests.store.shards import (
    NOW,
    TINY,
    Named,
    contents,
    delete,
    disk_at,
    open_shard,
    opened,
    put,
    values,
    work_until_idle,
)  # fmt: skip

OPTIONS = ShardOptions(
    segment_bytes=24 * 1024, ballast_bytes=16 * 1024, reserve_bytes=4096, map_bytes=64 << 20,
    checkpoint_keys=8, slice_keys=3, punch_bytes=8192,
)  # fmt: skip
Contents = dict[Named, bytes]


def batches() -> list[list[Transaction]]:
    """What a small node does."""
    made = []
    for number in range(24):
        key, value = b"k%d" % (number % 9), bytes((number,)) * (300 + number % 4 * 6_000)
        ops: tuple[Put | Delete, ...] = (Put(Kind.META, key, value),)
        if number % 3 == 2:
            ops = (Put(Kind.RECORD, key, value), Delete(Kind.META, b"k%d" % (number % 9 - 1)))
        made.append([Transaction(ops)])
    return made


def after(state: Contents, batch: list[Transaction]) -> Contents:
    """The contents once a batch is applied."""
    state = dict(state)
    for transaction in batch:
        for op in transaction.ops:
            if isinstance(op, Put):
                state[op.kind, op.key] = bytes(op.value)
            else:
                state.pop((op.kind, op.key), None)
    return state


class Run:
    """One run of the batches, over as many openings of the shard as it takes."""

    def __init__(self, disk: SimDisk) -> None:
        self.disk = disk
        self.state: Contents = {}
        self.may_have: list[Contents] = []
        """What a batch that failed may have left."""
        self.failures = 0
        self.now = NOW
        self.shard = self.open()

    def open(self) -> Shard:
        """Open, again if the fault strikes meanwhile."""
        for _ in range(3):
            try:
                shard, report = open_shard(self.disk, OPTIONS, now=self.now)
            except ShardUnavailable:
                self.failures += 1
                continue
            assert report.damage_count == 0, report
            return shard
        raise AssertionError("the shard does not open")

    def batch(self, batch: list[Transaction]) -> None:
        """Apply one batch, and if the shard gives up, look at it and open it again."""
        try:
            self.shard.apply(batch, self.now)
        except NoSpace:
            self.failures += 1
            assert contents(self.shard, self.now) == self.state
            return
        except ShardUnavailable:
            self.may_have = [after(self.state, batch)]
            self.latched(batch)
            return
        self.state = after(self.state, batch)

    def upkeep(self) -> None:
        """Give the shard some time."""
        for _ in range(6):
            self.now = Now(self.now.mono_s + 3, self.now.unix_s + 3)
            try:
                self.shard.work(self.now, idle=True)
            except ShardUnavailable:
                self.may_have = []
                self.latched([])
                return

    def latched(self, batch: list[Transaction]) -> None:
        """The shard takes nothing more, reads on, and comes back when it is opened again."""
        self.failures += 1
        assert self.shard.stats().failure
        assert contents(self.shard, self.now) == self.state
        with pytest.raises(ShardUnavailable):
            self.shard.apply(batch or batches()[0], self.now)
        assert self.shard.work(self.now, idle=True) is None
        self.restart()

    def restart(self) -> None:
        """Open again, and see what there is."""
        self.shard._release()
        self.disk.release_locks()
        self.shard = self.open()
        found = contents(self.shard, self.now)
        assert found in [self.state, *self.may_have]
        self.state, self.may_have = found, []


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("call", ["write", "sync", "truncate", "change"])
def test_whatever_call_fails_nothing_acknowledged_is_lost(
    tmp_path: Path, call: str, error: int
) -> None:
    struck = 0
    for countdown in range(1, 400, 1 if call != "change" else 3):
        root = tmp_path / f"{countdown}"
        root.mkdir()
        disk = SimDisk(root, SeededEntropy(countdown), capacity=4 << 20)
        fault = Fault(call, countdown, error)
        disk.faults.append(fault)
        run = Run(disk)
        for number, batch in enumerate(batches()):
            run.batch(batch)
            if number % 4 == 3:
                run.upkeep()
        if fault.countdown > 0:
            break  # there were fewer calls than that
        struck += 1
        run.restart()
        run.shard._release()
    assert struck > 0 or call == "truncate"


def test_a_full_disk_refuses_puts_and_takes_deletes_that_free_it(tmp_path: Path) -> None:
    disk = SimDisk(tmp_path, SeededEntropy(1), capacity=600 * 1024)
    with opened(disk, OPTIONS) as shard:
        stored = fill(shard)
        assert shard.stats().full
        assert len(stored) > 15
        assert len(contents(shard)) == len(stored)
        disk.capacity = 600 * 1024 - disk.free_bytes()  # and now to the last byte
        for key in stored[:-3]:
            delete(shard, key, kind=Kind.BLOCK)
        now = work_until_idle_or(shard, NOW)
        assert len(contents(shard)) == 3
        assert disk.free_bytes() > 100 * 1024
        shard.apply([Transaction((Put(Kind.BLOCK, b"again", bytes(9_000)),))], now)
        assert len(contents(shard)) == 4
        for _ in range(20):
            now = now.after(11)
            shard.work(now, idle=True)
        assert disk.exists("shard-00/ballast")
        assert not shard.stats().full
    with opened(disk, OPTIONS, rebuild=True) as shard:
        assert len(contents(shard)) == 4


def fill(shard: Shard) -> list[bytes]:
    """Put blocks until they are refused; return their keys."""
    stored: list[bytes] = []
    for key, value in values(1_000, 20_000):
        try:
            put(shard, key, value, kind=Kind.BLOCK)
        except NoSpace:
            return stored
        stored.append(key)
    raise AssertionError("the disk is never full")


def work_until_idle_or(shard: Shard, now: Now) -> Now:
    """Work for a while; a ballast that waits for space has always something due."""
    for _ in range(500):
        due_s = shard.work(now, idle=True)
        if due_s is None:
            break
        now = now.after(max(0.0, due_s - now.mono_s))
    return now


def test_a_batch_that_did_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    disk = SimDisk(tmp_path, SeededEntropy(1))
    with opened(disk, OPTIONS) as shard:
        put(shard, b"a", b"1")
        segment = disk.open("shard-00/seg/0000000000000001.log")
        size = segment.size()
        disk.faults.append(Fault("write", 1, errno.ENOSPC))
        batch = [Transaction((Put(Kind.RECORD, b"b%d" % n, bytes(700)),)) for n in range(9)]
        with pytest.raises(NoSpace):
            shard.apply(batch, NOW)
        assert segment.size() == size
        assert set(contents(shard)) == {(Kind.META, b"a")}
        put(shard, b"c", b"2")
    with opened(disk, OPTIONS) as shard:
        assert set(contents(shard)) == {(Kind.META, b"a"), (Kind.META, b"c")}


def test_an_index_that_cannot_be_written_stops_the_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Env, fill: object) -> None:
        raise IndexFailed("mdb_txn_commit: Input/output error")

    disk = disk_at(tmp_path)
    with opened(disk, OPTIONS) as shard:
        for key, value in values(5, 100):
            put(shard, key, value)
        before = contents(shard)
        with monkeypatch.context() as patched:
            patched.setattr(Env, "write", fail)
            with pytest.raises(ShardUnavailable):
                shard.checkpoint(NOW)
        with pytest.raises(ShardUnavailable):
            put(shard, b"more", b"1")
        assert "index" in shard.stats().failure
        assert contents(shard) == before
        shard.close(NOW)
    with opened(disk, OPTIONS) as shard:
        assert contents(shard) == before


def fill_beside_work(shard: Shard) -> int:
    """Put rows until they are refused; return how many were taken."""
    for stored, (key, value) in enumerate(values(1_000, 100)):
        try:
            put(shard, key, value)
        except NoSpace:
            return stored
        shard.work(NOW, idle=False)
    raise AssertionError("the memtable has no bound")


def test_an_index_that_does_not_fit_waits_for_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Env.write
    full = [True]

    def write(self: Env, fill: object) -> object:
        if full[0]:
            raise IndexFull("mdb_txn_commit: No space left on device")
        return real(self, fill)  # type: ignore[arg-type]

    disk = disk_at(tmp_path)
    options = ShardOptions(
        ballast_bytes=0, reserve_bytes=0, map_bytes=64 << 20, checkpoint_keys=20, slice_keys=5
    )
    with opened(disk, options) as shard, monkeypatch.context() as patched:
        patched.setattr(Env, "write", write)
        stored = fill_beside_work(shard)
        assert 80 <= stored <= 140
        assert len(contents(shard)) == stored
        full[0] = False
        work_until_idle(shard)
        put(shard, b"more", b"1")
        assert shard.stats().counters.checkpoints >= 1
        assert len(contents(shard)) == stored + 1


FIRST_SEGMENT = "shard-00/seg/0000000000000001.log"


def test_a_dead_value_that_cannot_be_looked_at_stops_no_writes(tmp_path: Path) -> None:
    """It would stop them again after each restart: the list of what is to be punched stays."""
    disk, size = BadSector(tmp_path), 30_000
    with opened(disk, replace(TINY, segment_bytes=1 << 20)) as shard:
        for key, value in values(10, size):
            put(shard, key, value, kind=Kind.BLOCK)
        shard.checkpoint(NOW)
        disk.name, disk.low, disk.high = FIRST_SEGMENT, 4096 + 3 * size, 4096 + 3 * size + 512
        for key, _ in list(values(10, size))[2:5]:
            delete(shard, key, kind=Kind.BLOCK)
        work_until_idle(shard)
        put(shard, b"new", b"value", kind=Kind.BLOCK)
        assert shard.get(Kind.BLOCK, b"new", now=NOW) == b"value"


def test_mending_the_index_from_a_log_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Any other error would end the writer's thread."""
    disk = BadSector(tmp_path)
    with opened(disk) as shard:
        for key, value in values(10, 10_000):
            put(shard, key, value, kind=Kind.BLOCK)
        shard.checkpoint(NOW)
        shard._files.forget_all()
        disk.name, disk.high = FIRST_SEGMENT, 1 << 30
        with pytest.raises(ShardUnavailable):
            shard.reindex([(Kind.BLOCK, b"key")], NOW)
        put(shard, b"new", b"value", kind=Kind.BLOCK)


def test_a_shard_that_cannot_note_what_it_punched_waits_for_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer's thread would take all of a processor for as long as the disk is full."""
    options = replace(TINY, segment_bytes=1 << 20, sweep_s=3_600.0)
    with opened(disk_at(tmp_path), options) as shard:
        for key, value in values(10, 30_000):
            put(shard, key, value, kind=Kind.BLOCK)
        shard.checkpoint(NOW)
        delete(shard, next(iter(values(1, 0)))[0], kind=Kind.BLOCK)

        def full(*_: object) -> None:
            raise IndexFull("the disk is full")

        monkeypatch.setattr(Index, "forget_dead", full)
        now = NOW.after(20.0)
        for _ in range(200):
            due_s = shard.work(now, idle=True)
            if due_s is None or due_s > now.mono_s:
                break
        else:
            raise AssertionError("it never rests")
        monkeypatch.undo()
        work_until_at_rest(shard, now.after(10.0))
        assert shard.stats().punchable_bytes == 0


def work_until_at_rest(shard: Shard, now: Now) -> None:
    """Work for a minute."""
    for _ in range(200):
        due_s = shard.work(now, idle=True)
        if due_s is None or due_s > NOW.mono_s + 90:
            return
        now = now.after(max(0.0, due_s - now.mono_s))
    raise AssertionError("it never rests")
