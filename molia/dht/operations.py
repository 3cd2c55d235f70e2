"""What the owner asks of the DHT: look up, walk, get, put, announce, find providers, ping.

Each has an id at once and ends in one `Finished` effect, with a `LookupResult` or one of
`dht/results.py`.
Source: docs/reference/dht.md, "Operations".
"""

from collections.abc import Callable, Sequence

from molia.base.ids import PeerKey
from molia.base.now import Now
from molia.dht import records
from molia.dht.asking import Asks, Reply
from molia.dht.blinding import read_locations
from molia.dht.contact import Contact
from molia.dht.effects import Finished, Heard
from molia.dht.getting import Getting, ProviderSearch, RecordQuery
from molia.dht.hub import Hub
from molia.dht.outcome import Goal
from molia.dht.providers import ProviderRecord
from molia.dht.putting import Announcing, Putting
from molia.dht.records import RecordAddress, SignedRecord
from molia.dht.results import Announced, Got, Pinged, ProvidersFound, Stored
from molia.dht.searching import Searches
from molia.dht.storing import Storing
from molia.wire import messages
from molia.wire.addresses import Address
from molia.wire.messages import Pong

__all__ = ["Announced", "Got", "Operations", "Pinged", "ProvidersFound", "Stored"]


class Operations:
    """The operations of one engine."""

    def __init__(self, hub: Hub, asks: Asks, searches: Searches, storing: Storing) -> None:
        self._hub, self._asks, self._searches, self._storing = hub, asks, searches, storing
        self._last_id = 0

    def find(self, target: bytes, now: Now, *, trace: bool, family: int | None) -> int:
        """Look for the nodes closest to a target: a `LookupResult`."""
        operation_id, done = self._begin()
        self._searches.find(
            int.from_bytes(target, "big"), done, now, family=family,
            trace=operation_id if trace else None,
        )  # fmt: skip
        return operation_id

    def walk(self, center: bytes, now: Now, *, radius: int | None, trace: bool) -> int:
        """Find all who answer in a region: a `LookupResult`."""
        operation_id, done = self._begin()
        self._searches.run(
            Goal.REGION, int.from_bytes(center, "big"), None, done, now, radius=radius,
            trace=operation_id if trace else None,
        )  # fmt: skip
        return operation_id

    def get_record(
        self, address: RecordAddress, now: Now, *, is_consistent: bool, trace: bool
    ) -> int:
        """Read a record: a `Got`."""
        operation_id, done = self._begin()
        network = self._hub.space.network
        places = read_locations(network, address.publisher, address.salt, now.unix_s)
        queries = [RecordQuery(self._hub, address, place) for place in places]
        getting = Getting(self._hub, self._asks, queries, done, is_consistent=is_consistent)
        getting.begin(self._searches, now, operation_id if trace else None)
        return operation_id

    def put_record(
        self, encoded: Sequence[bytes], now: Now, *, cas: int | None, trace: bool
    ) -> int:
        """Put one record, signed for each period that it lies in: a `Stored`.

        The first one decides; the others follow when it was let in.
        """
        operation_id, done = self._begin()
        parsed = [records.parse(each) for each in encoded]
        signed = [each for each in parsed if isinstance(each, SignedRecord)]
        assert signed, "somebody signed the records"
        assert len(signed) == len(parsed), "our own records hold"

        def follow(stored: Stored, then: Now) -> None:
            done(stored, then)
            if stored.acks:
                for each in signed[1:]:
                    Putting(self._hub, self._asks, self._storing, each, None, _ignore_stored).begin(
                        self._searches, then, None
                    )

        first = Putting(self._hub, self._asks, self._storing, signed[0], cas, follow)
        first.begin(self._searches, now, operation_id if trace else None)
        return operation_id

    def find_providers(self, locs: Sequence[bytes], now: Now, *, trace: bool) -> int:
        """Find who provides what lies at these locations: `Heard`, then a `ProvidersFound`."""
        operation_id, done = self._begin()

        def heard(record: ProviderRecord) -> None:
            self._hub.emit(Heard(operation_id, record))

        search = ProviderSearch(self._hub, self._asks, list(dict.fromkeys(locs)), done, heard)
        search.begin(self._searches, now, operation_id if trace else None)
        return operation_id

    def announce(self, encoded: Sequence[bytes], now: Now) -> int:
        """Put provider records at all who are to keep them: an `Announced`."""
        operation_id, done = self._begin()
        Announcing(self._hub, self._asks, self._searches, self._storing, encoded, done).begin(now)
        return operation_id

    def ping(self, key: PeerKey, address: Address, now: Now) -> int:
        """Ask a peer whether it is there: a `Pinged`, or None."""
        operation_id, done = self._begin()
        contact = self._hub.space.contact(key.key, address)
        if contact is None:
            done(None, now)
            return operation_id

        def on_reply(reply: Reply, then: Now) -> None:
            done(_pinged(reply, contact, then), then)

        self._asks.ping(contact, on_reply, now, is_trusted=True)
        return operation_id

    def _begin(self) -> tuple[int, Callable[[object, Now], None]]:
        """Return a new operation's id, and what ends it."""
        self._last_id += 1
        operation_id = self._last_id

        def done(result: object, _: Now) -> None:
            self._hub.emit(Finished(operation_id, result))

        return operation_id, done


def _pinged(reply: Reply, contact: Contact, now: Now) -> Pinged | None:
    pong = messages.decode(reply.number, reply.body) if reply.number else None
    if not isinstance(pong, Pong):
        return None
    return Pinged(
        key=contact.key, address=contact.address, rtt_s=reply.rtt_s, seen=pong.seen,
        offset_s=pong.unix_ms / 1000 + reply.rtt_s / 2 - now.unix_s, serves=pong.serves,
        contact=contact,
    )  # fmt: skip


def _ignore_stored(stored: Stored, now: Now) -> None:
    """The put at a further place is not waited for."""
