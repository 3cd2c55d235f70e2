"""Figures of streams without a socket: CPU for each packet, and goodput in virtual time.

The AEAD and the system calls are not in the figures: 3.5 us for each packet and side in all leave
1.3 us for what is measured here. The limit beside it is one seal of the same bytes.
"""

import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from molia.sim.entropy import SeededEntropy
from molia.wire.channel import Channel, ChannelConfig
from molia.wire.congestion import CONTROLLERS
from tests.bench import limits
from tests.bench.report import Figure, against_limit, against_number
from tests.wire.path import Link, Transfer, World

DATAGRAM = 1376
PIECE = bytes(1 << 18)
FEED_BYTES = 1 << 20


def bench_wire_streams(folder: Path, scale: float) -> Iterator[Figure]:
    """All figures of streams."""
    del folder
    for burst in (47, 16):
        sends, receives, seals = [], [], []
        for _ in range(3):
            send_us, receive_us = packet_cost(burst, max(1 << 20, int((96 << 20) * scale)))
            sends.append(send_us)
            receives.append(receive_us)
            seals.append(limits.seal_us(DATAGRAM - 32))
        seal_us = statistics.median(seals)
        # A burst of 47 is what a pump asks for under load; small ones share their fixed cost less.
        demand_us = 1.3 if burst == 47 else 2.0
        for side, costs in (("sending", sends), ("receiving", receives)):
            yield against_number(
                f"streams, {side}, bursts of {burst}", statistics.median(costs),
                "us CPU/packet", seal_us, at_most=demand_us,
            )  # fmt: skip
    yield from goodput_under_loss(scale)
    yield loopback_rate(scale)
    yield idle_size()


def packet_cost(burst: int, total: int) -> tuple[float, float]:
    """Return CPU us a packet of the sender and of the receiver, everything they do counted."""
    config = ChannelConfig(udp_payload_max_bytes=DATAGRAM)
    left, right = (
        Channel(config, initiator=initiator, entropy=SeededEntropy(1), now_s=0.0)
        for initiator in (True, False)
    )
    stream = left.open_stream()
    assert stream is not None
    clock, now_s, got, packets = time.thread_time, 0.0, 0, 0
    send_s = receive_s = 0.0
    acks: list[bytes] = []
    while got < total:
        now_s += 1e-4
        begun_s = clock()
        left.on_payloads(acks, now_s)
        left.take_events()
        if left.buffered < FEED_BYTES:
            left.write(stream, PIECE)
        left.next_deadline_s()
        payloads = left.take_payloads(now_s, burst)
        between_s = clock()
        right.on_payloads(payloads, now_s)
        right.take_events()
        got += len(right.read(stream, 1 << 20))
        right.next_deadline_s()
        acks = right.take_payloads(now_s, burst)
        receive_s += clock() - between_s
        send_s += between_s - begun_s
        packets += len(payloads)
    assert left.broken is None
    assert right.broken is None
    return send_s / packets * 1e6, receive_s / packets * 1e6


def model_goodput(name: str, *, mss: int, rtt_s: float, loss: float) -> float:
    """Return bytes a second of the published response function.

    newreno: Mathis, Semke, Mahdavi and Ott 1997, sqrt(3/2). cubic: the larger of the function in
    RFC 9438 5.1, with C = 0.4 and beta = 0.7, and of Reno's, which 4.3 promises.
    """
    reno = math.sqrt(1.5 / loss) * mss / rtt_s
    if name == "newreno":
        return reno
    window = math.pow(0.4 * 3.7 / (4 * 0.3), 0.25) * math.pow(rtt_s / loss, 0.75)
    return max(reno, window * mss / rtt_s)


def goodput(name: str, *, seed: int, loss: float, rtt_s: float, for_s: float) -> tuple[float, int]:
    """Return bytes a second delivered in virtual time, and the bytes of a packet."""
    world = World(seed)
    config = ChannelConfig(congestion=name)
    links = Link(delay_s=rtt_s / 2, loss=loss), Link(delay_s=rtt_s / 2)
    left, right = world.join(*links, config)
    size = 3 * int((10 + for_s) * model_goodput(name, mss=1417, rtt_s=rtt_s, loss=loss))
    transfer = Transfer(world, left, right, bytes(size))
    world.run(10.0)  # slow start is over
    begun = transfer.got
    world.run(10.0 + for_s)
    assert transfer.done_s is None
    return (transfer.got - begun) / for_s, left.channel.max_payload - 23


def goodput_under_loss(scale: float) -> Iterator[Figure]:
    """Goodput at 1% loss and 50 ms beside the model of each controller."""
    for_s = max(20.0, 200 * scale)
    for name in sorted(CONTROLLERS):
        rate, mss = goodput(name, seed=1, loss=0.01, rtt_s=0.05, for_s=for_s)
        model = model_goodput(name, mss=mss, rtt_s=0.05, loss=0.01)
        yield against_limit(
            f"goodput at 1% loss, 50 ms, {name}, beside the model", rate / 1e3, "kB/s",
            model / 1e3, at_least=0.7,
        )  # fmt: skip


def loopback_rate(scale: float) -> Figure:
    """What windows and pacing let through on a path of 0.4 ms, with timers of a millisecond."""
    world = World(1)
    world.tick_s = 0.001
    left, right = world.join(Link(delay_s=0.0002), Link(delay_s=0.0002))
    size = max(20_000_000, int(100_000_000 * scale))
    transfer = Transfer(world, left, right, bytes(size))
    world.run(60.0, lambda: transfer.done_s is not None)
    return against_number(
        "rate that windows and pacing allow at 0.4 ms", transfer.goodput / 1e6, "MB/s", None,
        at_least=200,
    )  # fmt: skip


def idle_size() -> Figure:
    """Bytes of a channel that has nothing to do."""
    entropy = SeededEntropy(1)
    config = ChannelConfig()
    size = limits.bytes_of(
        lambda: Channel(config, initiator=True, entropy=entropy, now_s=0.0), count=200
    )
    return against_number("memory of an idle channel", size / 1024, "KiB", None, at_most=8)
