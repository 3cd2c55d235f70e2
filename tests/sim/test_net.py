"""The network's models do what they say: delays, loss, boxes, addresses, partitions."""

from itertools import pairwise
from statistics import median

import pytest

from molia.sim.delays import CLEAN, PathConfig
from molia.sim.nat import Kind
from molia.sim.net import Net, Seat
from molia.sim.places import zipf_exponent, zipf_weights
from molia.sim.world import World
from molia.wire.addresses import Address, is_local, is_unicast, pack_host


class Ear:
    """Hears datagrams, and when they came."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.heard: list[tuple[float, bytes, Address]] = []

    def on_datagram(self, data: bytes, source: Address) -> None:
        self.heard.append((self.world.time_s, data, source))


def net_of(count: int, path: PathConfig = CLEAN, seed: int = 3) -> tuple[Net, list[Seat]]:
    net = Net(World(seed), path, expected=count)
    seats = [net.seat(index) for index in range(count)]
    for seat in seats:
        seat.host = Ear(net.world)
    return net, seats


def ear(seat: Seat) -> Ear:
    assert isinstance(seat.host, Ear)
    return seat.host


@pytest.mark.parametrize("model", ["plane", "lognormal"])
@pytest.mark.parametrize("median_s", [0.076, 0.159])
def test_the_median_round_trip_is_the_wanted_one(model: str, median_s: float) -> None:
    net, seats = net_of(150, PathConfig(model=model, rtt_median_s=median_s))
    drawn = [net.rtt_s(a, b) for i, a in enumerate(seats) for b in seats[:i:7]]
    assert median(drawn) == pytest.approx(median_s, rel=0.15)


def test_a_pair_has_the_same_delay_both_ways_and_jitter_around_it() -> None:
    net, (a, b, *_) = net_of(10)
    for _ in range(200):
        net.send(a, [b"to"], b.address)
    net.world.run(2.0)
    times = [when for when, _, _ in ear(b).heard]
    assert net.rtt_s(a, b) == net.rtt_s(b, a)
    assert median(times) == pytest.approx(net.rtt_s(a, b) / 2, rel=0.03)
    assert max(times) > 1.05 * min(times)


def test_loss_is_a_percent_and_comes_in_bursts() -> None:
    path = PathConfig(reordered=0.0, copied=0.0)
    net, (a, b, *_) = net_of(4, path)
    for step in range(40_000):
        net.send(a, [step.to_bytes(4, "big")], b.address)
        net.world.run(0.005)
    net.world.run(1.0)
    came = {int.from_bytes(data, "big") for _, data, _ in ear(b).heard}
    lost = [step for step in range(40_000) if step not in came]
    assert path.loss == pytest.approx(0.01, rel=0.02)
    assert len(lost) / 40_000 == pytest.approx(path.loss, rel=0.35)
    close = sum(later - step < 20 for step, later in pairwise(lost))
    assert close > 0.3 * len(lost), "even loss would put one in five so close together"


def test_some_packets_overtake_and_some_come_twice() -> None:
    net, (a, b, *_) = net_of(4, PathConfig(even_loss=0, burst_loss=0, jitter=0.0))
    for step in range(8_000):
        net.send(a, [step.to_bytes(4, "big")], b.address)
        net.world.run(0.001)
    net.world.run(1.0)
    order = [int.from_bytes(data, "big") for _, data, _ in ear(b).heard]
    assert 2 <= len(order) - 8_000 <= 25
    assert sum(a > b for a, b in pairwise(order)) > 20


def boxed(kind: Kind) -> tuple[Net, Seat, Seat, Seat]:
    net, (friend, stranger) = net_of(2)
    inner = net.seat(9, kind=kind)
    inner.host = Ear(net.world)
    return net, inner, friend, stranger


def heard_source(net: Net, inner: Seat, at: Seat) -> Address | None:
    ear(at).heard.clear()
    net.send(inner, [b"out"], at.address)
    net.world.run(1.0)
    return ear(at).heard[0][2] if ear(at).heard else None


def gets_in(net: Net, seat: Seat, target: Address, inner: Seat) -> bool:
    ear(inner).heard.clear()
    net.send(seat, [b"in"], target)
    net.world.run(1.0)
    return bool(ear(inner).heard)


def test_a_full_cone_lets_everyone_in_once_it_is_open() -> None:
    net, inner, friend, stranger = boxed(Kind.FULL_CONE)
    outer = heard_source(net, inner, friend)
    assert outer is not None
    assert outer != inner.address
    assert gets_in(net, stranger, outer, inner)
    net.world.run(120.0)
    assert not gets_in(net, friend, outer, inner), "the mapping is forgotten"


def test_a_port_restricted_box_lets_in_whom_the_node_wrote_to() -> None:
    net, inner, friend, stranger = boxed(Kind.PORT_RESTRICTED)
    outer = heard_source(net, inner, friend)
    assert outer is not None
    assert gets_in(net, friend, outer, inner)
    assert not gets_in(net, stranger, outer, inner)
    assert heard_source(net, inner, stranger) == outer, "one port for all"


def test_a_symmetric_box_has_a_port_for_each_target() -> None:
    net, inner, friend, stranger = boxed(Kind.SYMMETRIC)
    first, second = heard_source(net, inner, friend), heard_source(net, inner, stranger)
    assert first is not None
    assert second is not None
    assert first != second
    assert not gets_in(net, stranger, first, inner)
    assert gets_in(net, friend, first, inner)


def test_nothing_gets_out_where_udp_is_blocked() -> None:
    net, inner, friend, _ = boxed(Kind.BLOCKED)
    assert heard_source(net, inner, friend) is None


def test_five_operators_hold_half_and_addresses_are_public_and_distinct() -> None:
    weights = zipf_weights(400, zipf_exponent(400, top=5, share=0.5))
    assert sum(weights[:5]) == pytest.approx(0.5)
    net, seats = net_of(1_000)
    packed = [pack_host(seat.address[0]) for seat in seats]
    assert len(set(packed)) == 1_000
    assert all(p is not None and is_unicast(p) and not is_local(p) for p in packed)
    assert net.places.top_share == pytest.approx(0.5, abs=0.05)
    assert 400 < len(net.places.per_24) < 900


def test_a_partition_keeps_the_sides_apart_until_it_heals() -> None:
    net, (a, b, *_) = net_of(2)
    b.side, net.parted = 1, True
    net.send(a, [b"over"], b.address)
    net.world.run(1.0)
    assert not ear(b).heard
    net.parted = False
    net.send(a, [b"over"], b.address)
    net.world.run(1.0)
    assert len(ear(b).heard) == 1
    assert net.counters.parted == 1


def test_a_datagram_is_in_the_trace_whether_it_arrives_or_not() -> None:
    net, (a, b, *_) = net_of(2)
    b.host = None
    net.send(a, [b"x", b"yy"], b.address)
    net.send(a, [b"z"], ("200.1.1.1", 9))
    assert (net.world.trace.count, net.world.trace.size_bytes) == (3, 4)
    assert net.counters.to_nobody == 3
