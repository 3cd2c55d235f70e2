"""What a channel promises its owner, over a path without faults."""

import random
from collections.abc import Sequence

import pytest

from molia.base.errors import BadConfig
from molia.base.limits import (
    CHANNEL_SEND_MAX,
    CHANNEL_WINDOW_MAX,
    SEND_BUFFER_MAX,
    SPANS_MAX,
    STREAMS_MAX,
    UDP_PAYLOAD_MAX,
)
from molia.wire.channel import ChannelConfig
from molia.wire.stream_events import (
    Broken,
    Delivered,
    Event,
    Finished,
    Readable,
    Stopped,
    StreamOpened,
    WasReset,
    Writable,
)
from molia.wire.stream_frames import Fault
from molia.wire.streams import Streams
from tests.wire.path import End, Link, Transfer, World


def pair(seed: int = 1, **link: float) -> tuple[World, End, End]:
    """Return two ends of a short path without faults."""
    world = World(seed)
    return world, *world.join(Link(delay_s=0.01), Link(delay_s=0.01))


def of_kind(events: Sequence[Event], *kinds: type) -> list[Event]:
    """Return the events of some kinds."""
    return [event for event in events if isinstance(event, kinds)]


def open_stream(end: End) -> int:
    """Open a stream that the peer allows."""
    stream_id = end.channel.open_stream()
    assert stream_id is not None
    return stream_id


def test_a_request_and_its_reply_take_one_stream() -> None:
    world, left, right = pair()
    stream = open_stream(left)
    assert left.channel.write(stream, b"question") == 8
    left.channel.finish(stream)
    world.run(0.05)
    assert right.events == [StreamOpened(stream), Readable(stream), Finished(stream)]
    assert right.channel.read(stream, 100) == b"question"
    assert right.channel.ended(stream)
    right.channel.write(stream, b"answer")
    right.channel.finish(stream)
    world.run(0.2)
    assert left.channel.read(stream, 3) + left.channel.read(stream, 100) == b"answer"
    assert left.events == [Delivered(stream), Readable(stream), Finished(stream)]
    world.run(0.3)
    assert (left.channel.stream_count, right.channel.stream_count) == (0, 0)
    assert (left.channel.next_deadline_s(), right.channel.next_deadline_s()) == (None, None)


def test_an_empty_stream_has_an_end() -> None:
    world, left, right = pair()
    stream = open_stream(right)
    assert stream & 1, "the responder's streams are odd"
    right.channel.finish(stream)
    world.run(0.1)
    assert left.events == [StreamOpened(stream), Finished(stream)]
    assert left.channel.ended(stream)


def test_small_streams_share_packets() -> None:
    world, left, right = pair()
    streams = [open_stream(left) for _ in range(40)]
    for stream in streams:
        left.channel.write(stream, b"%04d" % stream)
        left.channel.finish(stream)
    world.run(0.1)
    assert left.link.passed <= 5
    assert [right.channel.read(stream, 10) for stream in streams] == [
        b"%04d" % stream for stream in streams
    ]


def test_many_streams_at_once_both_ways_are_delivered_whole() -> None:
    world, left, right = pair()
    rng = random.Random(5)
    transfers = [
        Transfer(world, *ends, rng.randbytes(rng.choice((1, 900, 40_000))))
        for _ in range(60) for ends in ((left, right), (right, left))
    ]  # fmt: skip
    assert world.run(20.0, lambda: all(transfer.done_s is not None for transfer in transfers))


def test_streams_may_be_opened_up_to_the_limit_and_again_when_others_are_over() -> None:
    world, left, right = pair()
    seen: list[int] = []

    def answer(now_s: float) -> None:
        for event in right.events[len(seen) :]:
            seen.append(event.stream_id if isinstance(event, StreamOpened) else -1)
            if isinstance(event, Finished):
                right.channel.read(event.stream_id, 100)
                right.channel.finish(event.stream_id)

    right.owner = answer
    opened = 0
    for _ in range(3):
        while (stream := left.channel.open_stream()) is not None:
            left.channel.write(stream, b"x")
            left.channel.finish(stream)
            opened += 1
        assert left.channel.stream_count <= STREAMS_MAX
        world.run(world.now_s + 1.0)
    assert opened > 2 * STREAMS_MAX
    assert left.channel.broken is None
    assert left.channel.stream_count == 0


def test_a_reader_that_stops_reading_stops_the_writer_and_memory_is_bounded() -> None:
    world, left, right = pair()
    transfer = Transfer(world, left, right, random.Random(2).randbytes(60_000_000))
    transfer.reading = False
    world.run(5.0)
    stalled = transfer.sent
    world.run(15.0)
    assert transfer.sent == stalled, "the writer stands still"
    window = right.channel.readable(transfer.stream_id)
    assert stalled - window <= SEND_BUFFER_MAX
    assert window <= 512 * 1024, "a window does not grow for a reader that does not read"
    assert of_kind(left.events, Writable) == of_kind(left.events, Writable)[:20]
    transfer.reading = True
    transfer.data = transfer.data[: transfer.sent + 1_000_000]
    world.serve(right)
    assert world.run(60.0, lambda: transfer.done_s is not None)
    assert of_kind(left.events, Writable)
    assert left.channel.buffered <= CHANNEL_SEND_MAX


def test_a_window_grows_while_the_reader_keeps_up() -> None:
    world = World(3)
    left, right = world.join(Link(delay_s=0.1), Link(delay_s=0.1))
    transfer = Transfer(world, left, right, random.Random(2).randbytes(15_000_000))
    assert world.run(10.0, lambda: transfer.done_s is not None)
    assert transfer.goodput > 6e6, "far more than the first window in a round trip"


def test_what_is_expected_may_come_at_once_and_is_told_when_it_is_there() -> None:
    world, left, right = pair()
    stream, size = open_stream(left), 700_000
    left.channel.expect(stream, size)
    left.channel.write(stream, b"question")
    left.channel.want(stream, size)
    world.run(0.1)
    answer, sent = random.Random(5).randbytes(size), 0
    while sent < size:
        sent += right.channel.write(stream, answer[sent:])
        world.run(world.now_s + 0.02)
    world.run(world.now_s + 1.0)
    assert right.channel.buffered == 0, "nobody read, and all of it came"
    assert left.events == [Readable(stream)]
    assert left.channel.read(stream, size) == answer
    right.channel.write(stream, b"more")
    world.run(world.now_s + 0.1)
    assert left.events == [Readable(stream)] * 2, "what is wanted counts until the next read"


def test_where_the_channels_credit_runs_short_all_that_came_is_told() -> None:
    world, left, right = pair()
    streams = [open_stream(left) for _ in range(6)]
    for stream in streams:
        left.channel.expect(stream, 400_000)
        left.channel.write(stream, b"question")
        left.channel.want(stream, 400_000)
    world.run(0.1)
    left_over = dict.fromkeys(streams, 400_000)
    got = dict.fromkeys(streams, 0)
    while any(got[stream] < 400_000 for stream in streams):
        assert world.now_s < 20, "each waits for all of its bytes, and none has the credit"
        for stream in streams:
            left_over[stream] -= right.channel.write(stream, bytes(left_over[stream]))
        world.run(world.now_s + 0.02)
        for event in of_kind(left.events, Readable):
            assert isinstance(event, Readable)
            got[event.stream_id] += len(left.channel.read(event.stream_id, 400_000))
            left.channel.want(event.stream_id, 400_000 - got[event.stream_id])
        left.events.clear()


def test_a_reset_reaches_the_reader_and_frees_both_sides() -> None:
    world, left, right = pair()
    stream = open_stream(left)
    left.channel.write(stream, bytes(100_000))
    world.run(0.012)
    left.channel.reset(stream, 77)
    assert left.channel.buffered == 0
    right.channel.finish(stream)
    world.run(1.0)
    assert of_kind(right.events, WasReset) == [WasReset(stream, 77)]
    assert right.channel.read(stream, 10) == b""
    assert right.channel.ended(stream)
    assert left.channel.stream_count == 0
    assert left.channel.write(stream, b"x") == 0


def test_a_writer_is_called_when_there_is_room_and_not_while_other_streams_have_it_all() -> None:
    streams = Streams(
        initiator=True, send_buffer_max=SEND_BUFFER_MAX, window_max=CHANNEL_WINDOW_MAX
    )
    streams.buffer_size = SEND_BUFFER_MAX  # a fast long path
    first, second, third = (streams.open() for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    for stream in (first, second):
        assert streams.write(stream, bytes(SEND_BUFFER_MAX)) == CHANNEL_SEND_MAX // 2
    assert streams.write(third, b"more") == 0
    assert streams.take_events() == [], "else it would try again and again"
    streams.reset(first, 0)
    assert streams.take_events() == [Writable(third)]
    assert streams.write(third, b"more") == 4


def test_who_reads_no_more_stops_the_writer() -> None:
    world, left, right = pair()
    stream = open_stream(left)
    left.channel.write(stream, bytes(200_000))
    world.run(0.015)
    right.channel.stop(stream, 5)
    right.channel.finish(stream)
    world.run(1.0)
    assert of_kind(left.events, Stopped) == [Stopped(stream, 5)]
    assert (left.channel.stream_count, right.channel.stream_count) == (0, 0)
    assert not of_kind(right.events, WasReset)


def test_abandoned_streams_give_their_window_back() -> None:
    """The channel's window would be used up four times over if they did not."""
    world, left, right = pair()
    for turn in range(40):
        stream = open_stream(left)
        left.channel.write(stream, bytes(200_000))
        world.run(world.now_s + 0.2)
        if turn % 2:
            left.channel.reset(stream, 1)
        else:
            right.channel.stop(stream, 1)
        right.channel.reset(stream, 1)
        world.run(world.now_s + 0.2)
    transfer = Transfer(world, left, right, bytes(3_000_000))
    assert world.run(world.now_s + 5, lambda: transfer.done_s is not None)
    assert left.channel.stream_count <= 1


def test_bytes_that_come_after_a_stop_give_their_window_back() -> None:
    """The channel's window would be used up three times over if they did not."""
    world, left, right = pair()
    for _ in range(20):
        stream = open_stream(left)
        right.channel.take_events()
        left.channel.write(stream, bytes(200_000))
        world.run(world.now_s + 0.2, lambda one=stream: right.channel.readable(one) > 0)  # type: ignore[misc]
        right.channel.stop(stream, 1)
        world.run(world.now_s + 0.2)
    received, window = right.channel._streams.received, right.channel._streams.window
    assert received > 200_000
    assert window.consumed == received


def test_a_lost_packet_is_sent_again_by_the_first_probe() -> None:
    world, left, right = pair()
    left.link.left_to_lose = 1
    stream = open_stream(left)
    left.channel.write(stream, b"x")
    assert world.run(5.0, lambda: right.channel.readable(stream) == 1)
    assert world.now_s == pytest.approx(0.333 + 4 * 0.333 / 2 + 0.025 + 0.01)


def test_closing_tells_the_peer_once() -> None:
    world, left, right = pair()
    stream = open_stream(left)
    left.channel.write(stream, b"x")
    world.run(0.1)
    left.channel.close()
    world.run(0.2)
    assert left.events[-1] == Broken(Fault.CLOSED)
    assert right.events[-1] == Broken(Fault.CLOSED)
    assert right.channel.broken == Fault.CLOSED
    for end in (left, right):
        assert end.channel.open_stream() is None
        assert end.channel.write(stream, b"x") == 0
        assert end.channel.read(stream, 1) == b""
        assert end.channel.ended(stream)
        assert end.channel.next_deadline_s() is None
        assert end.channel.take_payloads(world.now_s, 47) == []


def test_an_idle_channel_sends_nothing_and_waits_for_nothing() -> None:
    world, left, right = pair()
    Transfer(world, left, right, bytes(10_000))
    world.run(1.0)
    passed = left.link.passed, right.link.passed
    world.run(1_000.0)
    assert (left.link.passed, right.link.passed) == passed
    assert left.channel.broken is None


def test_a_single_packet_is_acknowledged_within_the_delay_that_both_know() -> None:
    world, left, _ = pair()
    stream = open_stream(left)
    left.channel.write(stream, b"x")
    left.channel.finish(stream)
    world.run(1.0, lambda: bool(of_kind(left.events, Delivered)))
    assert world.now_s == pytest.approx(0.02 + 0.025)


def test_a_burst_fits_one_call_with_segmentation_offload() -> None:
    world, left, right = pair()
    world.burst = 1_000
    transfer = Transfer(world, left, right, bytes(8_000_000))
    assert world.run(5.0, lambda: transfer.done_s is not None)
    assert left.channel.max_payload == 1440
    assert 60_000 < world.largest_burst <= 65_507


def test_a_ledger_that_is_full_waits_and_does_not_spin() -> None:
    _, left, _ = pair()
    stream = open_stream(left)
    left.channel._out.congestion._window = 60e6  # type: ignore[attr-defined]
    left.channel._out._set_pace()
    for turn in range(SPANS_MAX + 10):
        left.channel.write(stream, b"x")
        if len(left.channel.take_payloads(turn / 1e6, 47)) == 0:
            break
    assert left.channel._out.recovery.span_count == SPANS_MAX
    due_s = left.channel.next_deadline_s()
    assert due_s is not None
    assert due_s > turn / 1e6 + 0.1, "the probe timeout, not the next burst"


def test_what_is_sent_in_small_writes_arrives_whole() -> None:
    world, left, right = pair()
    stream, data = open_stream(left), random.Random(9).randbytes(30_000)
    for at in range(0, len(data), 7):
        assert left.channel.write(stream, bytearray(data[at : at + 7])) == len(data[at : at + 7])
    left.channel.finish(stream)
    world.run(1.0)
    assert right.channel.read(stream, 1 << 20) == data
    assert left.link.passed < 40


@pytest.mark.parametrize(
    "wrong",
    [{"congestion": "fast"}, {"udp_payload_max_bytes": 1199}, {"overhead_bytes": 999},
     {"udp_payload_max_bytes": UDP_PAYLOAD_MAX + 1}, {"initial_rtt_s": 0}, {"give_up_s": 0},
     {"send_buffer_bytes": 1}, {"window_bytes": CHANNEL_WINDOW_MAX + 1}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadConfig):
        ChannelConfig(**wrong)  # type: ignore[arg-type]
