"""Nothing happens but work: nobody comes or goes, and a fifth of the nodes sit behind boxes.

`--variant cold` begins with ten nodes that know nobody; the others join one after the other.
"""

from molia.sim.report import Bar, Report
from molia.sim.scenarios import cold
from molia.sim.scenarios.base import Options, Run, latency_bars, success_bar

NATED = 0.2


def run(options: Options) -> Report:
    """Measure a network at rest."""
    is_cold = options.variant == "cold"
    it = Run(options, nated=NATED, nodes=0 if is_cold else None)
    start = cold.begin(it) if is_cold else None
    if start is None:
        it.settle()
        it.fill()
    it.measure(60 * options.minutes)
    report = it.report()
    wrong = sum(
        node.host is not None and node.host.engine.own is not None and node.contact is None
        for node in it.fleet.up
    )
    boxed = sum(node.contact is None for node in it.fleet.up)
    report.facts["boxed nodes that took themselves for reachable"] = f"{wrong} of {boxed}"
    is_slow = options.rtt_ms > 100
    report.bars = [success_bar("GET and FIND", 0.999, report), *latency_bars(report)]
    if start is not None:
        cold.tell(start, report)
    if is_slow:  # the other model of the round trip is printed, not demanded
        report.bars = [Bar(b.name, b.demanded, b.measured, None) for b in report.bars]
    return report
