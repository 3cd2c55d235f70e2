"""What the DHT needs from outside, as the engine sees it: the wire, and a place for records.

`wire.transport.Transport` is the real wire, `sim.null_wire` the cheap one; `node/dht_rows.py` keeps
records in the store, `sim` in memory.
"""

from collections.abc import Hashable, Iterable
from typing import Protocol

from molia.base.ids import PeerKey
from molia.base.limits import REQUEST_TRIES_MAX
from molia.base.now import Now
from molia.wire.addresses import Address
from molia.wire.transport import Answer


class Asker(Hashable, Protocol):
    """Who asks: the part of `wire.peer.Peer` that handlers use."""

    @property
    def identity(self) -> PeerKey | None:
        """Its proven key."""
        ...

    @property
    def address(self) -> tuple[str, int] | tuple[str, int, int, int] | None:
        """Where its packets come from, as a socket gives it."""
        ...


class Wire(Protocol):
    """Small requests to peers. A reply comes to the engine as `wire.requests.Ended`."""

    def ask_at(
        self, key: PeerKey, address: Address, number: int, body: bytes, now: Now, *,
        timeout_s: float | None = None, tries: int = REQUEST_TRIES_MAX,
    ) -> int | None:  # fmt: skip
        """Ask whoever has this key; return the request's id. None: nobody can. Raises Busy.

        tries: how often it is sent at most, if there is a session.
        """
        ...

    def reply(self, peer: Asker, request_id: int, answer: Answer, now: Now) -> None:
        """Answer a request for which the engine's handler returned None."""
        ...

    def has_session(self, key: PeerKey, now: Now) -> bool:
        """Tell whether asking this peer costs no handshake."""
        ...


class Shelf(Protocol):
    """Where records and provider records lie: reading is immediate, writing is asked by effects.

    A row is opaque bytes under (kind, LOC); its format is `dht/held.py`'s.
    """

    def read(self, kind: int, loc: bytes) -> bytes | None:
        """Return the row, or None. kind: `held.RECORD` or `held.PROVIDERS`."""
        ...

    def locations(self, kind: int, start: bytes, limit: int) -> Iterable[bytes]:
        """Return up to `limit` locations with a row, in order, from `start` on."""
        ...
