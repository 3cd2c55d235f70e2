"""Records are put and read, by one writer and by many, and only those that hold."""

from dataclasses import asdict

import pytest

from molia.base.crypto import Identity
from molia.base.limits import LOC_WRITES_BURST
from molia.base.now import Now
from molia.dht import held, records
from molia.dht.blinding import locations
from molia.dht.engine import Engine
from molia.dht.quotas import Quotas
from molia.dht.records import RecordAddress, publish
from molia.dht.results import Got, Stored
from molia.wire.dht_messages import Put, PutCode, PutReply
from molia.wire.messages import Number, decode, encode
from tests.dht.world import NETWORK, FakePeer, Node, World, contacts_of, joined, public

WRITER = Identity(b"w" * 32)
ADDRESS = RecordAddress(WRITER.peer_key, b"site")


def signed(value: bytes, now: Now, *, seq: int = 1, life_s: int = 3_600) -> list[bytes]:
    return [
        publish(
            WRITER, NETWORK, ADDRESS.salt, value, seq=seq, expires=int(now.unix_s) + life_s,
            period=place.period,
        ).encoded
        for place in locations(NETWORK, WRITER.peer_key, ADDRESS.salt, now.unix_s)
    ]  # fmt: skip


def put(node: Node, encoded: list[bytes], cas: int | None = None) -> Stored:
    result = node.run(lambda: node.engine.put_record(encoded, node.now, cas=cas))
    assert isinstance(result, Stored)
    return result


def get(node: Node, *, consistent: bool = False) -> Got:
    result = node.run(lambda: node.engine.get_record(ADDRESS, node.now, consistent=consistent))
    assert isinstance(result, Got)
    return result


def value_of(got: Got) -> bytes | None:
    return None if got.opened is None else got.opened.value


def test_a_record_put_by_one_is_read_by_all() -> None:
    world = joined(12)
    stored = put(world.nodes[3], signed(b"hello", world.now))
    assert stored.acks >= 10
    assert not stored.timeouts
    assert [value_of(get(node)) for node in world.nodes] == [b"hello"] * 12


def test_a_node_alone_keeps_its_own_record() -> None:
    world = joined(1)
    assert put(world.nodes[0], signed(b"mine", world.now)).acks == 1
    assert value_of(get(world.nodes[0])) == b"mine"


def test_a_later_record_takes_the_place_of_an_older_and_the_older_is_refused() -> None:
    world = joined(12)
    first, second = signed(b"one", world.now, seq=1), signed(b"two", world.now, seq=2)
    put(world.nodes[1], first)
    put(world.nodes[2], second)
    late = put(world.nodes[3], first)
    assert late.acks == 0
    assert late.stale_seq == 2
    assert value_of(get(world.nodes[4], consistent=True)) == b"two"
    assert sum(node.engine.counters.records_stale for node in world.nodes) > 0


@pytest.mark.parametrize(("seed", "loss"), [(1, 0.0), (5, 0.02), (6, 0.02)])
def test_of_sixteen_writers_at_once_one_wins_and_the_others_are_told(
    seed: int, loss: float
) -> None:
    world = joined(20, seed=seed, loss=loss)
    writers = world.nodes[:16]
    ids = {}
    for index, node in enumerate(writers):
        encoded = signed(b"writer %d" % index, world.now)
        ids[index] = node.engine.put_record(encoded, node.now, cas=0)
        node.follow()
    world.run(20)
    results = [node.finished[ids[index]] for index, node in enumerate(writers)]
    stored = [result for result in results if isinstance(result, Stored)]
    winners = [index for index, result in enumerate(stored) if not result.is_mismatch]
    assert len(stored) == 16
    assert len(winners) == 1
    won = b"writer %d" % winners[0]
    assert value_of(get(world.nodes[18], consistent=True)) == won
    for result in stored:
        if result.is_mismatch:
            assert result.held_seq == 1
            other = records.parse(result.current)
            assert isinstance(other, records.SignedRecord)
    assert sum(node.engine.counters.records_cas for node in world.nodes) >= 15


def test_a_put_that_expects_another_seq_fails_and_shows_the_record() -> None:
    world = joined(8)
    put(world.nodes[0], signed(b"five", world.now, seq=5))
    failed = put(world.nodes[1], signed(b"three", world.now, seq=6), cas=2)
    assert failed.is_mismatch
    assert failed.held_seq == 5
    assert failed.acks == 0
    assert not put(world.nodes[1], signed(b"six", world.now, seq=6), cas=5).is_mismatch
    assert value_of(get(world.nodes[2], consistent=True)) == b"six"


def test_of_two_values_under_one_seq_the_lower_hash_stays_and_both_are_told() -> None:
    world = joined(10)
    one, two = signed(b"one", world.now), signed(b"two", world.now)
    put(world.nodes[0], one)
    second = put(world.nodes[1], two)
    assert second.conflicts == second.asked > 0
    hashes = {}
    for encoded, value in ((one[0], b"one"), (two[0], b"two")):
        record = records.parse(encoded)
        assert isinstance(record, records.SignedRecord)
        hashes[value] = record.value_hash
    lower = min(hashes, key=lambda value: hashes[value])
    assert value_of(get(world.nodes[5], consistent=True)) == lower
    assert bool(second.acks) == (lower == b"two")
    assert sum(node.engine.counters.records_conflict for node in world.nodes) >= 10


def test_a_consistent_read_sends_the_newest_to_those_who_gave_an_older() -> None:
    world = joined(8)
    old, new = signed(b"old", world.now, seq=1), signed(b"new", world.now, seq=2)
    put(world.nodes[0], old)
    rows = {node: dict(node.shelf.rows) for node in world.nodes}
    put(world.nodes[0], new)
    for node in world.nodes[2:7]:
        node.shelf.rows = rows[node]
    reader, repaired = world.nodes[0], 0
    for _ in range(8):
        got = get(reader, consistent=True)
        assert value_of(got) == b"new"  # its own shelf has it, at least
        world.run(2)
        repaired += got.stale
    assert repaired > 0
    assert reader.engine.counters.repaired > 0


def test_a_leftover_on_the_own_shelf_does_not_hide_what_the_holders_have() -> None:
    world = joined(60)
    world.run(120)
    old, new = signed(b"old", world.now, seq=1), signed(b"new", world.now, seq=2)
    place = locations(NETWORK, WRITER.peer_key, ADDRESS.salt, world.now.unix_s)[0]
    number = int.from_bytes(place.loc, "big")
    far = max(world.nodes, key=lambda n: contacts_of([n], world)[0].id ^ number)
    record = records.parse(old[0])
    assert isinstance(record, records.SignedRecord)
    row = held.decide(None, record, cas=None, unix_s=world.now.unix_s).row
    assert row is not None
    put(world.nodes[3], new)
    far.shelf.rows[held.RECORD, place.loc] = row
    assert far.engine.radius < contacts_of([far], world)[0].id ^ number
    assert value_of(get(far)) == b"new"


# ---------------------------------------------------------------------------- what is refused


NOT_YET = -2


def offer(world: World, encoded: bytes, *, number: int = Number.PUT, writer: int = 1) -> int:
    """Put bytes at a node as a stranger; return the code, -1 for an error, or NOT_YET."""
    node, peer = world.nodes[0], FakePeer(world.nodes[writer].key, world.nodes[writer].address)
    answer = node.handlers[number](peer, 7, encode(Put(encoded)), node.now)  # type: ignore[arg-type]
    node.follow()
    if answer is None:
        return NOT_YET
    told = decode(*answer)
    return told.code if isinstance(told, PutReply) else -1


def forged(now: Now) -> bytes:
    good = signed(b"good", now)[0]
    return good[:-3] + bytes((good[-3] ^ 1,)) + good[-2:]


@pytest.mark.parametrize(
    ("make", "counter"),
    [
        (forged, "records_forged"),
        (lambda now: signed(b"late", now, life_s=-10)[0], "records_expired"),
        (lambda now: signed(b"far", now, life_s=4 * 86_400)[0], "records_far"),
        (lambda now: b"\x08\x01" + bytes(200), "records_malformed"),
    ],
)
def test_what_does_not_hold_is_refused_and_counted(make, counter: str) -> None:  # type: ignore[no-untyped-def]
    world = joined(2)
    before = asdict(world.nodes[0].engine.counters)[counter]
    assert offer(world, make(world.now)) in (PutCode.BAD, -1)
    assert asdict(world.nodes[0].engine.counters)[counter] == before + 1
    assert not world.nodes[0].shelf.rows


def test_one_location_changes_only_so_often_and_what_is_too_much_is_counted() -> None:
    world = joined(2)
    counters = world.nodes[0].engine.counters
    for seq in range(1, int(LOC_WRITES_BURST) + 6):
        offer(world, signed(b"again", world.now, seq=seq)[0])
        world.run(0.01)
    assert counters.records_stored == LOC_WRITES_BURST
    assert counters.records_full == 5


def test_one_peer_has_a_quota_of_its_own() -> None:
    world = joined(3)
    node = world.nodes[0]
    node.engine._storing.writes.quotas = Quotas(rows_max=1_000, peer_burst=3)
    put_by = [(1, b"a"), (1, b"b"), (1, b"c"), (1, b"d"), (2, b"e")]
    codes = []
    for writer, salt in put_by:
        expires = int(world.now.unix_s) + 600
        period = locations(NETWORK, WRITER.peer_key, salt, world.now.unix_s)[0].period
        record = publish(WRITER, NETWORK, salt, b"x", seq=1, expires=expires, period=period)
        codes.append(offer(world, record.encoded, writer=writer))
    assert codes == [NOT_YET, NOT_YET, NOT_YET, PutCode.FULL, NOT_YET]
    assert node.engine.counters.records_full == 1


def test_writes_are_carried_out_once_however_often_they_come() -> None:
    assert Engine.once >= {Number.PUT, Number.ADD_PROVIDER}


def test_a_forged_record_costs_its_sender_its_standing() -> None:
    world = joined(2)
    offer(world, forged(world.now))
    offences = [e for e in world.nodes[0].effects if type(e).__name__ == "Penalise"]
    assert len(offences) == 1


def test_a_holder_that_lies_is_passed_over() -> None:
    world = joined(10)
    put(world.nodes[0], signed(b"true", world.now))
    place = locations(NETWORK, WRITER.peer_key, ADDRESS.salt, world.now.unix_s)[0]
    other = publish(
        Identity(b"x" * 32), NETWORK, b"", b"lie", seq=9,
        expires=int(world.now.unix_s) + 60, period=place.period,
    )  # fmt: skip
    row = held.decide(None, other, cas=None, unix_s=world.now.unix_s).row
    assert row is not None
    for node in world.nodes[2:8]:
        node.shelf.rows[held.RECORD, place.loc] = row
    reader = world.nodes[9]
    reader.shelf.rows.clear()
    assert value_of(get(reader, consistent=True)) == b"true"
    assert reader.engine.counters.records_malformed > 0


def test_clocks_an_hour_apart_still_keep_records() -> None:
    world = World(3)
    for index in range(8):
        node = world.add(public(index), is_known=True)
        node.clock_s = (0.0, 3_600.0)[index % 2]
        world.start(node, *world.nodes[:1] if index else ())
        world.run(0.2)
    world.run(15)
    writer = world.nodes[1]
    stored = put(writer, signed(b"skewed", writer.now, life_s=86_400))
    assert stored.acks >= 7
    assert [value_of(get(node)) for node in world.nodes] == [b"skewed"] * 8
    offset_s = world.nodes[1].engine.clock_offset_s
    assert offset_s is not None
    assert offset_s < -3_000
