"""Which packets have arrived, which are lost, and when to ask again: RFC 9002 sections 5 and 6.

The ledger of packets in flight holds one `Span` for each burst, not one entry for each packet: a
burst of 47 costs what a single packet costs. An acknowledgement cuts spans where it must.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from molia.base.limits import LOST_RANGES_MAX, PACKET_THRESHOLD_MAX
from molia.wire.intervals import Intervals

GRANULARITY_S: Final = 0.001
MAX_ACK_DELAY_S: Final = 0.025
"""The longest that a receiver holds an acknowledgement back; both sides know it."""
PACKET_THRESHOLD: Final = 3
TIME_THRESHOLD: Final = 9 / 8
TIME_THRESHOLD_MAX: Final = 2.0
PERSISTENT_THRESHOLD: Final = 3
LATE_PACKETS: Final = 4 * PACKET_THRESHOLD_MAX
"""A packet that is overtaken by more is no longer watched for."""
PTO_BACKOFF_MAX: Final = 6
"""Doublings of the probe timeout; more would leave a path that heals unused for minutes."""


@dataclass(slots=True)
class Span:
    """Packets that left in one burst, with consecutive numbers, and what they carried.

    Packet i of the span carries `chunk` bytes of the stream from `offset + i * chunk`; the last one
    ends at `end`. A span with `controls` has one packet.
    """

    first: int
    stop: int
    sent_s: float
    size: int
    """Bytes of every packet but the last, headers and seal included."""
    last_size: int
    stream_id: int = -1
    offset: int = 0
    chunk: int = 0
    end: int = 0
    is_end: bool = False
    """The last packet also said that the stream ends."""
    controls: tuple[object, ...] = ()
    probe: bool = False
    """A probe of the path's MTU: its loss says nothing about congestion."""

    @property
    def bytes_in_flight(self) -> int:
        """Bytes of all its packets."""
        return (self.stop - self.first - 1) * self.size + self.last_size

    def cut(self, first: int, stop: int) -> "Span":
        """Return the part with the numbers [first, stop)."""
        if first == self.first and stop == self.stop:
            return self
        assert self.first <= first < stop <= self.stop
        whole_end = stop == self.stop
        return Span(
            first, stop, self.sent_s, self.size, self.last_size if whole_end else self.size,
            self.stream_id, self.offset + (first - self.first) * self.chunk, self.chunk,
            self.end if whole_end else self.offset + (stop - self.first) * self.chunk,
            self.is_end and whole_end,
        )  # fmt: skip


class RttEstimator:
    """Round-trip times by RFC 9002 section 5."""

    __slots__ = ("_initial_s", "first_sample_s", "latest_s", "min_s", "smoothed_s", "variation_s")

    def __init__(self, initial_s: float) -> None:
        self._initial_s = initial_s
        self.reset()

    def reset(self) -> None:
        """Forget everything: the path is another one."""
        self.latest_s = self.min_s = 0.0
        self.smoothed_s, self.variation_s = self._initial_s, self._initial_s / 2
        self.first_sample_s: float | None = None

    def on_sample(self, latest_s: float, *, ack_delay_s: float, now_s: float) -> None:
        """Take one measurement; `ack_delay_s` is what the peer says it waited."""
        self.latest_s = latest_s
        if self.first_sample_s is None:
            self.first_sample_s = now_s
            self.min_s = self.smoothed_s = latest_s
            self.variation_s = latest_s / 2
            return
        if latest_s < self.min_s:
            self.min_s = latest_s
        delay_s = min(MAX_ACK_DELAY_S, ack_delay_s)
        adjusted_s = latest_s - delay_s if latest_s >= self.min_s + delay_s else latest_s
        self.variation_s += (abs(self.smoothed_s - adjusted_s) - self.variation_s) / 4
        self.smoothed_s += (adjusted_s - self.smoothed_s) / 8

    @property
    def probe_timeout_s(self) -> float:
        """The probe timeout before any doubling."""
        return self.smoothed_s + max(4 * self.variation_s, GRANULARITY_S) + MAX_ACK_DELAY_S


@dataclass(slots=True)
class Settled:
    """What an acknowledgement or a timer settled."""

    acked: list[Span]
    lost: list[Span]
    """Lowest numbers first."""
    rtt_sampled: bool = False
    spurious: bool = False
    """A packet that had been given up has arrived after all."""


class Recovery:
    """The packets in flight of one channel, and what becomes of them."""

    def __init__(self, initial_rtt_s: float) -> None:
        self.rtt = RttEstimator(initial_rtt_s)
        self.in_flight = 0
        """Bytes that count against the congestion window."""
        self.next_number = 0
        self.largest_acked = -1
        self.pto_count = 0
        self.packet_threshold = PACKET_THRESHOLD
        self.time_threshold = TIME_THRESHOLD
        self._sent: deque[Span] = deque()
        self._lost_numbers = Intervals()
        self._loss_at_s: float | None = None
        self._last_sent_s = 0.0
        self._path_s = float("-inf")

    @property
    def span_count(self) -> int:
        """Entries of the ledger."""
        return len(self._sent)

    @property
    def oldest(self) -> Span | None:
        """The oldest span in flight."""
        return self._sent[0] if self._sent else None

    @property
    def floor(self) -> int:
        """Every number below this is settled."""
        return self._sent[0].first if self._sent else self.next_number

    def on_sent(self, span: Span) -> None:
        """Enter a burst into the ledger."""
        assert span.first >= self.next_number
        self.next_number = span.stop
        self.in_flight += span.bytes_in_flight
        self._last_sent_s = span.sent_s
        self._sent.append(span)

    def on_ack(
        self, runs: Sequence[tuple[int, int]], *, ack_delay_s: float, now_s: float
    ) -> Settled:
        """Settle what the runs [first, stop), highest first, say has arrived.

        The caller has checked that no number at or above `next_number` is among them.
        """
        settled = Settled([], [])
        sent, (first, stop) = self._sent, runs[0]
        largest = stop - 1
        while sent and first <= sent[0].first and sent[0].stop <= stop:  # all in order
            span = sent.popleft()
            self.in_flight -= span.bytes_in_flight
            settled.acked.append(span)
        if self._lost_numbers or (sent and sent[0].first < stop):
            self._settle_runs(runs, largest, settled)
        self.largest_acked = max(self.largest_acked, largest)
        if settled.acked:
            newest = settled.acked[-1]
            if newest.stop == largest + 1 and newest.sent_s >= self._path_s:
                latest_s = now_s - newest.sent_s
                self.rtt.on_sample(latest_s, ack_delay_s=ack_delay_s, now_s=now_s)
                settled.rtt_sampled = True
            self.pto_count = 0
        settled.lost = self._take_lost(now_s)
        return settled

    def _settle_runs(self, runs: Sequence[tuple[int, int]], largest: int, settled: Settled) -> None:
        """Settle what is out of order: gaps, late arrivals, spans that arrived in part."""
        lost = self._lost_numbers.first
        low = min(self.floor, lost[0]) if lost else self.floor
        rising = [run for run in runs if run[1] > low][::-1]
        self._notice_spurious(rising, settled)
        self._lost_numbers.drop_below(largest - LATE_PACKETS)
        self._sent.extendleft(reversed(self._split(rising, largest, settled)))

    def _split(self, rising: list[tuple[int, int]], largest: int, settled: Settled) -> list[Span]:
        """Move what `rising` covers into `settled.acked`; return the rest up to `largest`."""
        unacked: list[Span] = []
        sent, place = self._sent, 0
        while sent and sent[0].first <= largest:
            span = sent.popleft()
            at = span.first
            while at < span.stop:
                while place < len(rising) and rising[place][1] <= at:
                    place += 1
                if place == len(rising) or rising[place][0] >= span.stop:
                    unacked.append(span.cut(at, span.stop))
                    break
                first, stop = rising[place]
                if first > at:
                    unacked.append(span.cut(at, first))
                at, edge = max(first, at), min(stop, span.stop)
                part = span.cut(at, edge)
                self.in_flight -= part.bytes_in_flight
                settled.acked.append(part)
                at = edge
        return unacked

    def _take_lost(self, now_s: float) -> list[Span]:
        """Remove and return what RFC 9002 6.1 calls lost; arm the timer for what may be soon."""
        self._loss_at_s = None
        if not self._sent or self._sent[0].first >= self.largest_acked:
            return []
        rtt = self.rtt
        delay_s = self.time_threshold * max(rtt.latest_s, rtt.smoothed_s)
        delay_s = max(delay_s, GRANULARITY_S)
        by_count = self.largest_acked - self.packet_threshold + 1
        lost: list[Span] = []
        kept: list[Span] = []
        while self._sent and self._sent[0].first < self.largest_acked:
            span = self._sent.popleft()
            by_time = span.sent_s + delay_s <= now_s
            edge = min(span.stop, self.largest_acked if by_time else by_count)
            if edge > span.first:
                part = span.cut(span.first, edge)
                self.in_flight -= part.bytes_in_flight
                self._lost_numbers.add(part.first, part.stop)
                lost.append(part)
            if edge < span.stop:
                rest = span.cut(max(edge, span.first), span.stop)
                kept.append(rest)
                if not by_time and self._loss_at_s is None:
                    self._loss_at_s = span.sent_s + delay_s
        self._sent.extendleft(reversed(kept))
        while len(self._lost_numbers) > LOST_RANGES_MAX:
            self._lost_numbers.drop_lowest()
        return lost

    def _notice_spurious(self, rising: list[tuple[int, int]], settled: Settled) -> None:
        """Be slower to call packets lost on a path that reorders them (RFC 9002 6.1.1, 6.1.2)."""
        if not self._lost_numbers:
            return
        for first, stop in rising:
            late = list(self._lost_numbers.overlaps(first, stop))
            for start, _ in late:
                settled.spurious = True
                distance = self.largest_acked - start + 1
                widest = max(self.packet_threshold, distance)
                self.packet_threshold = min(widest, PACKET_THRESHOLD_MAX)
            for start, end in late:
                self._lost_numbers.remove(start, end)
        if settled.spurious:
            self.time_threshold = min(self.time_threshold + 1 / 8, TIME_THRESHOLD_MAX)

    def is_persistent(self, lost: Sequence[Span]) -> bool:
        """Tell whether `lost` amounts to persistent congestion (RFC 9002 7.6)."""
        first_sample_s = self.rtt.first_sample_s
        if first_sample_s is None:
            return False
        limit_s = self.rtt.probe_timeout_s * PERSISTENT_THRESHOLD
        begun_s, stop = 0.0, -2
        for span in lost:
            if span.sent_s < first_sample_s:
                continue
            if span.first > stop + 1:  # one number may have been left out on purpose
                begun_s = span.sent_s
            stop = span.stop
            if span.sent_s - begun_s > limit_s:
                return True
        return False

    def next_deadline_s(self) -> float | None:
        """Return when to call `on_deadline`: a packet is then lost, or a probe due."""
        if self._loss_at_s is not None:
            return self._loss_at_s
        if not self._sent:
            return None
        doublings = min(self.pto_count, PTO_BACKOFF_MAX)
        return self._last_sent_s + self.rtt.probe_timeout_s * (1 << doublings)

    def on_deadline(self, now_s: float) -> list[Span] | None:
        """Return what is now lost; None when instead a probe must be sent (RFC 9002 6.2)."""
        if self._loss_at_s is not None:
            return self._take_lost(now_s)
        self.pto_count += 1
        return None

    def on_path_changed(self, now_s: float) -> None:
        """Start to measure anew (RFC 9000 9.4); packets in flight stay in the ledger."""
        self._path_s = now_s
        self.rtt.reset()
        self.pto_count = 0
        self.packet_threshold, self.time_threshold = PACKET_THRESHOLD, TIME_THRESHOLD
