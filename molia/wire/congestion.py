"""How much may be in flight: NewReno and CUBIC behind one Protocol, HyStart++ in slow start.

Sources: RFC 9002 section 7 and appendix B (NewReno), RFC 9438 (CUBIC), RFC 9406 (HyStart++).
docs/reference/transport.md names what is simplified. All windows are in bytes.
"""

from abc import ABC, abstractmethod
from typing import Final, Protocol

from molia.base.limits import CONGESTION_WINDOW_MAX

WINDOW_PACKETS_START: Final = 10
WINDOW_BYTES_START: Final = 14_720
WINDOW_PACKETS_MIN: Final = 2
RENO_FACTOR: Final = 0.5
CUBIC_FACTOR: Final = 0.7
CUBIC_C: Final = 0.4
CUBIC_FRIENDLY: Final = 3 * (1 - CUBIC_FACTOR) / (1 + CUBIC_FACTOR)
RTT_RISE_MIN_S: Final = 0.004
RTT_RISE_MAX_S: Final = 0.016
ROUND_SAMPLES: Final = 8
CAUTIOUS_DIVISOR: Final = 4
CAUTIOUS_ROUNDS: Final = 5


def start_window(datagram_size: int) -> int:
    """Return the window of a new path (RFC 9002 7.2)."""
    lowest = max(WINDOW_BYTES_START, WINDOW_PACKETS_MIN * datagram_size)
    return min(WINDOW_PACKETS_START * datagram_size, lowest)


class Congestion(Protocol):
    """What a sender asks of a congestion controller."""

    @property
    def window(self) -> int:
        """Bytes that may be in flight."""
        ...

    @property
    def in_slow_start(self) -> bool:
        """Whether the window still grows by what is acknowledged."""
        ...

    def on_acked(self, size: int, *, sent_s: float, now_s: float, rtt_s: float) -> None:
        """`size` bytes arrived that left at `sent_s`, while the window was the limit."""
        ...

    def on_rtt(self, latest_s: float, *, acked: int, next_number: int) -> None:
        """A round trip was measured; `acked` is the highest number that arrived."""
        ...

    def on_lost(self, *, sent_s: float, now_s: float) -> None:
        """Packets were lost, the newest of which left at `sent_s`."""
        ...

    def on_persistent_congestion(self) -> None:
        """Nothing arrived for several probe timeouts."""
        ...

    def on_datagram_size(self, size: int) -> None:
        """Datagrams now have `size` bytes."""
        ...


class SlowStart:
    """HyStart++ (RFC 9406): leaves slow start when round trips grow, before packets are lost."""

    __slots__ = (
        "_baseline_s",
        "_cautious_rounds",
        "_current_s",
        "_last_s",
        "_round_end",
        "_samples",
        "done",
    )

    def __init__(self) -> None:
        self.done = False
        self._round_end = 0
        self._last_s = self._current_s = self._baseline_s = float("inf")
        self._samples = 0
        self._cautious_rounds = 0
        """0: not cautious; else the rounds spent in conservative slow start, one more."""

    def growth(self, size: int) -> int:
        """Return how much the window grows for `size` acknowledged bytes."""
        return size // CAUTIOUS_DIVISOR if self._cautious_rounds else size

    def on_rtt(self, latest_s: float, *, acked: int, next_number: int) -> None:
        """Take a sample; sets `done` when the path's queue is filling."""
        if acked >= self._round_end:
            self._begin_round(next_number)
        self._current_s = min(self._current_s, latest_s)
        self._samples += 1
        if self._samples < ROUND_SAMPLES or self._current_s == float("inf"):
            return
        if self._cautious_rounds:
            if self._current_s < self._baseline_s:
                self._baseline_s, self._cautious_rounds = float("inf"), 0
        elif self._last_s < float("inf"):
            rise_s = min(max(self._last_s / 8, RTT_RISE_MIN_S), RTT_RISE_MAX_S)
            if self._current_s >= self._last_s + rise_s:
                self._baseline_s, self._cautious_rounds = self._current_s, 1

    def _begin_round(self, next_number: int) -> None:
        self._round_end = next_number
        self._last_s, self._current_s = self._current_s, float("inf")
        self._samples = 0
        if self._cautious_rounds:
            self._cautious_rounds += 1
            self.done = self._cautious_rounds > CAUTIOUS_ROUNDS


class _LossBased(ABC):
    """What NewReno and CUBIC share: slow start, one reduction a round trip, the floor."""

    __slots__ = ("_datagram", "_recovery_s", "_slow_start", "_threshold", "_window")

    FACTOR: float

    def __init__(self, datagram_size: int, born_s: float = float("-inf")) -> None:
        self._datagram = datagram_size
        self._window = float(start_window(datagram_size))
        self._threshold = float("inf")
        self._recovery_s = born_s
        """What left until then says nothing about the present window."""
        self._slow_start = SlowStart()

    @property
    def window(self) -> int:
        """Bytes that may be in flight."""
        return int(self._window)

    @property
    def in_slow_start(self) -> bool:
        """Whether the window still grows by what is acknowledged."""
        return self._window < self._threshold

    def on_acked(self, size: int, *, sent_s: float, now_s: float, rtt_s: float) -> None:
        """Grow, unless the packets left before the last reduction."""
        if sent_s <= self._recovery_s:
            return
        if self._window < self._threshold:
            self._window += self._slow_start.growth(size)
        else:
            self._avoid(size, now_s=now_s, rtt_s=rtt_s)
        self._window = min(self._window, CONGESTION_WINDOW_MAX)

    @abstractmethod
    def _avoid(self, size: int, *, now_s: float, rtt_s: float) -> None:
        """Grow in congestion avoidance."""

    def on_rtt(self, latest_s: float, *, acked: int, next_number: int) -> None:
        """Look for a filling queue while in the first slow start."""
        if self._threshold == float("inf"):
            self._slow_start.on_rtt(latest_s, acked=acked, next_number=next_number)
            if self._slow_start.done:
                self._threshold = self._window

    def on_lost(self, *, sent_s: float, now_s: float) -> None:
        """Reduce once for all that left before the reduction."""
        if sent_s <= self._recovery_s:
            return
        self._recovery_s = now_s
        self._reduce()

    def _reduce(self) -> None:
        self._threshold = max(self._window * self.FACTOR, self._floor)
        self._window = self._threshold

    def on_persistent_congestion(self) -> None:
        """Fall to the smallest window and start slowly again."""
        self._window = self._floor
        self._recovery_s = float("-inf")

    def on_datagram_size(self, size: int) -> None:
        """Keep the window in bytes, raise it to the new floor."""
        if self._threshold == float("inf") and self._window == start_window(self._datagram):
            self._window = float(start_window(size))
        self._datagram = size
        self._window = max(self._window, self._floor)

    @property
    def _floor(self) -> float:
        return float(WINDOW_PACKETS_MIN * self._datagram)


class NewReno(_LossBased):
    """RFC 9002 appendix B."""

    __slots__ = ()

    FACTOR = RENO_FACTOR

    def _avoid(self, size: int, *, now_s: float, rtt_s: float) -> None:  # noqa: ARG002 - shared shape
        self._window += self._datagram * size / self._window


class Cubic(_LossBased):
    """RFC 9438; segments of the RFC are datagrams here, kept as fractions."""

    __slots__ = ("_epoch_s", "_friendly", "_k_s", "_peak", "_start")

    FACTOR = CUBIC_FACTOR

    def __init__(self, datagram_size: int, born_s: float = float("-inf")) -> None:
        super().__init__(datagram_size, born_s)
        self._epoch_s: float | None = None
        self._peak = self._start = self._friendly = self._k_s = 0.0

    def _avoid(self, size: int, *, now_s: float, rtt_s: float) -> None:
        if self._epoch_s is None:
            self._begin_epoch(now_s)
        assert self._epoch_s is not None
        segments = size / self._datagram
        friendly_gain = 1.0 if self._friendly >= self._peak else CUBIC_FRIENDLY
        window = self._window / self._datagram
        self._friendly += friendly_gain * segments / window
        at_s = now_s - self._epoch_s
        if self._cubic(at_s) < self._friendly:
            self._window = max(self._window, self._friendly * self._datagram)
            return
        target = min(max(self._cubic(at_s + rtt_s), window), 1.5 * window)
        self._window += (target - window) / window * size

    def _begin_epoch(self, now_s: float) -> None:
        window = self._window / self._datagram
        self._epoch_s = now_s
        self._start = self._friendly = window
        self._peak = max(self._peak, window)
        self._k_s = ((self._peak - window) / CUBIC_C) ** (1 / 3)

    def _cubic(self, at_s: float) -> float:
        """Return W_cubic in datagrams, `at_s` after the reduction."""
        return float(CUBIC_C * (at_s - self._k_s) ** 3 + self._peak)

    def _reduce(self) -> None:
        window = self._window / self._datagram
        shrinking = window < self._peak
        self._peak = window * (1 + self.FACTOR) / 2 if shrinking else window
        self._epoch_s = None
        super()._reduce()

    def on_persistent_congestion(self) -> None:
        """Fall to the smallest window and forget the old peak."""
        super().on_persistent_congestion()
        self._peak, self._epoch_s = 0.0, None


CONTROLLERS: Final[dict[str, type[NewReno] | type[Cubic]]] = {"newreno": NewReno, "cubic": Cubic}
