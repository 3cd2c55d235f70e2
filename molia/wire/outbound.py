"""The sending side of a channel: what leaves next, what is in flight, and what its fate means.

A burst of full packets of one stream costs one loop and one entry in the ledger; everything else
(acknowledgements, credits, ends, the bytes of small streams) is gathered into single packets.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from molia.base.entropy import Entropy
from molia.base.errors import ChannelFault
from molia.base.limits import (
    BURST_BYTES_MAX,
    SEND_BUFFER_MAX,
    SEND_BUFFER_START,
    SPANS_MAX,
    UDP_PAYLOAD_BASE,
)
from molia.wire import stream_frames as frames
from molia.wire.acks import AckLog
from molia.wire.congestion import Congestion
from molia.wire.pacing import Pacer
from molia.wire.pmtu import PathMtu
from molia.wire.recovery import Recovery, Settled, Span
from molia.wire.skips import Skips
from molia.wire.stream import Run, SendHalf
from molia.wire.stream_frames import (
    END,
    MORE_HEAD,
    MORE_OVERHEAD,
    NUMBER_HEAD,
    STREAM_HEAD,
    STREAM_LENGTH_LESS,
    STREAM_OVERHEAD,
    Ack,
    Fault,
)
from molia.wire.streams import Streams

SLOW_START_PACE: Final = 2.0
STEADY_PACE: Final = 1.25
"""Rates above a window in a round trip, so that pacing never is the limit (RFC 9002 7.7)."""
CONTROL_SIZE_MAX: Final = 24
"""No control frame is larger."""
RUNS_WORTH_SETTLING: Final = 8
PROBES: Final = 2
"""Packets that leave when the probe timer fires, whatever the window says (RFC 9002 6.2.4)."""
SMALL_AFTER_PTOS: Final = 2
"""Probe timeouts after which packets shrink to the base size: larger ones may not pass."""


class Piece(NamedTuple):
    """Bytes of a further stream in a packet."""

    stream_id: int
    start: int
    stop: int
    is_end: bool


class Outbound:
    """Builds payloads and settles them."""

    def __init__(
        self, streams: Streams, acks: AckLog, *, congestion: Congestion, pmtu: PathMtu,
        overhead: int, initial_rtt_s: float, give_up_s: float, entropy: Entropy, now_s: float,
    ) -> None:  # fmt: skip
        self.recovery = Recovery(initial_rtt_s)
        self.congestion = congestion
        self.pmtu = pmtu
        self._streams, self._acks = streams, acks
        self._overhead, self._give_up_s = overhead, give_up_s
        self._pacer = Pacer(now_s)
        self._progress_s = now_s
        self._probes_due = 0
        self._settle_due = False
        self._waits = False
        """Something could be sent, did the window and the pace allow: the window is the limit."""
        self._skips = Skips(entropy)
        self._window, self._rate = 0, 0.0
        """The congestion window in bytes, the pace in bytes a second."""
        self._set_pace()
        self.lost_count = 0
        """Packets given up so far, probes of the MTU left out."""

    # -- what may leave

    @property
    def datagram_size(self) -> int:
        """UDP payload of a full packet."""
        if self.recovery.pto_count >= SMALL_AFTER_PTOS:
            return UDP_PAYLOAD_BASE
        return self.pmtu.size

    @property
    def max_payload(self) -> int:
        """Bytes of a full payload."""
        return self.datagram_size - self._overhead

    def _set_pace(self) -> None:
        """Follow the window and the round trip."""
        window = self._window = self.congestion.window
        factor = SLOW_START_PACE if self.congestion.in_slow_start else STEADY_PACE
        self._rate = factor * window / (self.recovery.rtt.smoothed_s + 1e-6)
        self._streams.buffer_size = min(max(SEND_BUFFER_START, 2 * window), SEND_BUFFER_MAX)

    def _allowance(self, count: int, size: int, now_s: float) -> int:
        """Return how many packets of `size` bytes may leave now."""
        room = (self._window - self.recovery.in_flight) // size
        if room > 0:
            paced = self._pacer.allowance(rate=self._rate, size=size, now_s=now_s)
            room = min(room, paced)
        if room < self._probes_due:
            room = self._probes_due
        if self.recovery.span_count >= SPANS_MAX:
            return 0
        return min(count, room, BURST_BYTES_MAX // size)

    def take(self, now_s: float, count: int) -> list[bytes]:
        """Return at most `count` payloads, all of one size but the last."""
        streams = self._streams
        if not (streams.ready or streams.controls or self._probes_due):
            self._waits = False
            return self._bare_ack(now_s)
        size = self.datagram_size
        allowed = self._allowance(count, size, now_s)
        if not allowed:
            self._waits = self._wants_to_send()
            return self._bare_ack(now_s)
        if (probe := self._mtu_probe(now_s)) is not None:
            return [probe]
        payloads: list[bytes] = []
        full = size - self._overhead
        chunk = full - STREAM_OVERHEAD
        self._waits = False
        while len(payloads) < allowed:
            plain = not streams.controls and self._acks.due_s is None and not self._settle_due
            found = streams.next_run() if plain else None
            whole = (found[1].stop - found[1].start) // chunk if found else 0
            if found and whole:
                room = allowed - len(payloads)
                payloads += self._burst(*found, min(room, whole), size, now_s)
                self._waits = whole > room
                continue
            payload = self._single(now_s, last=len(payloads) + 1 >= allowed)
            if payload is None:
                break
            payloads.append(payload)
            if len(payload) < full:
                break
        self._waits = self._waits or self._wants_to_send()
        return payloads or self._bare_ack(now_s)

    def _wants_to_send(self) -> bool:
        return bool(self._streams.controls) or self._streams.next_run() is not None

    def _burst(self, half: SendHalf, run: Run, count: int, size: int, now_s: float) -> list[bytes]:
        """Return `count` full packets of one stream: the way of bulk data."""
        chunk = size - self._overhead - STREAM_OVERHEAD
        start, stop = run.start, run.start + count * chunk
        is_end = run.is_end and stop == run.stop
        first, stream_id = self._next_number(), half.stream_id
        pack, length = STREAM_HEAD.pack, chunk + STREAM_LENGTH_LESS
        pieces = half.slices(start, stop, chunk)
        places = range(start, stop, chunk)
        payloads = [
            pack(frames.STREAM, length, number, stream_id, place) + piece
            for number, place, piece in zip(
                range(first, first + count), places, pieces, strict=True
            )
        ]
        if is_end:
            last = pack(frames.STREAM, length, first + count - 1, stream_id, places[-1] | END)
            payloads[-1] = last + pieces[-1]
        self._sent(Span(first, first + count, now_s, size, size, stream_id, start, chunk, stop,
                        is_end))  # fmt: skip
        self._streams.on_sent(half, start, stop, is_end=is_end)
        self._streams.turn(half)
        return payloads

    def _single(self, now_s: float, *, last: bool) -> bytes | None:
        """Return one packet of whatever waits, or None when it would hold nothing."""
        full = self.max_payload
        found = self._streams.next_run()
        if found is None and not self._streams.controls and not self._probes_due:
            return None
        tail = [self._acks.take(now_s)] if self._acks.due_s is not None else []
        used = sum(map(len, tail))
        controls = self._take_controls(tail, full - used - STREAM_OVERHEAD, now_s)
        used = sum(map(len, tail))
        if found is None and not controls and not self._probes_due:
            # Nothing that must arrive is left: no number, no place in the ledger.
            return b"".join(tail) or None
        number = self._next_number()
        span = Span(number, number + 1, now_s, 0, 0)
        items: list[object] = list(controls)
        if found is None:
            parts: list[bytes | memoryview] = [NUMBER_HEAD.pack(frames.NUMBER, 8, number), *tail]
            used += NUMBER_HEAD.size
        else:
            used += STREAM_OVERHEAD
            parts = [*self._first_piece(span, found, full - used), *tail]
            used += span.end - span.offset
            used = self._more_pieces(parts, items, used, full)
        if not last and used < full and self._wants_to_send():
            parts.append(frames.padding(full - used))
            used = full
        span.controls = tuple(items)
        span.size = span.last_size = used + self._overhead
        self._sent(span)
        return b"".join(parts)

    def _take_controls(self, tail: list[bytes], room: int, now_s: float) -> list[tuple[int, int]]:
        """Append control frames to `tail` while there is room; return which."""
        taken: list[tuple[int, int]] = []
        if self._settle_due and room >= CONTROL_SIZE_MAX:
            self._settle_due = False
            tail.append(NUMBER_HEAD.pack(frames.SETTLED, 8, self.recovery.floor))
            room -= NUMBER_HEAD.size
        controls, rtt_s = self._streams.controls, self.recovery.rtt.smoothed_s
        while controls and room >= CONTROL_SIZE_MAX:
            control = next(iter(controls))
            del controls[control]
            frame = self._streams.encode(control, rtt_s=rtt_s, now_s=now_s)
            if frame:
                tail.append(frame)
                taken.append(control)
                room -= len(frame)
        return taken

    def _first_piece(
        self, span: Span, found: tuple[SendHalf, Run], room: int
    ) -> list[bytes | memoryview]:
        """Return head and bytes of the STREAM frame that leads a packet."""
        half, run = found
        stop = min(run.stop, run.start + room)
        is_end = run.is_end and stop == run.stop
        span.stream_id, span.offset, span.end = half.stream_id, run.start, stop
        span.chunk, span.is_end = stop - run.start, is_end
        length = stop - run.start + STREAM_LENGTH_LESS
        head = STREAM_HEAD.pack(frames.STREAM, length, span.first, half.stream_id,
                                run.start | (END if is_end else 0))  # fmt: skip
        pieces = half.slices(run.start, stop, max(1, stop - run.start))
        self._streams.on_sent(half, run.start, stop, is_end=is_end)
        return [head, *pieces]

    def _more_pieces(
        self, parts: list[bytes | memoryview], items: list[object], used: int, full: int
    ) -> int:
        """Add bytes of further streams while there is room; return how full the packet is."""
        while full - used > MORE_OVERHEAD:
            found = self._streams.next_run()
            if found is None:
                break
            half, run = found
            stop = min(run.stop, run.start + full - used - MORE_OVERHEAD)
            is_end = run.is_end and stop == run.stop
            size = stop - run.start
            place = run.start | (END if is_end else 0)
            parts.append(
                MORE_HEAD.pack(frames.MORE, size + MORE_OVERHEAD - 3, half.stream_id, place)
            )
            parts += half.slices(run.start, stop, max(1, size))
            self._streams.on_sent(half, run.start, stop, is_end=is_end)
            items.append(Piece(half.stream_id, run.start, stop, is_end))
            used += MORE_OVERHEAD + size
        return used

    def _bare_ack(self, now_s: float) -> list[bytes]:
        due_s = self._acks.due_s
        return [self._acks.take(now_s)] if due_s is not None and due_s <= now_s else []

    def _mtu_probe(self, now_s: float) -> bytes | None:
        """Return a padded packet while data flows and a larger size is worth a try."""
        if self.recovery.rtt.first_sample_s is None or self.recovery.pto_count:
            return None
        wanted = self.pmtu.wanted(now_s)
        if wanted is None or (found := self._streams.next_run()) is None:
            return None
        if found[1].stop - found[1].start < wanted:
            return None
        number = self._next_number()
        size = wanted - self._overhead
        self._sent(Span(number, number + 1, now_s, wanted, wanted, probe=True))
        self.pmtu.on_probe_sent()
        head = NUMBER_HEAD.pack(frames.NUMBER, 8, number)
        return head + frames.padding(size - len(head))

    def _sent(self, span: Span) -> None:
        if not self.recovery.span_count:
            self._progress_s = max(self._progress_s, span.sent_s)
        self.recovery.on_sent(span)
        self._pacer.spend(span.bytes_in_flight)
        self._probes_due = max(0, self._probes_due - (span.stop - span.first))

    def _next_number(self) -> int:
        number = self._skips.next_number(self.recovery.next_number)
        self.recovery.next_number = number
        return number

    # -- what became of it

    def on_ack(self, ack: Ack, now_s: float) -> None:
        """Settle an acknowledgement. Raises ChannelFault."""
        runs = ack.runs
        if runs[0][1] > self.recovery.next_number:
            raise ChannelFault(Fault.BAD_ACK)
        if runs[0][1] > self._skips.lowest and self._skips.caught(runs):
            raise ChannelFault(Fault.BAD_ACK)
        self._settle_due |= len(runs) >= RUNS_WORTH_SETTLING
        settled = self.recovery.on_ack(runs, ack_delay_s=ack.delay_s, now_s=now_s)
        rtt = self.recovery.rtt
        if settled.rtt_sampled:
            self.congestion.on_rtt(
                rtt.latest_s, acked=self.recovery.largest_acked,
                next_number=self.recovery.next_number,
            )  # fmt: skip
        if settled.acked:
            self._progress_s, self._probes_due = now_s, 0
            self._on_acked(settled.acked, now_s)
            if settled.lost or self.pmtu.is_suspicious:
                self._watch_large(settled, now_s)
        if settled.lost:
            self._on_lost(settled, now_s)
        self._set_pace()

    def _on_acked(self, acked: Sequence[Span], now_s: float) -> None:
        streams, rtt_s = self._streams, self.recovery.rtt.smoothed_s
        for span in acked:
            if self._waits and not span.probe:
                self.congestion.on_acked(
                    span.bytes_in_flight, sent_s=span.sent_s, now_s=now_s, rtt_s=rtt_s
                )
            if span.stream_id >= 0:
                streams.on_acked(span.stream_id, span.offset, span.end, is_end=span.is_end)
            if span.probe and self.pmtu.on_probe_acked(span.size):
                self.congestion.on_datagram_size(span.size)
            for item in span.controls:
                if isinstance(item, Piece):
                    streams.on_acked(item.stream_id, item.start, item.stop, is_end=item.is_end)
                elif isinstance(item, tuple):
                    streams.on_control_acked(item)

    def _on_lost(self, settled: Settled, now_s: float) -> None:
        """Queue what was lost again, and tell congestion control and the search for the MTU."""
        counted: list[Span] = []
        for span in settled.lost:
            self._requeue(span)
            if span.probe:
                self.pmtu.on_probe_lost(span.size)
            else:
                counted.append(span)
                self.lost_count += span.stop - span.first
        if counted:
            self.congestion.on_lost(sent_s=counted[-1].sent_s, now_s=now_s)
            if self.recovery.is_persistent(counted):
                self.congestion.on_persistent_congestion()
        self._set_pace()
        if not settled.acked:
            self._watch_large(settled, now_s)

    def _watch_large(self, settled: Settled, now_s: float) -> None:
        """Look for a black hole: large packets are lost and none arrives."""
        arrived = any(span.size > UDP_PAYLOAD_BASE for span in settled.acked)
        lost = any(span.size > UDP_PAYLOAD_BASE and not span.probe for span in settled.lost)
        if (arrived or lost) and self.pmtu.on_large(arrived=arrived, lost=lost, now_s=now_s):
            self.congestion.on_datagram_size(self.pmtu.size)

    def _requeue(self, span: Span) -> None:
        if span.stream_id >= 0:
            self._streams.on_lost(span.stream_id, span.offset, span.end, is_end=span.is_end)
        for item in span.controls:
            if isinstance(item, Piece):
                self._streams.on_lost(item.stream_id, item.start, item.stop, is_end=item.is_end)
            elif isinstance(item, tuple):
                self._streams.controls[item] = None

    # -- time

    def next_deadline_s(self) -> float | None:
        """Return when something is due: a loss, a probe, an acknowledgement, the next burst.

        What may leave at once is not counted: `take` is called until it gives nothing.
        """
        due_s = self.recovery.next_deadline_s()
        for other_s in (self._acks.due_s, self._next_burst_s()):
            if other_s is not None and (due_s is None or other_s < due_s):
                due_s = other_s
        return due_s

    def _next_burst_s(self) -> float | None:
        size = self.datagram_size
        if not self._waits or self._window - self.recovery.in_flight < size:
            return None
        if self.recovery.span_count >= SPANS_MAX:
            return None
        return self._pacer.next_s(rate=self._rate, size=size)

    def on_deadline(self, now_s: float) -> None:
        """Look at the clock. Raises ChannelFault when the peer is gone."""
        due_s = self.recovery.next_deadline_s()
        if due_s is None or due_s > now_s:
            return
        if now_s - self._progress_s >= self._give_up_s:
            raise ChannelFault(Fault.TIMED_OUT)
        lost = self.recovery.on_deadline(now_s)
        if lost is not None:
            self._on_lost(Settled([], lost), now_s)
            return
        self._probes_due = PROBES
        oldest = self.recovery.oldest
        if oldest is not None:
            self._requeue(oldest.cut(oldest.first, min(oldest.stop, oldest.first + PROBES)))

    def on_path_changed(self, now_s: float, congestion: Congestion) -> None:
        """Know nothing of the path any more (RFC 9000 9.4)."""
        self.recovery.on_path_changed(now_s)
        self.congestion, self._pacer = congestion, Pacer(now_s)
        self.pmtu.reset()
        self._progress_s = now_s
        self._set_pace()
