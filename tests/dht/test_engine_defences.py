"""What liars and floods can make a node do: little, and it is counted."""

from dataclasses import asdict
from itertools import pairwise

import pytest

from molia.base import limits
from molia.base.crypto import Identity
from molia.base.hashing import blake3_digest
from molia.base.ids import PeerKey
from molia.dht.asking import UNPROVED_TIMEOUT_S
from molia.dht.effects import Penalise
from molia.dht.outcome import LookupResult
from molia.dht.unproved import Unproved
from molia.sim.entropy import SeededEntropy
from molia.wire.addresses import Address
from molia.wire.dht_messages import Dial, DialCode, Dialed, Nodes
from molia.wire.messages import Contact, Number, Ping, decode, encode
from molia.wire.noise import molia_profile
from molia.wire.scores import Offence
from molia.wire.transport import Answer, Transport
from tests.dht.world import (
    NETWORK,
    START,
    FakePeer,
    Node,
    World,
    contacts_of,
    joined,
    public,
)

VICTIM: Address = ("203.0.113.7", 53)


def name(index: int) -> bytes:
    return blake3_digest(b"liar's contact %d" % index)


def lie(node: Node, contacts: list[Contact]) -> None:
    """Let a node answer every FIND_NODE with these contacts."""

    def answer(*_: object) -> Answer:
        return Number.NODES, encode(Nodes(tuple(contacts[:20])))

    node.handlers = {**node.handlers, Number.FIND_NODE: answer}


def sent_to(node: Node, host: str) -> list[float]:
    return [at_s for at_s, address, _ in node.wire.sent if address[0] == host]


def spread(times: list[float]) -> float:
    """Return the shortest time between two of them."""
    return min((b - a for a, b in pairwise(times)), default=float("inf"))


def test_a_victim_gets_one_packet_a_minute_of_a_node_that_looks_things_up_among_liars() -> None:
    world = joined(12)
    for index, node in enumerate(world.nodes[1:7]):
        keys = [name(100 * index + n) for n in range(20)]
        lie(node, [Contact(key, (VICTIM[0], 1_000 + n)) for n, key in enumerate(keys)])
    asker = world.nodes[0]
    for _ in range(30):
        target = world.entropy.token(32)
        asker.run(lambda to=target: asker.engine.find(to, asker.now))  # type: ignore[misc]
        world.run(5)
    times = sent_to(asker, VICTIM[0])
    assert 1 <= len(times) <= 6
    assert spread(times) >= 60.0
    assert asker.engine.counters.unproved_held > 0


def test_hints_of_many_names_at_one_address_send_one_packet_a_minute() -> None:
    world = joined(2)
    node = world.nodes[0]
    for n in range(50):
        peer = FakePeer(PeerKey(name(n)), (VICTIM[0], 2_000 + n))
        body = encode(Ping(serves=True))
        node.handlers[Number.PING](peer, n, body, node.now)  # type: ignore[arg-type]
        node.follow()
        world.run(3)
    times = sent_to(node, VICTIM[0])
    assert 2 <= len(times) <= 3
    assert spread(times) >= 60.0


def dial(node: Node, n: int) -> None:
    peer = FakePeer(node.world.nodes[1].key, node.world.nodes[1].address)
    body = encode(Dial(key=name(n), address=(VICTIM[0], 3_000 + n), nonce=bytes(8)))
    node.handlers[Number.DIAL](peer, n, body, node.now)  # type: ignore[arg-type]
    node.follow()


def test_dials_hints_and_lookups_share_one_packet_a_minute() -> None:
    world = joined(3)
    node = world.nodes[0]
    lie(world.nodes[2], [Contact(name(n), (VICTIM[0], 4_000 + n)) for n in range(20)])
    for n in range(20):
        dial(node, n)
        peer = FakePeer(PeerKey(name(500 + n)), (VICTIM[0], 2_000 + n))
        node.handlers[Number.PING](peer, n, encode(Ping(serves=True)), node.now)  # type: ignore[arg-type]
        target = world.entropy.token(32)
        node.run(lambda to=target: node.engine.find(to, node.now))  # type: ignore[misc]
        world.run(4)
    times = sent_to(node, VICTIM[0])
    assert 1 <= len(times) <= 3
    assert spread(times) >= 60.0
    assert node.engine.counters.dials_refused > 0


def test_a_local_address_is_never_dialled() -> None:
    world = joined(3)
    node, peer = world.nodes[0], FakePeer(world.nodes[1].key, world.nodes[1].address)
    body = encode(Dial(key=name(1), address=("192.168.1.1", 80), nonce=bytes(8)))
    answer = node.handlers[Number.DIAL](peer, 1, body, node.now)  # type: ignore[arg-type]
    assert answer is not None
    assert decode(*answer) == Dialed(DialCode.REFUSED)


def test_the_workers_of_a_node_share_a_strangers_minute() -> None:
    world, workers = World(), [Unproved(per_group=8, workers=4) for _ in range(4)]
    victim = world.space.contact(name(1), VICTIM)
    assert victim is not None
    minutes = 40
    sent = sum(
        worker.spend(victim, START.mono_s + second)
        for second in range(60 * minutes)
        for worker in workers
    )
    assert sent == minutes


def test_the_wire_sends_a_stranger_who_is_silent_one_packet() -> None:
    wire = Transport(
        molia_profile(NETWORK), identity=Identity(b"a" * 32), entropy=SeededEntropy(1), handlers={}
    )
    key, now = Identity(b"b" * 32).peer_key, START
    wire.ask_at(key, VICTIM, Number.PING, encode(Ping()), now, timeout_s=UNPROVED_TIMEOUT_S)
    sent = [packet for packets, _ in wire.take_sends(now) for packet in packets]
    for _ in range(2 * 60 * 10):
        now = now.after(0.1)
        wire.on_deadline(now)
        sent += [packet for packets, _ in wire.take_sends(now) for packet in packets]
    assert len(sent) == 1


@pytest.mark.parametrize("place", [("198.51.100.66", 7071), None])
def test_a_peer_does_not_stand_where_it_is_named_by_a_session_from_elsewhere(
    place: Address | None,
) -> None:
    world = joined(8)
    asker, liar = world.nodes[0], world.nodes[7]
    world.by_address[VICTIM] = liar  # so that asking there is asking the liar
    claimed = world.space.contact(liar.key.key, VICTIM)
    assert claimed is not None
    asker.engine.on_goodbye(contacts_of([liar], world)[0], asker.now)
    asker.wire.moved[liar.key] = place
    for node in world.nodes[1:7]:
        lie(node, [Contact(liar.key.key, VICTIM)])
    result = asker.run(lambda: asker.engine.walk(claimed.id.to_bytes(32, "big"), asker.now))
    assert isinstance(result, LookupResult)
    assert claimed not in (*result.closest, *result.responders)
    assert result.responders
    world.run(120)
    assert claimed not in asker.engine.contacts()
    assert asker.engine.counters.answers_elsewhere > 0
    assert spread(sent_to(asker, VICTIM[0])) >= 60.0
    assert (place is not None) == bool(sent_to(asker, "198.51.100.66"))


@pytest.mark.parametrize("is_shown", [True, False])
def test_a_contact_that_moved_leaves_its_place_in_the_table(*, is_shown: bool) -> None:
    world = joined(8)
    asker, moved = world.nodes[0], world.nodes[5]
    new = public(50)
    moved.address, world.by_address[new] = new, moved
    asker.wire.moved[moved.key] = new if is_shown else None
    world.run(300)
    known = [c.address for c in asker.engine.contacts() if c.key == moved.key]
    assert known == ([new] if is_shown else [])


@pytest.mark.parametrize(
    ("namer", "named", "is_believed"),
    [
        ("198.51.100.1", "192.168.1.1", False),
        ("198.51.100.1", "127.0.0.1", False),
        ("198.51.100.1", "203.0.113.7", True),
        ("192.168.1.9", "192.168.1.1", True),
        ("192.168.1.9", "127.0.0.1", False),
        ("192.168.1.9", "203.0.113.7", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "10.0.0.1", True),
        ("2001:db8::1", "fd00::1", False),
        ("2001:db8::1", "::1", False),
        ("fd00::2", "::1", False),
        ("::1", "::1", True),
    ],
)
def test_nobody_outside_has_us_knock_at_local_addresses(
    namer: str, named: str, *, is_believed: bool
) -> None:
    world = joined(1)
    hub = world.nodes[0].engine._hub
    who = world.space.contact(name(1), (namer, 7071))
    assert who is not None
    found = hub.contacts_of([Contact(name(2), (named, 7071))], who)
    assert bool(found) is is_believed
    assert hub.counters.contacts_local == (not is_believed)


def test_lookups_among_liars_send_nothing_to_the_local_network() -> None:
    world = joined(6)
    for node in world.nodes[1:]:
        lie(node, [Contact(name(n), ("192.168.1.1", 1 + n)) for n in range(20)])
    asker = world.nodes[0]
    for _ in range(5):
        target = world.entropy.token(32)
        asker.run(lambda to=target: asker.engine.find(to, asker.now))  # type: ignore[misc]
    assert not sent_to(asker, "192.168.1.1")
    assert asker.engine.counters.contacts_local >= 20


@pytest.mark.parametrize("size", [limits.DHT_UNPROVED_MAX])
def test_what_is_remembered_of_strangers_is_bounded_and_a_full_memory_sends_nothing(
    size: int,
) -> None:
    world, unproved = World(), Unproved(per_group=64)
    now_s = START.mono_s
    contact, count = None, 0
    for n in range(size + 100):
        address = (f"{20 + n % 100}.{n // 100 % 200}.{n // 20_000}.1", 9)
        contact = world.space.contact(name(n), address)
        assert contact is not None
        count += unproved.spend(contact, now_s)
    assert count == len(unproved) == size
    assert contact is not None
    assert contact is not None
    assert unproved.spend(contact, now_s + 60.0)
    assert len(unproved) == 1


def test_contacts_with_impossible_addresses_or_our_own_key_are_dropped_and_counted() -> None:
    world = joined(6)
    asker = world.nodes[0]
    lie(world.nodes[1], [Contact(asker.key.key, ("198.51.100.9", 7071))] * 3)
    body = encode(Nodes((Contact(name(1), ("198.51.100.9", 7071)),)))
    bad = body.replace(bytes((198, 51, 100, 9)), bytes((239, 1, 2, 3)))
    world.nodes[2].handlers = {
        **world.nodes[2].handlers, Number.FIND_NODE: lambda *_: (Number.NODES, bad)
    }  # fmt: skip
    for _ in range(5):
        target = world.entropy.token(32)
        asker.run(lambda to=target: asker.engine.find(to, asker.now))  # type: ignore[misc]
    counts = asdict(asker.engine.counters)
    assert counts["contacts_own"] >= 3
    assert counts["bad_replies"] >= 1
    assert not sent_to(asker, "198.51.100.9")
    assert not sent_to(asker, "239.1.2.3")


def test_who_relays_mostly_dead_contacts_loses_its_standing() -> None:
    world = joined(16)
    liar, asker = world.nodes[1], world.nodes[0]
    serial = iter(range(10_000))

    def dead(*_: object) -> Answer:
        fresh = [next(serial) for _ in range(20)]
        told = [Contact(name(n), (f"{60 + n // 200}.{n % 200}.1.1", 7071)) for n in fresh]
        return Number.NODES, encode(Nodes(tuple(told)))

    liar.handlers = {**liar.handlers, Number.FIND_NODE: dead, Number.FIND_REGION: dead}
    for _ in range(10):
        target = world.entropy.token(32)
        asker.run(lambda to=target: asker.engine.walk(to, asker.now))  # type: ignore[misc]
        world.run(5)
    told = [effect for effect in asker.effects if isinstance(effect, Penalise)]
    assert [effect.key for effect in told] == [liar.key] * len(told) != []
    assert told[0].offence is Offence.DEAD_CONTACTS


def test_a_flood_of_lookups_is_bounded_and_each_ends() -> None:
    world = joined(6)
    node = world.nodes[0]
    ids = [
        node.engine.find(world.entropy.token(32), node.now)
        for _ in range(limits.DHT_LOOKUPS_MAX + 50)
    ]
    node.follow()
    assert node.engine.lookup_count <= limits.DHT_LOOKUPS_MAX
    world.run(60)
    assert all(number in node.finished for number in ids)
    assert node.engine.counters.lookups_refused >= 50


def test_unasked_and_oversized_replies_change_nothing() -> None:
    world = joined(6)
    node = world.nodes[0]
    huge = b"".join(encode(Nodes((Contact(name(n), ("198.51.100.9", 9)),))) for n in range(60))
    world.nodes[1].handlers = {
        **world.nodes[1].handlers, Number.FIND_NODE: lambda *_: (Number.NODES, huge)
    }  # fmt: skip
    for _ in range(3):
        target = world.entropy.token(32)
        node.run(lambda to=target: node.engine.find(to, node.now))  # type: ignore[misc]
    assert node.engine.counters.bad_replies > 0
    assert not sent_to(node, "198.51.100.9")
