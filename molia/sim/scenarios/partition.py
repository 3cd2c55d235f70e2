"""The network falls in two halves for ten minutes; both write; then it heals.

What one half wrote the other half looks for after the healing, and of what both wrote the later
must stand everywhere.
"""

from typing import Final

from molia.sim.fleet import Node
from molia.sim.report import Report, at_least
from molia.sim.scenarios.base import Options, Run
from molia.sim.tally import Tally
from molia.sim.workload import Key, LoadConfig

PARTED_S: Final = 600.0
SOON_S: Final = 120.0
LATER_S: Final = 300.0
REPAIR_S: Final = 2 * 120.0
"""Two periods of replica repair, after which the higher seq stands everywhere."""
KEYS: Final = 60
LOOKS: Final = 200
"""Cross lookups in each of the two windows."""


def run(options: Options) -> Report:
    """Part, write, heal, look. `options.minutes` beyond the first ten are for the quiet after."""
    it = Run(options, load=LoadConfig(keys=KEYS))
    it.settle()
    it.fill()
    _part(it)
    _write(it)
    it.fleet.start_measuring()
    it.pass_time(PARTED_S)
    it.rates, it.split = it.fleet.upkeep()
    it.net.parted = False
    it.pass_time(SOON_S - 30)
    soon = _look(it, 30.0)
    it.pass_time(LATER_S - SOON_S - 60)
    later = _look(it, 60.0)
    it.pass_time(REPAIR_S)
    newest = _read_all(it)
    it.finish()
    report = it.report()
    report.tallies |= {"cross, by 120 s": soon, "cross, by 300 s": later, "newest": newest}
    lost = sum(1 for cause in newest.causes.elements() if cause in ("stale", "not found"))
    report.facts["acknowledged writes not found in the end"] = lost
    report.bars = [
        at_least("cross lookups within 120 s of healing", 0.95, soon.success),
        at_least("cross lookups within 300 s", 0.99, later.success),
        at_least("highest seq read, on both sides", 0.99, newest.success),
        at_least("acknowledged writes kept", 1.0, 1 - lost / max(1, newest.count)),
    ]
    return report


def _part(it: Run) -> None:
    rng = it.world.seeds.entropy("partition", "sides").random
    for node in it.fleet.nodes:
        node.seat.side = rng.randrange(2)
    it.net.parted = True


def _write(it: Run) -> None:
    """Let each half write its own third of the keys once, and both the last third, in turn."""
    rng = it.world.seeds.entropy("partition", "writes").random
    for number, key in enumerate(it.load.keys):
        sides = (number % 3,) if number % 3 < 2 else (0, 1, 0)
        for turn, side in enumerate(sides):
            at_s = (turn + 0.2 + 0.6 * rng.random()) * PARTED_S / len(sides)
            it.world.after(at_s, _put, (it, key, side))


def _put(write: tuple[Run, Key, int]) -> None:
    it, key, side = write
    it.load.put(key, node=_somebody(it, side))


def _somebody(it: Run, side: int) -> Node | None:
    for _ in range(1_000):
        node = it.fleet.draw()
        if node is not None and node.seat.side == side and node.host is not None:
            return node
    return None


def _look(it: Run, seconds: float) -> Tally:
    """Let each half look for what the other wrote, and for places anywhere, for some time."""
    tally = Tally()
    rng = it.world.seeds.entropy("partition", f"looks {it.world.t_ns}").random
    for number in range(LOOKS):
        side = number % 2
        keys = [key for n, key in enumerate(it.load.keys) if n % 3 == 1 - side]
        key, node = rng.choice(keys), _somebody(it, side)
        if number % 4 < 3:
            it.load.get(key, node=node, consistent=True, tally=tally)
        else:
            it.load.find(rng.getrandbits(256), node=node, tally=tally)
        it.world.run(seconds / LOOKS)
    return tally


def _read_all(it: Run) -> Tally:
    """Read every key from both halves, consistently."""
    tally = Tally()
    for key in it.load.keys:
        for side in (0, 1):
            it.load.get(key, node=_somebody(it, side), consistent=True, tally=tally)
            it.world.run(0.2)
    return tally
