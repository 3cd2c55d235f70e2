"""Another number of shards: all live rows are written anew to where they belong then.

The new segments are made beside the old ones, as `.new` files with higher ids. Once all are durable
the file RESHARD says so: from there on there is no way back, and `finish_reshard` may be run as
often as it is cut off. Before that nothing that counts has changed. The indexes are made anew at
the next start. Nobody else may use the store meanwhile.
Source: docs/reference/store-format.md, "Another number of shards".
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from molia.base.entropy import Entropy
from molia.base.errors import NoSpace, StoreInvalid
from molia.base.limits import MIB, SHARDS_MAX
from molia.base.now import Now
from molia.store import moving
from molia.store.batch import Batch
from molia.store.disk import Disk, write_atomic
from molia.store.frame import crc
from molia.store.index import SegmentRow
from molia.store.log import Home, Log, Tail
from molia.store.migrate import shard_name
from molia.store.moving import Moved
from molia.store.ops import Counters, Put, ShardOptions, Transaction
from molia.store.segment import segment_id_of
from molia.store.shard import Shard
from molia.store.superblock import STORE_NAME, Superblock, load_superblock

RESHARD_NAME: Final = "RESHARD"
_FLUSH_BYTES: Final = 8 * MIB
_FLUSH_OPS: Final = 512
_SPARE_BYTES: Final = 64 * MIB
_SIZE_MAX: Final = 4096
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class ReshardPlan:
    """What another number of shards would take."""

    superblock: Superblock
    shard_count: int
    log_bytes: int
    """What the log takes now: the new one takes at most as much beside it."""
    needed_bytes: int
    free_bytes: int

    @property
    def fits(self) -> bool:
        """Whether the disk has the space for it."""
        return self.needed_bytes <= self.free_bytes


@dataclass(slots=True)
class ReshardReport:
    """What was written anew."""

    rows: int = 0
    size_bytes: int = 0
    damaged: int = 0
    """Rows and blocks that could not be read, and so were left out."""
    damaged_keys: list[tuple[int, bytes]] = field(default_factory=list)
    """The first of them: kind and key."""


def plan_reshard(disk: Disk, shard_count: int) -> ReshardPlan:
    """Return what it takes to have `shard_count` shards; changes nothing. Raises StoreInvalid."""
    if not 1 <= shard_count <= SHARDS_MAX:
        raise StoreInvalid(f"a store has 1 to {SHARDS_MAX} shards")
    superblock = load_superblock(disk)
    size = sum(_used_bytes(disk, name) for name in _segments(disk, superblock.shard_count, ".log"))
    spare = _SPARE_BYTES if superblock.shard_count != shard_count else 0
    needed = size + spare if spare else 0
    return ReshardPlan(superblock, shard_count, size, needed, disk.free_bytes())


def is_resharding(disk: Disk) -> bool:
    """Tell whether a change was cut off behind the point of no return."""
    return disk.exists(RESHARD_NAME)


def reshard(
    disk: Disk, plan: ReshardPlan, *, options: ShardOptions, entropy: Entropy, now: Now,
    on_progress: OnProgress,
) -> ReshardReport:  # fmt: skip
    """Write all live rows to `plan.shard_count` shards and make these the store.

    Memory: about 200 bytes for each blob of one old shard. Raises NoSpace (nothing has changed),
    StoreInvalid while an earlier change is to be finished first, ShardUnavailable.
    """
    if is_resharding(disk):
        raise StoreInvalid("an earlier change is to be finished first", hint="run molia migrate")
    report = ReshardReport()
    old, count = plan.superblock, plan.shard_count
    forget_unfinished(disk)
    if old.shard_count == count:
        return report
    if not plan.fits:
        raise NoSpace(
            f"{plan.needed_bytes} bytes are needed, {plan.free_bytes} are free",
            hint="free space on the disk, then run molia migrate again",
        )
    first = 1 + max(
        (segment_id_of(name.rpartition("/")[2]) or 0
         for name in _segments(disk, old.shard_count, ".log")), default=0,
    )  # fmt: skip
    try:
        targets = [_Target(disk, i, old, first, options.segment_bytes, now) for i in range(count)]
        for index in range(old.shard_count):
            source = _Source(disk, index, old, options, entropy, count, now)
            _copy(source, targets, plan, report, on_progress)
        for target in targets:
            target.end()
    except NoSpace:
        forget_unfinished(disk)
        raise
    on_progress("switch", 0, 1)
    _commit(disk, old.shard_count, count, first)
    finish_reshard(disk)
    on_progress("switch", 1, 1)
    return report


def forget_unfinished(disk: Disk) -> None:
    """Remove what a change left that was cut off before it counted."""
    for name in list(_segments(disk, SHARDS_MAX, ".new")):
        disk.unlink(name)


def finish_reshard(disk: Disk) -> Superblock:
    """Make the new segments the store; run it again after a cut. Raises StoreInvalid."""
    old_count, count, first = _read_commit(disk)
    for index in range(max(old_count, count)):
        if index < count:
            _switch(disk, shard_name(index), first)
        else:
            disk.remove_tree(shard_name(index))
    disk.sync_dir("")
    superblock = replace(load_superblock(disk), shard_count=count)
    write_atomic(disk, STORE_NAME, [superblock.encode()])
    disk.unlink(RESHARD_NAME)
    disk.sync_dir("")
    return superblock


def _switch(disk: Disk, shard: str, first: int) -> None:
    """Let the new segments of a shard take the place of the old ones."""
    directory = f"{shard}/seg"
    for name in disk.list_dir(shard):
        if name.startswith(("index-", "delta-")):
            disk.remove_tree(f"{shard}/{name}")
    disk.sync_dir(shard)
    for name in disk.list_dir(directory):
        segment_id = segment_id_of(name)
        if name.endswith(".new"):
            disk.rename(f"{directory}/{name}", f"{directory}/{name[:-4]}.log")
        elif segment_id is None or segment_id < first:
            disk.unlink(f"{directory}/{name}")
    disk.sync_dir(directory)


def _commit(disk: Disk, old_count: int, count: int, first: int) -> None:
    line = json.dumps([old_count, count, first]).encode()
    write_atomic(disk, RESHARD_NAME, [line, b"\n", f"crc32c {crc(line):08x}\n".encode()])


def _read_commit(disk: Disk) -> tuple[int, int, int]:
    file = disk.open(RESHARD_NAME, writable=False)
    try:
        line, _, rest = file.read(0, _SIZE_MAX).partition(b"\n")
    finally:
        file.close()
    if rest != f"crc32c {crc(line):08x}\n".encode():
        raise StoreInvalid(f"{RESHARD_NAME} does not match its checksum")
    old_count, count, first = json.loads(line)
    return old_count, count, first


def _segments(disk: Disk, count: int, suffix: str) -> Iterator[str]:
    for index in range(count):
        directory = f"{shard_name(index)}/seg"
        for name in disk.list_dir(directory):
            if name.endswith(suffix):
                yield f"{directory}/{name}"


def _used_bytes(disk: Disk, name: str) -> int:
    file = disk.open(name, writable=False)
    try:
        return file.size() - sum(stop - start for start, stop in file.holes())
    finally:
        file.close()


# ---------------------------------------------------------------------------- reading and writing


class _Source(moving.Source):
    """An old shard, open to be read."""

    def __init__(
        self, disk: Disk, index: int, old: Superblock, options: ShardOptions, entropy: Entropy,
        count: int, now: Now,
    ) -> None:  # fmt: skip
        calm = replace(options, shared=False, sweep_s=0.0, scrub_s=0.0, ballast_bytes=0)
        self.shard, _ = Shard.open(disk, index, store_uuid=old.uuid, options=calm, now=now)
        super().__init__(self.shard, count, entropy, now)


class _NewHome(Home):
    """A shard whose segments do not count yet."""

    def segment(self, segment_id: int) -> str:
        """Return the file name of a segment."""
        return super().segment(segment_id)[:-4] + ".new"


class _Target:
    """The log of a new shard."""

    def __init__(
        self, disk: Disk, index: int, old: Superblock, first: int, segment_bytes: int, now: Now
    ) -> None:
        self._disk, self._now = disk, now
        self._home = _NewHome(disk, shard_name(index), index, old.uuid)
        disk.make_dir(f"{self._home.name}/seg")
        rows: dict[int, SegmentRow] = {}
        self._log = Log(
            self._home, segment_bytes=segment_bytes, rows=rows, counters=Counters()
        )  # fmt: skip
        self._log.adopt(Tail(next_segment_id=first))
        self._waiting: list[Put] = []
        self._size = 0

    def add(self, put: Put) -> None:
        """Write a row, with others, a little later."""
        self._waiting.append(put)
        self._size += len(put.value)
        if self._size >= _FLUSH_BYTES or len(self._waiting) >= _FLUSH_OPS:
            self._flush()

    def end(self) -> None:
        """Write what is left, and make all of it durable."""
        self._flush()
        if self._log.tail.file is not None:
            self._log.seal(self._now)
        self._disk.sync_dir(f"{self._home.name}/seg")
        self._disk.sync_dir(self._home.name)
        self._disk.sync_dir("")

    def _flush(self) -> None:
        if not self._waiting:
            return
        log = self._log
        log.prepare(self._now)
        batch = Batch(log, lambda _: None, lambda _, __: None, int(self._now.unix_s))
        for put in self._waiting:
            batch.add(Transaction((put,)))
        log.append(batch.buffers, size=batch.size, entries=batch.footer)
        log.note_data(batch.max_expiry)
        self._waiting, self._size = [], 0


def _copy(
    source: _Source, targets: list[_Target], plan: ReshardPlan, report: ReshardReport,
    on_progress: OnProgress,
) -> None:  # fmt: skip
    try:
        for moved in source.rows():
            _take(moved, targets, report)
            if report.rows % 256 == 0:
                on_progress("rows", min(report.size_bytes, plan.log_bytes), plan.log_bytes)
    finally:
        source.shard.close(source.now)


def _take(moved: Moved, targets: list[_Target], report: ReshardReport) -> None:
    if moved.put is None:
        report.damaged += 1
        if len(report.damaged_keys) < 1_000:
            report.damaged_keys.append((int(moved.kind), moved.key))
        return
    targets[moved.shard].add(moved.put)
    report.rows += 1
    report.size_bytes += len(moved.put.value)
