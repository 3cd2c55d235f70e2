"""Half of the nodes leave within ten seconds, and nobody comes."""

from typing import Final

from molia.sim.fleet import Node
from molia.sim.report import Report
from molia.sim.scenarios.base import Options, Run, success_bar
from molia.sim.tally import Tally

LEAVE_S: Final = 10.0
SHARE: Final = 0.5
GOODBYES: Final = 0.3
RECOVERED_S: Final = 30.0


def run(options: Options) -> Report:
    """Measure the time from the first leaver on; the bar begins when 30 s have passed."""
    it = Run(options)
    it.settle()
    it.fill()
    rng = it.world.seeds.entropy("flash", "who").random
    leavers = [node for node in it.fleet.up if rng.random() < SHARE]
    for node in leavers:
        act = _part if rng.random() < GOODBYES else _crash
        it.world.after(rng.random() * LEAVE_S, act, node)
    it.fleet.start_measuring()
    it.load.start()
    it.pass_time(RECOVERED_S)
    early, it.load.tallies = it.load.tallies, {name: Tally() for name in it.load.tallies}
    it.pass_time(max(RECOVERED_S, 60 * options.minutes - RECOVERED_S))
    it.rates, it.split = it.fleet.upkeep()
    it.finish()
    report = it.report()
    for name, tally in early.items():
        report.tallies[f"{name}, first 30 s"] = tally
    report.facts["left"] = f"{len(leavers)} of {options.nodes}"
    report.bars = [
        success_bar("GET and FIND from 30 s after", 0.95, report),
        success_bar("records", 0.95, report, "get"),
    ]
    return report


def _part(node: Node) -> None:
    node.leave(goodbye=True)


def _crash(node: Node) -> None:
    node.leave(goodbye=False)
