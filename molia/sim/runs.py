"""Runs of scenarios from the command line: one, or all that `make sim` and `make sim-long` demand.

Source: docs/reference/simulator.md.
"""

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from molia.sim.report import Bar, Report, baseline_lines
from molia.sim.scenarios import churn, flash, flood, partition, steady, sybil, upgrade
from molia.sim.scenarios.base import DEFENCES, Options
from molia.sim.scenarios.churn import UNUSED_CPU

SCENARIOS: Final[dict[str, Callable[[Options], Report]]] = {
    "steady": steady.run, "churn": churn.run, "sybil": sybil.run, "partition": partition.run,
    "flood": flood.run, "flash": flash.run, "upgrade": upgrade.run,
}  # fmt: skip
_CPU: Final = "cpu_s_of_1000_node_minutes"
_HELP: Final = {
    "steady": "nothing happens but work; --variant cold: from nothing",
    "churn": "three nodes in ten leave in every minute, and as many come",
    "sybil": "a fifth of the nodes are one attacker's; --variant PLACEMENT[/BEHAVIOUR]",
    "partition": "two halves for ten minutes, writes on both sides",
    "flood": "handshakes at a hundred times what there is room for",
    "flash": "half of the nodes leave within ten seconds",
    "upgrade": "two versions side by side",
}
_BASELINES: Final = {
    "steady": ("no region", "vanilla"),
    "churn": ("no repair", "no checks", "vanilla"),
    "flash": ("no repair", "vanilla"),
    "partition": ("no repair",),
}
"""Defences to take away beside each scenario; `sybil` has its own."""


def add_commands(commands: Any) -> None:  # noqa: ANN401 - argparse has no public name for it
    """Add a command for each scenario, and `bars` for all of them."""
    for name, text in _HELP.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("--nodes", type=int, default=300)
        command.add_argument("--seed", type=int, default=1)
        command.add_argument("--minutes", type=float, default=5.0, help="of measured virtual time")
        command.add_argument("--json", action="store_true", help="print one JSON object")
        command.add_argument("--wire", choices=("auto", "real", "null"), default="auto")
        command.add_argument("--rtt-ms", type=float, default=76.0, help="of the median pair")
        command.add_argument("--law", choices=("exponential", "weibull"), default="exponential")
        command.add_argument("--variant", default="", help="of scenarios with several")
        command.add_argument("--defence", choices=tuple(DEFENCES), default="all",
                             help="a defence to take away")  # fmt: skip
        command.add_argument("--no-baselines", action="store_true",
                             help="leave out the same seed with defences off")  # fmt: skip
    bars = commands.add_parser("bars", help="every scenario, and a table of demands")
    bars.add_argument("--long", action="store_true", help="the sizes of `make sim-long`")
    bars.add_argument("--jobs", type=int, default=2, help="runs at once")


def main(arguments: argparse.Namespace) -> int:
    """Run what the command line asks for; return 1 when a bar was missed."""
    if arguments.command == "bars":
        return all_bars(LONG if arguments.long else SHORT, jobs=arguments.jobs)
    options = Options(
        scenario=arguments.command, nodes=arguments.nodes, seed=arguments.seed,
        minutes=arguments.minutes, wire=arguments.wire, defence=arguments.defence,
        rtt_ms=arguments.rtt_ms, law=arguments.law, variant=arguments.variant,
    )  # fmt: skip
    gc.disable()  # nodes that end let go of their parts: there is nothing for it to find
    report = SCENARIOS[options.scenario](options)
    _count_cpu(report)
    if arguments.json:
        print(report.as_json())
    else:
        print("\n".join(report.lines()))
        print(f"  CPU time of this run: {report.extra['cpu_s']} s", *_cpu_line(report.extra))
        if not arguments.no_baselines and options.defence == "all":
            _print_baselines(options)
    return 0 if report.passed else 1


def _count_cpu(report: Report) -> None:
    """Say what the run cost, and what that makes of a minute of 1,000 nodes."""
    used_s = time.process_time()
    report.extra["cpu_s"] = round(used_s, 1)
    minutes = float(str(report.facts.get("virtual minutes", 0.0)))
    if minutes and "success_vanilla" not in report.extra:
        report.extra[_CPU] = round(used_s / minutes / report.nodes * 1_000, 1)


def _cpu_line(told: Mapping[str, object]) -> list[str]:
    """Return the same for people, and of the minute of churn before anybody asked."""
    unused = f", {told[UNUSED_CPU]} s for one that no user asks in" if UNUSED_CPU in told else ""
    return [f"({told[_CPU]} s for a minute of 1,000 nodes{unused})"] if _CPU in told else []


def _print_baselines(options: Options) -> None:
    reports = [
        SCENARIOS[options.scenario](replace(options, defence=name))
        for name in _BASELINES.get(options.scenario, ())
    ]
    if reports:
        print("\n".join(baseline_lines(reports)))


# ---------------------------------------------------------------------------- all of them


@dataclass(frozen=True, slots=True)
class Demand:
    """One run that `make sim` makes."""

    scenario: str
    nodes: int
    minutes: float
    seeds: Sequence[int] = (1,)
    more: tuple[str, ...] = ()

    def commands(self) -> list[list[str]]:
        """Return the arguments of each of its runs."""
        return [
            [self.scenario, "--nodes", str(self.nodes), "--seed", str(seed),
             "--minutes", f"{self.minutes:g}", *self.more, "--json"]
            for seed in self.seeds
        ]  # fmt: skip


SHORT: Final = (
    Demand("steady", 300, 5, (1, 2, 3)),
    Demand("steady", 100, 1, (1,), ("--variant", "cold")),
    Demand("churn", 300, 5, (1, 2, 3)),
    Demand("churn", 300, 5, (1,), ("--law", "weibull")),
    Demand("sybil", 300, 2, (1, 2, 3)),
    Demand("sybil", 300, 2, (1,), ("--variant", "free-64/tarpit")),
    Demand("sybil", 300, 2, (1,), ("--variant", "squat/drop")),
    Demand("sybil", 200, 2, (1,), ("--variant", "own-24/lie")),
    Demand("partition", 100, 10),
    Demand("flood", 10, 1),
    Demand("flash", 200, 2),
    Demand("upgrade", 100, 3),
)
LONG: Final = (
    Demand("steady", 1_000, 10),
    Demand("steady", 1_000, 5, (1,), ("--rtt-ms", "159")),
    Demand("steady", 10_000, 5),
    Demand("churn", 1_000, 10),
    Demand("churn", 1_000, 10, (1,), ("--law", "weibull")),
    Demand("churn", 300, 30),
    *(
        Demand("sybil", 1_000, 3, (1,), ("--variant", f"{placement}/{behaviour}"))
        for placement in ("bound", "free-16", "free-64", "free-256", "squat", "own-24")
        for behaviour in ("drop", "lie", "tarpit", "sleeper")
    ),
    Demand("sybil", 10_000, 5),
    Demand("partition", 300, 10),
    Demand("flood", 10, 10),
    Demand("flash", 1_000, 5),
    Demand("upgrade", 300, 6),
)


def all_bars(demands: Sequence[Demand], *, jobs: int) -> int:
    """Run every demand, each in a process of its own, and print the table of bars."""
    waiting = [(demand, command) for demand in demands for command in demand.commands()]
    running: list[tuple[Demand, list[str], subprocess.Popen[str]]] = []
    told: dict[Demand, list[dict[str, Any]]] = {demand: [] for demand in demands}
    passed = True
    while waiting or running:
        while waiting and len(running) < jobs:
            demand, command = waiting.pop(0)
            running.append((demand, command, _spawn(command)))
        demand, command, process = running.pop(0)
        report = _show(command, process)
        passed &= report is not None and bool(report["passed"])
        if report is not None:
            told[demand].append(report)
        if len(told[demand]) == len(demand.seeds) > 1:
            print(_worst(told[demand]), flush=True)
    print("all bars cleared" if passed else "NOT all bars cleared")
    return 0 if passed else 1


def _spawn(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own module, our own arguments
        [sys.executable, "-m", "molia.sim", *command], stdout=subprocess.PIPE, text=True
    )


def _show(command: list[str], process: subprocess.Popen[str]) -> dict[str, Any] | None:
    """Print the bars of a run when it has ended; return what it told, None: nothing."""
    text, _ = process.communicate()
    print(" ".join(command[:-1]), flush=True)
    if not text:
        print("  ended without a report  MISSED")
        return None
    told: dict[str, Any] = json.loads(text)
    for bar in told["bars"]:
        print(Bar(bar["name"], bar["demanded"], bar["measured"], bar["passed"]).line())
    print(f"  CPU time of this run: {told['cpu_s']} s", *_cpu_line(told))
    if not told["passed"]:
        print(f"  replay: {told['replay']}")
    return told


def _worst(reports: Sequence[dict[str, Any]]) -> str:
    """Return a line on the worst seed of several: by success, then by the slowest percent."""
    worst = min(reports, key=lambda told: (told["success"], -told["p99_ms"]))
    mean = sum(told["success"] for told in reports) / len(reports)
    return (
        f"  worst of {len(reports)} seeds: {worst['seed']}, success "
        f"{100 * worst['success']:.2f}% (mean {100 * mean:.2f}%), p99 {worst['p99_ms']:.0f} ms"
    )
