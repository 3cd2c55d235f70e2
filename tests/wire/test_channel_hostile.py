"""A peer that breaks the rules ends its channel, and costs no more than the bounds say."""

import random
import time
import tracemalloc
from collections.abc import Callable

import hypothesis.strategies as st
import pytest
from hypothesis import given

from molia.base.limits import (
    ACK_RANGES_MAX,
    CHANNEL_EVENTS_MAX,
    CHANNEL_WINDOW_START,
    PIECE_DROPS_MAX,
    PIECES_MAX,
    STREAM_WINDOW_START,
    STREAMS_MAX,
)
from molia.sim.entropy import SeededEntropy
from molia.wire import stream_frames as frames
from molia.wire.channel import Channel, ChannelConfig
from molia.wire.stream_events import Broken
from molia.wire.stream_frames import END, Fault
from tests.wire.path import Link, Transfer, World


def channel(seed: int = 1) -> Channel:
    """Return a responder that has written on one stream of its own and sent it."""
    made = Channel(ChannelConfig(), initiator=False, entropy=SeededEntropy(seed), now_s=0.0)
    stream = made.open_stream()
    assert stream == 1
    made.write(stream, bytes(5_000))
    assert len(made.take_payloads(0.0, 47)) == 5
    return made


class Liar:
    """Makes payloads as a peer that keeps to no rule."""

    def __init__(self) -> None:
        self.number = 0

    def stream(self, stream_id: int, offset: int, data: bytes) -> bytes:
        """Return a payload of one STREAM frame."""
        self.number += 1
        head = frames.STREAM_HEAD.pack(frames.STREAM, 20 + len(data), self.number - 1, stream_id,
                                       offset)  # fmt: skip
        return head + data

    def control(self, frame: bytes) -> bytes:
        """Return a payload of one numbered frame."""
        self.number += 1
        return frames.NUMBER_HEAD.pack(frames.NUMBER, 8, self.number - 1) + frame


def reset(stream_id: int, size: int) -> bytes:
    """Return a RESET frame."""
    return frames.RESET_FRAME.pack(frames.RESET, 16, stream_id, 0, size)


liar = Liar()
LIES: dict[str, tuple[Fault, Callable[[], list[bytes]]]] = {
    "bytes beyond the stream's window": (
        Fault.FLOW_CONTROL, lambda: [liar.stream(0, STREAM_WINDOW_START, b"x")]),
    "bytes beyond the channel's window": (
        Fault.FLOW_CONTROL,
        lambda: [liar.stream(2 * i, STREAM_WINDOW_START - 1, b"x")
                 for i in range(CHANNEL_WINDOW_START // STREAM_WINDOW_START + 1)]),
    "an offset near the end of all numbers": (
        Fault.FLOW_CONTROL, lambda: [liar.stream(0, END - 2, b"xyz")]),
    "a reset beyond the window": (
        Fault.FLOW_CONTROL, lambda: [liar.control(reset(0, 1 << 40))]),
    "other bytes at a place that waits": (
        Fault.BAD_DATA, lambda: [liar.stream(0, 5, b"aaa"), liar.stream(0, 6, b"ab")]),
    "bytes after the end": (
        Fault.BAD_DATA, lambda: [liar.stream(0, 5 | END, b"aaa"), liar.stream(0, 8, b"a")]),
    "an end before what came": (
        Fault.BAD_DATA, lambda: [liar.stream(0, 9, b"aaa"), liar.stream(0, END, b"a")]),
    "a reset at another size": (
        Fault.BAD_DATA, lambda: [liar.stream(0, 9, b"aaa"), liar.control(reset(0, 3))]),
    "an acknowledgement of what was never sent": (
        Fault.BAD_ACK, lambda: [frames.encode_ack([(0, 6)], delay_s=0)]),
    "an acknowledgement of everything": (
        Fault.BAD_ACK, lambda: [frames.encode_ack([(0, 1 << 63)], delay_s=0)]),
    "one stream more than allowed": (
        Fault.STREAM_LIMIT, lambda: [liar.stream(2 * STREAMS_MAX, 0, b"x")]),
    "bytes for a stream that only we may open": (
        Fault.BAD_STREAM, lambda: [liar.stream(7, 0, b"x")]),
    "credit for a stream that only we may open": (
        Fault.BAD_STREAM,
        lambda: [liar.control(frames.MAX_STREAM_DATA_FRAME.pack(30, 12, 9, 1))]),
    "an unknown even frame": (Fault.BAD_FRAME, lambda: [liar.control(b"\x2c\x00\x00")]),
    "a frame that is longer than its packet": (Fault.BAD_FRAME, lambda: [b"\x11\xff\x00"]),
    "a control frame that is too short": (Fault.BAD_FRAME, lambda: [b"\x1c\x04\x00abcd"]),
    "a second number": (
        Fault.BAD_FRAME, lambda: [liar.control(frames.NUMBER_HEAD.pack(18, 8, 9))]),
    "a number beyond all numbers": (
        Fault.BAD_FRAME, lambda: [frames.NUMBER_HEAD.pack(18, 8, 1 << 62)]),
    "a run of no packets": (Fault.BAD_FRAME, lambda: [frames.ACK_HEAD.pack(22, 16, 3, 0, 0)]),
    "a run that begins below zero": (
        Fault.BAD_FRAME, lambda: [frames.ACK_HEAD.pack(22, 16, 3, 0, 9)]),
    "a stream frame without its head": (Fault.BAD_FRAME, lambda: [b"\x10\x03\x00abc"]),
}  # fmt: skip


@pytest.mark.parametrize("lie", sorted(LIES))
def test_a_lie_ends_the_channel_with_its_reason(lie: str) -> None:
    reason, make = LIES[lie]
    target = channel()
    liar.number = 0
    target.on_payloads(make(), 0.1)
    assert target.broken == reason
    assert target.take_events()[-1] == Broken(reason)
    farewell = target.take_payloads(0.1, 47)
    assert farewell == [frames.CLOSE_FRAME.pack(frames.CLOSE, 4, reason)]
    assert target.take_payloads(0.1, 47) == []


def test_an_unknown_odd_frame_is_skipped() -> None:
    target = channel()
    target.on_payloads([Liar().control(b"\x2d\x02\x00ab")], 0.1)
    assert target.broken is None


def test_who_acknowledges_a_number_left_out_is_caught() -> None:
    target = Channel(ChannelConfig(), initiator=True, entropy=SeededEntropy(4), now_s=0.0)
    stream = target.open_stream()
    assert stream is not None
    now_s = 0.0
    for _ in range(2_000):
        now_s += 0.01
        target.write(stream, bytes(2_000))
        target.take_events()
        for payload in target.take_payloads(now_s, 47):
            if payload[0] in (frames.STREAM, frames.NUMBER):
                number = int.from_bytes(payload[3:11], "little")
                target.on_payloads([frames.encode_ack([(0, number + 1)], delay_s=0)], now_s)
        if target.broken is not None:
            break
    assert target.broken == Fault.BAD_ACK


def test_a_farewell_is_repeated_a_few_times_only() -> None:
    target = channel()
    said = 0
    for _ in range(50):
        target.on_payloads([b"\x10"], 0.1)
        said += len(target.take_payloads(0.1, 47))
    assert said == 4


def test_a_peer_that_closes_is_not_answered() -> None:
    target = channel()
    target.on_payloads([frames.CLOSE_FRAME.pack(frames.CLOSE, 4, 3)], 0.1)
    assert target.broken == Fault.CLOSED
    target.on_payloads([b"\x10"], 0.1)
    assert target.take_payloads(0.1, 47) == []


def test_endless_gaps_cost_bounded_memory_and_end_the_channel() -> None:
    target, peer = channel(), Liar()
    places = [(2 * (at % 4), 1 + 2 * at) for at in range(PIECES_MAX + 1_000)]
    payloads = [peer.stream(stream, at, b"x") for stream, at in places]
    tracemalloc.start()
    target.on_payloads(payloads, 0.1)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert target._streams.waiting == PIECES_MAX
    assert held < 6 * 1024 * 1024
    more = [peer.stream(0, 1 + 2 * at, b"x") for at in range(PIECES_MAX + 1, 3 * PIECES_MAX)]
    while target.broken is None:
        target.on_payloads(more, 0.1)
        assert peer.number < 10 * PIECE_DROPS_MAX
    assert target.broken == Fault.GAPS


def test_packets_whose_pieces_were_dropped_are_not_acknowledged() -> None:
    target, peer = channel(), Liar()
    for at in range(PIECES_MAX):
        target.on_payloads([peer.stream(0, 1 + 2 * at, b"x")], 0.1)
    target.take_payloads(0.2, 47)
    target.on_payloads([peer.stream(2, 1, b"x")], 0.3)
    assert target.take_payloads(0.4, 47) == []


def tiny_streams(target: Channel, peer: Liar, count: int, *, take_events: bool) -> int:
    """Open and abandon streams one by one; return how many the target took."""
    stop = frames.STOP_FRAME.size - frames.FRAME_HEAD_SIZE
    for index in range(count):
        now_s = 0.1 + index / 100
        both = reset(2 * index, 0) + frames.STOP_FRAME.pack(frames.STOP, stop, 2 * index, 0)
        target.on_payloads([peer.control(both)], now_s)
        if target.broken is not None:
            return index
        assert target.stream_count <= STREAMS_MAX + 1
        if take_events:
            target.take_events()
        for payload in target.take_payloads(now_s, 47):
            if payload[0] in (frames.STREAM, frames.NUMBER):
                number = int.from_bytes(payload[3:11], "little")
                ack = frames.encode_ack([(number, number + 1)], delay_s=0)
                target.on_payloads([ack], now_s)
    return count


def test_tiny_streams_are_never_many_at_once() -> None:
    assert tiny_streams(channel(), Liar(), 3_000, take_events=True) == 3_000


def test_who_opens_more_than_the_owner_hears_of_is_cut() -> None:
    target = channel()
    assert tiny_streams(target, Liar(), 3_000, take_events=False) == STREAMS_MAX
    assert target.broken == Fault.STREAM_LIMIT
    assert len(target._streams.events) < CHANNEL_EVENTS_MAX


def test_time_does_not_grow_with_the_square_of_the_pieces() -> None:
    """Pieces backwards, forwards, overlapping, doubled: each at most ten times the plain cost."""
    size = 6_000

    def cost(places: list[int], width: int) -> float:
        target, peer = channel(), Liar()
        payloads = [peer.stream(0, at, bytes(width)) for at in places]
        started_s = time.process_time()
        target.on_payloads(payloads, 0.1)
        took_s = time.process_time() - started_s
        assert target.broken is None
        return took_s

    plain = min(cost([4 * at for at in range(size)], 4) for _ in range(3))
    shuffled = random.Random(1).sample(range(size), size)
    for places, width in (
        ([4 * at for at in reversed(range(size))], 4),
        ([1 + 8 * at for at in range(size)], 4),
        ([4 * at for at in shuffled], 4),
        ([1 + 2 * (at % 500) for at in range(size)], 1_200),
        ([1 + 16 * at for at in shuffled], 18),
    ):
        assert cost(places, width) < 20 * plain + 0.05, (places[:4], width)


@given(data=st.lists(st.binary(max_size=60), max_size=8))
def test_any_payloads_leave_the_channel_whole_or_broken(data: list[bytes]) -> None:
    target = channel()
    target.on_payloads(data, 0.1)
    settle(target)


@given(seed=st.integers(0, 2**32), flips=st.integers(1, 6))
def test_mutated_payloads_of_a_real_talk_never_raise(seed: int, flips: int) -> None:
    rng = random.Random(seed)
    world = World(seed)
    left, right = world.join(Link(loss=0.1, jitter_s=0.02), Link(loss=0.1))
    Transfer(world, left, right, rng.randbytes(8_000))
    Transfer(world, right, left, rng.randbytes(8_000))
    seen: list[bytes] = []
    take = right.channel.on_payloads

    def mutated(payload: bytes) -> bytes:
        changed = bytearray(payload)
        for _ in range(rng.randint(1, flips)):
            place = rng.randrange(min(len(changed), rng.choice((24, 1_500))))
            changed[place] = rng.randrange(256)
        if rng.random() < 0.2:
            del changed[rng.randrange(len(changed)) :]
        return bytes(changed)

    def between(payloads: list[bytes], now_s: float) -> None:
        seen.extend(payloads)
        if rng.random() < 0.3:
            payloads = [*payloads, mutated(rng.choice(seen))]
        take(payloads, now_s)

    right.channel.on_payloads = between  # type: ignore[method-assign, assignment]
    left.owner = right.owner = lambda _now_s: None
    for end in (left, right):
        stream = end.channel.open_stream()
        assert stream is not None
        end.channel.write(stream, rng.randbytes(20_000))
    world.run(2.0)
    assert len(seen) > 5
    settle(right.channel)


def settle(target: Channel) -> None:
    """Use every door after an attack; none may raise."""
    now_s = 0.2
    for _ in range(20):
        for event in target.take_events():
            stream_id = getattr(event, "stream_id", None)
            if stream_id is not None:
                target.read(stream_id, 100)
                target.write(stream_id, b"x")
                target.stop(stream_id, 1)
                target.reset(stream_id, 1)
        while payloads := target.take_payloads(now_s, 47):
            assert all(0 < len(payload) <= 1440 for payload in payloads)
        due_s = target.next_deadline_s()
        if due_s is None:
            break
        now_s = max(now_s, due_s)
        target.on_deadline(now_s)
    assert target.buffered >= 0
    assert len(target._acks._came) <= ACK_RANGES_MAX
