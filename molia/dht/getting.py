"""Reading: records by their address, provider records by their location. Readers verify always.

Source: docs/reference/dht.md, "Getting".
"""

from collections.abc import Callable
from typing import Final

from molia.base import limits
from molia.base.now import Now
from molia.dht import held, providers, records
from molia.dht.asking import Asks, Reply
from molia.dht.blinding import Place
from molia.dht.contact import Contact
from molia.dht.faults import note_fault
from molia.dht.hub import Family, Hub
from molia.dht.outcome import End, Goal
from molia.dht.providers import ProviderRecord
from molia.dht.records import Fault, Opened, RecordAddress
from molia.dht.results import Got, ProvidersFound
from molia.dht.searching import Found, Searches
from molia.wire import messages
from molia.wire.dht_messages import Get, GetProviders, Providers, Put, Record
from molia.wire.messages import Number

PAGED_HOLDERS_MAX: Final = 5
"""Holders of whom all pages are asked; of the others the first one, which differs by chance."""
_SALT_SIZE: Final = 8


class RecordQuery:
    """Asks for a record at one of its places."""

    def __init__(self, hub: Hub, address: RecordAddress, place: Place) -> None:
        self._hub, self.address, self.place = hub, address, place
        self._body = messages.encode(Get(place.loc))

    def ask(self, _: Contact) -> tuple[int, bytes]:
        """Return GET."""
        return Number.GET, self._body

    def read(self, reply: Reply, now: Now) -> Opened | None:
        """Return the record in a reply; one that does not hold is counted against its sender."""
        told = messages.decode(reply.number, reply.body)
        if not isinstance(told, Record) or not told.record:
            return None
        opened = self.open(told.record, now)
        if isinstance(opened, Fault):
            note_fault(self._hub, opened, reply.contact.key, reply.contact.address)
            return None
        return opened

    def open(self, encoded: bytes, now: Now) -> Opened | Fault:
        """Return what a record at this place says, or why it is none."""
        network = self._hub.space.network
        return records.read(encoded, network, self.address, self.place, unix_s=now.unix_s)


def keeps(side: Family, target: int) -> bool:
    """Tell whether this node itself is one of those who keep what lies at a target."""
    if side.own is None and side.table.size:
        return False
    return side.own_id ^ target < side.size.radius


class Getting:
    """One read of one record, at all places where it may lie now."""

    def __init__(
        self, hub: Hub, asks: Asks, queries: list[RecordQuery], done: Callable[[Got, Now], None],
        *, is_consistent: bool,
    ) -> None:  # fmt: skip
        self._hub, self._asks, self._queries = hub, asks, queries
        self._done, self._is_consistent = done, is_consistent
        self._values: list[tuple[RecordQuery, Contact | None, Opened]] = []
        self._lookups: list[Found] = []
        self._is_over = False

    def begin(self, searches: Searches, now: Now, trace: int | None) -> None:
        """Look on our own shelf, then around each place.

        Where this node keeps what lies there, it is a holder like any; elsewhere its row may be a
        leftover, so that it is only what is left if nobody else has the record.
        """
        is_ours = False
        for query in self._queries:
            self._look_here(query, now)
            target = int.from_bytes(query.place.loc, "big")
            is_ours = is_ours or (bool(self._values) and keeps(self._hub.family, target))
        if not self._queries or (is_ours and not self._is_consistent):
            self._end(now, is_complete=True)
            return
        goal = Goal.GET_QUORUM if self._is_consistent else Goal.GET
        for query in self._queries:
            target = int.from_bytes(query.place.loc, "big")

            def found(result: Found, then: Now, asked: RecordQuery = query) -> None:
                self._on_found(asked, result, then)

            searches.run(goal, target, query, found, now, trace=trace)

    def _look_here(self, query: RecordQuery, now: Now) -> None:
        row = self._hub.shelf.read(held.RECORD, query.place.loc)
        encoded = None if row is None else held.record_in(row, unix_s=now.unix_s)
        opened = None if encoded is None else query.open(encoded, now)
        if isinstance(opened, Opened):
            self._values.append((query, None, opened))

    def _on_found(self, query: RecordQuery, result: Found, now: Now) -> None:
        self._lookups.append(result)
        for contact, value in result.values:
            if isinstance(value, Opened):
                self._values.append((query, contact, value))
        is_last = len(self._lookups) == len(self._queries)
        if is_last or (result.values and not self._is_consistent):
            ends = [lookup.end for lookup in self._lookups]
            self._end(now, is_complete=all(end in _COMPLETE for end in ends))

    def _end(self, now: Now, *, is_complete: bool) -> None:
        if self._is_over:
            return
        self._is_over = True
        best = max((value for _, _, value in self._values), key=_newness, default=None)
        stale = 0
        if best is not None and self._is_consistent:
            stale = self._repair(best, now)
        got = Got(
            opened=best, holders=len(self._values), stale=stale, is_complete=is_complete,
            lookups=tuple(self._lookups),
        )  # fmt: skip
        self._done(got, now)

    def _repair(self, best: Opened, now: Now) -> int:
        """Send the newest record to those who gave an older one; return how many these are."""
        stale = 0
        for query, contact, value in self._values:
            is_older = value.seq < best.seq
            stale += is_older
            is_there = query.place.blinded_key == best.record.blinded_key
            if is_older and is_there and contact is not None:
                self._hub.counters.repaired += 1
                body = messages.encode(Put(best.record.encoded))
                self._asks.ask(contact, Number.PUT, body, _ignore, now)
        return stale


_COMPLETE: Final = frozenset({End.FOUND, End.COVERED, End.EXHAUSTED})


def _newness(opened: Opened) -> tuple[int, int, int]:
    """Return what orders records: seq, then the lower hash as storing nodes have it."""
    return opened.seq, -int.from_bytes(opened.record.value_hash, "big"), opened.expires


def _ignore(reply: Reply, now: Now) -> None:
    """Whether a holder takes the newer record is its matter."""


# ---------------------------------------------------------------------------- providers


class ProvidersQuery:
    """Asks who provides what lies at a location; merges what all of a region say."""

    def __init__(self, hub: Hub, asks: Asks, loc: bytes) -> None:
        self._hub, self._asks, self.loc = hub, asks, loc
        self.found: dict[bytes, ProviderRecord] = {}
        """By signer, the record issued last."""
        self.votes: dict[bytes, int] = {}
        """By signer, how many holders gave a record of it."""
        self.holders = 0
        self.pages_open = 0
        self.on_page: Callable[[Now], None] = _nothing
        self.on_heard: Callable[[ProviderRecord], None] = _unheard
        self._seen: dict[bytes, None] = {}
        self._salt = hub.entropy.token(_SALT_SIZE)

    def ask(self, _: Contact) -> tuple[int, bytes]:
        """Return GET_PROVIDERS for the first page."""
        body = messages.encode(GetProviders(self.loc, 0, self._salt))
        return Number.GET_PROVIDERS, body

    def read(self, reply: Reply, now: Now) -> object | None:
        """Take the records of a reply, and ask a few holders for the rest of theirs."""
        told = messages.decode(reply.number, reply.body)
        if not isinstance(told, Providers):
            return None
        self._take(told, reply, now)
        self.holders += 1
        if self.holders <= PAGED_HOLDERS_MAX:
            each = limits.PROVIDERS_PER_MESSAGE_MAX
            for page in range(1, min(-(-told.total // each), limits.PROVIDER_PAGES_MAX)):
                self.pages_open += 1
                body = messages.encode(GetProviders(self.loc, page, self._salt))
                self._asks.ask(reply.contact, Number.GET_PROVIDERS, body, self._on_page, now)
        return told.total

    def _on_page(self, reply: Reply, now: Now) -> None:
        self.pages_open -= 1
        told = messages.decode(reply.number, reply.body) if reply.number else None
        if isinstance(told, Providers):
            self._take(told, reply, now)
        self.on_page(now)

    def _take(self, told: Providers, reply: Reply, now: Now) -> None:
        for encoded in told.records:
            outline = providers.outline(encoded)
            if outline is not None and outline.signer in self.found:
                self.votes[outline.signer] = self.votes.get(outline.signer, 0) + 1
            if encoded in self._seen or len(self._seen) >= limits.PROVIDERS_READ_MAX:
                continue
            self._seen[encoded] = None
            self._verify(encoded, reply, now)

    def best(self) -> list[ProviderRecord]:
        """Return what was found, at most 3 of an address prefix: those that most holders know."""
        ranked = sorted(
            self.found.values(), key=lambda r: (-self.votes.get(r.signer.key, 0), r.issued)
        )
        counts: dict[bytes, int] = {}
        kept = []
        for record in ranked:
            counts[record.prefix] = counts.get(record.prefix, 0) + 1
            if counts[record.prefix] <= limits.PROVIDERS_PER_PREFIX_MAX:
                kept.append(record)
        return kept

    def _verify(self, encoded: bytes, reply: Reply, now: Now) -> None:
        record = providers.check(
            encoded, self._hub.space.network, unix_s=now.unix_s, allow_local=True
        )
        if isinstance(record, ProviderRecord) and record.loc != self.loc:
            record = Fault.PLACE
        if isinstance(record, Fault):
            note_fault(self._hub, record, reply.contact.key, reply.contact.address)
            return
        before = self.found.get(record.signer.key)
        if before is None or before.issued < record.issued:
            self.found[record.signer.key] = record
            self.on_heard(record)


class ProviderSearch:
    """One search for providers at some locations."""

    def __init__(
        self, hub: Hub, asks: Asks, locs: list[bytes], done: Callable[[ProvidersFound, Now], None],
        heard: Callable[[ProviderRecord], None],
    ) -> None:  # fmt: skip
        """heard: told of records as they come, of each address prefix at most 3."""
        self._hub, self._done, self._heard = hub, done, heard
        self._told: dict[bytes, int] = {}
        """By address prefix, how many were told."""
        self._queries = [ProvidersQuery(hub, asks, loc) for loc in locs]
        self._results: list[Found] = []

    def begin(self, searches: Searches, now: Now, trace: int | None) -> None:
        """Look on our own shelf and around each location."""
        for query in self._queries:
            query.on_page, query.on_heard = self._settle, self._tell
            self._look_here(query, now)
            target = int.from_bytes(query.loc, "big")
            searches.run(Goal.COLLECT, target, query, self._on_found, now, trace=trace)
        self._settle(now)

    def _look_here(self, query: ProvidersQuery, now: Now) -> None:
        row = self._hub.shelf.read(held.PROVIDERS, query.loc)
        for entry in held.entries(row, unix_s=now.unix_s):
            record = providers.parse(entry.record.encoded)
            if isinstance(record, ProviderRecord):
                query.found[record.signer.key] = record
                self._tell(record)

    def _tell(self, record: ProviderRecord) -> None:
        told = self._told.get(record.prefix, 0)
        if told < limits.PROVIDERS_PER_PREFIX_MAX and len(self._told) < limits.PROVIDERS_TOLD_MAX:
            self._told[record.prefix] = told + 1
            self._heard(record)

    def _on_found(self, result: Found, now: Now) -> None:
        self._results.append(result)
        self._settle(now)

    def _settle(self, now: Now) -> None:
        """End it when all lookups and all further pages are in."""
        is_open = any(query.pages_open for query in self._queries)
        if is_open or len(self._results) < len(self._queries) or self._done is _told:
            return
        done, self._done = self._done, _told
        found = [record for query in self._queries for record in query.best()]
        done(
            ProvidersFound(
                records=tuple(found),
                holders=sum(query.holders for query in self._queries),
                is_complete=all(result.end in _COMPLETE for result in self._results),
            ),
            now,
        )


def _told(found: ProvidersFound, now: Now) -> None:
    """It was told already."""


def _unheard(record: ProviderRecord) -> None:
    """Nobody listens."""


def _nothing(now: Now) -> None:
    """Nobody waits for pages."""
