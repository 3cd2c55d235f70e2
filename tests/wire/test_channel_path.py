"""A channel over bad paths: every byte arrives, at a fair rate, whatever the path does."""

import random

import pytest

from molia.base.limits import UDP_PAYLOAD_BASE
from molia.wire.channel import SEAL_OVERHEAD, ChannelConfig
from molia.wire.congestion import CONTROLLERS
from molia.wire.stream_frames import Fault
from tests.bench.bench_wire_streams import goodput, model_goodput
from tests.wire.path import OVERHEAD, Link, Transfer, World

BASE_PAYLOAD = UDP_PAYLOAD_BASE - SEAL_OVERHEAD
FULL_PAYLOAD = 1500 - OVERHEAD


def content(size: int, seed: int = 7) -> bytes:
    """Return bytes that no shift of themselves equals."""
    return random.Random(seed).randbytes(size)


def bad_link(rng: random.Random) -> Link:
    """Return a path with some of every fault."""
    return Link(
        delay_s=rng.uniform(0.005, 0.15), jitter_s=rng.choice((0.0, 0.002, 0.04)),
        loss=rng.choice((0.0, 0.01, 0.05)), burst_loss=rng.choice((0.0, 0.002)),
        double=rng.choice((0.0, 0.05)), rate=rng.choice((float("inf"), 2e6)), queue_bytes=60_000,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_every_byte_arrives_over_every_bad_path(seed: int) -> None:
    """Both ways at once, on a path of 10 to 300 ms that loses, doubles and reorders."""
    world = World(seed)
    left, right = world.join(bad_link(world.rng), bad_link(world.rng))
    transfers = [
        Transfer(world, left, right, content(200_000)),
        Transfer(world, right, left, content(150_000)),
        Transfer(world, left, right, content(1)),
    ]
    assert world.run(600.0, lambda: all(t.done_s is not None for t in transfers))
    world.run(world.now_s + 60)
    assert (left.channel.stream_count, right.channel.stream_count) == (0, 0)
    assert left.channel.buffered == right.channel.buffered == 0


@pytest.mark.parametrize("delay_s", [0.005, 0.15])
def test_a_clean_path_loses_nothing_and_needs_few_round_trips(delay_s: float) -> None:
    world = World(1)
    left, right = world.join(Link(delay_s=delay_s), Link(delay_s=delay_s))
    transfer = Transfer(world, left, right, content(1_000_000))
    assert world.run(60.0, lambda: transfer.done_s is not None)
    assert left.channel.lost_count == 0
    assert transfer.done_s is not None
    assert transfer.done_s <= 10 * 2 * delay_s, "slow start from ten packets: seven round trips"


def test_reordering_alone_costs_little() -> None:
    world = World(2)
    link = Link(delay_s=0.02, jitter_s=0.01)
    left, right = world.join(link, Link(delay_s=0.02))
    transfer = Transfer(world, left, right, content(2_000_000))
    assert world.run(60.0, lambda: transfer.done_s is not None)
    assert transfer.goodput > 500_000
    assert link.passed < 1.3 * 2_000_000 / BASE_PAYLOAD, "few packets are sent twice"


@pytest.mark.parametrize("name", sorted(CONTROLLERS))
def test_a_bottleneck_that_shrinks_and_widens_is_followed(name: str) -> None:
    world = World(3)
    link = Link(delay_s=0.02, rate=1e6, queue_bytes=40_000)
    left, right = world.join(link, Link(delay_s=0.02), ChannelConfig(congestion=name))
    transfer = Transfer(world, left, right, content(12_000_000))
    shares: list[float] = []
    for rate in (1e6, 2e5, 6e5):
        link.rate = rate
        world.run(world.now_s + 2)
        before = transfer.got
        world.run(world.now_s + 4)
        shares.append((transfer.got - before) / 4 / rate)
    assert all(0.7 < share <= 1.0 for share in shares), shares
    assert link.dropped < 0.05 * link.passed


@pytest.mark.parametrize("name", sorted(CONTROLLERS))
def test_two_flows_share_a_bottleneck_fairly(name: str) -> None:
    """Jain's index over the second half of a minute; the later flow starts 2 s after the first."""
    world = World(4)
    shared = Link(delay_s=0.02, rate=2e5, queue_bytes=15_000)
    config = ChannelConfig(congestion=name)
    flows: list[Transfer] = []
    for _ in range(2):
        left, right = world.join(shared, Link(delay_s=0.02), config)
        flows.append(Transfer(world, left, right, content(12_000_000)))
        world.run(world.now_s + 2)
    world.run(30.0)
    before = [flow.got for flow in flows]
    world.run(60.0)
    rates = [flow.got - start for flow, start in zip(flows, before, strict=True)]
    jain = sum(rates) ** 2 / (2 * sum(rate * rate for rate in rates))
    assert jain > 0.9, rates
    assert sum(rates) / 30 > 0.85 * 2e5


def test_the_default_outruns_newreno_on_a_fast_long_path_after_a_loss() -> None:
    """Why CUBIC is the default: one burst of losses in a flow of 5 MB/s at 100 ms."""
    times = {}
    for name in CONTROLLERS:
        world = World(5)
        link = Link(delay_s=0.05, rate=5e6, queue_bytes=100_000)
        left, right = world.join(link, Link(delay_s=0.05), ChannelConfig(congestion=name))
        transfer = Transfer(world, left, right, content(12_000_000))
        world.run(1.0)
        link.left_to_lose = 3
        assert world.run(60.0, lambda done=transfer: done.done_s is not None)  # type: ignore[misc]
        assert transfer.done_s is not None
        times[name] = transfer.done_s
    assert times[ChannelConfig().congestion] <= times["newreno"]


def test_a_larger_datagram_is_found_while_data_flows() -> None:
    for mtu, expected in ((1500, 1440), (1400, 1400 - OVERHEAD), (1260, BASE_PAYLOAD)):
        world = World(6)
        left, right = world.join(Link(mtu=mtu), Link(mtu=mtu))
        transfer = Transfer(world, left, right, content(3_000_000))
        assert left.channel.max_payload == BASE_PAYLOAD
        assert world.run(60.0, lambda done=transfer: done.done_s is not None)  # type: ignore[misc]
        assert expected - 16 < left.channel.max_payload <= expected
        assert left.channel.lost_count == 0, "a lost probe is no loss"


def test_a_black_hole_for_large_packets_is_survived() -> None:
    world = World(7)
    link = Link()
    left, right = world.join(link, Link())
    transfer = Transfer(world, left, right, content(12_000_000))
    world.run(0.5)
    assert left.channel.max_payload == FULL_PAYLOAD
    link.mtu = 1300
    assert world.run(60.0, lambda: transfer.done_s is not None)
    assert left.channel.max_payload == BASE_PAYLOAD
    assert transfer.done_s is not None
    assert transfer.done_s < 15.0


def test_losses_of_large_packets_among_others_are_no_black_hole() -> None:
    world = World(8)
    left, right = world.join(Link(loss=0.03, burst_loss=0.001), Link())
    transfer = Transfer(world, left, right, content(2_000_000))
    assert world.run(200.0, lambda: transfer.done_s is not None)
    assert left.channel.max_payload == FULL_PAYLOAD


def test_an_outage_is_survived_and_a_dead_path_given_up() -> None:
    world = World(9)
    links = Link(), Link()
    left, right = world.join(*links)
    transfer = Transfer(world, left, right, content(10_000_000))
    world.run(0.4)
    for link in links:
        link.loss = 1.0
    world.run(5.0)
    sent = links[0].dropped
    for link in links:
        link.loss = 0.0
    assert world.run(30.0, lambda: transfer.done_s is not None)
    again = Transfer(world, left, right, content(10_000_000))
    world.run(world.now_s + 0.2)
    links[0].loss = links[1].loss = 1.0
    world.run(world.now_s + 120.0)
    assert left.channel.broken == Fault.TIMED_OUT
    assert again.done_s is None
    assert sent < 2_000, "probes get rarer"
    assert left.channel.next_deadline_s() is None


def test_probes_during_an_outage_get_rarer() -> None:
    world = World(10)
    link = Link()
    left, right = world.join(link, Link())
    Transfer(world, left, right, content(10_000_000))
    world.run(0.4)
    link.loss = 1.0
    world.run(1.0)
    dropped = link.dropped
    world.run(25.0)
    assert link.dropped - dropped <= 2 * 12


def test_a_peer_that_moves_gets_a_new_window_and_loses_nothing() -> None:
    world = World(11)
    link = Link(delay_s=0.01)
    left, right = world.join(link, Link(delay_s=0.01))
    transfer = Transfer(world, left, right, content(8_000_000))
    world.run(0.2)
    assert left.channel.window > 200_000
    link.delay_s = 0.15
    for end in (left, right):
        end.channel.on_path_changed(world.now_s)
    assert left.channel.window == 12_000
    assert left.channel.max_payload == BASE_PAYLOAD
    assert world.run(30.0, lambda: transfer.done_s is not None)
    assert left.channel.rtt_s > 0.15


def test_numbers_left_out_do_not_pile_up_in_acknowledgements() -> None:
    sizes: list[int] = []

    class Watched(Link):
        def arrivals(self, size: int, now_s: float, rng: random.Random) -> list[float]:
            sizes.append(size)
            return super().arrivals(size, now_s, rng)

    world = World(12)
    left, right = world.join(Link(), Watched())
    transfer = Transfer(world, left, right, content(12_000_000))
    assert world.run(30.0, lambda: transfer.done_s is not None)
    assert max(sizes) < 200
    assert sum(sizes) / len(sizes) < 90


@pytest.mark.parametrize("seed", [1, 2])
def test_one_seed_gives_one_trace(seed: int) -> None:
    def trace(seed: int) -> str:
        world = World(seed)
        left, right = world.join(bad_link(world.rng), bad_link(world.rng))
        transfer = Transfer(world, left, right, content(100_000))
        assert world.run(600.0, lambda: transfer.done_s is not None)
        return world.trace.hexdigest()

    assert trace(seed) == trace(seed)
    assert trace(seed) != trace(seed + 100)


@pytest.mark.parametrize("name", sorted(CONTROLLERS))
def test_goodput_under_random_loss_is_near_the_published_model(name: str) -> None:
    """1% loss, 50 ms: Mathis et al. for NewReno, RFC 9438 for CUBIC (in its Reno-friendly part)."""
    rate, packet = goodput(name, seed=14, loss=0.01, rtt_s=0.05, for_s=40.0)
    assert rate >= 0.7 * model_goodput(name, mss=packet, rtt_s=0.05, loss=0.01)
