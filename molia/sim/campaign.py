"""Runs workloads seed after seed, tries the states of each, and counts them by phase."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from molia.sim.entropy import SeededEntropy
from molia.sim.powercut import CrashState
from molia.sim.shard_model import Expected
from molia.sim.shard_trial import ShardTrial, Verdict
from molia.sim.shard_workload import record

PHASES = (
    "append", "roll", "checkpoint", "punch", "copy", "rename", "move", "retire", "unlink",
    "recovery", "rebuild", "enospc", "fault",
)  # fmt: skip

SAMPLE = 1_000
"""States tried of one workload, of some thousands that it has."""
TRIES_PER_STATE = 1.3
"""Second cuts and other tries of a chosen state counted in."""
WEIGHTS = {
    "checkpoint": 4, "punch": 8, "fault": 8, "rename": 8, "move": 8, "retire": 8, "unlink": 8,
}  # fmt: skip
"""Phases with few cuts and much to go wrong."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A state that the store did not survive, and how to see it again."""

    seed: int
    verdict: Verdict

    def __str__(self) -> str:
        verdict = self.verdict
        state = f"{verdict.number}" if verdict.second is None else (
            f"{verdict.number}, second cut {verdict.second}"
        )  # fmt: skip
        return (
            f"seed {self.seed}, state {state} ({verdict.phase}): {verdict.wrong}\n"
            f"replay: python -m molia.sim powercut --seed {self.seed} --state {verdict.number}"
        )


@dataclass(slots=True)
class Tally:
    """How many states were tried in each phase, and which failed."""

    states: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    seeds: int = 0

    def total(self) -> int:
        """Return how many states were tried."""
        return self.states.total()

    def add(self, other: "Tally") -> None:
        """Count another tally in."""
        self.states.update(other.states)
        self.failures.extend(other.failures)
        self.seeds += other.seeds

    def lines(self) -> list[str]:
        """Return the count of each phase and the sum, a line each."""
        rows = [f"{phase:<12}{self.states[phase]:>10,}" for phase in PHASES]
        rows.append(f"{'all states':<12}{self.total():>10,}")
        rows.append(f"{'seeds':<12}{self.seeds:>10,}")
        rows.append(f"{'failures':<12}{len(self.failures):>10,}")
        return rows


def try_seed(
    seed: int,
    root: Path,
    *,
    limit: int | None = None,
    only: int | None = None,
    sample: int | None = None,
    stop: bool = False,
    scenario: str = "",
) -> Tally:
    """Record the workload of a seed and try its states.

    root: an empty directory for LMDB's files, best in memory. limit: about how many states at most,
    the first ones; sample: about how many, drawn from all; only: this one. stop: end at the first
    failure. scenario: not the seed's own.
    """
    tally = Tally(seeds=1)
    try:
        recording = record(seed, root / "live", scenario=scenario)
    except Exception as error:  # noqa: BLE001  whatever the store raises here is a finding
        wrong = f"{type(error).__name__}: {error}"
        tally.failures.append(Failure(seed, Verdict(0, None, "workload", wrong)))
        return tally
    trial = ShardTrial(recording, root)
    is_chosen = chooser(trial, sample)
    for state in trial.states():
        if (limit is not None and tally.total() >= limit) or (stop and tally.failures):
            break
        if (only is None and is_chosen(state)) or state.number == only:
            for verdict in trial.verdicts(state):
                tally.states[verdict.phase] += 1
                if verdict.wrong:
                    tally.failures.append(Failure(seed, verdict))
    return tally


def chooser(trial: ShardTrial, sample: int | None) -> Callable[[CrashState], bool]:
    """Return what tells whether a state belongs to a sample of about this size."""
    rng = SeededEntropy("sample").random
    share = 1.0
    if sample is not None:
        share = sample / (TRIES_PER_STATE * max(1, sum(map(weight, trial.states()))))
    return lambda state: rng.random() < share * weight(state)


def weight(state: CrashState) -> int:
    """Return how much more often than others a state is tried."""
    assert isinstance(state.mark, Expected)
    return WEIGHTS.get(state.mark.phase, 1)


def try_seeds(seeds: Iterable[int], *, states: int) -> Iterator[Tally]:
    """Yield one tally per seed until `states` states were tried or the seeds are used up.

    Many workloads with a sample of each show more than a few whole ones.
    """
    left = states
    for seed in seeds:
        if left <= 0:
            return
        with scratch() as root:
            tally = try_seed(seed, root, sample=min(left, SAMPLE))
        left -= tally.total()
        yield tally


@contextmanager
def scratch() -> Iterator[Path]:
    """Lend a directory in memory where the system has one."""
    memory = Path("/dev/shm")  # noqa: S108  the system's own name for it
    parent = memory if memory.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="molia-sim-", dir=parent) as path:
        yield Path(path)
