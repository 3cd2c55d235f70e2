"""One instant, as the two clocks that Molia needs see it."""

from typing import NamedTuple


class Now(NamedTuple):
    """One instant. Deadlines use `mono_s`; leases, records and frames use `unix_s`."""

    mono_s: float
    unix_s: float

    @property
    def unix_ms(self) -> int:
        """Wall time in whole milliseconds."""
        return int(self.unix_s * 1000)

    def after(self, seconds: float) -> "Now":
        """Return the instant `seconds` later on both clocks."""
        return Now(self.mono_s + seconds, self.unix_s + seconds)
