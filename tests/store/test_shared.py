"""A shard's delta, and readers in other processes: they see what is acknowledged, no more."""

import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import invariant

from molia.base.errors import ShardUnavailable
from molia.sim.shard_reader import beside
from molia.store.delta import epochs
from molia.store.keys import Kind
from molia.store.shard import Put, Transaction
from molia.store.shared import SharedShard
from tests.store.processes import SHARED, Board, Keeper, now, reader_of, spawn
from tests.store.shards import NOW, contents, disk_at, open_shard, put
from tests.store.test_shard_model import OPTIONS, ShardAgainstDict

LONG_S = float(os.environ.get("MOLIA_TEST_TORTURE_S", "2"))
"""How long the processes torture a shard; set it higher for a soak."""

READ_S = 60.0


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    made = Keeper(tmp_path)
    try:
        yield made
    finally:
        made.kill()


@pytest.fixture
def shard(keeper: Keeper, tmp_path: Path) -> Iterator[SharedShard]:
    """The shard as another process sees it, opened by its writer already."""
    keeper.start()
    made = reader_of(tmp_path)
    try:
        yield made
    finally:
        made.close()


def get(shard: SharedShard, key: bytes) -> bytes | None:
    return shard.get(Kind.META, key, now=now())


def test_what_is_acknowledged_is_readable_in_another_process_at_once(
    keeper: Keeper, shard: SharedShard
) -> None:
    expected: dict[bytes, bytes] = {}
    for number in range(300):  # over several checkpoints
        key = b"k%03d" % (number * 7 % 50)
        if number % 5 == 4:
            keeper.delete(key)
            expected.pop(key, None)
        else:
            keeper.put(key, b"value %d" % number)
            expected[key] = b"value %d" % number
        if number % 31 == 30:
            keeper.work()
        assert get(shard, key) == expected.get(key)
        size = shard.size_of(Kind.META, key, now=now())
        assert size == (len(expected[key]) if key in expected else None)
    rows = shard.scan(Kind.META, b"k", now=now(), limit=1_000)
    assert {row.key: row.size for row in rows} == {k: len(v) for k, v in expected.items()}
    assert [row.key for row in rows] == sorted(expected)


def test_a_reader_follows_its_writer_through_kills_and_rebuilds(
    keeper: Keeper, shard: SharedShard, tmp_path: Path
) -> None:
    for round_number, rebuild in enumerate((False, True)):
        keeper.put(b"kept", b"round %d" % round_number)
        keeper.kill()
        assert get(shard, b"kept") == b"round %d" % round_number, "reading goes on without it"
        keeper.start(rebuild=rebuild)
        assert get(shard, b"kept") == b"round %d" % round_number
        keeper.put(b"kept", b"newer")
        assert get(shard, b"kept") == b"newer"
        assert len(epochs(disk_at(tmp_path), "shard-00")) == 1, "old deltas are removed"


def test_nobody_reads_a_shard_that_no_process_has_opened(tmp_path: Path) -> None:
    disk_at(tmp_path).make_dir("shard-00/seg")
    with pytest.raises(ShardUnavailable):
        reader_of(tmp_path)


def test_what_an_earlier_run_left_of_a_delta_is_not_read(keeper: Keeper, tmp_path: Path) -> None:
    """As after a power cut: the file's pages are anything."""
    keeper.start()
    keeper.put(b"key", b"value")
    keeper.kill()
    for path in tmp_path.glob("shard-00/delta-*/data.mdb"):
        path.write_bytes(os.urandom(path.stat().st_size))
    keeper.start()
    shard = reader_of(tmp_path)
    assert get(shard, b"key") == b"value"
    shard.close()


# ---------------------------------------------------------------------------- in one process


def test_a_delta_that_is_full_is_emptied_by_a_checkpoint(tmp_path: Path) -> None:
    options = replace(SHARED, delta_map_bytes=80 * 1024, checkpoint_keys=100_000)
    shard, _ = open_shard(disk_at(tmp_path), options)
    for number in range(1_200):
        put(shard, b"k%05d" % number, b"v%d" % number)
    assert shard.stats().counters.checkpoints > 0
    assert contents(beside(shard)) == contents(shard)
    shard._release()


def test_what_cannot_be_shown_to_others_is_not_acknowledged_and_found_again(tmp_path: Path) -> None:
    options = replace(SHARED, delta_map_bytes=64 * 1024, checkpoint_keys=100_000)
    shard, _ = open_shard(disk_at(tmp_path), options)
    put(shard, b"first", b"1")
    puts = [Put(Kind.META, b"k%05d" % number, b"v") for number in range(1_000)]
    with pytest.raises(ShardUnavailable):
        shard.apply([Transaction((one,)) for one in puts], NOW)
    assert shard.wants_reopening
    with pytest.raises(ShardUnavailable):
        put(shard, b"later", b"2")
    shard.close(NOW)
    shard, _ = open_shard(disk_at(tmp_path), options)
    assert len(contents(beside(shard))) == 1_001
    put(shard, b"later", b"2")
    assert contents(beside(shard)) == contents(shard)
    shard._release()


class SharedShardAgainstDict(ShardAgainstDict):
    """The rules again, with a look from another process after each."""

    options = replace(OPTIONS, shared=True)

    @invariant()
    def others_see_the_same(self) -> None:
        """Neither more nor less than the writer does."""
        assert contents(beside(self.shard), self.now) == contents(self.shard, self.now)


TestSharedShardAgainstDict = SharedShardAgainstDict.TestCase
TestSharedShardAgainstDict.settings = settings(
    max_examples=8, stateful_step_count=25, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip


# ---------------------------------------------------------------------------- torture


def test_readers_see_no_wrong_byte_while_writer_and_readers_are_killed(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    Board.make(tmp_path)
    torture = Torture(tmp_path)
    try:
        torture.start_writer()
        torture.start_readers()
        end_s = time.monotonic() + LONG_S
        rounds = 0
        while time.monotonic() < end_s or rounds < 3:
            torture.watch(0.4)
            torture.kill_writer()
            torture.watch(0.1)
            torture.start_writer()
            torture.kill_reader(rounds % 2)
            rounds += 1
        end_s = time.monotonic() + READ_S
        while torture.lines <= 2 and time.monotonic() < end_s:  # a reader may start slowly
            torture.watch(0.2)
        assert torture.lines > 2, "something was read"
        summary = f"{rounds} kills of a writer, {torture.retired} segments compacted away"
        record_property("summary", summary)
    finally:
        torture.end()


class Torture:
    """One writer and two readers of the same shard."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seed = 0
        self._writer: subprocess.Popen[bytes] | None = None
        self._readers: list[subprocess.Popen[bytes]] = []
        self.lines = 0
        self.retired = 0
        """Segments that compactions took away."""

    def start_writer(self) -> None:
        self._seed += 1
        self._writer = spawn("torture", str(self._path), str(self._seed), stderr=subprocess.PIPE)
        assert self._writer.stdout is not None
        opened = self._writer.stdout.readline()
        assert opened == b"open\n", self._writer.communicate()[1].decode()[-2000:]

    def start_readers(self) -> None:
        self._readers = [self._reader() for _ in range(2)]

    def watch(self, seconds: float) -> None:
        """Let them run; fail at the first wrong answer."""
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            outputs = [reader.stdout for reader in self._readers if reader.stdout is not None]
            for output in select.select(outputs, [], [], left_s)[0]:
                line = output.readline().decode()
                assert line.startswith("read "), line or "a reader ended"
                self.lines += 1
            assert self._writer is not None
            assert self._writer.poll() is None or self._writer.returncode == -9, "it failed"

    def kill_writer(self) -> None:
        assert self._writer is not None
        self._writer.kill()
        told = self._writer.communicate()[0].decode().splitlines()
        whole = [line.split() for line in told if line.startswith("retired ")]
        self.retired += max((int(words[1]) for words in whole if len(words) == 2), default=0)

    def kill_reader(self, number: int) -> None:
        self._readers[number].kill()
        self._readers[number].communicate()
        self._readers[number] = self._reader()

    def end(self) -> None:
        for process in (self._writer, *self._readers):
            if process is not None:
                process.kill()
                process.communicate()

    def _reader(self) -> "subprocess.Popen[bytes]":
        self._seed += 1
        return spawn("read", str(self._path), str(self._seed))
