"""The engine's other doors: families, workers, traces, pings; and whatever bytes come in."""

from hypothesis import given, settings
from hypothesis import strategies as st

from molia.base.ids import PeerKey
from molia.dht.contact import Contact
from molia.dht.effects import Traced, Verified
from molia.dht.outcome import LookupResult
from molia.dht.results import Pinged
from molia.wire.addresses import Address
from molia.wire.messages import Number
from tests.dht.world import FakePeer, Node, World, joined, loopback, public


def six(index: int) -> Address:
    return (f"2001:db8:{index + 1:x}::7", 7071)


def test_nodes_of_each_address_family_have_a_table_of_their_own() -> None:
    world = World()
    for index in range(12):
        node = world.add(six(index) if index % 2 else public(index), is_known=True)
        world.start(node, *world.nodes[:2])
        world.run(0.3)
    world.run(10)
    one, two = world.nodes[2], world.nodes[3]
    four = [side.table.size for side in one.engine._hub.families.values()]
    assert four[0] >= 5
    assert one.engine.own is not None
    assert two.engine.own is not None
    assert two.engine.own.address[0] == "2001:db8:4::7"
    target = world.entropy.token(32)
    result = one.run(lambda: one.engine.find(target, one.now, family=6))
    assert isinstance(result, LookupResult)
    assert {":" in contact.address[0] for contact in result.closest} == {True}
    result = one.run(lambda: one.engine.find(target, one.now))
    assert isinstance(result, LookupResult)
    assert {":" in contact.address[0] for contact in result.closest} == {False}


def test_workers_of_a_node_share_what_they_verified() -> None:
    world = joined(6)
    node = world.add(public(50), is_known=True, share=(0, 2))
    other = world.add(public(51), is_known=True, share=(1, 2))
    world.start(node, world.nodes[0])
    world.run(10)
    told: list[Contact] = [e.contact for e in node.effects if isinstance(e, Verified)]
    assert len(told) >= 6
    for contact in told:
        other.engine.on_sibling_verified(contact, other.now)
    assert len(other.engine.contacts()) >= 6


def test_a_traced_lookup_tells_each_step() -> None:
    world = joined(8)
    node = world.nodes[0]
    number = node.engine.find(world.entropy.token(32), node.now, trace=True)
    node.follow()
    world.run(5)
    steps = [e.step for e in node.effects if isinstance(e, Traced) and e.operation_id == number]
    kinds = [step.kind for step in steps]
    assert kinds[0] == "asked"
    assert kinds[-1] == "ended"
    assert kinds.count("answered") >= 3


def ping(node: Node, key: PeerKey, address: Address) -> object:
    return node.run(lambda: node.engine.ping(key, address, node.now))


def test_a_ping_tells_how_far_a_peer_is_and_where_it_sees_us() -> None:
    world = joined(2)
    one, two = world.nodes
    pinged = ping(one, two.key, two.address)
    assert isinstance(pinged, Pinged)
    assert pinged.seen == one.address
    assert 0.04 <= pinged.rtt_s <= 0.12
    assert abs(pinged.offset_s) < 0.1
    assert ping(one, two.key, public(77)) is None
    assert ping(one, two.key, ("224.0.0.1", 7)) is None


def test_after_a_change_of_the_link_everybody_who_was_given_up_is_asked_at_once() -> None:
    world = joined(12)
    node = world.nodes[0]
    for other in world.nodes[6:]:
        other.is_up = False
    world.run(900)
    assert len(node.engine.contacts()) <= 5
    for other in world.nodes[6:]:
        other.is_up = True
        other.follow()
        other.wake_s = float("inf")
        other.follow()
    node.engine.on_link_change(node.now)
    node.follow()
    world.run(5)
    assert len(node.engine.contacts()) >= 10


def test_a_node_that_lost_everybody_joins_again_by_itself() -> None:
    world = joined(5, address=loopback)
    node = world.nodes[4]
    world.side_of = lambda other: int(other is node)
    world.run(1_500)
    world.side_of = lambda _: 0
    world.run(150)
    assert len(node.engine.contacts()) == 4


REQUESTS = sorted(
    {
        Number.PING, Number.FIND_NODE, Number.FIND_REGION, Number.GET, Number.PUT,
        Number.ADD_PROVIDER, Number.GET_PROVIDERS, Number.DIGEST, Number.PULL, Number.REACH,
        Number.DIAL,
    }
)  # fmt: skip


def test_every_request_of_the_dht_has_a_handler() -> None:
    node = World().add(public(0), is_known=True)
    assert sorted(node.handlers) == REQUESTS


WORLD = joined(3)


@settings(max_examples=300)
@given(number=st.sampled_from(REQUESTS), body=st.binary(max_size=200))
def test_no_request_makes_the_engine_raise(number: int, body: bytes) -> None:
    node, peer = WORLD.nodes[0], FakePeer(WORLD.nodes[1].key, WORLD.nodes[1].address)
    node.handlers[number](peer, 1, body, node.now)  # type: ignore[arg-type]
    node.follow()


@settings(max_examples=60)
@given(number=st.integers(0, 255), body=st.binary(max_size=300))
def test_no_reply_makes_the_engine_raise(number: int, body: bytes) -> None:
    world = WORLD
    liar, node = world.nodes[2], world.nodes[0]
    honest = liar.handlers
    liar.handlers = {each: (lambda *_: (number, body)) for each in honest}
    try:
        node.engine.find(world.entropy.token(32), node.now)
        node.engine.walk(world.entropy.token(32), node.now)
        node.engine.find_providers([world.entropy.token(32)], node.now)
        node.follow()
        world.run(1.0)
    finally:
        liar.handlers = honest
