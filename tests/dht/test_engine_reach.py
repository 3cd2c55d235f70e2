"""Who can be reached serves; who cannot is a client, and everybody knows it."""

from molia.base.crypto import Identity
from molia.dht.blinding import locations
from molia.dht.contact import Space
from molia.dht.effects import Reachable, Snapshot
from molia.dht.records import RecordAddress, publish
from molia.dht.results import Got, Stored
from molia.dht.snapshot import read_snapshot, write_snapshot
from molia.wire.dht_messages import DialCode, Reached
from molia.wire.messages import Error, ErrorCode, FindNode, Number, decode, encode
from tests.dht.world import NETWORK, FakePeer, Node, World, joined, public

WRITER = Identity(b"w" * 32)


def reachable(node: Node) -> list[bool]:
    return [effect.is_reachable for effect in node.effects if isinstance(effect, Reachable)]


def knowing(world: World, node: Node) -> int:
    return sum(node.key in {c.key for c in other.engine.contacts()} for other in world.nodes)


def test_a_node_that_can_be_reached_finds_out_and_is_known_by_the_others() -> None:
    world = joined(12)
    node = world.add(public(100))
    world.start(node, world.nodes[0])
    world.run(30)
    assert reachable(node) == [True]
    assert node.engine.own is not None
    assert node.engine.own.address == node.address
    assert knowing(world, node) >= 10


def test_who_finds_out_where_it_is_still_knows_whom_it_knew_and_lost() -> None:
    world = joined(12)
    node, space = world.add(public(100)), Space(NETWORK)
    lost = [space.contact(bytes((n,)) * 32, public(200 + n)) for n in range(1, 6)]
    graves = [contact for contact in lost if contact is not None]
    world.start(node, world.nodes[0], snapshot=write_snapshot([], graves, world.now.unix_s))
    world.run(30)
    assert reachable(node) == [True]
    node.engine.stop(node.now)
    node.follow()
    kept = next(e.data for e in reversed(node.effects) if isinstance(e, Snapshot))
    read = read_snapshot(kept, space)
    assert read is not None
    assert set(read.graves) >= set(graves)


def test_a_node_behind_nat_stays_a_client_in_nobodys_table_and_still_puts_and_reads() -> None:
    world = joined(12)
    node = world.add(public(100), is_natted=True)
    world.start(node, world.nodes[0], world.nodes[1])
    world.run(200)
    assert reachable(node) == []
    assert node.engine.is_joined
    assert knowing(world, node) == 0
    now = world.now
    place = locations(NETWORK, WRITER.peer_key, b"", now.unix_s)[0]
    encoded = publish(
        WRITER, NETWORK, b"", b"x", seq=1, expires=int(now.unix_s) + 600, period=place.period
    ).encoded
    stored = node.run(lambda: node.engine.put_record([encoded], node.now))
    assert isinstance(stored, Stored)
    assert stored.acks >= 10
    assert not node.shelf.rows
    got = node.run(lambda: node.engine.get_record(RecordAddress(WRITER.peer_key), node.now))
    assert isinstance(got, Got)
    assert got.opened is not None


def test_a_client_refuses_what_only_servers_answer() -> None:
    world = World()
    node = world.add(public(0))
    world.start(node)
    peer = FakePeer(node.key, public(1))
    answer = node.handlers[Number.FIND_NODE](peer, 1, encode(FindNode(bytes(32))), node.now)  # type: ignore[arg-type]
    assert answer is not None
    assert decode(*answer) == Error(code=ErrorCode.REFUSED)
    assert node.engine.counters.served_refused == 1


def test_two_clients_never_hold_each_other_for_servers() -> None:
    world = World()
    one, two = world.add(public(0)), world.add(public(1))
    world.start(one)
    world.start(two, one)
    world.run(60)
    assert not one.engine.contacts()
    assert not two.engine.contacts()


def test_nodes_of_one_local_network_serve_each_other_at_once() -> None:
    world = World()
    one, two = world.add(("192.168.1.5", 7071)), world.add(("192.168.1.6", 7071))
    world.start(one)
    world.start(two, one)
    world.run(5)
    assert reachable(one) == reachable(two) == [True]
    assert len(one.engine.contacts()) == len(two.engine.contacts()) == 1


def test_a_node_that_nobody_new_can_reach_any_more_becomes_a_client_again() -> None:
    world = joined(12)
    node = world.add(public(100))
    world.start(node, world.nodes[0])
    world.run(30)
    assert reachable(node) == [True]
    silent = (Number.REACHED, encode(Reached(DialCode.SILENT)))
    for other in world.nodes[:-1]:
        other.handlers = {**other.handlers, Number.REACH: lambda *_: silent}
    world.run(2_600)
    assert reachable(node) == [True, False]
    assert node.engine.own is None
