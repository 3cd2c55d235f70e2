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

    @staticmethod
    def _quantum(rate: float, size: int) -> float:
        quantum, most = rate * QUANTUM_S, float(BURST_PACKETS_MAX * size)
        return most if quantum >= most else max(quantum, float(size))

    def allowance(self, *, rate: float, size: int, now_s: float) -> int:
        """Return how many packets of `size` bytes may leave now at `rate` bytes a second."""
        if now_s > self._filled_s:
            self._tokens += (now_s - self._filled_s) * rate
            self._filled_s = now_s
        depth = max(BURST_PACKETS_START * size, rate * DEPTH_S)
        if self._tokens > depth:
            self._tokens = depth
        return int(self._tokens / size) if self._tokens >= self._quantum(rate, size) else 0

    def spend(self, sent_bytes: int) -> None:
        """Take what was sent out of the bucket."""
        self._tokens -= sent_bytes

    def next_s(self, *, rate: float, size: int) -> float:
        """Return when the next burst may leave."""
        missing = self._quantum(rate, size) - self._tokens
        # A microsecond more, so that rounding never leaves the caller a hair below the quantum.
        return self._filled_s + (missing / rate + 1e-6 if missing > 0 else 0.0)
