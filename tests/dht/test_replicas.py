"""Rows stay where they belong while nodes come and go."""

from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base.limits import (
    DIGEST_ENTRIES_MAX,
    DIGEST_PAGE,
    DIGEST_PAGES_MAX,
    REPAIR_ASKS_MAX,
    REPAIR_CLAIMS_MAX,
    REPAIR_JOBS_MAX,
    REPAIR_NEIGHBOURS_MAX,
    REPAIR_PUSHES_MAX,
)
from molia.dht.budget import BURST_S, FLOOR_BYTES_S, SHARE, WINDOW_S, RepairBudget
from molia.dht.contact import Contact
from molia.dht.digest import Ahead, is_wanted
from molia.dht.held import Summary, wanted_in
from molia.dht.replicas import (
    AGAIN_S,
    CLAIM_S,
    MATURE_S,
    PULL_EVERY_S,
    AskPull,
    Effect,
    ReplicaRepair,
    is_ours,
    repair_interval_s,
)
from molia.dht.telling import ANSWER_S, Push, Tell
from molia.sim.entropy import SeededEntropy
from molia.wire.dht_messages import DIGEST_ENTRY_SIZE
from tests.dht.holders import SPACE, Holders, MemoryShelf, contact_of, summary

CHURN = 0.005  # 30% of the nodes a minute


def rows_of(net: Holders, count: int) -> list[tuple[int, bytes, bytes]]:
    """Put records and provider records into a network; return them."""
    rows = [(1 + n % 2, net.rng.randbytes(32), net.rng.randbytes(300)) for n in range(count)]
    for row in rows:
        net.put(*row)
    return rows


def places(bitmap: bytes, count: int) -> list[int]:
    """Return which of `count` entries a bitmap names."""
    return [n for n, is_wanted in enumerate(wanted_in(bitmap, count)) if is_wanted]


def _is_in(net: Holders, row: tuple[int, bytes, bytes], node: int) -> bool:
    """Tell whether a node is in a row's region."""
    return node ^ int.from_bytes(row[1], "big") < net.radius


# ---------------------------------------------------------------------------- many nodes


def test_with_30_percent_a_minute_coming_and_going_12_replicas_live_after_30_minutes(
    record_property: Callable[[str, object], None],
) -> None:
    net = Holders(100, seed=1, churn_rate=CHURN, loss=0.01)
    rows = rows_of(net, 40)
    fewest = []
    for _ in range(10):
        net.run(180)
        counts = [net.replicas(*row) for row in rows]
        nodes = [sum(_is_in(net, row, node) for node in net.living) for row in rows]
        assert all(n >= min(12, of - 1) for n, of in zip(counts, nodes, strict=True))
        fewest.append(min(counts))
    per_node = {name: size / 1_800 / 100 for name, size in net.bytes.items()}
    assert sum(per_node.values()) <= 200
    assert net.useless <= net.pushes * 0.05, "who pushed first left nothing for the others"
    assert sorted(fewest)[1] >= 12, "a region itself may have fewer nodes"
    held = sum(len(node.shelf.rows) for node in net.living.values()) / len(net.living)
    record_property(
        "summary",
        f"replicas: 30%/min, 30 min, {held:.0f} rows a node: {min(fewest)} live at least; a node "
        "sends " + ", ".join(f"{size:.0f} B/s {name}" for name, size in per_node.items()),
    )


def test_without_repair_the_same_churn_loses_nearly_all() -> None:
    net = Holders(100, seed=1, churn_rate=CHURN)
    rows = rows_of(net, 20)
    net.radius, radius = 1, net.radius  # nobody is anybody's neighbour
    net.run(900)
    net.radius = radius
    assert sum(net.replicas(*row) >= 1 for row in rows) <= 15


def test_holders_alone_keep_the_replicas_of_nodes_that_never_ask() -> None:
    net = Holders(100, seed=2)
    rows = rows_of(net, 20)
    for _ in range(40):
        net.leave(net.rng.choice(list(net.living.values())))
        net.join()
    before = sum(net.replicas(*row) for row in rows)
    net.churn_rate = 0.0005  # for the interval; few go in the time looked at
    net.run(2 * 1_200)
    assert before < 0.7 * sum(net.replicas(*row) for row in rows)
    for row in rows:
        assert net.replicas(*row) >= 0.7 * sum(_is_in(net, row, node) for node in net.living)


def test_when_half_the_nodes_go_at_once_the_wider_regions_are_filled() -> None:
    net = Holders(120, seed=3)
    rows = rows_of(net, 20)
    net.run(60)
    for node in net.rng.sample(list(net.living.values()), 60):
        net.leave(node)
    net.churn_rate, net.radius = 0.0, 2 * net.radius
    before = sum(net.replicas(*row) for row in rows)
    net.run(300)
    assert before < 0.6 * sum(net.replicas(*row) for row in rows)
    for row in rows:
        assert net.replicas(*row) == sum(_is_in(net, row, node) for node in net.living)


def test_after_a_partition_the_later_version_is_at_all_nodes() -> None:
    net = Holders(60, seed=4)
    row = (1, net.rng.randbytes(32), b"\0\0\0\1old")
    net.put(*row)
    later = (1, row[1], b"\0\0\0\2new")
    for node in list(net.living.values())[::2]:
        if _is_in(net, row, node.contact.id):
            node.shelf.put(*later)
    net.run(40)
    for node in net.living.values():
        node.repair.on_healed(net.now_s)
    net.run(400)
    assert net.replicas(*later) == sum(_is_in(net, row, node) for node in net.living)


# ---------------------------------------------------------------------------- one holder

OWN = 1 << 255
START_S = 1_000.0


class One:
    """One holder whose neighbours the test plays."""

    def __init__(self, neighbours: int = 0, rows: int = 0, *, row_size: int = 300) -> None:
        self.shelf, self.now_s, self.radius = MemoryShelf(), START_S, SPACE
        self.contacts = [contact_of(OWN + n + 1) for n in range(neighbours)]
        self.core = ReplicaRepair(
            OWN, self.shelf, self.in_region, summary, entropy=SeededEntropy(1), now_s=START_S
        )
        self.locs = [(n << 240).to_bytes(32, "big") for n in range(rows)]
        for n, loc in enumerate(self.locs):
            self.shelf.put(1, loc, n.to_bytes(4, "big") + bytes(row_size - 4))

    def in_region(self, center: int, radius: int) -> list[Contact]:
        """Return the contacts within a radius."""
        return [c for c in self.contacts if c.id ^ center < radius]

    def first_tell(self) -> Tell:
        """Return the next DIGEST, as soon as it is sent."""
        for _ in range(300):
            for _, effect in self.run(1):
                assert isinstance(effect, Tell)
                return effect
        pytest.fail("nobody is told")

    def run(self, seconds: float, *, churn: float = 1.0) -> list[tuple[float, Effect]]:
        """Let time pass; return what is to be sent, with the moment."""
        stop_s, sent = self.now_s + seconds, []
        for _ in range(10_000):
            wake_s = self.core.next_deadline_s()
            if wake_s > stop_s:
                break
            self.now_s = max(self.now_s, wake_s)
            self.core.on_deadline(self.now_s, radius=self.radius, churn_rate=churn)
            sent += [(self.now_s, effect) for effect in self.core.take_effects()]
        else:
            pytest.fail("it spins")
        self.now_s = stop_s
        return sent


def test_a_neighbour_is_told_only_after_it_was_known_for_30_s() -> None:
    one = One(1, 3)
    sent = one.run(200)
    assert isinstance(sent[0][1], Tell)
    assert sent[0][0] >= START_S + MATURE_S


def test_a_digest_has_80_entries_at_most_and_what_is_wanted_is_pushed() -> None:
    one = One(1, 100)
    tell = one.first_tell()
    assert len(tell.digest) == DIGEST_ENTRIES_MAX * DIGEST_ENTRY_SIZE
    one.core.on_told(tell.contact, bytes((0b101,)), one.now_s)
    pushes = [effect for _, effect in one.run(1)]
    assert [(push.loc, push.row) for push in pushes if isinstance(push, Push)] == [
        (one.locs[0], one.shelf.rows[1, one.locs[0]]),
        (one.locs[2], one.shelf.rows[1, one.locs[2]]),
    ]
    for _ in pushes:
        one.core.on_pushed(tell.contact, one.now_s, ok=True)
    ((_, rest),) = one.run(1)
    assert isinstance(rest, Tell)
    assert len(rest.digest) == 20 * DIGEST_ENTRY_SIZE
    one.core.on_told(rest.contact, b"", one.now_s)
    assert one.run(AGAIN_S * 0.9) == [], "it knows all"
    assert one.run(AGAIN_S * 0.3) != [], "after an hour it is told once more"


def test_a_farther_holder_tells_later() -> None:
    waits = []
    for closer in (0, 15):
        one = One(rows=3)
        one.contacts = [contact_of(OWN ^ 64 ^ (n + 1)) for n in range(closer)]
        one.run(40, churn=0.001)
        new = contact_of(OWN ^ 64)
        one.contacts.append(new)
        sent = one.run(1_500, churn=0.001)
        waits.append(next(at for at, e in sent if isinstance(e, Tell) and e.contact == new))
    assert waits[1] - waits[0] > 200


def test_a_neighbour_that_does_not_answer_is_told_again_in_a_later_round() -> None:
    one = One(1, 3)
    tell, first_s = one.first_tell(), one.now_s
    one.core.on_told(tell.contact, None, one.now_s)
    assert one.first_tell().digest == tell.digest
    assert one.now_s > first_s + 30


def test_an_answer_that_nobody_reports_ends_the_telling() -> None:
    one = One(1, 3)
    sent = one.run(10 * ANSWER_S + 600)
    assert 2 <= len(sent) <= 15
    one.core.on_told(one.contacts[0], b"\xff", one.now_s + ANSWER_S)
    one.core.on_pushed(one.contacts[0], one.now_s, ok=True)  # nobody asked: nothing happens


def test_pushes_wait_for_their_answers_and_for_the_budget() -> None:
    one = One(1, 80, row_size=2_000)
    tell = one.first_tell()
    begins_s = one.now_s
    one.core.on_told(tell.contact, b"\xff" * 10, begins_s)
    assert len(one.run(1)) == REPAIR_PUSHES_MAX
    pushed = REPAIR_PUSHES_MAX
    while pushed < 80 and one.now_s < begins_s + 600:
        for _ in range(REPAIR_PUSHES_MAX):
            one.core.on_pushed(tell.contact, one.now_s, ok=True)
        pushed += sum(isinstance(effect, Push) for _, effect in one.run(1))
    assert pushed == 80
    took_s = one.now_s - begins_s
    assert 80 * 2_000 / FLOOR_BYTES_S - 3 * BURST_S <= took_s <= 80 * 2_400 / FLOOR_BYTES_S


def test_three_failed_pushes_end_the_telling() -> None:
    one = One(1, 10)
    tell = one.first_tell()
    one.core.on_told(tell.contact, b"\xff\x03", one.now_s)
    one.run(1)
    for _ in range(3):
        one.core.on_pushed(tell.contact, one.now_s, ok=False)
    assert all(not isinstance(effect, Push) for _, effect in one.run(50))


def test_neighbours_and_jobs_are_bounded() -> None:
    one = One(1_000, 3)
    sent = one.run(MATURE_S + 150)
    assert len({effect.contact.id for _, effect in sent}) <= 2 * REPAIR_JOBS_MAX
    assert len(one.core._neighbours) == REPAIR_NEIGHBOURS_MAX
    assert len(one.core._telling) <= REPAIR_JOBS_MAX


def test_a_new_node_asks_its_three_nearest_and_others_when_those_refuse() -> None:
    one = One(20)
    one.core.on_joined(one.now_s)
    asked = [e.contact for _, e in one.run(3) if isinstance(e, AskPull)]
    assert asked == one.contacts[:3]
    for _ in range(30):
        for contact in asked:
            one.core.on_pulled(contact, one.now_s, accepted=False)
        more = [e.contact for _, e in one.run(3) if isinstance(e, AskPull)]
        assert not set(asked) & set(more)
        asked += more
    assert len(asked) == REPAIR_ASKS_MAX


def test_a_node_without_neighbours_asks_as_soon_as_it_has_some() -> None:
    one = One()
    one.core.on_joined(one.now_s)
    assert one.run(60) == []
    one.contacts = [contact_of(OWN + 5)]
    assert [e.contact for _, e in one.run(6) if isinstance(e, AskPull)] == one.contacts


def test_a_pull_is_answered_at_once_but_not_twice_a_minute_nor_for_strangers_far_away() -> None:
    one = One(1, 3)
    one.radius = SPACE >> 10
    for n in range(3):
        one.shelf.put(2, (OWN + n).to_bytes(32, "big"), b"abcd")
    one.run(1)
    (near,), far = one.contacts, contact_of(1)
    assert one.core.on_pull(near, 256, one.now_s)
    ((_, tell),) = one.run(1)
    assert isinstance(tell, Tell)
    assert len(tell.digest) == 3 * DIGEST_ENTRY_SIZE, "only what is in its region"
    assert not one.core.on_pull(near, 256, one.now_s), "it is being told"
    one.core.on_told(near, b"", one.now_s)
    one.run(1)
    assert not one.core.on_pull(near, 256, one.now_s)
    assert not one.core.on_pull(far, 256, one.now_s)
    assert one.core.refused_pulls == 3
    one.run(PULL_EVERY_S)
    assert one.core.on_pull(near, 1, one.now_s)


def test_pulls_of_many_identities_make_a_bounded_number_of_jobs() -> None:
    one = One()
    one.run(1)
    accepted = [one.core.on_pull(contact_of(OWN + n + 1), 256, one.now_s) for n in range(1_000)]
    assert sum(accepted) == REPAIR_JOBS_MAX


def test_what_comes_from_one_neighbour_is_not_wanted_of_another_for_a_while() -> None:
    one, other = One(1), One(1, 10)
    entries = other.first_tell().digest
    assert places(one.core.wanted(entries, 1.0), 10) == list(range(10))
    assert places(one.core.wanted(entries, 2.0), 10) == []
    assert places(one.core.wanted(entries, 1.0 + CLAIM_S), 10) == list(range(10))
    for n in range(2 * REPAIR_CLAIMS_MAX // DIGEST_ENTRIES_MAX):
        many = [(n * 80 + k).to_bytes(8, "big") + b"abcd\1" for k in range(DIGEST_ENTRIES_MAX)]
        one.core.wanted(b"".join(many), 30.0)
    assert len(one.core._claims) <= REPAIR_CLAIMS_MAX


def test_what_a_stranger_offers_is_still_wanted_of_neighbours() -> None:
    one, other = One(1), One(1, 10)
    entries = other.first_tell().digest
    for now_s in (1.0, 2.0):
        wanted = one.core.wanted(entries, now_s, claims=False)
        assert places(wanted, 10) == list(range(10))
    assert places(one.core.wanted(entries, 3.0), 10) == list(range(10))


# ---------------------------------------------------------------------------- rules


def test_the_interval_follows_the_churn() -> None:
    assert repair_interval_s(0.005) == pytest.approx(120)
    assert repair_interval_s(1.0) == 60
    assert repair_interval_s(0.0) == repair_interval_s(1e-9) == 3_600


def test_what_is_twice_as_far_as_a_region_is_no_longer_ours() -> None:
    radius = SPACE >> 5
    assert is_ours((OWN ^ (2 * radius - 1)).to_bytes(32, "big"), OWN, radius)
    assert not is_ours((OWN ^ (2 * radius)).to_bytes(32, "big"), OWN, radius)


def test_the_budget_is_a_tenth_of_what_is_sent() -> None:
    budget = RepairBudget(0.0)
    budget.on_egress(0, 0.0)
    for second in range(1, 601):
        budget.on_egress(second * 100_000, float(second))
    assert budget.rate == pytest.approx(SHARE * 100_000)
    spent = 0
    for second in range(600, 900):
        while budget.is_open(second):
            budget.spend(1_000, second)
            spent += 1_000
    assert spent <= (300 + BURST_S) * SHARE * 100_000 + 1_000
    budget.on_egress(0, 900.0)  # the count began anew
    budget.on_egress(0, 900.0 + WINDOW_S)
    assert budget.rate == FLOOR_BYTES_S
    assert budget.open_s(1_000.0) == 1_000.0


@given(
    held=st.lists(st.tuples(st.integers(1, 2), st.integers(0, 15), st.integers(0, 1)), max_size=20),
    offered=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 15), st.integers(0, 1)), max_size=90
    ),
)
def test_wanted_equals_the_brute_force_answer(
    held: list[tuple[int, int, int]], offered: list[tuple[int, int, int]]
) -> None:
    shelf, radius = MemoryShelf(), SPACE >> 2
    for kind, place, version in held:
        shelf.put(kind, bytes((place << 4,)) + bytes(31), bytes(3) + bytes((version,)))
    ahead = Ahead(shelf)
    for kind, place, version in offered:
        one = Summary(bytes((place << 4,)) + bytes(7), bytes(3) + bytes((version,)), kind)
        rows = [v for k, p, v in held if (k, p) == (kind, place)]
        is_near = (place << 252) < 2 * radius
        expected = kind in (1, 2) and is_near and (not rows or max(rows) != version)
        got = is_wanted(one, shelf, own_id=0, radius=radius, summary_of=summary)
        assert got == expected
        paged = is_wanted(one, ahead, own_id=0, radius=radius, summary_of=summary)
        assert paged == expected or ahead.is_spent


class CountingShelf(MemoryShelf):
    """Counts how often it is searched."""

    searches = 0

    def locations(self, kind: int, start: bytes, limit: int) -> Iterable[bytes]:
        self.searches += 1
        return super().locations(kind, start, limit)


def test_a_digest_in_order_is_compared_page_by_page() -> None:
    shelf = CountingShelf()
    for n in range(1_000):
        shelf.put(1, n.to_bytes(8, "big") + bytes(24), b"0000" if n % 2 else b"9999")
    core = One(1).core
    core._shelf = shelf
    asked = range(0, 1_000, 13)
    digest = b"".join(n.to_bytes(8, "big") + b"0000\1" for n in asked)
    assert places(core.wanted(digest, 1.0), len(asked)) == [
        index for index, n in enumerate(asked) if n % 2 == 0
    ]
    assert shelf.searches == -(-1_000 // DIGEST_PAGE)


def test_a_digest_out_of_order_costs_a_bounded_number_of_searches_and_wants_nothing_more() -> None:
    shelf = CountingShelf()
    for n in range(2_000):
        shelf.put(1, n.to_bytes(8, "big") + bytes(24), b"9999")
    core = One(1).core
    core._shelf = shelf
    asked = [n for pair in range(40) for n in (1_990 - pair, pair)]
    digest = b"".join(n.to_bytes(8, "big") + b"0000\1" for n in asked)
    assert places(core.wanted(digest, 1.0), 80) == list(range(DIGEST_PAGES_MAX))
    assert shelf.searches == DIGEST_PAGES_MAX


@given(
    st.lists(st.binary(min_size=13, max_size=13), min_size=1, max_size=80), st.binary(max_size=10)
)
def test_any_digest_and_any_bitmap_are_taken(entries: list[bytes], bitmap: bytes) -> None:
    one = One(1, 3)
    assert len(one.core.wanted(b"".join(entries), START_S)) == (len(entries) + 7) // 8
    tell = one.first_tell()
    one.core.on_told(tell.contact, bitmap, one.now_s)
    pushed = [e.loc for _, e in one.run(1) if isinstance(e, Push)]
    assert pushed == [one.locs[n] for n in places(bitmap, 3)]
