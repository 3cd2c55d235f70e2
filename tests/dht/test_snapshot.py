"""What lies on disk of a table is whole, or it is nothing."""

from hypothesis import given
from hypothesis import strategies as st

from molia.base.hashing import blake3_digest
from molia.base.limits import GRAVES_MAX, SNAPSHOT_SIZE_MAX, TABLE_ENTRIES_MAX
from molia.dht.contact import Contact, Space
from molia.dht.graveyard import Graveyard
from molia.dht.snapshot import MAGIC, read_snapshot, write_snapshot
from molia.dht.table import Table
from molia.sim.entropy import SeededEntropy

SPACE = Space(bytes(32))


def somebody(number: int) -> Contact:
    """Return a contact as a space makes it; every third has an IPv6 address."""
    host = f"2001:db8:{number:x}::1" if number % 3 == 0 else f"9.{number % 250}.{number // 250}.7"
    contact = SPACE.contact(number.to_bytes(32, "big"), (host, 7071))
    assert contact is not None
    return contact


LIVE, DEAD = [somebody(n) for n in range(1, 40)], [somebody(n) for n in range(40, 50)]
WHOLE = write_snapshot(LIVE, DEAD, 1_800_000_000.5)


def test_a_snapshot_gives_back_what_was_written() -> None:
    read = read_snapshot(WHOLE, SPACE)
    assert read is not None
    assert (read.contacts, read.graves, read.unix_s) == (LIVE, DEAD, 1_800_000_000)


def test_a_table_restores_whom_it_knew_and_inserts_nobody() -> None:
    table = Table(7, entropy=SeededEntropy(1))
    for contact in LIVE + DEAD:
        table.on_verified(contact, 0.1, 1.0)
    for contact in DEAD:
        table.on_gone(contact, 2.0)
    anew = Table(7, entropy=SeededEntropy(1))
    assert anew.restore(table.snapshot(1e9), SPACE) == LIVE
    assert anew.size == 0
    assert anew.graveyard.contacts() == DEAD
    assert anew.snapshot(1e9) == write_snapshot([], DEAD, 1e9)


def test_a_snapshot_cut_anywhere_is_refused_and_nothing_is_lost() -> None:
    table = Table(7, entropy=SeededEntropy(1))
    table.on_verified(LIVE[0], 0.1, 1.0)
    table.graveyard.bury(DEAD[0], 1.0)
    before = table.snapshot(1e9)
    for size in range(len(WHOLE)):
        assert table.restore(WHOLE[:size], SPACE) is None
    assert table.snapshot(1e9) == before


@given(at=st.integers(0, len(WHOLE) - 1), mask=st.integers(1, 255))
def test_a_garbled_snapshot_is_refused(at: int, mask: int) -> None:
    garbled = bytearray(WHOLE)
    garbled[at] ^= mask
    assert read_snapshot(bytes(garbled), SPACE) is None


@given(body=st.binary(max_size=200))
def test_a_snapshot_of_other_bytes_is_refused_even_when_its_digest_holds(body: bytes) -> None:
    for start in (b"", MAGIC, WHOLE[: len(MAGIC) + 12]):
        read = read_snapshot(start + body + blake3_digest(start + body), SPACE)
        assert read is None or (read.contacts, read.graves) == ([], [])


def test_addresses_that_nobody_can_have_are_left_out() -> None:
    wrong = [LIVE[0]._replace(address=(host, 7071)) for host in ("224.0.0.1", "0.0.0.0", "ff02::1")]
    read = read_snapshot(write_snapshot([*wrong, LIVE[1]], wrong, 0), SPACE)
    assert read is not None
    assert (read.contacts, read.graves) == ([LIVE[1]], [])


def test_positions_follow_from_the_network_and_not_from_the_file() -> None:
    read = read_snapshot(WHOLE, Space(b"another network, of 32 bytes too"))
    assert read is not None
    assert [c.address for c in read.contacts] == [c.address for c in LIVE]
    assert all(one.id != other.id for one, other in zip(read.contacts, LIVE, strict=True))


def test_the_largest_snapshot_fits_its_bound() -> None:
    most = [somebody(3 * n) for n in range(1, 60)] * 100
    data = write_snapshot(most, most, 2**40)
    assert len(data) <= SNAPSHOT_SIZE_MAX
    read = read_snapshot(data, SPACE)
    assert read is not None
    assert (len(read.contacts), len(read.graves)) == (TABLE_ENTRIES_MAX, GRAVES_MAX)


# -- the graveyard


def test_the_buried_are_of_many_networks_and_never_too_many() -> None:
    yard = Graveyard(size=64)
    quiet = [somebody(n) for n in range(1, 31)]
    for contact in quiet:
        yard.bury(contact, 1.0)
    for number in range(300, 900):  # one /24 dies and dies
        crowd = SPACE.contact(number.to_bytes(32, "big"), ("9.9.9.9", number))
        assert crowd is not None
        yard.bury(crowd, 2.0)
    assert len(yard) == 30 + 8
    assert yard.contacts()[:30] == quiet
    for number in range(1000, 1200):
        yard.bury(somebody(number), 3.0)
    assert len(yard) == 64


def test_graves_are_probed_one_in_five_seconds_in_turn() -> None:
    yard = Graveyard()
    assert yard.take_probe(0.0) is None
    assert yard.next_probe_s(0.0) is None
    for contact in DEAD:
        yard.bury(contact, 0.0)
    probed, now_s = [], 0.0
    for _ in range(2 * len(DEAD)):
        probed.append(yard.take_probe(now_s))
        assert yard.take_probe(now_s + 4.9) is None
        assert yard.next_probe_s(now_s) == now_s + 5.0
        now_s += 5.0
    assert probed == 2 * DEAD[::-1]


def test_in_a_hurry_all_graves_are_probed_at_once() -> None:
    yard = Graveyard()
    for contact in DEAD:
        yard.bury(contact, 0.0)
    yard.take_probe(0.0)
    yard.hurry()
    yard.remove(DEAD[3].key)
    probed = [yard.take_probe(1.0) for _ in range(len(DEAD))]
    assert [c for c in probed if c is not None] == [c for c in DEAD[::-1] if c != DEAD[3]]
    assert yard.take_probe(1.0) is None


def test_who_answers_again_leaves_the_graveyard() -> None:
    table = Table(7, entropy=SeededEntropy(1))
    table.graveyard.bury(DEAD[0], 0.0)
    assert not table.wants(DEAD[0], 30.0)
    assert table.wants(DEAD[0], 61.0)
    table.on_verified(DEAD[0], 0.1, 62.0)
    assert len(table.graveyard) == 0
    assert table.contacts() == [DEAD[0]]
