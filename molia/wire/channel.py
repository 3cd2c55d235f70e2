"""Reliable streams with one peer over packets that may be lost, reordered and doubled.

A channel is a core: payloads of data packets in (`on_payloads`), payloads to be sealed out
(`take_payloads`), facts out (`take_events`), the next deadline out. After every other call, take
payloads until there are none: acknowledgements and credits leave in no other way. Sessions may be
replaced under it: packets have numbers of their own. What is implemented of which RFC, and what is
simplified: docs/reference/transport.md; the bytes: docs/reference/streams.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from molia.base.config import require
from molia.base.entropy import Entropy
from molia.base.errors import ChannelFault
from molia.base.limits import (
    CHANNEL_WINDOW_MAX,
    CHANNEL_WINDOW_START,
    SEND_BUFFER_MAX,
    SEND_BUFFER_START,
    UDP_PAYLOAD_BASE,
    UDP_PAYLOAD_MAX,
)
from molia.wire import stream_frames as frames
from molia.wire.acks import AckLog
from molia.wire.congestion import CONTROLLERS, Congestion
from molia.wire.outbound import Outbound
from molia.wire.pmtu import PathMtu
from molia.wire.stream import SMALL, ReceiveHalf
from molia.wire.stream_events import Event
from molia.wire.stream_frames import END, STREAM_HEAD, STREAM_OVERHEAD, Fault
from molia.wire.streams import Streams

SEAL_OVERHEAD: Final = 32
"""A data packet's header and its tag."""
FAREWELLS_MAX: Final = 4
"""CLOSE frames sent at most: one at once, more when the peer goes on."""
UNANSWERED_PTOS: Final = 2
"""Probe timeouts in a row after which the session is doubted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelConfig:
    """How one peer's channel behaves."""

    congestion: str = "cubic"
    """`cubic`, or `newreno`, which is slower to win back long fast paths."""
    overhead_bytes: int = SEAL_OVERHEAD
    """What a datagram holds beside the payload."""
    udp_payload_max_bytes: int = UDP_PAYLOAD_MAX
    """Where the search for the path's MTU begins; 1200 turns it off."""
    initial_rtt_s: float = 0.333
    """Round trip until one was measured; the handshake's is better."""
    give_up_s: float = 30.0
    """The channel is over when packets are in flight and none is acknowledged for so long."""
    send_buffer_bytes: int = SEND_BUFFER_MAX
    """Most that one stream holds unacknowledged; less bounds the rate on long fast paths."""
    window_bytes: int = CHANNEL_WINDOW_MAX
    """Most that the peer may have sent and nobody read, over all streams."""

    def __post_init__(self) -> None:
        payload_fits = UDP_PAYLOAD_BASE <= self.udp_payload_max_bytes <= UDP_PAYLOAD_MAX
        payload_range = f"{UDP_PAYLOAD_BASE} to {UDP_PAYLOAD_MAX}"
        require(self.congestion in CONTROLLERS, "channel.congestion", "cubic or newreno")
        require(payload_fits, "channel.udp_payload_max_bytes", payload_range)
        require(0 <= self.overhead_bytes <= 128, "channel.overhead_bytes", "0 to 128")
        require(0.001 <= self.initial_rtt_s <= 10, "channel.initial_rtt_s", "1 ms to 10 s")
        require(1 <= self.give_up_s <= 600, "channel.give_up_s", "1 s to 10 min")
        buffer_fits = SEND_BUFFER_START // 16 <= self.send_buffer_bytes <= SEND_BUFFER_MAX
        require(buffer_fits, "channel.send_buffer_bytes", "16 KiB to 16 MiB")
        window_fits = CHANNEL_WINDOW_START <= self.window_bytes <= CHANNEL_WINDOW_MAX
        require(window_fits, "channel.window_bytes", "1 MiB to 24 MiB")


class Channel:
    """All streams with one peer."""

    def __init__(
        self, config: ChannelConfig, *, initiator: bool, entropy: Entropy, now_s: float
    ) -> None:
        self._config = config
        self._streams = Streams(
            initiator=initiator,
            send_buffer_max=config.send_buffer_bytes,
            window_max=config.window_bytes,
        )
        self._acks = AckLog()
        self._out = Outbound(
            self._streams, self._acks, congestion=self._controller(),
            pmtu=PathMtu(config.udp_payload_max_bytes), overhead=config.overhead_bytes,
            initial_rtt_s=config.initial_rtt_s, give_up_s=config.give_up_s, entropy=entropy,
            now_s=now_s,
        )  # fmt: skip
        self.broken: Fault | None = None
        """Why the channel is over; nothing is sent or taken any more."""
        self._farewells = self._farewells_due = 0

    def _controller(self, born_s: float = float("-inf")) -> Congestion:
        return CONTROLLERS[self._config.congestion](UDP_PAYLOAD_BASE, born_s)

    # -- the owner's side

    def open_stream(self) -> int | None:
        """Open a stream; None while the peer allows no more, or when the channel is over."""
        return None if self.broken is not None else self._streams.open()

    def write(self, stream_id: int, data: bytes | bytearray | memoryview) -> int:
        """Take as much of `data` as the send buffer has room for; return how much.

        After less than all, `Writable` says when to go on. A large `bytes` is kept, not copied.
        """
        return 0 if self.broken is not None else self._streams.write(stream_id, data)

    def finish(self, stream_id: int) -> None:
        """Say that nothing more will be written; `Delivered` says when the peer has it all."""
        self._streams.finish(stream_id)

    def read(self, stream_id: int, size: int) -> bytes:
        """Return at most `size` bytes; only then may the peer send as many more."""
        return self._streams.read(stream_id, size)

    def expect(self, stream_id: int, size: int) -> None:
        """Let the peer send up to `size` bytes of a stream before any is read."""
        self._streams.expect(stream_id, size)

    def want(self, stream_id: int, size: int) -> None:
        """Say `Readable` when `size` bytes of a stream are there, or when room for more is short.

        Until the next `read`; without it the first byte is enough.
        """
        self._streams.want(stream_id, size)

    def readable(self, stream_id: int) -> int:
        """Return how many bytes `read` would give."""
        return self._streams.readable(stream_id)

    def ended(self, stream_id: int) -> bool:
        """Tell whether nothing can be read any more, now or later."""
        return self.broken is not None or self._streams.ended(stream_id)

    def reset(self, stream_id: int, code: int) -> None:
        """Take our half of a stream back. `code` is below 2**32 and the owner's to choose."""
        self._streams.reset(stream_id, code)

    def stop(self, stream_id: int, code: int) -> None:
        """Read no more of a stream: the peer is asked to reset it with `code`."""
        self._streams.stop(stream_id, code)

    def close(self) -> None:
        """End the channel and tell the peer."""
        self._break(Fault.CLOSED)

    def take_events(self) -> list[Event]:
        """Return what happened since the last call; only then may the peer open more streams."""
        events = self._streams.take_events()
        self._streams.grant_streams()
        return events

    @property
    def max_payload(self) -> int:
        """Bytes of a full payload now; grows when the path proves more."""
        return self._out.max_payload

    @property
    def stream_count(self) -> int:
        """Streams that are not over."""
        return len(self._streams)

    @property
    def buffered(self) -> int:
        """Bytes that were written and not yet acknowledged, over all streams."""
        return self._streams.buffered

    @property
    def rtt_s(self) -> float:
        """The smoothed round trip."""
        return self._out.recovery.rtt.smoothed_s

    @property
    def window(self) -> int:
        """Bytes that congestion control lets be in flight."""
        return self._out.congestion.window

    @property
    def lost_count(self) -> int:
        """Packets given up so far."""
        return self._out.lost_count

    # -- the session's side

    def take_payloads(self, now_s: float, count: int) -> list[bytes]:
        """Return at most `count` payloads to be sealed, all of one size but the last.

        Together they fit one call with segmentation offload. Call again until there are none: the
        next ones may have another size.
        """
        if self.broken is not None:
            return self._farewell()
        return self._out.take(now_s, count)

    def next_deadline_s(self) -> float | None:
        """Return when to call `on_deadline` and `take_payloads`; None while nothing is due."""
        return None if self.broken is not None else self._out.next_deadline_s()

    @property
    def is_unanswered(self) -> bool:
        """Whether even probes were not acknowledged: the peer is away, or knows us no more."""
        return self._out.recovery.pto_count >= UNANSWERED_PTOS

    def on_deadline(self, now_s: float) -> None:
        """Look at the clock: packets may be lost, a probe due, or the peer gone."""
        if self.broken is None:
            try:
                self._out.on_deadline(now_s)
            except ChannelFault as fault:
                self._break(Fault(fault.reason))

    def on_path_changed(self, now_s: float) -> None:
        """The peer's address changed: nothing is known of the path (RFC 9000 9.4)."""
        self._out.on_path_changed(now_s, self._controller(now_s))

    def on_payloads(self, payloads: Sequence[bytes], now_s: float) -> None:
        """Take the payloads of authenticated packets, as many at once as there are."""
        if self.broken is not None:
            self._farewells_due = min(1, FAREWELLS_MAX - self._farewells)
            return
        try:
            place = 0
            while place < len(payloads):
                payload, taken = payloads[place], 0
                kind = payload[0] if payload else 0
                if kind == frames.STREAM:
                    taken = self._take_burst(payloads, place, now_s)
                elif kind == frames.ACK and frames.is_whole(payload):
                    self._out.on_ack(frames.decode_ack(payload, 3, len(payload)), now_s)
                    taken = 1
                if not taken:
                    self._take_mixed(payload, now_s)
                place += taken or 1
        except ChannelFault as fault:
            self._break(Fault(fault.reason))

    def _take_burst(self, payloads: Sequence[bytes], place: int, now_s: float) -> int:
        """Take full packets of one stream that follow each other; return how many there were."""
        unpack = STREAM_HEAD.unpack_from
        if len(payloads[place]) < STREAM_OVERHEAD:
            return 0
        _, _, number, stream_id, offset = unpack(payloads[place])
        stream = self._streams.get(stream_id)
        if stream is None or offset != stream.receiving.next:
            return 0
        half, streams = stream.receiving, self._streams
        cap = self._burst_cap(half)
        first, start, chunks = number, offset, []
        for payload in islice(payloads, place, None):
            size = len(payload) - STREAM_OVERHEAD
            if size < SMALL or offset + size > cap:
                break
            if unpack(payload) != (16, size + 20, number, stream_id, offset):
                break
            chunks.append(payload[STREAM_OVERHEAD:])
            offset += size
            number += 1
        if chunks:
            streams.received += offset - start
            streams.dropped = 0
            half.take_run(chunks, offset)
            streams.announce(stream_id, stream)
            self._acks.on_run(first, number, now_s)
        return len(chunks)

    def _burst_cap(self, half: ReceiveHalf) -> int:
        """Return how far a stream may be read without a look at anything but the next packet."""
        plain = not half.waiting_count and not half.stopped
        if not plain or half.final is not None:
            return -1
        window = self._streams.window.limit - self._streams.received
        return min(half.window.limit, half.next + window, END - 1)

    def _take_mixed(self, payload: bytes, now_s: float) -> None:
        """Take one payload of any kind. Raises ChannelFault."""
        number, kept, leading = -1, True, True
        for kind, start, stop in frames.frames_of(payload):
            if kind == frames.STREAM:
                if not leading or stop - start < STREAM_OVERHEAD - 3:
                    raise ChannelFault(Fault.BAD_FRAME)
                _, _, number, stream_id, place = STREAM_HEAD.unpack_from(payload, start - 3)
                data = payload[start + STREAM_OVERHEAD - 3 : stop]
                kept &= self._on_data(stream_id, place, data)
            elif kind == frames.NUMBER:
                if not leading:
                    raise ChannelFault(Fault.BAD_FRAME)
                number = int.from_bytes(payload[start:stop], "little")
            elif kind == frames.MORE:
                if stop - start < frames.MORE_OVERHEAD - 3:
                    raise ChannelFault(Fault.BAD_FRAME)
                _, _, stream_id, place = frames.MORE_HEAD.unpack_from(payload, start - 3)
                data = payload[start + frames.MORE_OVERHEAD - 3 : stop]
                kept &= self._on_data(stream_id, place, data)
            elif kind == frames.ACK:
                self._out.on_ack(frames.decode_ack(payload, start, stop), now_s)
            else:
                self._on_control(kind, payload, start)
            leading = False
        if number >= 0 and kept:
            self._acks.on_run(number, number + 1, now_s)

    def _on_data(self, stream_id: int, place: int, data: bytes) -> bool:
        return self._streams.on_data(stream_id, place & ~END, data, is_end=place >= END)

    def _on_control(self, kind: int, payload: bytes, start: int) -> None:
        """Handle a frame that is neither data nor acknowledgement. Raises ChannelFault."""
        at, streams = start - 3, self._streams
        if kind == frames.MAX_DATA:
            streams.on_max_data(frames.MAX_DATA_FRAME.unpack_from(payload, at)[2])
        elif kind == frames.MAX_STREAM_DATA:
            streams.on_max_stream_data(*frames.MAX_STREAM_DATA_FRAME.unpack_from(payload, at)[2:])
        elif kind == frames.MAX_STREAMS:
            streams.on_max_streams(frames.MAX_STREAMS_FRAME.unpack_from(payload, at)[2])
        elif kind == frames.RESET:
            streams.on_reset(*frames.RESET_FRAME.unpack_from(payload, at)[2:])
        elif kind == frames.STOP:
            streams.on_stop(*frames.STOP_FRAME.unpack_from(payload, at)[2:])
        elif kind == frames.SETTLED:
            self._acks.on_settled(frames.NUMBER_HEAD.unpack_from(payload, at)[2])
        elif kind == frames.CLOSE:
            self._farewells = FAREWELLS_MAX
            raise ChannelFault(Fault.CLOSED)
        elif not kind & 1:
            raise ChannelFault(Fault.BAD_FRAME)

    # -- the end

    def _break(self, reason: Fault) -> None:
        if self.broken is not None:
            return
        self.broken = reason
        self._streams.end(reason)
        if reason != Fault.TIMED_OUT:
            self._farewells_due = min(1, FAREWELLS_MAX - self._farewells)

    def _farewell(self) -> list[bytes]:
        if self._farewells_due <= 0:
            return []
        self._farewells_due = 0
        self._farewells += 1
        return [frames.CLOSE_FRAME.pack(frames.CLOSE, 4, self.broken or 0)]
