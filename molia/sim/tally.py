"""What became of the operations of a run: counts, latencies with failures at the deadline, causes.

A failure is never left out: it stands in the percentiles with the time at which a user would have
given up.
Source: docs/reference/simulator.md, "What is measured".
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

_Z: Final = 1.96
"""Of a 95% interval."""


def percentile(sorted_values: list[float], share: float) -> float:
    """Return the value that `share` of all do not exceed (nearest rank); 0 of none."""
    if not sorted_values:
        return 0.0
    rank = max(1, math.ceil(share * len(sorted_values) - 1e-9))
    return sorted_values[rank - 1]


def wilson(successes: int, count: int) -> tuple[float, float]:
    """Return the 95% Wilson interval of a proportion; (0, 1) when nothing was tried."""
    if not count:
        return 0.0, 1.0
    share, square = successes / count, _Z * _Z
    middle = share + square / (2 * count)
    half = _Z * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    scale = 1 + square / count
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale + 1e-12)


@dataclass(slots=True)
class Tally:
    """Operations of one kind."""

    latencies_s: list[float] = field(default_factory=list)
    successes: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    """Why operations failed."""
    requests: int = 0
    size_bytes: int = 0
    """Both ways, headers and handshakes included."""

    @property
    def count(self) -> int:
        """How many were tried."""
        return len(self.latencies_s)

    @property
    def success(self) -> float:
        """The share that succeeded; 1 when none was tried."""
        return self.successes / self.count if self.count else 1.0

    def add(self, *, took_s: float, deadline_s: float, cause: str | None) -> None:
        """Take one that ended; cause: why it failed."""
        if cause is None:
            self.successes += 1
            self.latencies_s.append(min(took_s, deadline_s))
        else:
            self.causes[cause] += 1
            self.latencies_s.append(deadline_s)

    def merge(self, other: "Tally") -> None:
        """Take those of another."""
        self.latencies_s += other.latencies_s
        self.successes += other.successes
        self.causes += other.causes
        self.requests += other.requests
        self.size_bytes += other.size_bytes

    def quantile_ms(self, share: float) -> float:
        """Return a percentile in ms."""
        return round(1_000 * percentile(sorted(self.latencies_s), share), 1)

    def line(self, name: str) -> str:
        """Return one line for people."""
        low, high = wilson(self.successes, self.count)
        ordered = sorted(self.latencies_s)
        p50, p95, p99 = (1_000 * percentile(ordered, share) for share in (0.5, 0.95, 0.99))
        top = 1_000 * (ordered[-1] if ordered else 0.0)
        each = max(1, self.count)
        causes = ", ".join(f"{cause} {n}" for cause, n in sorted(self.causes.items()))
        return (
            f"  {name:<14}{self.count:>6}  {100 * self.success:7.2f}% [{100 * low:.2f}, "
            f"{100 * high:.2f}]  p50 {p50:.0f}  p95 {p95:.0f}  p99 {p99:.0f}  max {top:.0f} ms  "
            f"{self.requests / each:.1f} requests, {self.size_bytes / each / 1_000:.1f} kB each"
            + (f"  failed: {causes}" if causes else "")
        )
