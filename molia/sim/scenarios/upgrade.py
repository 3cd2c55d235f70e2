"""Two versions live together: a tenth, half, then nine tenths of the nodes are of the later one.

Nodes of the later version send fields and feature bits that the others have never heard of.
"""

from dataclasses import replace
from typing import Final

from molia.sim.report import Report
from molia.sim.scenarios.base import Options, Run, latency_bars, success_bar

SHARES: Final = (0.1, 0.5, 0.9)


def run(options: Options) -> Report:
    """Measure three mixes one after the other, as one."""
    reports = [_mix(replace(options, minutes=options.minutes / 3), share) for share in SHARES]
    report = reports[0]
    report.minutes, report.command = options.minutes, options.command
    report.trace = "-".join(each.trace[:10] for each in reports)
    for share, other in zip(SHARES[1:], reports[1:], strict=True):
        report.facts[f"success at {100 * share:g}%"] = round(other.lookups.success, 4)
    for other in reports[1:]:
        for name, tally in other.tallies.items():
            report.tallies[name].merge(tally)
    report.bars = [success_bar("GET and FIND", 0.999, report), *latency_bars(report)]
    return report


def _mix(options: Options, share: float) -> Report:
    it = Run(options, later=share)
    it.settle()
    it.fill()
    it.measure(60 * options.minutes)
    return it.report()
