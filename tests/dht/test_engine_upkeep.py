"""What a network keeps while nodes come and go, split and meet again."""

from collections.abc import Sequence

import pytest

from molia.base import limits
from molia.base.cid import Cid, Codec
from molia.base.crypto import Identity
from molia.base.hashing import blake3_digest
from molia.base.ids import PeerKey
from molia.base.limits import DIGESTS_BURST
from molia.dht import held
from molia.dht.blinding import content_loc, locations
from molia.dht.effects import Finished, Heard, Penalise, Snapshot
from molia.dht.outcome import LookupResult
from molia.dht.providers import Kind, Provided, announce
from molia.dht.records import RecordAddress, publish
from molia.dht.results import Announced, Got, ProvidersFound, Stored
from molia.sim.entropy import SeededEntropy
from molia.wire.dht_messages import Digest
from molia.wire.messages import Number, encode
from tests.dht.record_samples import LOCAL
from tests.dht.world import NETWORK, FakePeer, Node, World, contacts_of, joined, public


def writer(number: int) -> Identity:
    return Identity(bytes([number]) * 32)


def put(node: Node, number: int, value: bytes, *, seq: int = 1) -> Stored:
    now = node.now
    place = locations(NETWORK, writer(number).peer_key, b"", now.unix_s)[0]
    encoded = publish(
        writer(number), NETWORK, b"", value, seq=seq, expires=int(now.unix_s) + 40_000,
        period=place.period,
    ).encoded  # fmt: skip
    result = node.run(lambda: node.engine.put_record([encoded], node.now))
    assert isinstance(result, Stored)
    return result


def value(node: Node, number: int, *, consistent: bool = False) -> bytes | None:
    address = RecordAddress(writer(number).peer_key)
    got = node.run(lambda: node.engine.get_record(address, node.now, consistent=consistent))
    assert isinstance(got, Got)
    return None if got.opened is None else got.opened.value


def holders(world: World, nodes: Sequence[Node], number: int) -> int:
    place = locations(NETWORK, writer(number).peer_key, b"", world.now.unix_s)[0]
    return sum((held.RECORD, place.loc) in node.shelf.rows for node in nodes)


def test_a_joiner_is_given_its_range() -> None:
    world = joined(10)
    for number in range(1, 6):
        put(world.nodes[number], number, b"kept")
    node = world.add(public(50), is_known=True)
    world.start(node, world.nodes[0])
    world.run(120)
    assert sum(holders(world, [node], number) for number in range(1, 6)) == 5
    assert node.engine.counters.replicas_pulled > 0


def test_a_record_outlives_all_who_were_told_of_it() -> None:
    world = joined(16)
    put(world.nodes[0], 1, b"survives")
    first = list(world.nodes)
    for index in range(16):
        node = world.add(public(60 + index), is_known=True)
        world.start(node, first[index])
        world.run(10)
    world.run(240)
    for node in first:
        node.is_up = False
    world.run(60)
    late = world.nodes[20]
    late.shelf.rows.clear()
    assert value(late, 1) == b"survives"


def test_two_halves_of_a_network_find_back_together_and_the_highest_seq_wins() -> None:
    world = joined(24)
    put(world.nodes[0], 1, b"before", seq=1)
    world.side_of = lambda node: world.nodes.index(node) % 2
    world.run(400)
    left, right = world.nodes[0::2], world.nodes[1::2]
    assert put(left[0], 1, b"left", seq=2).acks > 0
    assert put(right[0], 1, b"right", seq=3).acks > 0
    assert put(left[1], 2, b"only left").acks > 0
    assert value(right[2], 2) is None
    world.side_of = lambda _: 0
    world.run(120)
    found = 0
    for index, node in enumerate(left):
        sought = contacts_of([right[index]], world)[0]
        target = sought.id.to_bytes(32, "big")
        result = node.run(lambda to=target, by=node: by.engine.find(to, by.now))  # type: ignore[misc]
        assert isinstance(result, LookupResult)
        found += sought in result.heard
    assert found == len(left)
    world.run(180)
    assert [value(node, 2) for node in right] == [b"only left"] * 12
    assert [value(node, 1, consistent=True) for node in world.nodes] == [b"right"] * 24


def test_a_network_that_loses_a_tenth_of_its_packets_still_finds_and_keeps() -> None:
    world = joined(20, loss=0.1)
    world.run(60)
    assert put(world.nodes[3], 1, b"lossy").acks >= 12
    assert [value(node, 1) for node in world.nodes] == [b"lossy"] * 20


def test_strangers_digests_are_answered_two_a_second_and_the_rest_is_counted() -> None:
    world = joined(3)
    node, digest = world.nodes[0], encode(Digest(bytes(8) + b"0000\1"))
    answers = []
    for n in range(100):
        peer = FakePeer(PeerKey(bytes((n,)) * 32), ("198.51.100.9", 7071))
        answers.append(node.handlers[Number.DIGEST](peer, n, digest, node.now))  # type: ignore[arg-type]
    numbers = [answer[0] for answer in answers if answer is not None]
    assert numbers.count(Number.DIGEST_REPLY) == DIGESTS_BURST
    assert numbers.count(Number.BUSY) == 100 - DIGESTS_BURST == node.engine.counters.digests_refused
    known = FakePeer(world.nodes[1].key, world.nodes[1].address)
    answer = node.handlers[Number.DIGEST](known, 1, digest, node.now)  # type: ignore[arg-type]
    assert answer is not None
    assert answer[0] == Number.DIGEST_REPLY


CID = Cid(Codec.RAW, blake3_digest(b"blob"))


def provider(world: World, identity: Identity, prefix: bytes, *, life_s: int = 3_600) -> bytes:
    now_s = int(world.now.unix_s)
    return announce(
        identity, NETWORK, CID, Kind.WHOLE, Provided(b"", ()), prefix=prefix,
        issued=now_s, expires=now_s + life_s, entropy=SeededEntropy(1),
    ).encoded  # fmt: skip


def announced(node: Node, records: list[bytes]) -> Announced:
    result = node.run(lambda: node.engine.announce(records, node.now))
    assert isinstance(result, Announced)
    return result


def providers_of(node: Node) -> ProvidersFound:
    loc = content_loc(NETWORK, CID)
    result = node.run(lambda: node.engine.find_providers([loc], node.now))
    assert isinstance(result, ProvidersFound)
    return result


def test_providers_flooded_from_thirty_networks_leave_room_for_the_first() -> None:
    world = joined(12)
    honest = [writer(200 + n) for n in range(5)]
    for n, identity in enumerate(honest):
        prefix = b"\x04" + bytes((77, n, 1))
        assert announced(world.nodes[0], [provider(world, identity, prefix)]).acks[0] >= 10
    world.run(100)
    for network in range(30):
        prefix = b"\x04" + bytes((88, network, 1))
        flood = [
            provider(world, Identity(bytes([7, network, n]) + bytes(29)), prefix) for n in range(6)
        ]
        announced(world.nodes[1 + network % 8], flood)
    found = providers_of(world.nodes[11])
    signers = {record.signer for record in found.records}
    assert all(identity.peer_key in signers for identity in honest)
    prefixes = [record.prefix for record in found.records]
    assert max(prefixes.count(prefix) for prefix in prefixes) <= 3
    counters = world.nodes[3].engine.counters
    assert counters.providers_refused > 0
    assert counters.providers_stored < 5 + 30 * 6


def test_who_provides_is_told_while_the_search_goes_on() -> None:
    world = joined(12)
    good = provider(world, writer(1), b"\x04\x4d\x01\x01")
    flood = [provider(world, writer(40 + n), b"\x04\x4d\x09\x01") for n in range(5)]
    for record in (good, *flood):
        announced(world.nodes[2], [record])
    node = world.nodes[9]
    node.effects.clear()
    found = providers_of(node)
    kinds = [type(effect) for effect in node.effects if isinstance(effect, Heard | Finished)]
    heard = [effect.record.signer for effect in node.effects if isinstance(effect, Heard)]
    assert kinds.index(Finished) == len(heard), "each before the end"
    assert writer(1).peer_key in heard
    assert writer(1).peer_key in {record.signer for record in found.records}
    assert len(heard) == len(set(heard)) <= 1 + 3, "of an address prefix three"


def test_provider_records_are_found_by_all_and_forged_ones_by_none() -> None:
    world = joined(10)
    good = provider(world, writer(1), b"\x04\x4d\x01\x01")
    bad = good[:-1] + bytes((good[-1] ^ 1,))
    assert announced(world.nodes[2], [good]).acks[0] >= 8
    assert announced(world.nodes[2], [bad]).acks == (0,)
    assert [len(providers_of(node).records) for node in world.nodes] == [1] * 10
    assert sum(node.engine.counters.records_forged for node in world.nodes) >= 8


def test_who_announces_from_a_local_address_is_refused_and_not_blamed_by_public_nodes() -> None:
    world = joined(10)
    home = provider(world, writer(1), LOCAL)
    assert announced(world.nodes[2], [home]).acks == (0,)
    assert sum(node.engine.counters.records_malformed for node in world.nodes) >= 8
    assert not [e for node in world.nodes for e in node.effects if isinstance(e, Penalise)]


def test_a_node_comes_back_by_its_snapshot_alone() -> None:
    world = joined(12)
    node = world.nodes[5]
    node.engine.stop(node.now)
    node.follow()
    kept = next(e.data for e in reversed(node.effects) if isinstance(e, Snapshot))
    node.is_up = False
    again = world.add(public(90), is_known=True)
    world.start(again, snapshot=kept)
    world.run(20)
    assert again.engine.is_joined
    assert len(again.engine.contacts()) >= 10


def test_torn_snapshots_are_no_snapshots() -> None:
    world = joined(3)
    node = world.add(public(90), is_known=True)
    world.start(node, snapshot=b"molia table 1\n" + bytes(60))
    world.run(5)
    assert not node.engine.contacts()


def test_everybody_is_told_the_size_of_the_network() -> None:
    world = joined(40)
    world.run(120)
    estimates = sorted(node.engine.size_estimate for node in world.nodes)
    assert 25 <= estimates[len(estimates) // 2] <= 60


def test_a_lookup_that_finds_no_place_says_nothing_of_the_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = joined(40)
    world.run(120)
    node = world.nodes[3]
    before = node.engine.size_estimate
    with monkeypatch.context() as patch:
        patch.setattr(limits, "DHT_LOOKUPS_MAX", 0)
        for _ in range(limits.SIZE_ESTIMATES_MAX):
            node.engine._joining._refresh(node.now)
            node.engine.on_deadline(node.now)
    assert node.engine.counters.lookups_refused == limits.SIZE_ESTIMATES_MAX
    assert node.engine.size_estimate == before


def test_two_runs_of_one_seed_send_the_same() -> None:
    def trace() -> list[tuple[float, object, int]]:
        world = joined(10, seed=9, loss=0.05)
        put(world.nodes[0], 1, b"x")
        world.run(30)
        return [sent for node in world.nodes for sent in node.wire.sent]

    assert trace() == trace()
