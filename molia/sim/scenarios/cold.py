"""A network that begins with nothing: ten nodes that know nobody, and others that join one by one.

The ten know their own addresses, as an operator tells them; whoever comes later is told of three
that serve, and its user wants to read a record at once.
"""

from dataclasses import dataclass, field
from typing import Final

from molia.sim.fleet import Node
from molia.sim.nat import Kind
from molia.sim.report import Report, at_least, at_most
from molia.sim.scenarios.base import Run
from molia.sim.tally import Tally, percentile

FOUNDERS: Final = 10
ALONE_S: Final = 20.0
"""How long the founders have before the others come; records are put in the second half of it."""
COME_S: Final = 0.3
"""Between two who come."""
TABLE_S: Final = 10.0
"""After this a newcomer is to know its neighbours."""
NEIGHBOURS: Final = 20
_LOOK_S: Final = 0.05


@dataclass(slots=True)
class Start:
    """How those who came found their way."""

    it: Run
    first: Tally = field(default_factory=Tally)
    """Of the first GET of each, from the moment it was started."""
    joined_s: list[float] = field(default_factory=list)
    known: list[float] = field(default_factory=list)
    """Which share each knew, after `TABLE_S`, of its 20 closest that were there as long."""


def begin(it: Run) -> Start:
    """Let the founders meet, put the records, and let all others come."""
    start, count = Start(it), it.options.nodes
    founders = [_founder(it) for _ in range(min(FOUNDERS, count))]
    for node in founders:
        assert node.host is not None, "it has just begun"
        node.host.start(it.fleet.seeds_for(node), b"")
    it.world.run(ALONE_S / 2)
    it.load.fill(ALONE_S / 4)
    it.world.run(ALONE_S / 2)
    for number in range(count - len(founders)):
        it.world.after(COME_S * number, _come, start)
    it.world.run(COME_S * count + TABLE_S + 1.0)
    return start


def _founder(it: Run) -> Node:
    node = it.fleet.add()
    while node.contact is None:  # no operator puts a node for others behind a box
        node = it.fleet.add()
    node.begin(node.contact)
    return node


def _come(start: Start) -> None:
    world, node = start.it.world, start.it.fleet.add()
    if node.kind is Kind.BLOCKED:
        return  # nobody ever hears of it
    node.enter()
    world.after(_LOOK_S, _read, (start, node, world.time_s))
    world.after(TABLE_S, _look, (start, node))


def _read(waiting: tuple[Start, Node, float]) -> None:
    """Read some record as soon as the node has joined; the user waits meanwhile."""
    start, node, since_s = waiting
    it, host = start.it, node.host
    if host is None or not host.engine.is_joined:
        it.world.after(_LOOK_S, _read, waiting)
        return
    waited_s = it.world.time_s - since_s
    start.joined_s.append(waited_s)
    key = it.load.keys[node.index % len(it.load.keys)]
    it.load.get(key, node=node, tally=start.first, waited_s=waited_s)


def _look(looking: tuple[Start, Node]) -> None:
    """Take which of its closest a node knows that serve, and came no later than it did."""
    start, node = looking
    fleet, host = start.it.fleet, node.host
    if host is None or node.contact is None:
        return
    own = node.contact.id
    others = [n.contact for n in fleet.up if n is not node and n.is_serving and n.contact]
    came_s = {n.contact: n.up_since_s for n in fleet.up if n.contact}
    ideal = sorted((c for c in others if came_s[c] <= node.up_since_s), key=lambda c: c.id ^ own)
    ideal = ideal[:NEIGHBOURS]
    known = dict.fromkeys(host.engine.contacts())
    start.known.append(sum(contact in known for contact in ideal) / max(1, len(ideal)))


def tell(start: Start, report: Report) -> None:
    """Add what was found about the beginning."""
    joined = sorted(start.joined_s)
    report.facts["began"] = f"with {FOUNDERS} nodes that knew nobody; others came one by one"
    report.facts["joined after"] = (
        f"p50 {percentile(joined, 0.5):.2f} s, p95 {percentile(joined, 0.95):.2f} s"
    )
    known = sorted(start.known)
    report.facts["closest 20 known, worst node"] = known[0] if known else 0.0
    report.tallies["first get"] = start.first
    report.bars += [
        at_least("first GET of who comes", 0.99, start.first.success),
        at_most("first GET p95, since the start", 2_000, start.first.quantile_ms(0.95), " ms"),
        at_least("closest 20 known after 10 s", 0.90, sum(known) / max(1, len(known))),
    ]
