"""Whether the machine's clock may be believed when something is to be removed for its age.

Reading hides what has expired at once; removing cannot be taken back, so it waits while wall time
looks wrong: when it jumps against monotonic time, or against the time that the store saw last.
Source: docs/explanation/store.md, "Expiry".
"""

from typing import Final

from molia.base.limits import CLOCK_DRIFT_MAX_S, CLOCK_JUMP_MAX_S, CLOCK_WAIT_S
from molia.base.now import Now

_REBASE_S: Final = 3_600.0
"""So often the comparison starts anew: two sound clocks drift apart over the years."""


class ClockGuard:
    """Judges wall time. A core: ask it at any time, it remembers what it saw.

    last_seen_unix_s: the highest wall time of earlier runs; 0 when there were none.
    """

    def __init__(self, start: Now, *, last_seen_unix_s: int) -> None:
        self._base = start
        self._sound: Now | None = None
        """What the clocks were when they last agreed; None while nothing is in doubt."""
        away_s = start.unix_s - last_seen_unix_s if last_seen_unix_s else 0.0
        jumped = abs(away_s) > CLOCK_JUMP_MAX_S
        self._trusted_from_s = start.mono_s + CLOCK_WAIT_S if jumped else start.mono_s
        self._jump_s = away_s if jumped else 0.0
        self.jumps = int(jumped)
        """How often the clock was found to have jumped."""

    def doubt(self, now: Now) -> str:
        """Return why nothing may be removed for its age now; empty when it may."""
        drift_s = _drift_s(self._base, now)
        if abs(drift_s) > CLOCK_DRIFT_MAX_S:
            self._sound = self._sound or self._base
            self._jump_s, self._base = drift_s, now
            self._trusted_from_s = now.mono_s + CLOCK_WAIT_S
            self.jumps += 1
        elif now.mono_s - self._base.mono_s >= _REBASE_S:
            self._base = now
        if self._sound is not None and abs(_drift_s(self._sound, now)) <= CLOCK_DRIFT_MAX_S:
            self.accept(now)  # it went back to where it was
        left_s = self._trusted_from_s - now.mono_s
        if left_s <= 0:
            self._sound = None
            return ""
        return f"the clock jumped by {self._jump_s:.0f} s: nothing expires for {left_s:.0f} s more"

    def accept(self, now: Now) -> None:
        """Believe the clock from now on: an operator has looked at it."""
        self._base, self._trusted_from_s, self._jump_s = now, now.mono_s, 0.0
        self._sound = None


def _drift_s(since: Now, now: Now) -> float:
    """Return by how much wall time went further than monotonic time."""
    return (now.unix_s - since.unix_s) - (now.mono_s - since.mono_s)
