"""A fifth of the nodes are one attacker's, gathered around one record that users want to read."""

from dataclasses import replace
from typing import Final

from molia.dht import blinding
from molia.sim.attackers import Attack, Plan
from molia.sim.fleet import NETWORK
from molia.sim.report import Bar, Report, at_most
from molia.sim.scenarios.base import Options, Run, success_bar
from molia.sim.workload import LoadConfig

SHARE: Final = 0.2
SETTLE_S: Final = 20.0
CREEP_S: Final = 60.0
"""How long the attackers have before anything is written."""
READS: Final = 320
"""About how many reads a run makes: none failed means 99% with a confidence of 95%."""
_FREE: Final = "free-64"
_LARGE: Final = 1_000
_DEFAULT: Final = "bound/drop"


def run(options: Options) -> Report:
    """Write and read one record under attack, and once more as vanilla Kademlia would."""
    placement, _, behaviour = (options.variant or _DEFAULT).partition("/")
    report = attacked(options, placement, behaviour or "drop")
    report.extra["placement"] = placement
    report.extra["behaviour"] = behaviour or "drop"
    if options.defence == "all":
        # without bound ids an attacker takes the place it wants
        place = _FREE if placement == "bound" else placement
        vanilla = attacked(replace(options, defence="vanilla"), place, behaviour or "drop")
        report.extra["success_vanilla"] = round(vanilla.lookups.success, 6)
        report.facts["vanilla Kademlia, same seed"] = (
            f"{100 * vanilla.lookups.success:.2f}% of {vanilla.lookups.count} ({place})"
        )
    report.bars = _bars(report, options, placement)
    return report


def attacked(options: Options, placement: str, behaviour: str) -> Report:
    """Measure one placement and one behaviour."""
    sybils = int(options.nodes * SHARE)
    per_node_s = options.nodes * (1 - SHARE) * 60 * options.minutes / READS
    load = LoadConfig(keys=1, gets=0.97, finds=0.0, puts=0.03, per_node_s=per_node_s)
    binds = placement == "bound"
    it = Run(options, load=load, bind_ids=binds, nodes=options.nodes - sybils)
    it.settle(SETTLE_S)
    key = it.load.keys[0]
    place = blinding.locations(
        NETWORK, key.identity.peer_key, key.salt, it.world.now.unix_s + CREEP_S
    )[0]
    plan = Plan(int.from_bytes(place.loc, "big"), placement, behaviour, sybils)
    attack = Attack(it.fleet, plan)
    attack.start()
    it.world.run(CREEP_S)
    it.fill(1.0)
    it.measure(60 * options.minutes)
    report = it.report()
    report.facts["attackers"] = f"{sybils}, {placement}, {behaviour}"
    report.facts["attackers' share of tables"] = round(attack.stored_share(), 4)
    nearest = it.fleet.closest(plan.target)[0].contact
    assert nearest is not None, "it can be found"
    nearer = sum(c.id ^ plan.target < nearest.id ^ plan.target for c in attack.contacts)
    report.facts["attackers nearer to the target than all honest nodes"] = nearer
    return report


def _bars(report: Report, options: Options, placement: str) -> list[Bar]:
    wanted = 0.95 if placement in ("squat", "own-24") else 0.99
    bars = [
        success_bar(f"GET, {placement}", wanted, report, "get"),
        at_most("GET p95", 2_000, report.tallies["get"].quantile_ms(0.95), " ms"),
    ]
    if placement == "own-24" and options.nodes > _LARGE:
        bars = [replace(bar, passed=None) for bar in bars]
    if "success_vanilla" in report.extra:
        vanilla = float(str(report.extra["success_vanilla"]))
        bars.append(Bar("vanilla fails", f"< {100 * wanted:g}%", f"{100 * vanilla:.2f}%",
                        vanilla < wanted))  # fmt: skip
    return bars
