"""How long a datagram is under way, and whether it arrives.

The round trip of a pair is its distance in a plane plus two heights (Vivaldi's shape: a metric,
with last miles), or lognormal per pair; either is scaled so that the median pair has the wanted
one. Loss is part even, part in bursts that strike a node for a tenth of a second.
Source: docs/reference/simulator.md, "Delay and loss".
"""

import math
import random
from dataclasses import dataclass
from statistics import median
from typing import Final

from molia.sim.places import Spot

_SAMPLES: Final = 4_001
_JITTERS: Final = 4_096
_SIGMA: Final = 0.6
"""Of the lognormal model, between pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathConfig:
    """What paths are like."""

    rtt_median_s: float = 0.076
    model: str = "plane"
    """"plane" or "lognormal"."""
    jitter: float = 0.08
    """Sigma of the lognormal factor of each packet."""
    even_loss: float = 0.005
    burst_loss: float = 0.5
    """Of packets to a node that a burst strikes."""
    burst_s: float = 0.1
    burst_every_s: float = 10.0
    """Mean time from burst to burst of one node."""
    reordered: float = 0.01
    """Packets that take up to half their time longer, so that later ones overtake."""
    copied: float = 0.001

    @property
    def loss(self) -> float:
        """The share of packets that are lost in the long run."""
        in_burst = self.burst_loss * self.burst_s / self.burst_every_s if self.burst_loss else 0.0
        return self.even_loss + (1 - self.even_loss) * in_burst


CLEAN: Final = PathConfig(even_loss=0.0, burst_loss=0.0, reordered=0.0, copied=0.0)


class Delays:
    """One-way delays between spots."""

    def __init__(self, config: PathConfig, rng: random.Random, spots: list[Spot]) -> None:
        """spots: of enough nodes to know the median pair by."""
        assert config.model in ("plane", "lognormal"), "there are two models"
        self._config, self._rng = config, rng
        self._is_plane = config.model == "plane"
        self._jitters = [rng.lognormvariate(0.0, config.jitter) for _ in range(_JITTERS)]
        self._salt = rng.getrandbits(32)
        self._scale_s = config.rtt_median_s / 2 / self._median_of(spots, rng)

    def _median_of(self, spots: list[Spot], rng: random.Random) -> float:
        if not self._is_plane or len(spots) < 2:
            return 1.0
        pairs = (rng.sample(spots, 2) for _ in range(_SAMPLES))
        return median(_apart(a, b) for a, b in pairs)

    def base_s(self, a: Spot, b: Spot) -> float:
        """Return the one-way delay of a pair without jitter, the same in both directions."""
        if self._is_plane:
            return _apart(a, b) * self._scale_s
        pair = random.Random(f"{self._salt} {min(a, b)} {max(a, b)}")
        return self._scale_s * pair.lognormvariate(0.0, _SIGMA)

    def draw_s(self, a: Spot, b: Spot) -> float:
        """Return the delay of one packet."""
        factor = self._jitters[self._rng.getrandbits(12)]
        if self._is_plane:
            apart = math.hypot(a[0] - b[0], a[1] - b[1]) + a[2] + b[2]
            return apart * self._scale_s * factor
        return self.base_s(a, b) * factor


def _apart(a: Spot, b: Spot) -> float:
    return math.hypot(a.x - b.x, a.y - b.y) + a.height + b.height


class Bursts:
    """When a node's own link is bad: a Gilbert-Elliott chain in continuous time, drawn as asked."""

    __slots__ = ("_config", "_from_s", "_rng", "_until_s")

    def __init__(self, config: PathConfig, rng: random.Random) -> None:
        self._config, self._rng = config, rng
        self._until_s = 0.0
        self._from_s = rng.expovariate(1 / config.burst_every_s)

    def is_bad(self, now_s: float) -> bool:
        """Tell whether a burst is on; `now_s` never falls."""
        while now_s >= self._until_s and now_s >= self._from_s:
            self._until_s = self._from_s + self._rng.expovariate(1 / self._config.burst_s)
            quiet_s = self._config.burst_every_s - self._config.burst_s
            self._from_s = self._until_s + self._rng.expovariate(1 / quiet_s)
        return now_s < self._until_s
