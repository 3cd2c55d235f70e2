"""Reads from remote holders: right bytes whatever the holders do, or an error that explains."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molia.base.errors import BlobDamaged, NoHolders, SharesOutOfReach, TimedOut
from molia.base.limits import SOURCES_MAX
from molia.blobs import gather
from molia.blobs.gather import Gather
from molia.blobs.manifest import Manifest
from molia.blobs.merkle import share_root
from molia.blobs.one_read import Failed, GatherConfig, Liar
from molia.blobs.sources import Source
from tests.blobs.remote import Coded, Remote, World, coded, fourteen, with_added

KIB = 1024
SIZE = 5 * 2_621_440 + 12_345
BLOB = coded(SIZE)
LIES = ("wrong", "truncated", "endless", "stale", "slow", "mute", "lost")


def test_healthy_holders_of_data_are_asked_and_nobody_decodes() -> None:
    world = World(BLOB, fourteen())
    it = world.read()
    assert isinstance(world.outcome, gather.Done)
    assert bytes(world.got) == BLOB.data
    assert (it.decoded, it.hedged, it.position) == (0, 0, SIZE)
    assert {e.share for e in world.blocks_asked()} <= set(range(10))
    assert len(world.blocks_asked()) == 54


@pytest.mark.parametrize(("start", "stop"), [(0, 64 * KIB), (2_621_440 - 64 * KIB, 2_621_440),
                                             (SIZE - 10, SIZE), (300_000, 300_001)])  # fmt: skip
def test_a_small_range_of_a_healthy_blob_asks_one_holder(start: int, stop: int) -> None:
    world = World(BLOB, fourteen())
    world.read(start, stop)
    assert bytes(world.got) == BLOB.data[start:stop]
    assert len(world.blocks_asked()) == 1
    assert world.now_s == pytest.approx(2 * 0.05)  # the manifest, then the block


def test_an_empty_range_and_one_beyond_the_end() -> None:
    world = World(BLOB, fourteen())
    world.read(5, 5)
    assert (bytes(world.got), world.outcome) == (b"", gather.Done())
    world = World(BLOB, fourteen())
    world.read(SIZE - 5, SIZE + 100)
    assert bytes(world.got) == BLOB.data[-5:]
    world = World(BLOB, fourteen())
    world.read(SIZE + 5)
    assert world.outcome == gather.Done()


@given(st.integers(0, SIZE), st.integers(0, 700_000))
@settings(max_examples=25, deadline=None)
def test_any_range_is_the_blobs_part(start: int, size: int) -> None:
    world = World(BLOB, fourteen(bad={4: "lost", 7: "stale"}))
    world.read(start, start + size)
    assert bytes(world.got) == BLOB.data[start : start + size]


@pytest.mark.parametrize("manners", LIES)
def test_four_bad_holders_cost_little(manners: str) -> None:
    world = World(BLOB, fourteen(bad=dict.fromkeys((0, 3, 6, 9), manners)))
    it = world.read()
    assert bytes(world.got) == BLOB.data
    healthy = World(BLOB, fourteen())
    healthy.read()
    assert world.now_s < 3 * healthy.now_s + GatherConfig().hedge_max_s
    lied = manners in ("wrong", "truncated", "endless")
    assert len(it.liars) == (4 if lied else 0)
    assert sum(isinstance(e, Liar) for e in world.seen) == len(it.liars)
    for remote in world.remotes.values():
        assert remote.manners == "good" or remote.asked <= 4 * len(remote.shares)


def test_four_different_liars_at_once() -> None:
    bad = {0: "wrong", 3: "slow", 6: "endless", 9: "stale"}
    world = World(BLOB, fourteen(bad=bad))
    it = world.read()
    assert bytes(world.got) == BLOB.data
    assert set(it.liars) == {bytes([1]) * 32, bytes([7]) * 32}


@given(st.dictionaries(st.integers(0, 13), st.sampled_from(LIES), max_size=14), st.booleans())
@settings(max_examples=40, deadline=None)
def test_right_bytes_or_an_error_that_explains(bad: dict[int, str], small: bool) -> None:
    stop = 200_000 if small else None
    world = World(BLOB, fourteen(bad=bad))
    it = world.read(0, stop)
    assert bytes(world.got) == BLOB.data[: len(world.got)] == BLOB.data[: it.position]
    good = 14 - len(bad) + sum(manners == "slow" for manners in bad.values())
    if good >= 10:
        assert isinstance(world.outcome, gather.Done)
        assert len(world.got) == (stop or SIZE)
    elif isinstance(world.outcome, Failed):
        assert isinstance(world.outcome.error, SharesOutOfReach)
        assert world.outcome.error.reachable < 10
    assert world.now_s < 60


def test_nine_of_ten_is_said_with_who_was_asked() -> None:
    for manners in ("lost", "mute", "stale"):
        world = World(BLOB, fourteen(bad=dict.fromkeys(range(5), manners)))
        world.read()
        assert isinstance(world.outcome, Failed)
        error = world.outcome.error
        assert isinstance(error, SharesOutOfReach)
        assert "9 of 10 needed shares" in str(error)
        assert (error.reachable, error.needed) == (9, 10)
        assert len(error.asked) == 14
        assert world.now_s < 20


def test_a_blob_that_nobody_has_fails_in_time_with_a_reason() -> None:
    world = World(BLOB, [])
    world.read(ends=False)
    assert isinstance(world.outcome, Failed)
    assert isinstance(world.outcome.error, NoHolders)
    assert world.now_s <= 10
    world = World(BLOB, [])
    world.read()
    assert isinstance(world.outcome, Failed)
    assert world.now_s == 0


def test_sources_that_come_late_are_used() -> None:
    world = World(BLOB, fourteen())
    it = world.read(found=world.sources()[:6], ends=False, stop_s=1.0)
    assert not it.is_over
    it.on_sources(world.sources(), now_s=1.0)
    world.run(it)
    assert bytes(world.got) == BLOB.data


def test_a_forged_manifest_is_refused_and_another_asked() -> None:
    remotes = fourteen()
    remotes[0].manners, remotes[0].rtt_s = "forger", 0.01
    world = World(BLOB, remotes)
    it = world.read()
    assert bytes(world.got) == BLOB.data
    assert Liar(remotes[0].key, None) in world.seen
    assert list(it.liars) == [remotes[0].key]


def test_a_mute_holder_of_the_manifest_is_not_waited_for() -> None:
    remotes = fourteen()
    remotes[0].manners, remotes[0].rtt_s = "mute", 0.01
    world = World(BLOB, remotes)
    world.read(600_000, 650_000)
    assert bytes(world.got) == BLOB.data[600_000:650_000]
    assert world.now_s < 0.6


def test_a_known_manifest_is_not_asked_for() -> None:
    world = World(BLOB, fourteen())
    it = Gather(BLOB.manifest.cid, start=0, stop=10, now_s=0, manifest=BLOB.manifest)
    it.on_sources(world.sources(), now_s=0)
    world.run(it)
    assert bytes(world.got) == BLOB.data[:10]
    assert not any(isinstance(e, gather.AskManifest) for e in world.seen)


def test_slow_holders_of_data_are_passed_over_for_faster_parity() -> None:
    remotes = fourteen()
    for number in (2, 5):
        remotes[number].rtt_s = 1.0
    world = World(BLOB, remotes)
    world.read(config=GatherConfig(ahead=1))
    assert bytes(world.got) == BLOB.data
    assert remotes[2].asked + remotes[5].asked == 0
    assert world.now_s < 2.5


def test_a_read_over_a_thin_line_ends_well() -> None:
    world = World(BLOB, [Remote(n, (n,), "thin") for n in range(14)])
    world.read()
    assert bytes(world.got) == BLOB.data


def test_holders_that_drip_are_no_progress() -> None:
    world = World(BLOB, [Remote(n, (n,), "dripping") for n in range(14)])
    world.read()
    assert isinstance(world.outcome, Failed)
    assert isinstance(world.outcome.error, TimedOut)
    assert 30.0 <= world.now_s < 35.0


def test_a_line_that_stands_still_is_given_up() -> None:
    world = World(BLOB, [Remote(n, (n,), "mute") for n in range(14)])
    it = Gather(BLOB.manifest.cid, now_s=0, manifest=BLOB.manifest)
    it.on_sources(world.sources(), now_s=0)
    it.on_lookup_over(now_s=0)
    world.run(it)
    assert isinstance(world.outcome, Failed)
    assert world.now_s < 30.0


def test_what_is_held_is_bounded_when_the_reader_is_slow() -> None:
    world = World(BLOB, fourteen(), taking_s=50.0)
    it = world.read(stop_s=49.0)
    assert len(world.got) == 4 * 2_621_440
    assert len(world.blocks_asked()) == 40
    assert not it.is_over
    world.run(it)
    assert bytes(world.got) == BLOB.data


def test_a_read_goes_on_from_where_it_broke_off() -> None:
    world = World(BLOB, fourteen(), taking_s=0.2)
    it = world.read(1_000, stop_s=0.5)
    assert 0 < len(world.got) < SIZE
    before = len(world.got)
    world.read(it.position)
    assert it.position == 1_000 + before
    assert bytes(world.got) == BLOB.data[1_000:]


def test_who_is_known_to_be_absent_is_not_asked_and_not_waited_for() -> None:
    absent = (0, 11)
    world = World(BLOB, fourteen(bad=dict.fromkeys(absent, "mute")))
    it = Gather(
        BLOB.manifest.cid, now_s=0, manifest=BLOB.manifest, shares=(0,),
        absent=[bytes([number + 1]) * 32 for number in absent],
    )  # fmt: skip
    it.on_sources(world.sources(), now_s=0)
    it.on_lookup_over(now_s=0)
    world.run(it)
    assert bytes(world.got) == b"".join(
        BLOB.blocks[0, index] for index in range(BLOB.manifest.geometry.stripe_count)
    )
    assert [world.remotes[bytes([number + 1]) * 32].asked for number in absent] == [0, 0]
    assert it.hedged == 0


def test_the_stripes_after_the_first_four_are_begun_two_at_a_time() -> None:
    world = World(BLOB, fourteen())
    begun: list[set[int]] = []
    it = Gather(BLOB.manifest.cid, now_s=0, manifest=BLOB.manifest)
    it.on_sources(world.sources(), now_s=0)
    take = it.take_effects

    def noted() -> list[gather.Effect]:
        effects = take()
        asked = {e.stripe_index for e in effects if isinstance(e, gather.AskBlock)}
        begun.extend([asked] if asked else [])
        return effects

    it.take_effects = noted  # type: ignore[method-assign]
    world.run(it)
    assert bytes(world.got) == BLOB.data
    assert begun == [{0, 1, 2, 3}, {4, 5}]


def test_few_nodes_with_many_shares_will_do() -> None:
    remotes = [
        Remote(0, tuple(range(10))),
        Remote(1, tuple(range(4, 14)), "wrong"),
        Remote(2, (9,)),
    ]
    world = World(BLOB, remotes)
    world.read()
    assert bytes(world.got) == BLOB.data


def test_nothing_for_half_a_minute_is_an_end() -> None:
    world = World(BLOB, fourteen(bad=dict.fromkeys(range(9), "mute")))
    world.read(ends=False, config=GatherConfig(lookup_s=500.0))
    assert isinstance(world.outcome, Failed)
    assert isinstance(world.outcome.error, TimedOut)
    assert world.now_s < 45


def test_more_sources_than_the_bound_are_left_out() -> None:
    it = Gather(BLOB.manifest.cid, now_s=0)
    it.on_sources([Source(n.to_bytes(32, "big"), (0,)) for n in range(SOURCES_MAX + 5)], now_s=0)
    assert (len(it.sources.peers), it.sources.dropped) == (SOURCES_MAX, 5)


def test_what_was_not_asked_for_changes_nothing() -> None:
    world = World(BLOB, fourteen())
    it = world.read(stop_s=0.06)
    key = world.sources()[0].key
    it.on_block(key, 12, 0, b"x", now_s=0.06)
    it.on_block(b"?", 0, 0, b"x", now_s=0.06)
    it.on_manifest(key, b"x", now_s=0.06)
    it.on_lost(b"?", now_s=0.06)
    it.on_decoded(77, {}, now_s=0.06)
    world.run(it)
    assert bytes(world.got) == BLOB.data
    assert it.liars == {}


def test_who_never_answered_is_waited_for_as_long_as_the_others_take() -> None:
    world = World(BLOB, fourteen(bad={0: "mute"}, rtt_s=0.01))
    unknown = [Source(source.key, source.shares, rtt_s=1.0) for source in world.sources()]
    world.read(0, 2_621_440, found=unknown)
    assert bytes(world.got) == BLOB.data[:2_621_440]
    assert world.now_s < 0.5, "not the two seconds that a node of unknown speed is given"


def test_added_shares_are_read_with_their_roots_and_never_without() -> None:
    blob, roots = with_added(BLOB, 3)
    nodes = [Remote(n, (n,)) for n in (*range(1, 8), 11, 14, 16)]
    world = World(blob, nodes)
    world.read(added=roots)
    assert isinstance(world.outcome, gather.Done)
    assert bytes(world.got) == BLOB.data
    alone = World(blob, nodes)
    alone.read()
    assert isinstance(alone.outcome, Failed)
    assert isinstance(alone.outcome.error, SharesOutOfReach)
    assert max(each.share for each in alone.blocks_asked()) < 14
    wrong = World(blob, nodes)
    wrong.read(added=[bytes(32)] * 3)
    assert isinstance(wrong.outcome, Failed)
    assert {each.key for each in wrong.seen if isinstance(each, Liar)} <= {
        node.key for node in nodes if node.number >= 14
    }


def test_parity_to_be_added_is_made_from_ten_and_not_asked_for() -> None:
    blob, _ = with_added(BLOB, 2)
    world = World(blob, [*fourteen(), Remote(14, (14, 15))])
    it = Gather(BLOB.manifest.cid, now_s=0.0, manifest=BLOB.manifest, shares=(14, 15))
    it.on_sources(world.sources(), now_s=0.0)
    it.on_lookup_over(now_s=0.0)
    world.run(it)
    assert isinstance(world.outcome, gather.Done)
    stripes = range(BLOB.manifest.geometry.stripe_count)
    assert bytes(world.got) == b"".join(
        blob.blocks[share, index] for index in stripes for share in (14, 15)
    )
    assert max(each.share for each in world.blocks_asked()) < 14


@pytest.mark.parametrize("lost", [3, 12])
def test_a_repair_computes_no_data_block_that_somebody_has(lost: int) -> None:
    remotes = [each for each in fourteen() if lost not in each.shares]
    for each in remotes:
        if max(each.shares) >= 10:
            each.rtt_s *= 0.8  # parity is nearer
    world = World(BLOB, remotes)
    it = Gather(BLOB.manifest.cid, now_s=0.0, manifest=BLOB.manifest, shares=(lost,))
    it.on_sources(world.sources(), now_s=0.0)
    it.on_lookup_over(now_s=0.0)
    world.run(it)
    assert bytes(world.got) == b"".join(
        BLOB.blocks[lost, index] for index in range(BLOB.manifest.geometry.stripe_count)
    )
    decoded = [e for e in world.seen if isinstance(e, gather.Decode)]
    assert decoded
    for e in decoded:
        there = {share for share in range(10) if e.stripe.size_of(share)} - {lost}
        assert there <= set(e.blocks)


def test_a_blob_whose_parity_is_another_ones_is_never_given_whole_by_it() -> None:
    """Who coded it wrongly meant different readers to get different bytes."""
    other = coded(SIZE, seed=2)
    parity = range(10, 14)
    blocks = BLOB.blocks | {at: other.blocks[at] for at in other.blocks if at[0] in parity}
    leaves = (*BLOB.leaves[:10], *other.leaves[10:])
    roots = tuple(map(share_root, leaves))
    forged = Coded(BLOB.data, Manifest(SIZE, roots, BLOB.manifest.content), blocks, leaves)
    direct = World(forged, fourteen())
    direct.read()
    assert bytes(direct.got) == BLOB.data
    decoding = World(forged, fourteen(bad={3: "lost"}))
    decoding.read()
    assert isinstance(decoding.outcome, Failed)
    assert isinstance(decoding.outcome.error, BlobDamaged)
    assert len(decoding.got) < SIZE, "the last stripe is held back"


def test_a_part_of_a_blob_of_one_stripe_is_checked_when_it_was_decoded() -> None:
    blob, other = coded(1_000_000), coded(1_000_000, seed=2)
    blocks = blob.blocks | {at: other.blocks[at] for at in other.blocks if at[0] >= 10}
    leaves = (*blob.leaves[:10], *other.leaves[10:])
    manifest = Manifest(1_000_000, tuple(map(share_root, leaves)), blob.manifest.content)
    world = World(Coded(blob.data, manifest, blocks, leaves), fourteen(bad={0: "lost"}))
    world.read(10, 20)
    assert isinstance(world.outcome, Failed)
    assert isinstance(world.outcome.error, BlobDamaged)
    assert not world.got
