"""A day in the life of a shard, drawn from a seed and recorded event by event.

Puts of all sizes, deletes, overwrites, guards, expiry, rolls, checkpoints in slices, punching,
compaction, clean and unclean restarts; on some seeds the disk is small, on some it fails once, on
some it cannot punch.
"""

import contextlib
import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeVar

from molia.base.errors import NoSpace, ShardUnavailable
from molia.base.ids import new_object_id
from molia.base.now import Now
from molia.sim.content import PAGE
from molia.sim.disk import Fault, SimDisk
from molia.sim.entropy import SeededEntropy
from molia.sim.index_watch import IndexWatch, around_commits
from molia.sim.journal import Event, Link, Mark, Punch, Rename
from molia.sim.shard_model import Contents, Expected, Key, Value, apply_batch, is_alive, visible
from molia.sim.shard_reader import beside, read_all, release
from molia.store.keys import Kind, block_key
from molia.store.ops import Delete, Guard, Put, ShardOptions, Transaction
from molia.store.shard import Shard

STORE_UUID: Final = bytes(range(16))
STARTED: Final = Now(1_000.0, 1_700_000_000.5)
Result = TypeVar("Result")
SCENARIOS: Final = {"plain": 3, "large": 3, "full": 4, "failing": 3, "churning": 5}
"""What is special about a workload, and how often: its values, a small disk, a failing one."""
STEPS: Final = 36
COPY_PIECES: Final = 12
INDEX_FULL_SHARE: Final = 0.08
FAULTS: Final = ("write", "sync", "truncate", "open", "sync_dir", "unlink", "change")


class WorkloadError(AssertionError):
    """The shard gave a wrong answer before any power cut."""


@dataclass(slots=True)
class Recording:
    """What one workload did to its disk, and how its shard is to be opened."""

    seed: int
    scenario: str
    options: ShardOptions
    capacity: int | None = None
    """The size of its disk, None for no end."""
    can_punch: bool = True
    journal: list[Event] = field(default_factory=list)


def record(seed: int, root: Path, *, scenario: str = "") -> Recording:
    """Run the workload of a seed on a new disk and return its recording.

    root: a directory for LMDB's files. scenario: one of SCENARIOS; drawn from the seed without it.
    Raises WorkloadError for a wrong answer on the way.
    """
    workload = _Workload(seed, root, scenario)
    with around_commits(after=workload.watch.look, is_full=workload.is_index_full):
        workload.run()
    return workload.recording


class _Workload:
    def __init__(self, seed: int, root: Path, scenario: str) -> None:
        self._entropy = SeededEntropy(f"shard workload {seed}")
        self._rng = self._entropy.random
        drawn = self._rng.choices(list(SCENARIOS), list(SCENARIOS.values()))[0]
        scenario = scenario or drawn
        self.recording = Recording(seed, scenario, self._draw_options(scenario, seed))
        self._disk = SimDisk(root, self._entropy, journal=self.recording.journal)
        self._disk.can_punch = self.recording.can_punch = seed % 3 > 0
        if scenario == "full":
            self._disk.capacity = self.recording.capacity = self._rng.randint(24, 90) * PAGE
            self._disk.optimism_bytes = self._rng.choice((0, 4, 64)) * PAGE
        self.watch = IndexWatch(self._disk)
        self._keys = self._draw_keys()
        self._now = STARTED
        self._outcomes: list[Contents] = [{}]
        """What was acknowledged, then what a failed batch may have added, step by step."""
        self._latched = False
        self._shard: Shard

    def run(self) -> None:
        """Do everything. Raises WorkloadError."""
        self._shard = self._open()
        for _ in range(STEPS):
            self._now = self._now.after(self._rng.choice((0.01, 0.5, 2.0, 20.0)))
            if self.recording.scenario == "failing" and self._rng.random() < 0.1:
                self._arm()
            self._step()
            if self._latched:
                self._check_latched()
                self._restart(clean=False)
        self._check_reads()
        release(self._shard, self._disk)

    # ------------------------------------------------------------------------ steps

    def _step(self) -> None:
        draw = self._rng.random()
        if draw < 0.56:
            self._apply(self._draw_batch())
            if self._rng.random() < 0.5 and not self._latched:
                self._work(idle=False, slices=1)  # so that batches fall between its slices
        elif draw < 0.66:
            self._apply([self._draw_clearance()])
            if self._rng.random() < 0.6 and not self._latched:
                self._now = self._now.after(self._rng.choice((2.0, 11.0)))
                self._work(idle=True)
        elif draw < 0.80:
            self._work(idle=False)
        elif draw < 0.90:
            self._work(idle=True)
        elif draw < 0.94:
            self._checkpoint()
        else:
            self._check_reads()
            self._restart(clean=draw < 0.97)

    def is_index_full(self) -> bool:
        """Tell whether the next commit of the index is to fail for want of space."""
        return self.recording.scenario == "full" and self._rng.random() < INDEX_FULL_SHARE

    def _checkpoint(self) -> None:
        with contextlib.suppress(NoSpace):
            self._call("checkpoint", lambda: self._shard.checkpoint(self._now))

    def _open(self) -> Shard:
        begun = self._mark("recovery")
        options, now = self.recording.options, self._now
        try:
            shard, report = Shard.open(
                self._disk, 0, store_uuid=STORE_UUID, options=options, now=now
            )
        except ShardUnavailable:
            cannot_share = options.shared and self.recording.scenario == "full"
            if not self._disk.faults and not cannot_share:
                raise
            self._disk.faults.clear()
            return self._open()
        self.watch.look()
        if report.damage_count:
            raise WorkloadError(f"damage after a restart: {report}")
        self._relabel(begun, "recovery")
        self._adopt(read_all(shard, self._now))
        self._mark("recovery", cut=True)
        return shard

    def _restart(self, *, clean: bool) -> None:
        self._disk.faults.clear()
        if clean:
            self._call("checkpoint", lambda: self._shard.close(self._now))
        release(self._shard, self._disk)
        if self.recording.scenario == "failing" and self._rng.random() < 0.3:
            self._arm()
        self._latched = False
        self._shard = self._open()

    def _apply(self, batch: Sequence[Transaction]) -> None:
        before = self._outcomes[0]
        steps, replies = apply_batch(before, batch, self._now)
        self._outcomes = steps
        try:
            got = self._call("append", lambda: self._shard.apply(batch, self._now))
        except NoSpace:
            self._outcomes = [before]
            self._mark("enospc", cut=True)
            return
        if got is None:
            if self._shard.wants_reopening:  # it is in the log, and only not shown to others
                self._outcomes = [steps[-1]]
            return
        if got != replies:
            raise WorkloadError(f"replies {got}, expected {replies}")
        self._outcomes = [steps[-1]]
        self._mark("append", cut=True)
        self._check_beside()

    def _work(self, *, idle: bool, slices: int = 0) -> None:
        for _ in range(slices or self._rng.choice((1, 2, 4, 16, 64))):
            phase = self._shard.stats().compaction or "checkpoint"
            due = self._call(phase, lambda: self._shard.work(self._now, idle=idle))
            if self._latched:
                return
            self._check_beside()
            if self._shard.is_copying:
                self._copy_some()
            elif due is None or due > self._now.mono_s:
                break
            self._now = self._now.after(0.001)

    def _copy_some(self) -> None:
        for _ in range(self._rng.randint(1, COPY_PIECES)):
            self._call("copy", lambda: self._shard.copy_step(self._now))

    def _call(self, phase: str, act: Callable[[], Result]) -> Result | None:
        """Do something to the shard. None: its disk failed, and it is to be restarted."""
        begun = self._mark(phase)
        try:
            return act()
        except NoSpace:
            phase = "enospc"
            raise
        except ShardUnavailable as error:
            phase, self._latched = "fault", True
            if self.recording.scenario != "failing" and not self._shard.wants_reopening:
                raise WorkloadError(f"the shard gave up on a sound disk: {error}") from error
            return None
        finally:
            self.watch.look()
            self._relabel(begun, phase)

    def _arm(self) -> None:
        error = self._rng.choice((errno.EIO, errno.EIO, errno.ENOSPC))
        call = "write" if error == errno.ENOSPC else self._rng.choice(FAULTS)
        lasting = self._rng.random() < 0.3
        self._disk.faults = [Fault(call, self._rng.randint(1, 4), error, lasting)]

    # ------------------------------------------------------------------------ marks and checks

    def _mark(self, phase: str, *, cut: bool = False) -> int:
        """Note in the journal what may be found from here on; return the place of the note."""
        expected = Expected(phase, self._now, tuple(self._outcomes))
        self.recording.journal.append(Mark(expected, cut=cut))
        return len(self.recording.journal) - 1

    def _relabel(self, begun: int, phase: str) -> None:
        """Give a call's mark the phase that the call turned out to be."""
        journal = self.recording.journal
        mark, events = journal[begun], journal[begun:]
        assert isinstance(mark, Mark)
        assert isinstance(mark.value, Expected)
        if phase == "copy" and any(isinstance(event, Rename) for event in events):
            phase = "rename"
        elif phase == "checkpoint" and any(isinstance(event, Punch) for event in events):
            phase = "punch"
        elif phase == "append" and any(isinstance(event, Link) for event in events):
            phase = "roll"
        journal[begun] = Mark(replace(mark.value, phase=phase), cut=mark.cut)

    def _adopt(self, found: dict[Key, bytes]) -> None:
        """Learn after a restart which of the possible outcomes came true."""
        for outcome in self._outcomes:
            if visible(outcome, self._now) == found:
                self._outcomes = [outcome]
                return
        raise WorkloadError(f"after a restart: {difference(self._outcomes[0], found, self._now)}")

    def _check_reads(self) -> None:
        found = read_all(self._shard, self._now)
        if found != visible(self._outcomes[0], self._now):
            raise WorkloadError(difference(self._outcomes[0], found, self._now))
        self._check_beside()

    def _check_beside(self) -> None:
        """What was acknowledged is what other processes see, and nothing else."""
        if not self.recording.options.shared or self._shard.wants_reopening:
            return
        found = read_all(beside(self._shard), self._now)
        if found != visible(self._outcomes[0], self._now):
            what = difference(self._outcomes[0], found, self._now)
            raise WorkloadError(f"another process sees: {what}")

    def _check_latched(self) -> None:
        """A shard whose disk failed refuses writes and goes on reading."""
        self._check_reads()
        try:
            self._shard.apply([self._draw_clearance()], self._now)
        except ShardUnavailable:
            return
        raise WorkloadError("a shard took a write after its disk had failed")

    # ------------------------------------------------------------------------ draws

    def _draw_options(self, scenario: str, seed: int) -> ShardOptions:
        is_churning = scenario == "churning"
        return ShardOptions(
            shared=seed % 4 == 0,
            sweep_s=4.0 if seed % 3 else 0.0,
            scrub_s=30.0 if seed % 5 == 0 else 0.0,
            compact=is_churning or self._rng.random() < 0.6,
            segment_bytes=self._rng.choice((8, 16) if is_churning else (8, 16, 32, 64)) * 1024,
            ballast_bytes=self._rng.choice((0, 2, 4)) * PAGE,
            reserve_bytes=self._rng.choice((0, 2)) * PAGE,
            checkpoint_keys=self._rng.choice((6, 12) if is_churning else (6, 12, 40)),
            checkpoint_log_bytes=self._rng.choice((16, 64, 512)) * 1024,
            slice_keys=self._rng.choice((2, 4, 50)),
            punch_bytes=self._rng.choice((1, 4, 16)) * PAGE,
        )

    def _draw_keys(self) -> list[Key]:
        objects = [new_object_id(self._entropy) for _ in range(2)]
        keys: list[Key] = [
            (Kind.BLOCK, block_key(self._rng.choice(objects), share, stripe))
            for share in range(4)
            for stripe in range(2)
        ]
        keys += [(Kind.RECORD, self._rng.randbytes(64)) for _ in range(4)]
        keys += [(Kind.PROVIDER, self._rng.randbytes(64)) for _ in range(3)]
        keys += [(Kind.META, self._rng.randbytes(self._rng.randint(2, 40))) for _ in range(5)]
        return keys

    def _draw_batch(self) -> list[Transaction]:
        batch = [self._draw_transaction() for _ in range(self._rng.randint(1, 4))]
        if self._rng.random() < 0.2:  # values that are dead before they were ever acknowledged
            again = tuple(self._draw_put((op.kind, op.key)) for op in batch[0].ops)
            batch.append(Transaction(again))
        return batch

    def _draw_transaction(self) -> Transaction:
        count = self._rng.choice((1, 1, 1, 2, 3, 5))
        keys = self._rng.sample(self._keys, count)
        ops = tuple(
            self._draw_put(key) if self._rng.random() < 0.7 else Delete(*key) for key in keys
        )
        return Transaction(ops, self._draw_guard() if self._rng.random() < 0.25 else None)

    def _draw_clearance(self) -> Transaction:
        """Return a transaction that deletes what takes most room."""
        live = sorted(self._outcomes[0].items(), key=lambda item: -len(item[1].data))
        keys = [key for key, _ in live[: self._rng.randint(1, 4)]]
        return Transaction(tuple(Delete(*key) for key in keys or self._keys[:1]))

    def _draw_guard(self) -> Guard:
        key = self._rng.choice(self._keys)
        held: Value | None = self._outcomes[0].get(key)
        value = held.data if held is not None and is_alive(held, self._now) else None
        if self._rng.random() < 0.3:
            value = b"something else"
        return Guard(*key, value)

    def _draw_put(self, key: Key) -> Put:
        expiry = 0
        if self._rng.random() < 0.15:
            expiry = int(self._now.unix_s) + self._rng.choice((2, 10, 60, 3_600))
        overwrite = self._rng.random() < 0.5
        return Put(*key, self._rng.randbytes(self._draw_size()), expiry, overwrite)

    def _draw_size(self) -> int:
        weights = {
            "large": (45, 10, 28, 15, 2),
            "full": (45, 20, 30, 5, 0),
            "churning": (50, 45, 5, 0, 0),
        }
        ranges = ((0, 200), (200, 5_000), (4_000, 20_000), (20_000, 80_000), (80_000, 300 * 1024))
        chosen = weights.get(self.recording.scenario, (75, 16, 7, 2, 0))
        return self._rng.randint(*self._rng.choices(ranges, chosen)[0])


def difference(expected: Contents, found: dict[Key, bytes], now: Now) -> str:
    """Return in words how what was found differs from what was expected."""
    wanted = visible(expected, now)
    lost = [name(key) for key in wanted if key not in found]
    extra = [name(key) for key in found if key not in wanted]
    wrong = [name(key) for key in wanted if key in found and found[key] != wanted[key]]
    return f"lost {lost}, extra {extra}, wrong {wrong}"


def name(key: Key) -> str:
    """Return a short name of a key for messages."""
    return f"{key[0].name}:{key[1].hex()[-12:]}"
