"""What peers put here and get from here."""

from typing import Final

from molia.base.now import Now
from molia.dht.hub import Hub
from molia.dht.serving import Serving
from molia.wire.transport import Handler


class Storing:
    """The records that this node keeps for others."""

    TIMERS: Final[frozenset[str]] = frozenset()

    def __init__(self, hub: Hub, serving: Serving) -> None:
        self._hub, self._serving = hub, serving
        self.handlers: dict[int, Handler] = {}

    def start(self, now: Now) -> None:
        """Begin."""

    def on_timer(self, name: str, now: Now) -> None:
        """Do what was due."""

    def on_stored(self, token: int, *, applied: bool, now: Now) -> None:
        """Take what became of a write."""
