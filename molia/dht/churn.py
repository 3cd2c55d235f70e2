"""How fast contacts die, how often they are therefore checked, and whether it is we who are deaf.

Source: docs/reference/routing-table.md, "Checks".
"""

from typing import Final

CHECK_MIN_S: Final = 10.0
CHECK_MAX_S: Final = 600.0
CHECK_SHARE: Final = 0.1
"""Contacts that may have died since they were last heard of: half of this are dead on average."""
_PRIOR_DEATHS: Final = 1.0
_PRIOR_RATE: Final = 1 / 1200
"""What is believed before anything was seen, with the weight of one death: sessions of 20 minutes.
Most nodes of a network that churns are young: what they believe is what checks follow."""
_MEMORY_S: Final = 600.0
"""Time constant of forgetting."""
OUTCOMES: Final = 32
"""Requests that are remembered."""
_OUTCOMES_MIN: Final = 8


class ChurnMeter:
    """Deaths per contact and second, over about the last ten minutes."""

    __slots__ = ("_deaths", "_exposure_s", "_seen_s")

    def __init__(self) -> None:
        self._deaths = self._exposure_s = 0.0
        self._seen_s: float | None = None

    def on_time(self, contact_count: int, now_s: float) -> None:
        """Take that so many contacts were held since the last call."""
        if self._seen_s is None:
            self._seen_s = now_s
            return
        passed_s = now_s - self._seen_s
        if passed_s >= 1.0:
            kept = max(0.0, 1.0 - passed_s / _MEMORY_S)
            self._deaths *= kept
            self._exposure_s = self._exposure_s * kept + contact_count * passed_s
            self._seen_s = now_s

    def on_death(self) -> None:
        """Take that a contact which had answered before is gone."""
        self._deaths += 1.0

    @property
    def rate(self) -> float:
        """Deaths per contact and second."""
        return (self._deaths + _PRIOR_DEATHS) / (self._exposure_s + _PRIOR_DEATHS / _PRIOR_RATE)

    @property
    def check_interval_s(self) -> float:
        """How long a contact may be silent before it is asked whether it lives."""
        return min(CHECK_MAX_S, max(CHECK_MIN_S, CHECK_SHARE / self.rate))


class OwnLink:
    """Whether more than half of our last requests were lost: then the fault may be ours.

    Of a contact only the first miss counts: many dead contacts, asked again and again, must not
    look like a dead link for ever.
    """

    __slots__ = ("_count", "_lost")

    def __init__(self) -> None:
        self._lost = self._count = 0

    def add(self, *, lost: bool) -> None:
        """Take how one request ended. The last 32 count."""
        self._lost = (self._lost << 1 | lost) & ((1 << OUTCOMES) - 1)
        self._count = min(OUTCOMES, self._count + 1)

    @property
    def is_deaf(self) -> bool:
        """Tell whether nothing may be held against others now."""
        return self._count >= _OUTCOMES_MIN and 2 * self._lost.bit_count() > self._count
