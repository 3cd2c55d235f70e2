"""Opens the shipped `Shard` on a state that a power cut left, and says what is wrong with it.

A state counts when the shard was really opened on it, read whole, written to, let go of as by a
kill, opened again and read whole again. Some states are cut a second time while they recover, and
some are opened the second time with their index thrown away.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from molia.base.errors import NoSpace, ShardUnavailable
from molia.base.now import Now
from molia.sim.content import PAGE
from molia.sim.disk import SimDisk
from molia.sim.index_watch import IndexWatch, around_commits
from molia.sim.journal import Event, Mark
from molia.sim.platter import IndexFate, Platter
from molia.sim.powercut import CrashState, crash_states
from molia.sim.shard_model import Contents, Expected, Key, apply_batch, visible
from molia.sim.shard_reader import audit_all, read_all, release
from molia.sim.shard_workload import STORE_UUID, Recording, difference
from molia.store.keys import Kind
from molia.store.ops import Delete, Put, Transaction
from molia.store.shard import Shard

SECOND_CUT_EVERY: Final = 20
"""One state in so many is cut again while it recovers."""
SECOND_CUTS_WANTED: Final = 6
REBUILD_EVERY: Final = 5
WORK_EVERY: Final = 3
WORK_AFTER_S: Final = 30.0
AUDIT_EVERY: Final = 6
FULL_INDEX_EVERY: Final = 20
NEW_KEY: Final = b"\x7fwritten after the power came back"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One state that was tried. `wrong` is empty when all was well."""

    number: int
    second: int | None
    """The number of the second cut, None for a state that was cut once."""
    phase: str
    wrong: str = ""
    details: str = ""


class ShardTrial:
    """Tries the states of one recording. root: a directory for LMDB's files, used each time."""

    def __init__(self, recording: Recording, root: Path) -> None:
        self._recording, self._root = recording, root

    def states(self) -> Iterator[CrashState]:
        """Yield the states of the recording, in order; each must be tried before the next."""
        return crash_states(self._recording.journal, seed=str(self._recording.seed))

    def verdicts(self, state: CrashState) -> Iterator[Verdict]:
        """Try a state, and for some states a few cuts during its recovery."""
        assert isinstance(state.mark, Expected)
        phase = state.mark.phase if state.plan.index is IndexFate.INTACT else "rebuild"
        wrong = self._try(state, state.mark)
        details = state.describe() if wrong else ""
        yield Verdict(state.number, None, phase, wrong, details)
        if state.number % SECOND_CUT_EVERY == 0 and not wrong:
            yield from self._second_cuts(state, state.mark)
        if state.number % FULL_INDEX_EVERY == 0 and not wrong:
            wrong = self._try_full_index(state, state.mark)
            yield Verdict(state.number, None, "enospc", wrong, state.describe() if wrong else "")

    # ------------------------------------------------------------------------ one state

    def _try(self, state: CrashState, expected: Expected) -> str:
        """Return what is wrong with a state, or nothing."""
        disk = state.build(self._root / "first")
        disk.can_punch = self._recording.can_punch
        if state.number % 2:
            disk.capacity = self._recording.capacity
            disk.optimism_bytes = state.number % 3 * 32 * PAGE
        now = expected.now.after(0.25)
        try:
            return self._open_twice(disk, expected, now, state.number)
        except Exception as error:  # noqa: BLE001  whatever the store raises here is a finding
            return f"{type(error).__name__}: {error}"

    def _try_full_index(self, state: CrashState, expected: Expected) -> str:
        """Open a state while the index has no room, read it, then open it again with room."""
        disk = state.build(self._root / "first")
        now = expected.now.after(0.25)
        rng = random.Random(state.number)
        share = rng.choice((0.3, 1.0))
        try:
            wrong = ""
            with around_commits(is_full=lambda: rng.random() < share):
                try:
                    shard = self._open(disk, now, rebuild=rng.random() < 0.4)
                    wrong = self._read(shard, disk, expected, now)
                except ShardUnavailable:  # it cannot be shown to other processes
                    if not self._recording.options.shared:
                        raise
            return wrong or self._read(self._open(disk, now), disk, expected, now)
        except Exception as error:  # noqa: BLE001  whatever the store raises here is a finding
            return f"{type(error).__name__} with a full index: {error}"

    def _read(self, shard: Shard, disk: SimDisk, expected: Expected, now: Now) -> str:
        try:
            found = matching(expected, read_all(shard, now), now)
        finally:
            release(shard, disk)
        return found if isinstance(found, str) else ""

    def _open_twice(self, disk: SimDisk, expected: Expected, now: Now, number: int) -> str:
        shard = self._open(disk, now)
        try:
            outcomes = matching(expected, read_all(shard, now), now)
            if isinstance(outcomes, str):
                return outcomes
            after = self._write(shard, disk, outcomes[0], now, number)
        finally:
            release(shard, disk)
        if number % WORK_EVERY == 0:
            now = now.after(WORK_AFTER_S)  # what had expired by then may be gone for good
        shard = self._open(disk, now, rebuild=number % REBUILD_EVERY == 0)
        wrong = ""
        try:
            found = read_all(shard, now)
            if number % AUDIT_EVERY == 0:
                wrong = audit_all(shard, now)
        finally:
            release(shard, disk)
        if found != visible(after, now):
            return f"opened again: {difference(after, found, now)}"
        return wrong

    def _open(self, disk: SimDisk, now: Now, *, rebuild: bool = False) -> Shard:
        options = self._recording.options
        shard, report = Shard.open(
            disk, 0, store_uuid=STORE_UUID, options=options, now=now, rebuild_index=rebuild
        )
        if report.damage_count:
            release(shard, disk)
            raise AssertionError(f"damage reported: {report.damaged}")
        return shard

    def _write(
        self, shard: Shard, disk: SimDisk, contents: Contents, now: Now, number: int
    ) -> Contents:
        """Write, overwrite and delete a little, and now and then let the shard do its chores."""
        rng = random.Random(number)
        keys = sorted(contents)
        new: Key = (Kind.META, NEW_KEY)
        ops: list[Put | Delete] = [Put(*new, rng.randbytes(rng.randint(0, 300)))]
        if keys:
            ops.append(Delete(*keys[number % len(keys)]))
        if len(keys) > 1:
            ops.append(Put(*keys[(number + 1) % len(keys)], rng.randbytes(60), overwrite=True))
        batch = [Transaction(tuple(ops))]
        steps, replies = apply_batch(contents, batch, now)
        try:
            got = shard.apply(batch, now)
        except NoSpace:
            if disk.capacity is None:
                raise
            return contents
        assert got == replies, f"replies {got} after recovery"
        if number % WORK_EVERY == 0:
            for _ in range(number % 7 * 2):
                shard.work(now.after(WORK_AFTER_S), idle=True)
                shard.copy_step(now)
        return steps[-1]

    # ------------------------------------------------------------------------ a second cut

    def _second_cuts(self, state: CrashState, expected: Expected) -> Iterator[Verdict]:
        """Record the recovery of a state, and try a sample of the cuts during it.

        Where something was not yet safe, the first time it is only the process that dies: what it
        wrote is still seen, and is as unsafe as before when the power goes.
        """
        platter = state.platter
        # what a failed sync leaves behind would have to differ between the cache and the disk
        is_kill = bool(platter.pieces or platter.name_changes) and not platter.has_orphans()
        first = state.killed() if is_kill else state
        disk = first.build(self._root / "first")
        start = platter.fork() if is_kill else Platter.of(disk)
        journal = self._record_recovery(disk, expected)
        rng = random.Random(state.number)
        share = SECOND_CUTS_WANTED / (2 * len(journal))
        for again in crash_states(
            journal, seed=f"{self._recording.seed}/{state.number}", start=start, per_cut=6
        ):
            if rng.random() < share:
                assert isinstance(again.mark, Expected)
                wrong = self._try(again, again.mark)
                details = f"{first.describe()}\nthen:\n{again.describe()}" if wrong else ""
                yield Verdict(state.number, again.number, "recovery", wrong, details)

    def _record_recovery(self, disk: SimDisk, expected: Expected) -> list[Event]:
        journal: list[Event] = [Mark(expected)]
        disk.journal = journal
        watch = IndexWatch(disk)
        now = expected.now.after(0.25)
        with around_commits(after=watch.look):
            shard = self._open(disk, now)
            watch.look()
        outcomes = matching(expected, read_all(shard, now), now)
        assert not isinstance(outcomes, str), "the first try has shown that it recovers"
        journal.append(Mark(Expected("recovery", expected.now, tuple(outcomes)), cut=True))
        disk.journal = disk.after_call = None
        release(shard, disk)
        return journal


def matching(expected: Expected, found: dict[Key, bytes], now: Now) -> list[Contents] | str:
    """Return the outcomes that look like what was found, or in words that there is none."""
    outcomes = [contents for contents in expected.outcomes if visible(contents, now) == found]
    if outcomes:
        return outcomes
    return difference(expected.outcomes[0], found, now)
