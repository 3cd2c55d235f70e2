"""What a run found: for people, as one JSON object, and as bars that are cleared or not.

Source: docs/reference/simulator.md, "Reading a report".
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from molia.sim.tally import Tally, percentile

OMISSIONS: Final = (
    "no CPU time: handlers answer at once, whatever they cost",
    "no bandwidth: packets of one link do not queue behind each other",
    "no path MTU holes, no ICMP; a datagram arrives whole or not at all",
    "all clocks tell one time; IPv4 alone; one worker a node",
    "the door (rates, puzzles, proofs of identity) stands open, except in `flood`",
    "delays of a pair do not change during a run, and nobody moves",
)
LOOKUPS: Final[tuple[str, ...]] = ("get", "find")


@dataclass(frozen=True, slots=True)
class Bar:
    """One demand and what was measured. passed: None where it is printed and not demanded."""

    name: str
    demanded: str
    measured: str
    passed: bool | None

    def line(self) -> str:
        """Return one line for people."""
        verdict = "printed" if self.passed is None else "ok" if self.passed else "MISSED"
        return f"  {self.name:<46}{self.demanded:>16}  {self.measured:>18}  {verdict}"


def at_most(name: str, limit: float, measured: float, unit: str = "") -> Bar:
    """Return the bar that something must not exceed."""
    return Bar(name, f"<= {limit:g}{unit}", f"{measured:.5g}{unit}", measured <= limit)


def at_least(name: str, limit: float, measured: float) -> Bar:
    """Return the bar that a share, of 1, must reach."""
    return Bar(name, f">= {100 * limit:g}%", f"{100 * measured:.2f}%", measured >= limit)


@dataclass(slots=True)
class Report:
    """What one run found."""

    scenario: str
    nodes: int
    seed: int
    minutes: float
    wire: str = "null"
    defence: str = "all"
    """"all", or what was taken away for comparison."""
    trace: str = ""
    tallies: dict[str, Tally] = field(default_factory=dict)
    upkeep: list[float] = field(default_factory=list)
    """Bytes a second that each node sent beside its and others' operations, sorted."""
    upkeep_split: dict[str, float] = field(default_factory=dict)
    """The mean of them by what for."""
    facts: dict[str, object] = field(default_factory=dict)
    """Achieved rates, estimates beside the truth, and what else one would ask about."""
    bars: list[Bar] = field(default_factory=list)
    extra: dict[str, object] = field(default_factory=dict)
    """More fields of the JSON object."""
    command: str = ""
    """What replays this run."""

    @property
    def passed(self) -> bool:
        """Whether every bar was cleared."""
        return all(bar.passed is not False for bar in self.bars)

    @property
    def lookups(self) -> Tally:
        """GET and FIND together; every operation where there are none of them."""
        both = Tally()
        names = [name for name in LOOKUPS if name in self.tallies] or sorted(self.tallies)
        for name in names:
            both.merge(self.tallies[name])
        return both

    @property
    def upkeep_mean(self) -> float:
        """Bytes a second of upkeep, mean over the nodes."""
        return sum(self.upkeep) / len(self.upkeep) if self.upkeep else 0.0

    def as_json(self) -> str:
        """Return the one object of `--json`."""
        lookups = self.lookups
        told: dict[str, object] = {
            "scenario": self.scenario, "nodes": self.nodes, "seed": self.seed,
            "minutes": self.minutes, "wire": self.wire, "defence": self.defence,
            "trace": self.trace,
            "operations": sum(tally.count for tally in self.tallies.values()),
            "success": round(lookups.success, 6),
            "p50_ms": lookups.quantile_ms(0.5), "p95_ms": lookups.quantile_ms(0.95),
            "p99_ms": lookups.quantile_ms(0.99),
            "upkeep_bytes_per_s": round(self.upkeep_mean, 1),
            **self.extra,
            "by_kind": {name: _told(tally) for name, tally in self.tallies.items()},
            "upkeep_split": {name: round(rate, 1) for name, rate in self.upkeep_split.items()},
            "facts": self.facts,
            "bars": [
                {"name": b.name, "demanded": b.demanded, "measured": b.measured, "passed": b.passed}
                for b in self.bars
            ],
            "passed": self.passed, "replay": self.command,
        }  # fmt: skip
        return json.dumps(told)

    def lines(self) -> list[str]:
        """Return the report for people."""
        head = (
            f"{self.scenario}: {self.nodes} nodes, {self.minutes:g} min, seed {self.seed}, "
            f"{self.wire} wire, defences: {self.defence}, trace {self.trace}"
        )
        lines = [head]
        lines += [tally.line(name) for name, tally in self.tallies.items()]
        if self.upkeep:
            split = ", ".join(f"{name} {rate:.0f}" for name, rate in self.upkeep_split.items())
            middle, high = percentile(self.upkeep, 0.5), percentile(self.upkeep, 0.99)
            rates = f"{self.upkeep_mean:.0f} B/s a node, p50 {middle:.0f}, p99 {high:.0f}"
            lines.append(f"  upkeep {rates} ({split})")
        lines += [f"  {name}: {_shown(value)}" for name, value in self.facts.items()]
        lines += [bar.line() for bar in self.bars]
        if not self.passed:
            lines.append(f"  replay: {self.command}")
        return lines


def _told(tally: Tally) -> dict[str, object]:
    return {
        "count": tally.count, "success": round(tally.success, 6),
        "p50_ms": tally.quantile_ms(0.5), "p95_ms": tally.quantile_ms(0.95),
        "p99_ms": tally.quantile_ms(0.99), "causes": dict(sorted(tally.causes.items())),
        "requests": tally.requests, "bytes": tally.size_bytes,
    }  # fmt: skip


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def baseline_lines(reports: Sequence[Report]) -> list[str]:
    """Return the same seeds with defences taken away, beside each other."""
    lines = ["  the same seed with a defence off:"]
    for report in reports:
        lookups = report.lookups
        lines.append(
            f"    {report.defence:<22} success {100 * lookups.success:6.2f}%  "
            f"p50 {lookups.quantile_ms(0.5):.0f}  p95 {lookups.quantile_ms(0.95):.0f} ms  "
            f"upkeep {report.upkeep_mean:.0f} B/s"
        )
    return lines
