"""How much of what a node sends may be repair: a tenth, and a little when it sends nothing else."""

from typing import Final

SHARE: Final = 0.10
FLOOR_BYTES_S: Final = 2_048.0
BURST_S: Final = 10.0
WINDOW_S: Final = 60.0


class RepairBudget:
    """Bytes for repair, as a bucket that fills with a share of the node's egress."""

    def __init__(self, now_s: float) -> None:
        self.rate = FLOOR_BYTES_S
        """Bytes a second, now."""
        self._left = self.rate * BURST_S
        self._at_s = self._since_s = now_s
        self._sent_before: int | None = None
        self.spent = 0

    def on_egress(self, sent_bytes: int, now_s: float) -> None:
        """Take the count of all bytes that the node has sent so far; often or seldom."""
        if self._sent_before is None or sent_bytes < self._sent_before:
            self._sent_before, self._since_s = sent_bytes, now_s
        elif now_s - self._since_s >= WINDOW_S:
            self._fill(now_s)
            egress = (sent_bytes - self._sent_before) / (now_s - self._since_s)
            self.rate = max(FLOOR_BYTES_S, SHARE * egress)
            self._sent_before, self._since_s = sent_bytes, now_s

    def is_open(self, now_s: float) -> bool:
        """Tell whether something may be sent now."""
        self._fill(now_s)
        return self._left > 0

    def spend(self, size: int, now_s: float) -> None:
        """Take what was sent; the last of an open budget may overdraw it."""
        self._fill(now_s)
        self._left -= size
        self.spent += size

    def open_s(self, now_s: float) -> float:
        """Return when it is open again."""
        self._fill(now_s)
        return now_s if self._left > 0 else now_s + (1.0 - self._left) / self.rate

    def _fill(self, now_s: float) -> None:
        gained = (now_s - self._at_s) * self.rate
        self._left = min(self._left + gained, self.rate * BURST_S)
        self._at_s = now_s
