"""Months of churning content on one shard in virtual time: what it takes on the disk, what leaks.

Each day some values are put, with lives of hours to years, some are overwritten, and those whose
time has come are deleted; then the shard does its chores. The segments are small, so that two years
are a few seconds.
"""

import heapq
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from molia.sim.disk import SimDisk
from molia.sim.entropy import SeededEntropy
from molia.sim.shard_model import Key, Value, visible
from molia.sim.shard_reader import audit_all, read_all, release
from molia.sim.shard_workload import STARTED, STORE_UUID, difference
from molia.store.frame import frame_size
from molia.store.keys import Kind
from molia.store.ops import Delete, Put, ShardOptions, Transaction
from molia.store.shard import Shard

DAY_S: Final = 86_400.0
DAYS_OF_MONTH: Final = 30
PER_DAY: Final = 8
STEPS_MAX: Final = 20_000
OPTIONS: Final = ShardOptions(
    segment_bytes=128 * 1024, ballast_bytes=0, reserve_bytes=0, map_bytes=256 << 20,
    checkpoint_keys=100, slice_keys=50, punch_bytes=64 * 1024, compact=True, open_files=16,
)  # fmt: skip
LIVES_DAYS: Final = {0.3: 15, 2: 25, 15: 25, 60: 20, 300: 10, 10_000: 5}
"""How long values live, and how many of a hundred."""
SIZES: Final = {(40, 400): 60, (1_000, 6_000): 25, (12_000, 24_000): 15}


@dataclass(frozen=True, slots=True)
class Month:
    """How the shard was at the end of a month."""

    number: int
    keys: int
    live_bytes: int
    """Bytes of the frames of all that is alive."""
    disk_bytes: int
    """Bytes that the segments take on the disk."""
    peak: float
    """The most that the segments took within the month, by the bytes alive then."""
    files: int
    rows: int
    dead: int
    """Dead values that wait to be punched."""
    open_files: int

    @property
    def share(self) -> float:
        """What the segments take, by what is alive."""
        return self.disk_bytes / max(1, self.live_bytes)

    def __str__(self) -> str:
        return (
            f"month {self.number:>3}: {self.keys:>5} keys, {self.live_bytes:>9,} bytes alive, "
            f"{self.disk_bytes:>9,} on the disk, {self.share:.2f} x, at most {self.peak:.2f} x, "
            f"{self.files} files, {self.rows} rows"
        )


class Years:
    """One shard through the years. root: a directory for LMDB's files.

    per_day: how many values come each day. can_punch: whether the disk makes holes.
    """

    def __init__(self, root: Path, seed: int, *, can_punch: bool, per_day: int = PER_DAY) -> None:
        self._entropy = SeededEntropy(f"years {seed}")
        self._rng, self._per_day = self._entropy.random, per_day
        self._disk = SimDisk(root, self._entropy)
        self._disk.can_punch = can_punch
        self._now = STARTED
        self._contents: dict[Key, Value] = {}
        self._ends: list[tuple[float, int, Key]] = []
        self._number = 0
        self._live_bytes = 0
        self._shard = self._open()

    def month(self, number: int, *, restart: bool = False) -> Month:
        """Live through a month. Raises AssertionError when anything is lost, or comes back."""
        peak = 0.0
        for _ in range(DAYS_OF_MONTH):
            self._day()
            peak = max(peak, self.disk_bytes() / max(1, self._live_bytes))
        if restart:
            self._shard.close(self._now)
            release(self._shard, self._disk)
            self._shard = self._open()
            self._work()
        self._check(whole=restart)
        stats = self._shard.stats()
        names = self._disk.list_dir("shard-00/seg")
        return Month(
            number, len(self._contents), self._live_bytes, self.disk_bytes(), peak, len(names),
            stats.segments, len(self._shard._index.dead_page(2**31)),  # noqa: SLF001
            len(self._shard._files),  # noqa: SLF001
        )  # fmt: skip

    def rebuild(self) -> None:
        """Open the shard with a new index and compare. Raises AssertionError."""
        release(self._shard, self._disk)
        self._shard = self._open(rebuild=True)
        self._check(whole=True)

    def close(self) -> None:
        """Let go of the shard."""
        release(self._shard, self._disk)

    def disk_bytes(self) -> int:
        """Return the bytes that the segments take."""
        return self._disk.used_bytes()

    # ------------------------------------------------------------------------ a day

    def _day(self) -> None:
        for _ in range(self._per_day):
            self._put(self._fresh_key())
        for _ in range(self._per_day // 4):
            keys = list(self._contents)
            if keys:
                self._put(self._rng.choice(keys))
        self._now = self._now.after(DAY_S)
        gone: list[Key] = []
        while self._ends and self._ends[0][0] <= self._now.mono_s:
            _, _, key = heapq.heappop(self._ends)
            if key in self._contents:
                gone.append(key)
        for first in range(0, len(gone), 20):
            self._apply(tuple(Delete(*key) for key in gone[first : first + 20]))
        self._work()

    def _fresh_key(self) -> Key:
        self._number += 1
        days = self._rng.choices(list(LIVES_DAYS), list(LIVES_DAYS.values()))[0]
        key = (self._rng.choice((Kind.BLOCK, Kind.META)), self._rng.randbytes(20))
        ends_s = self._now.mono_s + days * DAY_S * self._rng.uniform(0.5, 1.5)
        heapq.heappush(self._ends, (ends_s, self._number, key))
        return key

    def _put(self, key: Key) -> None:
        low, high = self._rng.choices(list(SIZES), list(SIZES.values()))[0]
        value = self._rng.randbytes(self._rng.randint(low, high))
        self._apply((Put(*key, value, overwrite=True),))

    def _apply(self, ops: tuple[Put | Delete, ...]) -> None:
        for op in ops:
            key = (op.kind, op.key)
            self._live_bytes -= self._size_of(key)
            self._contents.pop(key, None)
            if isinstance(op, Put):
                self._contents[key] = Value(bytes(op.value), op.expiry)
                self._live_bytes += self._size_of(key)
        self._shard.apply([Transaction(ops)], self._now)

    def _size_of(self, key: Key) -> int:
        value = self._contents.get(key)
        return 0 if value is None else frame_size(len(key[1]), len(value.data))

    def _work(self) -> None:
        """Do all chores, an idle minute included."""
        until_s = self._now.mono_s + 60.0
        for _ in range(STEPS_MAX):
            due_s = self._shard.work(self._now, idle=True)
            while self._shard.copy_step(self._now) is not None:
                pass
            if due_s is None or due_s > until_s:
                return
            self._now = self._now.after(max(0.0, due_s - self._now.mono_s))
        raise AssertionError("the shard never comes to rest")

    # ------------------------------------------------------------------------ the shard

    def _open(self, *, rebuild: bool = False) -> Shard:
        shard, report = Shard.open(
            self._disk, 0, store_uuid=STORE_UUID, options=replace(OPTIONS), now=self._now,
            rebuild_index=rebuild,
        )  # fmt: skip
        assert not report.damage_count, f"damage: {report.damaged}"
        return shard

    def _check(self, *, whole: bool) -> None:
        found = read_all(self._shard, self._now)
        wanted = visible(self._contents, self._now)
        assert found == wanted, difference(self._contents, found, self._now)
        if whole:
            wrong = audit_all(self._shard, self._now)
            assert not wrong, wrong
