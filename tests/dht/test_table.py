"""The routing table: who gets in, who stays, and who is nearest."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base.errors import BadConfig
from molia.base.limits import DATAGRAM_BODY_MAX, TABLE_CELLS_MAX, TABLE_ENTRIES_MAX
from molia.dht.bucket import Bucket, Entry, State
from molia.dht.contact import Contact
from molia.dht.nearest import Positions
from molia.dht.table import Table, TableConfig
from molia.sim.entropy import SeededEntropy
from molia.wire.messages import Nodes, Number, decode
from tests import oracles
from tests.dht.contacts import placed, population

OWN = 1 << 255
ids = st.one_of(
    st.integers(0, (1 << 256) - 1), st.integers(0, 300), st.integers(OWN - 200, OWN + 200)
)


def table_of(
    contacts: Sequence[Contact], *, own: int = OWN, now_s: float = 0.0, seed: int = 1,
    config: TableConfig | None = None,
) -> Table:  # fmt: skip
    """Return a table whose contacts have all answered."""
    table = Table(own, config, entropy=SeededEntropy(seed))
    for contact in contacts:
        table.on_verified(contact, 0.05, now_s)
    return table


# -- who is nearest


@given(members=st.sets(ids, max_size=120), target=ids, count=st.integers(1, 30))
def test_nearest_equals_the_brute_force_answer(members: set[int], target: int, count: int) -> None:
    positions = Positions()
    for one in sorted(members):
        positions.add(placed(one))
    expected = oracles.nearest(sorted(members), target, count)
    assert [contact.id for contact in positions.nearest(target, count)] == expected


@given(
    members=st.sets(ids, max_size=60), center=ids,
    radius=st.one_of(st.integers(0, 300), st.integers(0, (1 << 256) - 1)),
)  # fmt: skip
def test_a_region_equals_the_brute_force_answer(
    members: set[int], center: int, radius: int
) -> None:
    positions = Positions()
    for one in sorted(members):
        positions.add(placed(one))
    expected = oracles.in_region(sorted(members), center, radius)
    assert [contact.id for contact in positions.in_region(center, radius)] == expected


alike = st.builds(lambda head, tail: head << 200 | tail, st.integers(0, 40), st.integers(0, 40))
"""Ids that differ in few bits: many have the same 30 where their cell looks."""


@given(
    own=ids, members=st.sets(st.one_of(ids, alike), max_size=70),
    targets=st.lists(st.one_of(ids, alike), min_size=1, max_size=6), gone=st.integers(0, 40),
)  # fmt: skip
def test_a_body_is_that_of_the_brute_force_answer_while_contacts_come_and_go(
    own: int, members: set[int], targets: list[int], gone: int
) -> None:
    positions, left = Positions(), dict[int, Contact]()
    for one in [*sorted(members), *sorted(members)[:gone]]:
        if one in left:
            positions.remove(left.pop(one))
        else:
            left[one] = placed(one)
            positions.add(left[one])
        if len(left) % 10 == 0 or len(left) > 60:
            for target in targets:
                nearest = oracles.nearest(list(left), target, 20)
                expected = b"".join(left[near].encoded for near in nearest)
                assert positions.body(target, target ^ own) == expected


def test_cells_are_bounded_whatever_targets_are_asked() -> None:
    table = table_of(population(600))
    for bits in range(256):
        for low in range(16):
            table.nodes_body(OWN ^ (1 << bits) ^ (low << max(0, bits - 4)))
    assert 0 < len(table._places.verified._cells) <= TABLE_CELLS_MAX


@pytest.mark.parametrize("own", [OWN, 0, 12345])
def test_a_table_answers_with_the_nearest_of_those_it_kept(own: int) -> None:
    table = table_of(population(600), own=own)
    kept = [contact.id for contact in table.contacts()]
    chance = SeededEntropy(2).random
    for target in [own, 0, *[chance.getrandbits(256) for _ in range(100)]]:
        assert [c.id for c in table.nearest(target)] == oracles.nearest(kept, target, 20)
        assert [c.id for c in table.nearest(target, 3)] == oracles.nearest(kept, target, 3)


def test_a_nodes_body_holds_the_nearest_and_fits_a_datagram() -> None:
    table = table_of(population(600))
    body = table.nodes_body(77)
    nodes = decode(Number.NODES, body)
    assert isinstance(nodes, Nodes)
    assert [key for key, _ in nodes.contacts] == [c.key.key for c in table.nearest(77)]
    assert len(body) <= DATAGRAM_BODY_MAX


def test_what_is_nearest_to_the_node_itself_is_never_crowded_out() -> None:
    contacts = population(1000)
    table = table_of(contacts)
    expected = oracles.nearest([contact.id for contact in contacts], OWN, 20)
    assert [contact.id for contact in table.nearest(OWN)] == expected


# -- who gets in, and who stays


def far(count: int, *, nets: int | None = None, seed: int = 5) -> list[Contact]:
    """Return contacts that all fall into bucket 0, in networks of this seed alone."""
    chance = SeededEntropy(seed).random
    first = seed << 12
    return [
        placed(chance.getrandbits(255), number=first + n, net=first + n % (nets or count))
        for n in range(count)
    ]


def verify(table: Table, contacts: Sequence[Contact], now_s: float, rtt_s: float = 0.05) -> None:
    """Let contacts answer."""
    for contact in contacts:
        table.on_verified(contact, rtt_s, now_s)


def kill(table: Table, contacts: Sequence[Contact], now_s: float) -> None:
    """Let contacts miss twice, while somebody else answers."""
    for contact in contacts:
        table.on_miss(contact, now_s)
        table.on_sent_and_lost(sent=2, lost=0, now_s=now_s + 1)
        table.on_miss(contact, now_s + 2)


def test_nobody_gets_in_who_did_not_answer() -> None:
    table = table_of([])
    contact = placed(5)
    table.on_alive(contact, 1.0)
    table.on_miss(contact, 1.0)
    assert table.wants(contact, 1.0)
    assert table.contacts() == []
    table.on_verified(contact, None, 2.0)
    assert table.contacts() == [contact] == table.nearest(9) == table.random(3)


def test_a_node_is_in_no_table_of_its_own() -> None:
    table = table_of([placed(OWN)])
    assert table.size == 0
    assert not table.wants(placed(OWN), 0.0)


def test_who_missed_is_not_passed_on_until_it_answers_or_speaks() -> None:
    contacts = population(30)
    table = table_of(contacts)
    table.on_miss(contacts[0], 1.0)
    table.on_miss(contacts[1], 1.0)
    assert table.contacts() == contacts[2:]
    assert contacts[0] not in table.nearest(contacts[0].id)
    table.on_verified(contacts[0], 0.1, 2.0)
    table.on_alive(contacts[1], 2.0)
    assert table.contacts() == contacts


def test_the_second_miss_buries_and_the_cache_fills_the_slot() -> None:
    contacts = far(90)
    table = table_of(contacts)
    assert table.contacts() == contacts[:80]
    kill(table, contacts[:1], 1.0)
    assert table.graveyard.contacts() == contacts[:1]
    assert table.contacts() == [*contacts[1:80], contacts[80]]
    table.on_gone(contacts[1], 5.0)
    assert table.size == 80
    assert table.counts["evicted"] == table.counts["gone"] == 1


def test_a_spare_that_was_long_silent_answers_before_it_is_passed_on() -> None:
    contacts = far(81)
    table = table_of(contacts)
    later_s = 601.0
    kill(table, contacts[:1], later_s)
    assert contacts[80] not in table.contacts()
    assert contacts[80] in table.take_checks(later_s + 2, 1)
    table.on_verified(contacts[80], 0.1, later_s + 2)
    assert contacts[80] in table.contacts()


def test_half_of_a_full_bucket_is_nobodys_to_take() -> None:
    honest = far(80, seed=5)
    table = table_of(honest, now_s=0.0)
    squatters = far(2_000, seed=6)
    for rounds in range(3):
        verify(table, squatters, 10.0 + rounds, rtt_s=0.001)
    kept = table.contacts()
    assert kept[:40] == honest[:40], "the oldest stay, however fast others are"
    assert set(kept[40:]) <= set(squatters), "the others go to the fast"


def test_one_network_fills_free_slots_and_leaves_them_to_others() -> None:
    crowd, others = far(200, nets=1, seed=6), far(90, seed=5)
    table = table_of(crowd)
    assert table.size == 80, "while nobody else is there"
    verify(table, others, 1.0)
    kept = table.contacts()
    assert [contact for contact in kept if contact in crowd] == crowd[:2]
    assert len(kept) == 80
    assert not table.wants(placed(3, net=6 << 12), 2.0)


def test_one_network_holds_ten_slots_of_the_table() -> None:
    crowd = [
        placed(one.id, number=(9 << 20) + n, net=9) for n, one in enumerate(population(400, seed=7))
    ]
    table = table_of(population(3_000))
    verify(table, crowd, 1.0, rtt_s=0.0001)
    inside = [v for v in table.views() if v.contact in crowd and v.state is not State.SPARE]
    assert len(inside) == 10


def test_only_slots_count_for_the_quota_of_the_table() -> None:
    others = [placed(one.id | OWN | 1 << 254, number=one.id, net=(8 << 12) + n)
              for n, one in enumerate(population(40, seed=8))]  # fmt: skip
    table = table_of([*far(80), *others])
    spares = [placed(n, number=n, net=77) for n in range(1, 11)]
    verify(table, spares, 1.0)
    assert not set(spares) & set(table.contacts())
    late = placed(OWN | 1 << 254, number=99, net=77)
    table.on_verified(late, 0.001, 2.0)
    assert late in table.contacts()


def test_slots_stand_by_age_whoever_comes_first() -> None:
    bucket = Bucket(8)
    for now_s in (3.0, 1.0, 2.0):
        bucket.add(Entry(placed(int(now_s)), rtt_s=None, now_s=now_s))
    assert [entry.since_s for entry in bucket.entries] == [1.0, 2.0, 3.0]


def test_a_contact_that_moved_is_replaced_only_when_it_answers_elsewhere() -> None:
    here = placed(5, number=1, net=1)
    there = placed(6, number=1, net=2)
    table = table_of([here])
    assert not table.wants(there, 1.0), "the old one is fresh"
    assert table.wants(there, table.check_interval_s + 1)
    table.on_alive(there, 1.0)
    table.on_miss(there, 1.0)
    assert table.contacts() == [here]
    table.on_verified(there, 0.1, 2.0)
    assert table.contacts() == [there]


def test_an_address_belongs_to_who_answered_there_last() -> None:
    old = placed(5, number=1, net=1)
    new = placed(OWN + 77, number=2, net=1)._replace(address=old.address)
    table = table_of([old])
    assert not table.wants(new, 1.0), "the old one is fresh"
    assert table.wants(new, table.check_interval_s + 1)
    table.on_verified(new, 0.1, 1.0)
    assert table.contacts() == [new]


def test_nobody_is_evicted_while_our_own_link_loses_most() -> None:
    contacts = population(60)
    table = table_of(contacts)
    size = table.size
    for now_s in (1.0, 3.0, 13.0, 600.0):
        for contact in contacts:
            table.on_miss(contact, now_s)
    assert table.is_deaf
    assert table.size == 0
    assert table.counts["evicted"] == 0
    table.on_alive(placed(1 << 99), 601.0)
    table.on_miss(contacts[0], 602.0)
    assert table.counts["evicted"] == 0, "though somebody was heard"
    verify(table, contacts, 700.0)
    assert table.size == size


def test_a_dead_link_evicts_nobody_even_at_its_first_misses() -> None:
    contacts = population(200)
    table = table_of(contacts)
    held = table.contacts()
    for _ in range(2):
        table.on_miss(held[0], 1.0)
        table.on_miss(held[1], 3.0)
    assert (table.size, table.counts["evicted"], table.is_deaf) == (len(held) - 2, 0, False)
    table.on_alive(placed(1 << 99), 4.0)
    table.on_miss(held[0], 5.0)
    assert table.counts["evicted"] == 1, "somebody was heard of since its first miss"


def test_the_dead_go_even_when_they_are_most() -> None:
    contacts = population(60)
    table = table_of(contacts)
    held, now_s = table.contacts(), 0.0
    dead, living = held[::2] + held[1::4], held[3::4]
    while now_s < 3600:
        now_s += 1.0
        for contact in table.take_checks(now_s, 8):
            if contact in living:
                table.on_verified(contact, 0.05, now_s)
            else:
                table.on_miss(contact, now_s)
    assert table.contacts() == [contact for contact in held if contact in living]
    assert {view.contact for view in table.views()} == set(living)
    assert set(table.graveyard.contacts()) == set(dead)


def test_what_was_buried_a_moment_ago_is_not_asked_on_hearsay() -> None:
    contacts = population(30)
    table = table_of(contacts)
    kill(table, contacts[:1], 1.0)
    assert not table.wants(contacts[0], 30.0)
    assert table.wants(contacts[0], 70.0)


def test_hearsay_is_wanted_while_the_cache_has_few_who_are_fresh() -> None:
    contacts = far(100)
    table = table_of(contacts[:80])
    assert table.wants(contacts[99], 0.0)
    verify(table, contacts[80:85], 0.0)
    assert not table.wants(contacts[99], 0.0)
    assert table.wants(contacts[99], 5 * table.check_interval_s)


def test_a_table_is_bounded_even_where_ids_are_free() -> None:
    table = Table(0, entropy=SeededEntropy(1))
    for index in range(256):
        for n in range(45 if index < 230 else 0):
            one = (1 << 255 - index) + n
            table.on_verified(placed(one, number=index << 10 | n, net=index << 6 | n), 0.1, 0.0)
    assert len(table.views()) == TABLE_ENTRIES_MAX
    assert table.counts["refused"] > 0
    assert not table.wants(placed((1 << 255) - 1, net=99_999), 0.0)


# -- checks and churn


def run_checks(table: Table, *, from_s: float, until_s: float) -> dict[Contact, list[float]]:
    """Let everybody answer its checks; return when each was asked."""
    asked: dict[Contact, list[float]] = {}
    while (next_s := table.next_check_s()) is not None and next_s < until_s:
        from_s = max(from_s, next_s)
        for contact in table.take_checks(from_s, 1):
            asked.setdefault(contact, []).append(from_s)
            table.on_verified(contact, 0.05, from_s)
    return asked


def test_each_contact_is_checked_once_in_an_interval_and_no_burst_arises() -> None:
    table = table_of(population(1000))
    asked = run_checks(table, from_s=0.0, until_s=6_000.0)
    assert set(asked) == set(table.contacts())
    times = sorted(one for many in asked.values() for one in many if one > 3_000.0)
    for many in asked.values():
        gaps = [after - before for before, after in pairwise(many)]
        assert all(280.0 <= gap <= 720.0 for gap in gaps), "0.8 to 1.2 of 360 to 600 s"
    in_second = [sum(start <= one < start + 10 for one in times) for start in range(3000, 6000, 10)]
    assert max(in_second) < 5 * len(times) / len(in_second)


def test_any_traffic_counts_as_a_check() -> None:
    contacts = population(50)
    table = table_of(contacts)
    for now_s in range(0, 4_000, 100):
        for contact in contacts[1:]:
            table.on_alive(contact, float(now_s))
        for contact in table.take_checks(float(now_s), 100):
            assert contact == contacts[0]
            table.on_verified(contact, 0.05, float(now_s))


def test_a_check_without_a_word_is_due_again_in_ten_seconds() -> None:
    table = table_of(population(1))
    due_s = table.next_check_s()
    assert due_s is not None
    assert table.take_checks(due_s - 0.01, 5) == []
    while not table.take_checks(due_s, 5):  # nobody died meanwhile, so it may take longer
        due_s = table.next_check_s()
        assert due_s is not None
    assert table.next_check_s() == due_s + 10.0


def test_checks_follow_the_churn_that_is_measured() -> None:
    chance = SeededEntropy(3).random
    table = table_of(population(200))
    assert table.check_interval_s == pytest.approx(120.0)
    number, now_s, death_rate = 10_000, 0.0, 0.005
    while now_s < 900:
        now_s += 1.0
        for contact in table.take_checks(now_s, 500):
            table.on_verified(contact, 0.05, now_s)
        for contact in table.contacts():
            if chance.random() < death_rate:
                table.on_gone(contact, now_s)
                number += 1
                table.on_verified(placed(chance.getrandbits(256), number=number), 0.05, now_s)
    assert table.churn_rate == pytest.approx(death_rate, rel=0.2)
    assert table.check_interval_s == pytest.approx(20.0, rel=0.3)
    while now_s < 9_000:
        now_s += 10.0
        for contact in table.take_checks(now_s, 500):
            table.on_verified(contact, 0.05, now_s)
    assert table.check_interval_s == 600.0


def test_when_many_die_those_put_off_under_calm_are_checked_soon() -> None:
    table = table_of(population(200))
    held = table.contacts()
    for number, contact in enumerate(held[:-10]):
        table.on_gone(contact, 1.0 + number * 0.1)
    assert table.check_interval_s == 10.0
    assert set(table.take_checks(20.0 + 12.0, 100)) >= set(held[-10:])


def test_the_same_seed_gives_the_same_table_and_the_same_checks() -> None:
    def history(seed: int) -> tuple[list[Contact], list[Contact], list[Contact], bytes]:
        table = table_of(population(500), seed=seed)
        kill(table, table.contacts()[::9], 50.0)
        checks = [contact for now_s in range(0, 900, 7) for contact in
                  table.take_checks(float(now_s), 3)]  # fmt: skip
        return table.contacts(), table.random(20), checks, table.snapshot(1e9)

    assert history(1) == history(1)
    assert history(1)[2] != history(2)[2]


def test_a_choice_by_chance_names_nobody_twice() -> None:
    table = table_of(population(100))
    chosen = table.random(table.size + 5)
    assert len(chosen) == len(set(chosen)) == table.size
    assert table.oldest(3) == table.contacts()[:3]


@pytest.mark.parametrize("wrong", [
    {"bucket_size": 1}, {"bucket_size": 500}, {"group_per_bucket": 0}, {"group_per_table": 0},
    {"graves": 0}, {"graves": 100_000},
])  # fmt: skip
def test_sizes_out_of_their_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(BadConfig):
        TableConfig(**wrong)


def test_one_that_said_goodbye_is_worth_asking_as_soon_as_it_speaks_again() -> None:
    contact = placed(OWN + 5)
    table = table_of([contact])
    table.on_gone(contact, 10.0)
    assert table.size == 0
    assert not table.wants(contact, 11.0)  # others may still name it
    table.on_alive(contact, 12.0)
    assert table.wants(contact, 12.0)
    table.on_verified(contact, 0.05, 12.5)
    assert table.contacts() == [contact]
