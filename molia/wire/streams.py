"""All streams of a channel: who may open which, flow control over them, and what became of them."""

from collections import OrderedDict
from typing import Final

from molia.base.errors import ChannelFault
from molia.base.limits import (
    CHANNEL_EVENTS_MAX,
    CHANNEL_SEND_MAX,
    CHANNEL_WINDOW_MAX,
    CHANNEL_WINDOW_START,
    PIECE_DROPS_MAX,
    PIECES_MAX,
    SEND_BUFFER_MAX,
    SEND_BUFFER_START,
    STREAMS_MAX,
)
from molia.wire import stream_frames as frames
from molia.wire.flow import Window
from molia.wire.stream import ReceiveHalf, Run, SendHalf
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
from molia.wire.stream_frames import FRAME_HEAD_SIZE, Fault

INDEX_STOP: Final = 1 << 31
"""Streams that one side may open in a channel's life."""


Control = tuple[int, int]
"""A frame to be sent, by type and stream; its contents are made when it leaves."""


class Stream:
    """Both halves of one stream."""

    __slots__ = ("announced", "receiving", "reset_acked", "sending", "stop_code")

    def __init__(self, stream_id: int) -> None:
        self.sending = SendHalf(stream_id)
        self.receiving = ReceiveHalf(stream_id)
        self.announced = False
        """The owner was told to read and has not yet read everything."""
        self.reset_acked = False
        self.stop_code = 0

    @property
    def is_over(self) -> bool:
        """Whether both sides are done with it."""
        return (self.reset_acked or self.sending.is_over) and self.receiving.is_over


class Streams:
    """The table of streams, with the credits of both directions."""

    def __init__(self, *, initiator: bool, send_buffer_max: int, window_max: int) -> None:
        self._parity = 0 if initiator else 1
        self._send_buffer_max = min(send_buffer_max, SEND_BUFFER_MAX)
        self._table: dict[int, Stream] = {}
        self._opened = [0, 0]
        """Streams opened so far, by parity."""
        self._open_limit = STREAMS_MAX
        self._peer_limit = STREAMS_MAX
        self._peer_over = 0
        self.window = Window(CHANNEL_WINDOW_START, size_max=min(window_max, CHANNEL_WINDOW_MAX))
        self.received = 0
        """Bytes that count against the window, over all streams."""
        self.send_limit = CHANNEL_WINDOW_START
        self.sent = 0
        """Bytes that count against the peer's window."""
        self.buffered = 0
        self.buffer_size = SEND_BUFFER_START
        """How much one stream may hold unacknowledged now; follows the congestion window."""
        self.waiting = self.dropped = 0
        self.controls: dict[Control, None] = {}
        self.ready: OrderedDict[int, SendHalf] = OrderedDict()
        """Streams that may have something to send, in turn."""
        self._blocked: dict[int, SendHalf] = {}
        self._cut_short: dict[int, SendHalf] = {}
        """Streams whose last write was cut short: their writers wait for `Writable`."""
        self.events: list[Event] = []

    def __len__(self) -> int:
        return len(self._table)

    # -- the owner's side

    def open(self) -> int | None:
        """Open a stream; None while the peer lets us open no more."""
        index = self._opened[self._parity]
        if index >= self._open_limit:
            return None
        return self._create(self._parity)

    def _create(self, parity: int) -> int:
        stream_id = 2 * self._opened[parity] + parity
        self._opened[parity] += 1
        self._table[stream_id] = Stream(stream_id)
        return stream_id

    def write(self, stream_id: int, data: bytes | bytearray | memoryview) -> int:
        """Take as much of `data` as there is room for; return how much."""
        stream = self._table.get(stream_id)
        if stream is None or not stream.sending.takes_writes:
            return 0
        half = stream.sending
        size = min(self.buffer_size, self._send_buffer_max)
        room = min(size - half.buffered, CHANNEL_SEND_MAX - self.buffered)
        if len(data) > room:
            self._cut_short[stream_id] = half
            data = memoryview(data)[: max(0, room)]
        if data:
            half.write(data if isinstance(data, bytes) else bytes(data))
            self.buffered += len(data)
            self.ready[stream_id] = half
        return len(data)

    def finish(self, stream_id: int) -> None:
        """End our half after what was written."""
        stream = self._table.get(stream_id)
        if stream is not None and stream.sending.takes_writes:
            stream.sending.finish()
            self.ready[stream_id] = stream.sending

    def read(self, stream_id: int, size: int) -> bytes:
        """Return at most `size` bytes; the peer may then send as many more."""
        stream = self._table.get(stream_id)
        if stream is None or size <= 0:
            return b""
        half = stream.receiving
        data = half.read(size)
        half.wanted = 1
        if half.readable == 0:
            stream.announced = False
        if data:
            half.window.consumed += len(data)
            if half.final is None and half.window.is_due:
                self.controls[frames.MAX_STREAM_DATA, stream_id] = None
            self._consume(len(data))
        self._close_if_over(stream_id, stream)
        return data

    def _consume(self, size: int) -> None:
        self.window.consumed += size
        if self.window.is_due:
            self.controls[frames.MAX_DATA, 0] = None

    def expect(self, stream_id: int, size: int) -> None:
        """Give the peer credit for `size` bytes at once; there is no more to say while it lasts."""
        stream = self._table.get(stream_id)
        if stream is not None and stream.receiving.window.expect(size):
            self.controls[frames.MAX_STREAM_DATA, stream_id] = None

    def want(self, stream_id: int, size: int) -> None:
        """Announce a stream when so much can be read, as far as its window lets so much come."""
        stream = self._table.get(stream_id)
        if stream is not None:
            half = stream.receiving
            room = half.window.limit - half.read_to
            half.wanted = size if size <= room else max(1, room // 2)

    def readable(self, stream_id: int) -> int:
        """Return how many bytes can be read now."""
        stream = self._table.get(stream_id)
        return stream.receiving.readable if stream else 0

    def ended(self, stream_id: int) -> bool:
        """Tell whether nothing can be read any more, now or later."""
        stream = self._table.get(stream_id)
        return stream is None or stream.receiving.is_over

    def reset(self, stream_id: int, code: int) -> None:
        """Take our half back: what did not arrive never will."""
        stream = self._table.get(stream_id)
        if stream is None or stream.sending.reset_code is not None or stream.sending.is_over:
            return
        self.buffered -= stream.sending.buffered
        stream.sending.reset(code)
        self.ready.pop(stream_id, None)
        self._blocked.pop(stream_id, None)
        self._cut_short.pop(stream_id, None)
        self.controls[frames.RESET, stream_id] = None

    def stop(self, stream_id: int, code: int) -> None:
        """Read no more: the peer is asked to reset its half."""
        stream = self._table.get(stream_id)
        if stream is None or stream.receiving.stopped:
            return
        half = stream.receiving
        half.stopped = True
        self._discard(half)
        if not half.is_complete:
            stream.stop_code = code
            self.controls[frames.STOP, stream_id] = None
        self._close_if_over(stream_id, stream)

    def _discard(self, half: ReceiveHalf) -> None:
        unread = half.highest - half.read_to
        self.waiting -= half.waiting_count
        half.drop()
        self._consume(unread)

    def take_events(self) -> list[Event]:
        """Return what happened since the last call."""
        events, self.events = self.events, []
        if not self._cut_short or CHANNEL_SEND_MAX - self.buffered < SEND_BUFFER_START // 2:
            return events
        for stream_id, half in list(self._cut_short.items()):
            if half.buffered <= min(self.buffer_size, self._send_buffer_max) // 2:
                del self._cut_short[stream_id]
                events.append(Writable(stream_id))
        return events

    # -- the peer's side

    def reached(self, stream_id: int) -> Stream | None:
        """Return the stream a frame names, opened if need be; None when it is over."""
        stream = self._table.get(stream_id)
        if stream is not None:
            return stream
        parity, index = stream_id & 1, stream_id >> 1
        if index < self._opened[parity]:
            return None
        if parity == self._parity:
            raise ChannelFault(Fault.BAD_STREAM)
        if index >= self._peer_limit:
            raise ChannelFault(Fault.STREAM_LIMIT)
        while self._opened[parity] <= index:
            self.events.append(StreamOpened(self._create(parity)))
        return self._table[stream_id]

    def get(self, stream_id: int) -> Stream | None:
        """Return a stream that exists."""
        return self._table.get(stream_id)

    def on_data(self, stream_id: int, start: int, data: bytes, *, is_end: bool) -> bool:
        """Take a piece; False when there is no memory for it and the packet must count as lost."""
        stream = self.reached(stream_id)
        if stream is None:
            return True
        half = stream.receiving
        grown = half.check(start + len(data), is_end=is_end)
        if self.received + grown > self.window.limit:
            raise ChannelFault(Fault.FLOW_CONTROL)
        next_before, waiting_before = half.next, half.waiting_count
        if start > next_before and self.waiting >= PIECES_MAX:
            self.dropped += 1
            if self.dropped > PIECE_DROPS_MAX:
                raise ChannelFault(Fault.GAPS)
            return False
        was_complete = half.is_complete
        self.received += grown
        half.take(start, data, is_end=is_end)
        self.waiting += half.waiting_count - waiting_before
        if half.stopped:
            self._consume(grown)
        if half.next > next_before:
            self.dropped = 0
            self.announce(stream_id, stream)
        if half.is_complete and not was_complete:
            if not half.stopped:
                self.events.append(Finished(stream_id))
            self._close_if_over(stream_id, stream)
        return True

    def announce(self, stream_id: int, stream: Stream) -> None:
        """Tell the owner once that there is something to read, or as much as is wanted.

        Where the peer may soon send no more, on whatever stream, all that came is to be read.
        """
        half = stream.receiving
        if stream.announced or half.stopped:
            return
        if half.readable >= half.wanted:
            stream.announced = True
            self.events.append(Readable(stream_id))
        elif self.window.limit - self.received <= self.window.size // 4:
            for other_id, other in self._table.items():
                if other.receiving.readable and not (other.announced or other.receiving.stopped):
                    other.announced = True
                    self.events.append(Readable(other_id))

    def on_reset(self, stream_id: int, code: int, final: int) -> None:
        """Handle a RESET frame."""
        stream = self.reached(stream_id)
        if stream is None or stream.receiving.reset_code is not None:
            return
        half = stream.receiving
        was_complete = half.is_complete
        if was_complete and final == half.final:
            return  # everything came already
        if final > half.window.limit or self.received + final - half.highest > self.window.limit:
            raise ChannelFault(Fault.FLOW_CONTROL)
        unread, waiting = half.highest - half.read_to, half.waiting_count
        grown = half.on_reset(code, final)
        self.waiting -= waiting
        self.received += grown
        self._consume(unread + grown)
        if not half.stopped:
            self.events.append(WasReset(stream_id, code))
        self._close_if_over(stream_id, stream)

    def on_stop(self, stream_id: int, code: int) -> None:
        """Handle a STOP frame."""
        stream = self.reached(stream_id)
        if stream is None or stream.sending.is_over or stream.sending.reset_code is not None:
            return
        self.reset(stream_id, code)
        self.events.append(Stopped(stream_id, code))

    def on_max_data(self, limit: int) -> None:
        """Handle a MAX_DATA frame."""
        if limit > self.send_limit:
            self.send_limit = limit
            self.ready.update(self._blocked)
            self._blocked.clear()

    def on_max_stream_data(self, stream_id: int, limit: int) -> None:
        """Handle a MAX_STREAM_DATA frame."""
        stream = self.reached(stream_id)
        if stream is not None and limit > stream.sending.limit:
            stream.sending.limit = limit
            if stream.sending.reset_code is None:
                self.ready[stream_id] = stream.sending

    def on_max_streams(self, count: int) -> None:
        """Handle a MAX_STREAMS frame."""
        self._open_limit = max(self._open_limit, min(count, INDEX_STOP))

    # -- what the sender asks

    def next_run(self) -> tuple[SendHalf, Run] | None:
        """Return what to send next, of the stream whose turn it is."""
        credit = self.send_limit - self.sent
        while self.ready:
            stream_id = next(iter(self.ready))
            half = self.ready[stream_id]
            run = half.next_run(credit)
            if run is not None:
                return half, run
            del self.ready[stream_id]
            if half.next < half.end:
                self._blocked[stream_id] = half
        return None

    def on_sent(self, half: SendHalf, start: int, stop: int, *, is_end: bool) -> None:
        """Note that a run left."""
        self.sent += half.on_sent(start, stop, is_end=is_end)

    def turn(self, half: SendHalf) -> None:
        """Let the next stream have its turn."""
        if half.stream_id in self.ready:
            self.ready.move_to_end(half.stream_id)

    def on_acked(self, stream_id: int, start: int, stop: int, *, is_end: bool) -> None:
        """Bytes arrived."""
        stream = self._table.get(stream_id)
        if stream is None:
            return
        half = stream.sending
        self.buffered -= half.on_acked(start, stop, is_end=is_end)
        if half.end_acked and half.is_over and half.reset_code is None:
            self.events.append(Delivered(stream_id))
            self._close_if_over(stream_id, stream)

    def on_lost(self, stream_id: int, start: int, stop: int, *, is_end: bool) -> None:
        """Bytes were lost."""
        stream = self._table.get(stream_id)
        if stream is not None and stream.sending.reset_code is None:
            stream.sending.on_lost(start, stop, is_end=is_end)
            self.ready[stream_id] = stream.sending

    def on_control_acked(self, control: Control) -> None:
        """A control frame arrived."""
        kind, stream_id = control
        stream = self._table.get(stream_id)
        if kind == frames.RESET and stream is not None:
            stream.reset_acked = True
            self._close_if_over(stream_id, stream)

    def encode(self, control: Control, *, rtt_s: float, now_s: float) -> bytes:
        """Return the frame as it stands now; nothing when there is no more need of it."""
        kind, stream_id = control
        if kind == frames.MAX_DATA:
            limit = self.window.move(rtt_s=rtt_s, now_s=now_s)
            return frames.MAX_DATA_FRAME.pack(kind, frames.MAX_DATA_FRAME.size - 3, limit)
        if kind == frames.MAX_STREAMS:
            count = self._peer_limit
            return frames.MAX_STREAMS_FRAME.pack(kind, frames.MAX_STREAMS_FRAME.size - 3, count)
        stream = self._table.get(stream_id)
        if stream is None:
            return b""
        if kind == frames.RESET:
            code, sent = stream.sending.reset_code or 0, stream.sending.next
            length = frames.RESET_FRAME.size - FRAME_HEAD_SIZE
            return frames.RESET_FRAME.pack(kind, length, stream_id, code, sent)
        half = stream.receiving
        if half.is_complete:
            return b""
        if kind == frames.STOP:
            length = frames.STOP_FRAME.size - FRAME_HEAD_SIZE
            return frames.STOP_FRAME.pack(kind, length, stream_id, stream.stop_code)
        limit = half.window.move(rtt_s=rtt_s, now_s=now_s)
        length = frames.MAX_STREAM_DATA_FRAME.size - FRAME_HEAD_SIZE
        return frames.MAX_STREAM_DATA_FRAME.pack(kind, length, stream_id, limit)

    def _close_if_over(self, stream_id: int, stream: Stream) -> None:
        """Forget a stream that both sides are done with, and let the peer open another."""
        if not stream.is_over or self._table.pop(stream_id, None) is None:
            return
        self.ready.pop(stream_id, None)
        self._blocked.pop(stream_id, None)
        self._cut_short.pop(stream_id, None)
        if stream_id & 1 != self._parity:
            self._peer_over += 1

    def grant_streams(self) -> None:
        """Let the peer open as many streams as are over, while the owner takes its events."""
        count = min(self._peer_over + STREAMS_MAX, INDEX_STOP)
        worth_it = count - self._peer_limit >= STREAMS_MAX // 4
        if worth_it and len(self.events) <= CHANNEL_EVENTS_MAX:
            self._peer_limit = count
            self.controls[frames.MAX_STREAMS, 0] = None

    def end(self, reason: Fault) -> None:
        """Let everything go: the channel is over."""
        for held in (self._table, self.ready, self._blocked, self._cut_short, self.controls):
            held.clear()
        self.buffered = self.waiting = 0
        self.events.append(Broken(reason))
