"""The states that a power cut may leave of a recorded disk: which cuts, and which outcomes of each.

For every prefix of a journal: nothing, all, each prefix, all but one, and random subsets of the
changes that were not yet safe. It is not exhaustive: a cut has at most `per_cut` outcomes.
After the "power-cut" shims of SQLite's crash VFS and of ALICE (Pillai et al., OSDI 2014).
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from molia.sim.disk import SimDisk
from molia.sim.journal import Event, Mark, Write
from molia.sim.platter import Fate, IndexFate, Plan, Platter, describe

PER_CUT: Final = 24
LOST_SHARE: Final = 0.2
"""How often a state also loses its index."""
DAMAGED_FATES: Final = (Fate.ABSENT, Fate.ZEROS, Fate.GARBAGE, Fate.SECTORS)
LOST_INDEX: Final = tuple(fate for fate in IndexFate if fate is not IndexFate.INTACT)


@dataclass(frozen=True, slots=True)
class CrashState:
    """One outcome of one cut. Build it before asking the enumerator for the next."""

    number: int
    cut: int
    """How many events of the journal had happened."""
    mark: object
    """The value of the last `Mark` before the cut."""
    plan: Plan
    platter: Platter

    def build(self, root: Path) -> SimDisk:
        """Return the disk as the cut left it, with LMDB's files below `root`."""
        return self.platter.image(self.plan, root)

    def killed(self) -> "CrashState":
        """Return the state of a process killed at this cut: all is seen, nothing more is safe."""
        platter = self.platter
        names = tuple((node, len(changes)) for node, changes in platter.name_changes.items())
        plan = Plan((Fate.KEPT,) * len(platter.pieces), names, IndexFate.INTACT, self.plan.salt)
        return replace(self, plan=plan)

    def describe(self) -> str:
        """Return what became of each change that was not yet safe."""
        return describe(self.plan, self.platter.pieces, self.platter.name_changes)


def crash_states(
    journal: Sequence[Event],
    *,
    seed: str,
    start: Platter | None = None,
    per_cut: int = PER_CUT,
    lost_share: float = LOST_SHARE,
) -> Iterator[CrashState]:
    """Yield the states of all cuts of a journal, numbered from 0, the same ones for the same seed.

    start: what was safe before the journal began; an empty disk without it.
    """
    platter = start or Platter()
    mark: object = None
    number = 0
    for cut, event in enumerate(journal, 1):
        worth_trying = platter.feed(event)
        if isinstance(event, Mark):
            mark, worth_trying = event.value, event.cut
        if worth_trying:
            for plan in plans(platter, random.Random(f"{seed}/{cut}"), per_cut, lost_share):
                yield CrashState(number, cut, mark, plan, platter)
                number += 1


def plans(platter: Platter, rng: random.Random, limit: int, lost_share: float) -> list[Plan]:
    """Return distinct outcomes of a cut at this point, the plainest first."""
    chooser = _Chooser(platter, rng, lost_share)
    count = len(platter.pieces)
    wanted = min(limit, 2 + 4 * count + 2 * chooser.name_change_count)
    found: dict[Plan, None] = dict.fromkeys(chooser.plain())
    for candidate in chooser.prefixes(wanted // 3):
        found.setdefault(candidate)
    for candidate in chooser.all_but_one(wanted // 3):
        found.setdefault(candidate)
    for _ in range(2 * wanted):
        if len(found) >= wanted:
            break
        found.setdefault(chooser.random())
    return list(found)[: max(limit, 1)]


class _Chooser:
    """Draws the outcomes of one cut."""

    def __init__(self, platter: Platter, rng: random.Random, lost_share: float) -> None:
        self._rng, self._lost_share = rng, lost_share if platter.indexes else 0.0
        self._is_write = [isinstance(piece.change, Write) for piece in platter.pieces]
        self._names = sorted((node, len(all_)) for node, all_ in platter.name_changes.items())
        self.name_change_count = sum(size for _, size in self._names)

    def plain(self) -> list[Plan]:
        """Return nothing, everything, only data, only names."""
        count = len(self._is_write)
        none, all_ = (Fate.ABSENT,) * count, (Fate.KEPT,) * count
        pairs = [
            (none, self._no_names()), (all_, self._all_names()),
            (all_, self._no_names()), (none, self._all_names()),
        ]  # fmt: skip
        return [self._plan(fates, names) for fates, names in pairs]

    def prefixes(self, limit: int) -> list[Plan]:
        """Return states in which the first pieces came through and no later one."""
        count = len(self._is_write)
        found = []
        for kept in self._sample(range(1, count), limit):
            rest = self._rng.choice(DAMAGED_FATES)
            found.append(self._plan(self._fates(kept.__gt__, rest), self._some_names()))
        return found

    def all_but_one(self, limit: int) -> list[Plan]:
        """Return states in which one piece alone is missing."""
        found = []
        for missing in self._sample(range(len(self._is_write)), limit):
            rest = self._rng.choice(DAMAGED_FATES)
            fates = self._fates(missing.__ne__, rest)
            found.append(self._plan(fates, self._all_names()))
        return found

    def random(self) -> Plan:
        """Return a random subset, each missing piece in its own way."""
        share = self._rng.random()
        fates = [
            Fate.KEPT if self._rng.random() < share else self._missing(i)
            for i in range(len(self._is_write))
        ]
        return self._plan(tuple(fates), self._some_names())

    def _fates(self, is_kept: Callable[[int], bool], rest: Fate) -> tuple[Fate, ...]:
        return tuple(
            Fate.KEPT if is_kept(i) else (rest if is_write else Fate.ABSENT)
            for i, is_write in enumerate(self._is_write)
        )

    def _missing(self, index: int) -> Fate:
        return self._rng.choice(DAMAGED_FATES) if self._is_write[index] else Fate.ABSENT

    def _sample(self, indexes: range, limit: int) -> list[int]:
        if len(indexes) <= limit:
            return list(indexes)
        return sorted(self._rng.sample(indexes, limit))

    def _no_names(self) -> tuple[tuple[int, int], ...]:
        return tuple((node, 0) for node, _ in self._names)

    def _all_names(self) -> tuple[tuple[int, int], ...]:
        return tuple(self._names)

    def _some_names(self) -> tuple[tuple[int, int], ...]:
        return tuple((node, self._rng.randint(0, size)) for node, size in self._names)

    def _plan(self, fates: tuple[Fate, ...], names: tuple[tuple[int, int], ...]) -> Plan:
        index = IndexFate.INTACT
        if self._rng.random() < self._lost_share:
            index = self._rng.choice(LOST_INDEX)
        return Plan(fates, names, index, self._rng.getrandbits(32))
