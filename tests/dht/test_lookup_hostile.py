"""Lookups among liars: a fifth of all nodes, gathered around the key."""

from collections.abc import Sequence

import pytest

from molia.base import limits
from molia.dht.contact import ID_BITS, Contact
from molia.dht.outcome import End, Goal
from tests.dht.model_net import Liar, Net, Node, Tarpit, closest, contact_at, group_of

NODES = 1000


class Dropper(Liar):
    """Never answers."""

    def delay_s(self, soft_s: float) -> float | None:
        return None


class Discreet(Liar):
    """Names only as many friends as there should be in a region, and always the same."""

    def answer(self, net: Net, target: int, *, asks: bool) -> Sequence[Contact]:
        return self.friends[:20]


def attacked(kind: type[Liar], groups: Sequence[bytes], *, bits: int, seed: int) -> tuple[Net, int]:
    """Return a network with a value at a target, and a fifth of liars who share `bits` with it."""
    net = Net(NODES, seed)
    target = net.random.getrandbits(ID_BITS)
    liars = []
    for number in range(NODES // 4):
        position = target ^ net.random.getrandbits(ID_BITS - bits)
        node = kind(net.contact(groups[number % len(groups)], position), 0.06)
        net.add(node)
        liars.append(node)
    friends = closest((node.contact for node in liars), target, len(liars))
    for node in liars:
        node.friends = friends
    net.settle()
    for contact in closest(net.honest, target, 24):
        net.nodes[contact.encoded].value = "v"
    return net, target


def networks(count: int) -> list[bytes]:
    return [group_of(1_000_000 + number) for number in range(count)]


def nearest_first(net: Net, target: int, via: Contact) -> bool:
    """Look for the value as one would without liars; tell whether it was found."""
    heard = {c.encoded: c for c in closest(net.nodes[via.encoded].table, target, 40)}
    asked: list[Contact] = []
    while True:
        unasked = [c for c in closest(heard.values(), target) if c not in asked]
        if not unasked:
            return False
        asked.append(unasked[0])
        node = net.nodes[unasked[0].encoded]
        if node.value is not None:
            return True
        for contact in node.answer(net, target, asks=False):
            heard.setdefault(contact.encoded, contact)


@pytest.mark.parametrize("groups", [16, 64, 250])
@pytest.mark.parametrize("kind", [Liar, Discreet, Tarpit, Dropper])
def test_a_value_among_gathered_liars_is_found(groups: int, kind: type[Liar]) -> None:
    net, target = attacked(kind, networks(groups), bits=12, seed=groups)
    found = plain = 0
    for _ in range(20):
        via = net.random.choice(net.honest)
        result = net.run(net.lookup(Goal.GET, target, via))
        found += bool(result.values)
        plain += nearest_first(net, target, via)
        assert result.probes <= limits.LOOKUP_ATTACKED_READ_PROBES_MAX
        assert result.took_s < 4.0
    assert found == 20
    assert plain <= 1, "the attack is too weak to show anything"


def test_liars_in_the_networks_of_the_honest_hide_nothing() -> None:
    net = Net(NODES, 5)
    target = net.random.getrandbits(ID_BITS)
    inside = closest(net.honest, target, 24)
    liars = []
    for number in range(NODES // 4):
        position = target ^ net.random.getrandbits(ID_BITS - 5)
        node = Liar(net.contact(inside[number % 24].group, position), 0.06)
        net.add(node)
        liars.append(node.contact)
    for contact in liars:
        node_there = net.nodes[contact.encoded]
        assert isinstance(node_there, Liar)
        node_there.friends = liars
    net.settle()
    for contact in inside:
        net.nodes[contact.encoded].value = "v"
    for _ in range(30):
        result = net.run(net.lookup(Goal.GET, target, net.random.choice(net.honest)))
        assert result.values


def test_a_writer_reaches_the_honest_nodes_of_an_attacked_region() -> None:
    net, target = attacked(Liar, networks(64), bits=12, seed=3)
    inside = [c for c in net.honest if c.id ^ target < net.radius]
    result = net.run(net.lookup(Goal.REGION, target, net.honest[0]))
    assert result.is_attacked
    reached = [c for c in inside if c in result.responders]
    assert len(reached) >= 0.8 * len(inside)
    assert result.probes <= limits.LOOKUP_ATTACKED_WRITE_PROBES_MAX


@pytest.mark.parametrize("goal", list(Goal))
def test_endless_new_contacts_end_at_the_cap(goal: Goal) -> None:
    """Each answer names forty nodes nobody has heard of, all of whom answer so again."""
    net = Net(30, 2)
    net.settle()
    target = net.random.getrandbits(ID_BITS)
    net.size.nodes, net.size.radius = 1000.0, (24 << ID_BITS) // 1000

    class Endless(Node):
        def answer(self, net: Net, target: int, *, asks: bool) -> Sequence[Contact]:
            fresh = []
            for number in range(60):
                spread = net.random.choice((245, 252, 255))
                position = target ^ net.random.getrandbits(spread)
                fresh.append(contact_at(position, group_of(net.random.getrandbits(20))))
                net.add(Endless(fresh[number], 0.03))
            return fresh

    for contact in net.honest[1:]:
        table = net.nodes[contact.encoded].table
        net.add(Endless(contact, 0.03))
        net.nodes[contact.encoded].table = table
    lookup = net.lookup(goal, target, net.honest[0])
    result = net.run(lookup)
    attacked_max = limits.LOOKUP_ATTACKED_WRITE_PROBES_MAX
    assert result.probes <= (
        attacked_max if goal is Goal.REGION else limits.LOOKUP_ATTACKED_READ_PROBES_MAX
    )
    assert result.end in (End.CAPPED, End.DEADLINE, End.FOUND, End.COVERED)
    held = limits.LOOKUP_REGION_MAX + limits.LOOKUP_DEFERRED_MAX + attacked_max
    assert len(lookup._candidates.by_contact) <= held + 200


def test_a_victims_address_gets_at_most_one_request() -> None:
    net = Net(40, 4)
    net.settle()
    victim = ("203.0.113.7", 53)

    class Pointer(Node):
        def answer(self, net: Net, target: int, *, asks: bool) -> Sequence[Contact]:
            spots = (net.random.getrandbits(ID_BITS) for _ in range(20))
            return [contact_at(spot, group_of(net.random.getrandbits(20)), victim)
                    for spot in spots]  # fmt: skip

    for contact in net.honest[1:]:
        net.add(Pointer(contact, 0.03))
    for goal in Goal:
        net.asked.clear()
        net.run(net.lookup(goal, net.random.getrandbits(ID_BITS), net.honest[0]))
        assert [c.address for c in net.asked].count(victim) <= 1


def test_a_wrong_address_that_comes_first_does_not_hide_a_peer() -> None:
    net = Net(12, 6)
    net.settle()
    holder = net.honest[5]
    net.nodes[holder.encoded].value = "v"
    wrong = holder._replace(address=("198.51.100.1", 9), encoded=b"wrong")
    for node in net.nodes.values():
        node.table = [wrong, *node.table]
    for via in net.honest:
        if via != holder:
            result = net.run(net.lookup(Goal.GET, holder.id ^ 1, via))
            assert [value for _, value in result.values] == ["v"]


def test_answers_that_nobody_asked_for_change_nothing() -> None:
    net = Net(30, 8)
    net.settle()
    lookup = net.lookup(Goal.GET, 5, net.honest[0])
    asked = [probe.contact for probe in lookup.take_probes()]
    others = [c for c in net.honest[1:] if c not in asked]
    lookup.on_reply(others[0], net.honest, "forged", net.now_s)
    lookup.on_failed(others[1], net.now_s)
    lookup.on_reply(net.contact(b"none"), net.honest, "forged", net.now_s)
    assert not lookup.is_done
    assert lookup.values == []
    lookup.on_reply(asked[0], [], None, net.now_s)
    lookup.on_reply(asked[0], [], "twice", net.now_s)
    assert lookup.values == []
