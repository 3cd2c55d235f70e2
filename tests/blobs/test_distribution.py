"""The job that places shares: it ends, tells the truth, replaces the bad, goes on when cut off."""

import json
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molia.base.limits import WHOLE_SHARE
from molia.blobs import distribution as job
from molia.blobs.distribution import Degraded, Distribution, DistributionConfig, Done
from molia.blobs.placement import losses_survived, plan_copies, plan_shares
from tests.blobs.holders import MIB, STRIPES, Holder, Network

MANNERS = ("good", "mute", "refusing", "broken", "dead-end", "stalling", "slow", "full")


def distribution(
    *, floor: int = 0, config: DistributionConfig | None = None, cursor: Any = None
) -> Distribution:
    """A job for a blob whose shares have 1 MiB, started."""
    planner = partial(plan_shares, share_bytes=MIB, floor=floor)
    it = Distribution(planner, shares=range(14), share_bytes=MIB, needed=10, floor=floor,
                      config=config, cursor=cursor)  # fmt: skip
    it.start(now_s=0.0)
    return it


def good(count: int) -> list[Holder]:
    """Holders without fault."""
    return [Holder(number) for number in range(count)]


def survived(network: Network) -> int:
    """What the holdings that really are there survive."""
    return losses_survived([list(h.held) for h in network.holders.values()])


@pytest.mark.parametrize(
    ("nodes", "f"), [(1, 0), (3, 0), (5, 1), (7, 2), (13, 3), (14, 4), (30, 4)]
)
def test_healthy_holders_get_what_the_plan_says(nodes: int, f: int) -> None:
    network, it = Network(good(nodes)), distribution()
    outcome = network.run(it)
    assert isinstance(outcome, Done)
    assert outcome.survives == survived(network) == f
    assert len(outcome.holders) == min(nodes, 14)
    assert network.sent == 14 * STRIPES
    assert it.replaced == 0


def test_progress_counts_up_to_all() -> None:
    network = Network(good(14))
    network.run(distribution())
    counts = [e.placed for e in network.seen if isinstance(e, job.Placed)]
    assert counts == list(range(1, 15))
    assert len(network.announced) == 1
    assert len(network.announced[0]) == 14


def test_streams_are_bounded_and_parallel() -> None:
    network = Network(good(14))
    network.run(distribution(config=DistributionConfig(streams=4)))
    assert network.streams_max == 4


@pytest.mark.parametrize("manners", MANNERS[1:])
def test_one_bad_holder_is_replaced_and_nothing_else_starts_anew(manners: str) -> None:
    holders = good(16)
    holders[2].manners = manners
    network, it = Network(holders), distribution()
    outcome = network.run(it)
    assert isinstance(outcome, Done)
    assert outcome.survives == survived(network) == 4
    sends = [e for e in network.seen if isinstance(e, job.SendShare)]
    assert len(sends) == {"mute": 14, "refusing": 14}.get(manners, 15) + (manners == "dead-end")
    assert it.replaced == (manners not in ("broken", "refusing"))
    assert network.now_s < 40


def test_a_broken_stream_goes_on_where_it_was() -> None:
    holders = good(14)
    holders[5].manners = "broken"
    network = Network(holders)
    assert isinstance(network.run(distribution()), Done)
    again = [e for e in network.seen if isinstance(e, job.SendShare) and e.first_stripe]
    assert [e.first_stripe for e in again] == [3]


def test_bad_holders_without_spare_ones_are_looked_for_and_then_reported() -> None:
    holders = good(8)
    for holder in holders[:3]:
        holder.manners = "refusing"
    network = Network(holders)
    outcome = network.run(distribution(floor=3))
    assert isinstance(outcome, Degraded)
    assert (outcome.survives, outcome.unplaced) == (survived(network), ())
    assert "5 nodes" in outcome.reason
    assert "not 3" in outcome.reason
    assert sum(isinstance(e, job.FindHolders) for e in network.seen) == 3


def test_holders_that_come_later_are_found() -> None:
    holders = [Holder(n, manners="refusing") for n in range(3)]
    network, it = Network(holders), distribution()
    assert network.run(it, stop_s=1.0) is None
    network.holders |= {h.key: h for h in [Holder(n) for n in range(20, 34)]}
    assert isinstance(network.run(it), Done)
    assert survived(network) == 4


def test_nobody_there_is_said() -> None:
    outcome = Network([]).run(distribution())
    assert isinstance(outcome, Degraded)
    assert (outcome.survives, len(outcome.unplaced)) == (-1, 14)
    silent = Network(good(3))
    silent.hears = False
    outcome = silent.run(distribution())
    assert isinstance(outcome, Degraded)


def test_too_little_room_is_said() -> None:
    outcome = Network([Holder(n, room=2 * MIB) for n in range(4)]).run(distribution())
    assert isinstance(outcome, Degraded)
    assert len(outcome.unplaced) == 6
    assert "no room for 6 shares" in outcome.reason


def test_records_that_cannot_be_stored_are_tried_again_and_said() -> None:
    network = Network(good(14))
    network.stores_records = False
    outcome = network.run(distribution())
    assert isinstance(outcome, Degraded)
    assert outcome.survives == 4
    assert len(network.announced) == 3


def test_our_own_node_counts_and_gets_nothing_sent() -> None:
    own = Holder(0, held=dict.fromkeys(range(14), b"own"))
    network = Network([own, *[Holder(n) for n in range(1, 14)]])
    outcome = network.run(distribution())
    assert isinstance(outcome, Done)
    sends = [e for e in network.seen if isinstance(e, job.SendShare)]
    assert len(sends) == 13
    assert own.key not in [e.key for e in sends]


def test_below_the_floor_a_few_nodes_get_a_readable_set_each() -> None:
    network = Network(good(3))
    outcome = network.run(distribution(floor=2))
    assert isinstance(outcome, Done)
    assert outcome.survives == survived(network) == 2


def test_a_small_blob_goes_to_five() -> None:
    planner = partial(plan_copies, size=MIB, copies=5)
    it = Distribution(planner, shares=[WHOLE_SHARE], share_bytes=MIB, needed=1, floor=4)
    it.start(now_s=0.0)
    holders = good(9)
    holders[1].manners = "stalling"
    network = Network(holders)
    outcome = network.run(it)
    assert isinstance(outcome, Done)
    assert outcome.survives == 4
    assert sum(WHOLE_SHARE in h.held for h in holders) == 5


manners_of_all = st.lists(st.sampled_from(MANNERS), min_size=1, max_size=24)


@given(manners_of_all, st.integers(0, 4))
@settings(max_examples=30, deadline=None)
def test_it_ends_and_says_the_truth_whatever_the_holders_do(manners: list[str], floor: int) -> None:
    network = Network([Holder(n, manners=m) for n, m in enumerate(manners)])
    outcome = network.run(distribution(floor=floor))
    assert isinstance(outcome, Done | Degraded)
    assert outcome.survives == survived(network)
    assert set(outcome.holders) == {h.key for h in network.holders.values() if h.held}
    if manners.count("good") >= 14:
        assert isinstance(outcome, Done)
        assert outcome.survives == 4
    assert network.now_s < 700  # one slow holder may be all there is


@given(st.floats(0.0, 8.0), st.sets(st.integers(0, 15), max_size=2))
@settings(max_examples=30, deadline=None)
def test_a_job_that_was_cut_off_goes_on_from_its_cursor(at_s: float, gone: set[int]) -> None:
    network, it = Network(good(16)), distribution()
    network.run(it, stop_s=at_s)
    cursor = json.loads(json.dumps(it.cursor))
    placed = {(row[0], row[1]) for row in cursor["placed"]}
    left = [h for h in network.holders.values() if h.number not in gone]
    after = Network(left)
    outcome = after.run(distribution(cursor=cursor))
    assert isinstance(outcome, Done)
    assert outcome.survives == survived(after) == 4
    sent = {(e.key.hex(), e.share) for e in after.seen if isinstance(e, job.SendShare)}
    assert not sent & placed
    records = {record for records in after.announced for record in records}
    kept = {h.key for h in left if (h.key.hex(), min(h.held, default=-1)) in placed}
    assert {record[:32] for record in records} >= kept


@pytest.mark.parametrize(
    "cursor",
    [None, {}, {"placed": 5}, {"placed": [5, [], ["zz", 1, ""], ["00" * 32, 77, ""],
     ["00" * 31, 1, ""], [None, 1, ""], ["00" * 32, 1, "00" * 900]]}],
)  # fmt: skip
def test_a_cursor_that_makes_no_sense_is_a_fresh_start(cursor: Any) -> None:
    network = Network(good(14))
    assert isinstance(network.run(distribution(cursor=cursor)), Done)
    assert network.sent == 14 * STRIPES


def test_what_comes_too_late_or_from_strangers_changes_nothing() -> None:
    it = distribution()
    it.on_offered(b"x", accepted=(), kept=(), now_s=0)
    it.on_sent(b"x", 1, is_kept=True, now_s=0)
    it.on_progress(b"x", 1, stripes=1, now_s=0)
    it.on_announced(is_stored=True, now_s=0)
    network = Network(good(14))
    assert isinstance(network.run(it), Done)
    it.on_sent(bytes(32), 1, is_kept=False, now_s=0)
    it.on_candidates([], now_s=0)
    assert it.take_effects() == []
