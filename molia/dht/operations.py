"""What the owner asks of the DHT: look up, get, put, announce, find providers, ping.

Each has an id at once and ends in one `Finished` effect.
Source: docs/reference/dht.md, "Operations".
"""

from molia.base.now import Now
from molia.dht.asking import Asks
from molia.dht.effects import Finished
from molia.dht.hub import Hub
from molia.dht.searching import Found, Searches


class Operations:
    """The operations of one engine."""

    def __init__(self, hub: Hub, asks: Asks, searches: Searches) -> None:
        self._hub, self._asks, self._searches = hub, asks, searches
        self._last_id = 0

    def find(self, target: bytes, now: Now, *, trace: bool, family: int | None) -> int:
        """Look for the nodes closest to a target."""
        operation_id = self._begin()

        def found(result: Found, _: Now) -> None:
            self._hub.emit(Finished(operation_id, result))

        self._searches.find(
            int.from_bytes(target, "big"), found, now, family=family,
            trace=operation_id if trace else None,
        )  # fmt: skip
        return operation_id

    def _begin(self) -> int:
        self._last_id += 1
        return self._last_id

    def next_deadline_s(self) -> float | None:
        """Return when `on_deadline` is to be called."""
        return None

    def on_deadline(self, now: Now) -> None:
        """Do what is due."""
