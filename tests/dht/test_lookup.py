"""Lookups among honest nodes: they find what is there, fast, in networks of any size."""

from itertools import count

import pytest

from molia.dht.contact import ID_BITS, Contact
from molia.dht.outcome import End, Goal, LookupConfig
from molia.dht.size import K
from tests.dht.model_net import Net, closest


def net_of(nodes: int, *, dead: float = 0.0, seed: int = 1) -> Net:
    net = Net(nodes, seed)
    net.settle()
    for contact in net.honest:
        net.nodes[contact.encoded].is_dead = net.random.random() < dead
    return net


def living(net: Net) -> list[Contact]:
    return [c for c in net.honest if not net.nodes[c.encoded].is_dead]


@pytest.mark.parametrize(("nodes", "dead"), [(2, 0), (5, 0), (20, 0), (100, 0), (1000, 0.26)])
def test_find_names_the_closest_nodes_that_live(nodes: int, dead: float) -> None:
    net = net_of(nodes, dead=dead)
    alive = living(net)
    for _ in range(40):
        target, via = net.random.getrandbits(ID_BITS), net.random.choice(alive)
        result = net.run(net.lookup(Goal.FIND, target, via))
        expected = closest((c for c in alive if c != via), target, 1)
        assert expected[0] in result.heard
        assert result.closest == tuple(closest(result.closest, target))
        assert result.probes <= 60
        assert result.took_s < 1.5


def test_find_names_the_closest_even_if_its_network_holds_many_nodes() -> None:
    net = Net(300, 3, per_group=8)
    net.settle()
    missed = 0
    for _ in range(60):
        target, via = net.random.getrandbits(ID_BITS), net.random.choice(net.honest)
        result = net.run(net.lookup(Goal.FIND, target, via))
        missed += closest((c for c in net.honest if c != via), target, 1)[0] not in result.heard
        assert result.probes <= 80
    assert missed <= 1, "without a look at those put off there are several"


def test_who_could_not_be_asked_may_be_there_and_who_was_silent_is_not() -> None:
    net = net_of(100)
    lookup = net.lookup(Goal.FIND, 5, net.honest[0])
    held, silent = [probe.contact for probe in lookup.take_probes()][:2]
    lookup.on_failed(held, net.now_s, was_asked=False)
    lookup.on_failed(silent, net.now_s)
    result = net.run(lookup)
    assert held in result.heard
    assert held not in result.closest
    assert silent not in result.heard


@pytest.mark.parametrize("nodes", [2, 5, 20, 100, 1000])
def test_region_is_answered_by_nearly_all_who_are_in_it(nodes: int) -> None:
    net = net_of(nodes)
    found = expected = 0
    for _ in range(20):
        target, via = net.random.getrandbits(ID_BITS), net.random.choice(net.honest)
        result = net.run(net.lookup(Goal.REGION, target, via))
        inside = {c for c in net.honest if c != via and c.id ^ target < net.radius}
        if len(inside) >= 12 or nodes <= 20:
            assert inside.issuperset(result.responders)
            found += len(result.responders)
            expected += len(inside)
        assert result.probes <= 120
    assert found >= 0.95 * expected


@pytest.mark.parametrize("goal", [Goal.GET, Goal.GET_QUORUM, Goal.COLLECT])
@pytest.mark.parametrize(("nodes", "dead"), [(5, 0), (20, 0), (1000, 0), (1000, 0.26)])
def test_a_value_is_found(goal: Goal, nodes: int, dead: float) -> None:
    net = net_of(nodes, dead=dead)
    for number in range(20):
        target = net.random.getrandbits(ID_BITS)
        holders = [c for c in net.honest if c.id ^ target < net.radius]
        via = net.random.choice([c for c in living(net) if c not in holders[:-1] or nodes < 40])
        for contact in holders:
            net.nodes[contact.encoded].value = number
        result = net.run(net.lookup(goal, target, via))
        for contact in holders:
            net.nodes[contact.encoded].value = None
        if [c for c in holders if c != via and c in living(net)]:
            assert result.values[0][1] == number
            assert all(contact in holders for contact, _ in result.values)
        if goal is Goal.GET:
            assert len(result.values) <= 1
            assert result.took_s < 1.0


def test_what_nobody_holds_is_not_found_after_the_region_has_said_so() -> None:
    net = net_of(1000)
    for _ in range(20):
        target, via = net.random.getrandbits(ID_BITS), net.random.choice(net.honest)
        result = net.run(net.lookup(Goal.GET, target, via))
        assert result.values == ()
        assert result.end in (End.COVERED, End.EXHAUSTED)
        assert len(result.responders) >= 12
        assert result.took_s < 2.5


def test_a_lone_node_knows_at_once_that_there_is_nobody() -> None:
    net = net_of(1)
    for goal in Goal:
        lookup = net.lookup(goal, 7, net.honest[0])
        assert lookup.is_done
        assert lookup.result.end is End.EXHAUSTED
        assert lookup.take_probes() == []
        assert lookup.next_deadline_s() is None


def test_a_region_reckoned_far_too_small_is_widened() -> None:
    net = net_of(300)
    net.size.nodes, net.size.radius = 300_000.0, (24 << ID_BITS) // 300_000
    for number in range(10):
        target, via = net.random.getrandbits(ID_BITS), net.random.choice(net.honest)
        holders = closest(net.honest, target, 12)
        for contact in net.honest:
            net.nodes[contact.encoded].value = number if contact in holders else None
        result = net.run(net.lookup(Goal.GET, target, via))
        assert [value for _, value in result.values] == [number]


def test_a_quorum_is_three_holders_of_distinct_networks() -> None:
    net = net_of(60)
    target = 5
    group = closest(net.honest, target, 1)[0].group
    squatters = [
        net.contact(group, target ^ distance) for distance in (1, 2)
    ]  # the closest three are one network
    for contact in squatters:
        net.add(type(net.nodes[net.honest[0].encoded])(contact, 0.01))
    net.settle()
    for node in net.nodes.values():
        node.value = "v"
    result = net.run(net.lookup(Goal.GET_QUORUM, target, net.honest[7]))
    assert result.end is End.FOUND
    assert len({contact.group for contact, _ in result.values}) == 3


def test_the_same_seed_asks_the_same_nodes() -> None:
    def asked() -> list[int]:
        net = net_of(200, dead=0.2, seed=9)
        for goal in Goal:
            net.run(net.lookup(goal, net.random.getrandbits(ID_BITS), living(net)[3]))
        first = net.honest[0].key.key
        base = int.from_bytes(first, "big")
        return [int.from_bytes(c.key.key, "big") - base for c in net.asked]

    assert asked() == asked()


def test_no_peer_is_asked_twice_in_a_region_of_the_right_size() -> None:
    net = net_of(500, dead=0.1)
    for goal in Goal:
        net.asked.clear()
        net.run(net.lookup(goal, net.random.getrandbits(ID_BITS), living(net)[0]))
        assert len({c.key for c in net.asked}) == len(net.asked)


def test_outside_the_region_only_the_region_is_told() -> None:
    net = net_of(1000)
    target = net.random.getrandbits(ID_BITS)
    told: dict[bytes, bytes] = {}
    lookup = net.lookup(Goal.GET, target, net.honest[0])

    for contact in net.honest:
        told[contact.encoded] = lookup.target_for(contact)
    far = {told[c.encoded] for c in net.honest if c.id ^ target >= net.radius}
    near = {told[c.encoded] for c in net.honest if c.id ^ target < net.radius}
    assert near == {target.to_bytes(32, "big")}
    assert len(far) == 1  # one draw: many would not tell more, but lead apart
    blurred = int.from_bytes(far.pop(), "big")
    assert blurred >> 248 == target >> 248  # ceil(log2(1000 / 20)) + 2
    assert (blurred ^ target).bit_length() > 200


def test_a_traced_lookup_tells_its_steps_and_another_none() -> None:
    net = net_of(100)
    lookup = net.lookup(Goal.GET, 1 << 250, net.honest[0], traced=True)
    result = net.run(lookup)
    steps = lookup.take_steps()
    assert [s.kind for s in steps].count("asked") == result.probes
    assert [s.kind for s in steps].count("answered") == result.answers
    assert steps[-1].kind == "ended"
    assert steps[-1].detail == result.end.value
    assert [s.at_s for s in steps] == sorted(s.at_s for s in steps)
    assert lookup.take_steps() == []
    quiet = net.lookup(Goal.GET, 1 << 250, net.honest[0])
    net.run(quiet)
    assert quiet.take_steps() == []


def test_a_stopped_lookup_asks_no_more() -> None:
    net = net_of(100)
    lookup = net.lookup(Goal.COLLECT, 3, net.honest[0])
    assert lookup.take_probes()
    lookup.stop(net.now_s)
    assert lookup.is_done
    assert lookup.result.end is End.STOPPED
    assert lookup.take_probes() == []


def test_an_answer_after_the_soft_timeout_counts() -> None:
    net = net_of(3)
    lookup = net.lookup(Goal.GET, 3, net.honest[0])
    (first, *_) = lookup.take_probes()
    soft_s = net.pace.soft_s(first.contact)
    lookup.on_deadline(net.now_s + soft_s)
    assert not lookup.is_done
    lookup.on_reply(first.contact, [], "late", net.now_s + soft_s + 0.2)
    assert lookup.result.values == ((first.contact, "late"),)
    assert lookup.result.late == 2


def test_a_deadline_ends_a_lookup_that_nobody_answers() -> None:
    net = net_of(400, dead=1.0)
    config = LookupConfig(deadline_s=2)
    result = net.run(net.lookup(Goal.GET, 3, net.honest[0], config=config))
    assert result.end is End.DEADLINE
    assert result.took_s == pytest.approx(2)


def test_at_most_four_requests_are_in_flight_on_the_way_and_eight_inside() -> None:
    net = net_of(1000)
    lookup = net.lookup(Goal.GET, net.random.getrandbits(ID_BITS), net.honest[0])
    assert len(lookup.take_probes()) == 4
    assert lookup.take_probes() == []
    tally = count()
    walk = net.lookup(Goal.REGION, net.random.getrandbits(ID_BITS), net.honest[0])

    def watch(_: object) -> None:
        next(tally)
        assert len(walk._flights) <= 8

    net.run(walk, watch)
    assert next(tally) > K
