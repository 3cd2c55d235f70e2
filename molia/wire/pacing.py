"""When packets may leave: a bucket of tokens that lets bursts through which suit the kernel.

RFC 9002 7.7 asks that packets be spread over the round trip. A burst of 16 to 47 packets is one
system call with segmentation offload, so at high rates the bucket waits until a burst is worth it.
"""

from typing import Final

from molia.base.limits import BURST_PACKETS_MAX

BURST_PACKETS_START: Final = 10
QUANTUM_S: Final = 0.001
"""A burst is what the rate gives in this time, within one packet and `BURST_PACKETS_MAX`."""
DEPTH_S: Final = 0.004
"""How late the caller's timer may be without loss of rate."""


class Pacer:
    """A token bucket in bytes whose rate is told at each call."""

    __slots__ = ("_filled_s", "_tokens")

    def __init__(self, now_s: float) -> None:
        self._filled_s = now_s
        self._tokens = float("inf")

    def _fill(self, rate: float, size: int, now_s: float) -> None:
        depth = max(BURST_PACKETS_START * size, rate * DEPTH_S)
        gained = max(0.0, now_s - self._filled_s) * rate
        self._tokens = min(self._tokens + gained, depth)
        self._filled_s = max(now_s, self._filled_s)

    @staticmethod
    def _quantum(rate: float, size: int) -> float:
        packets = min(max(1.0, rate * QUANTUM_S / size), float(BURST_PACKETS_MAX))
        return packets * size

    def allowance(self, *, rate: float, size: int, now_s: float) -> int:
        """Return how many packets of `size` bytes may leave now at `rate` bytes a second."""
        self._fill(rate, size, now_s)
        return int(self._tokens / size) if self._tokens >= self._quantum(rate, size) else 0

    def spend(self, sent_bytes: int) -> None:
        """Take what was sent out of the bucket."""
        self._tokens -= sent_bytes

    def next_s(self, *, rate: float, size: int) -> float:
        """Return when the next burst may leave."""
        missing = self._quantum(rate, size) - self._tokens
        # A nanosecond more, so that rounding never leaves the caller a hair below the quantum.
        return self._filled_s + max(0.0, missing) / rate + (1e-9 if missing > 0 else 0.0)
