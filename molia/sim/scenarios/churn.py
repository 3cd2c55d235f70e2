"""Three nodes in ten leave in every minute, and as many come."""

import time

from molia.sim.report import Report, at_most
from molia.sim.scenarios.base import Options, Run, latency_bars, success_bar

WARM_S = 60.0
"""For tables to grow as old as they get."""
UNUSED_CPU = "cpu_s_of_1000_node_churn_minute"
"""Of the real processor, for a minute in which nodes come and go and no user asks for anything."""
UPKEEP_MAX = 8_000
OLD_MIN = 30.0
"""Runs of so many minutes end with the reads of records that were put once, before them."""
PUT_S = 20.0
READ_S = 60.0
READS = 5
"""Of each, from as many nodes."""


def run(options: Options) -> Report:
    """Measure a network that churns, by `options.law`."""
    it = Run(options)
    it.settle(15.0)
    it.start_churn(options.law)
    began_s = time.process_time()
    it.world.run(WARM_S)
    used_s = time.process_time() - began_s
    it.fill()
    is_long = options.minutes >= OLD_MIN
    if is_long:
        it.load.put_kept(PUT_S)
        it.world.run(PUT_S)
    it.measure(60 * options.minutes)
    if is_long:
        it.load.read_kept(READ_S, times=READS)
        it.world.run(READ_S)
        it.finish()
    report = it.report()
    report.extra[UNUSED_CPU] = round(used_s * 60 / WARM_S / options.nodes * 1_000, 1)
    report.bars = [success_bar("GET and FIND", 0.95, report), *latency_bars(report)]
    if "get old" in report.tallies:
        report.bars.append(success_bar(f"records put {OLD_MIN:g} min ago", 0.99, report, "get old"))
    report.bars.append(at_most("upkeep, mean of a node", UPKEEP_MAX, report.upkeep_mean, " B/s"))
    return report
