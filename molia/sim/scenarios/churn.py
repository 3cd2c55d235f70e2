"""Three nodes in ten leave in every minute, and as many come."""

from molia.sim.report import Report, at_most
from molia.sim.scenarios.base import Options, Run, latency_bars, success_bar

WARM_S = 60.0
"""For tables to grow as old as they get."""
UPKEEP_MAX = 8_000


def run(options: Options) -> Report:
    """Measure a network that churns, by `options.law`."""
    it = Run(options)
    it.settle(15.0)
    it.start_churn(options.law)
    it.world.run(WARM_S)
    it.fill()
    it.measure(60 * options.minutes)
    report = it.report()
    report.bars = [success_bar("GET and FIND", 0.95, report), *latency_bars(report)]
    if "get old" in report.tallies:
        report.bars.append(success_bar("records of 25 min and more", 0.99, report, "get old"))
    report.bars.append(at_most("upkeep, mean of a node", UPKEEP_MAX, report.upkeep_mean, " B/s"))
    return report
