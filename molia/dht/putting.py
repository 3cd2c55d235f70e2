"""Putting: find all who answer in the region, and have each of them keep it.

A put that expects a seq asks the closest first: of many writers at one moment the one that it lets
in wins, and it shows the others the record that stands in their way. A record is shown, never
claimed: a node that says no without a later record that holds is passed over.
Source: docs/reference/dht.md, "Putting".
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from molia.base import limits
from molia.base.now import Now
from molia.dht import providers, records
from molia.dht.asking import Asks, Reply
from molia.dht.contact import Contact
from molia.dht.faults import note_fault
from molia.dht.getting import keeps
from molia.dht.hub import Family, Hub
from molia.dht.outcome import Goal
from molia.dht.providers import ProviderRecord
from molia.dht.records import Fault, SignedRecord
from molia.dht.results import Announced, Stored
from molia.dht.searching import Found, Searches
from molia.dht.storing import Storing
from molia.dht.writing import Ruling
from molia.wire import messages
from molia.wire.dht_messages import AddCode, Added, AddProvider, Put, PutCode, PutReply
from molia.wire.messages import Number

FIRST_MAX: Final = 8
"""Closest nodes that are asked one after the other for leave, until one gives or denies it."""
LATE_MAX: Final = 4
"""Closest nodes that are given what belongs to them though they did not answer the walk in time."""
OnCode: TypeAlias = Callable[[int | None, Now], None]
_Numbered: TypeAlias = tuple[int, bytes]
"""A provider record and its place among those to announce."""
OnTargets: TypeAlias = Callable[[Sequence[Contact], Family, Now], None]


def locate(
    hub: Hub, searches: Searches, target: int, then: OnTargets, now: Now, *,
    trace: int | None = None,
) -> None:  # fmt: skip
    """Find who is to keep what lies at a target: the closest first.

    The very closest belong to them even if they were late, so that writers who race agree on them.
    """
    side, nearest = hub.family, hub.config.stores_nearest
    goal = Goal.FIND if nearest else Goal.REGION

    def found(result: Found, later: Now) -> None:
        if nearest:
            then(result.heard[:nearest], side, later)
            return
        chosen = dict.fromkeys((*result.heard[:LATE_MAX], *result.responders))
        then(sorted(chosen, key=lambda contact: contact.id ^ target), side, later)

    searches.run(goal, target, None, found, now, trace=trace)


class Putting:
    """One put of one signed record."""

    def __init__(
        self, hub: Hub, asks: Asks, storing: Storing, record: SignedRecord, cas: int | None,
        done: Callable[[Stored, Now], None],
    ) -> None:  # fmt: skip
        self._hub, self._asks, self._storing = hub, asks, storing
        self._record, self._cas, self._done = record, cas, done
        self.loc = records.loc_of(record, hub.space.network)
        self._targets: list[Contact | None] = []
        """Who is to keep it, the closest first; None is this node itself."""
        self._open = self._asked = self._passed_over = 0
        self._is_mismatch = False
        self._counts = dict.fromkeys(PutCode, 0)
        self._timeouts = self._held_seq = self._stale_seq = 0
        self._acks = 0
        self._current: SignedRecord | None = None

    def begin(self, searches: Searches, now: Now, trace: int | None) -> None:
        """Look for the region, then put."""
        locate(self._hub, searches, self._target, self._on_targets, now, trace=trace)

    @property
    def _target(self) -> int:
        return int.from_bytes(self.loc, "big")

    def _on_targets(self, targets: Sequence[Contact], side: Family, now: Now) -> None:
        self._targets = list(targets)
        if keeps(side, self._target):
            own = side.own_id ^ self._target
            nearer = sum(contact.id ^ self._target < own for contact in targets)
            self._targets.insert(nearer, None)
        if self._cas is None:
            self._put_all(now)
        else:
            self._ask_first(now)

    def _ask_first(self, now: Now) -> None:
        """Ask the closest for leave, one after the other, until one gives or denies it."""
        if not self._targets or self._passed_over >= FIRST_MAX:
            self._put_all(now)
            return

        def done(code: int | None, then: Now) -> None:
            if self._is_mismatch:
                self._end(then)
            elif code in (PutCode.OK, PutCode.CONFLICT, PutCode.STALE):
                self._put_all(then)
            else:
                self._passed_over += 1
                self._ask_first(then)

        self._put_at(self._targets.pop(0), self._cas, done, now)

    def _put_all(self, now: Now) -> None:
        targets, self._targets = self._targets, []
        self._open = len(targets)

        def done(_: int | None, then: Now) -> None:
            self._open -= 1
            if not self._open:
                self._end(then)

        for target in targets:
            self._put_at(target, None, done, now)
        if not targets:
            self._end(now)

    def _put_at(self, target: Contact | None, cas: int | None, done: OnCode, now: Now) -> None:
        """Have one node keep it, or this node itself; `done` is given the code, if one came."""
        self._asked += 1
        if target is None:

            def written(ruling: Ruling, then: Now) -> None:
                done(self._take(ruling.code, ruling.current, None, then), then)

            self._storing.put(self._record, cas, written, now, writer=None)
            return

        def replied(reply: Reply, then: Now) -> None:
            done(self._on_reply(reply, then), then)

        body = messages.encode(Put(self._record.encoded, cas))
        self._asks.ask(target, Number.PUT, body, replied, now)

    def _on_reply(self, reply: Reply, now: Now) -> int | None:
        told = messages.decode(reply.number, reply.body) if reply.number else None
        if not isinstance(told, PutReply):
            self._timeouts += not reply.is_answer
            self._hub.counters.bad_replies += reply.is_answer
            return None
        return self._take(told.code, told.record, reply.contact, now)

    def _take(self, code: int, current: bytes, who: Contact | None, now: Now) -> int:
        """Count what a holder says; return the code, or BAD for one that does not hold."""
        other = self._verified(current, who, now)
        if other is not None:
            self._held_seq = max(self._held_seq, other.seq)
        if code == PutCode.CAS_MISMATCH and (other is None or not self._stands_in_way(other)):
            self._counts[PutCode.BAD] += 1
            return PutCode.BAD
        if code in self._counts:
            self._counts[PutCode(code)] += 1
        self._acks += code == PutCode.OK
        if code == PutCode.CAS_MISMATCH:
            self._is_mismatch = True
        elif code == PutCode.CONFLICT and (
            other is None or self._record.value_hash < other.value_hash
        ):
            self._acks += 1  # ours has the lower hash: it took the other's place there
            return code
        if code in (PutCode.STALE, PutCode.CONFLICT, PutCode.CAS_MISMATCH) and other is not None:
            self._stale_seq = max(self._stale_seq, other.seq)
            if self._current is None or self._current.seq < other.seq:
                self._current = other
        return code

    def _stands_in_way(self, other: SignedRecord) -> bool:
        """Tell whether a record proves that the expected seq is not the newest."""
        return self._cas is not None and other.seq > self._cas

    def _verified(self, encoded: bytes, who: Contact | None, now: Now) -> SignedRecord | None:
        if not encoded:
            return None
        other = records.check(encoded, self._hub.space.network, unix_s=now.unix_s)
        if isinstance(other, SignedRecord) and other.blinded_key != self._record.blinded_key:
            other = Fault.PLACE
        if isinstance(other, Fault):
            if who is not None:
                note_fault(self._hub, other, who.key, who.address)
            return None
        return other

    def _end(self, now: Now) -> None:
        counts = self._counts
        stored = Stored(
            acks=0 if self._is_mismatch else self._acks,
            asked=self._asked,
            stale=counts[PutCode.STALE],
            mismatches=counts[PutCode.CAS_MISMATCH],
            conflicts=counts[PutCode.CONFLICT],
            full=counts[PutCode.FULL],
            bad=counts[PutCode.BAD],
            timeouts=self._timeouts,
            is_mismatch=self._is_mismatch,
            held_seq=self._held_seq,
            stale_seq=self._stale_seq,
            current=b"" if self._current is None else self._current.encoded,
        )
        self._done(stored, now)


class Announcing:
    """Provider records put at all who answer around their locations."""

    def __init__(
        self, hub: Hub, asks: Asks, searches: Searches, storing: Storing,
        encoded: Sequence[bytes], done: Callable[[Announced, Now], None],
    ) -> None:  # fmt: skip
        self._hub, self._asks, self._searches, self._storing = hub, asks, searches, storing
        self._done, self._acks = done, [0] * len(encoded)
        self._open = self._walks = 0
        self._by_loc: dict[bytes, list[_Numbered]] = {}
        for index, each in enumerate(encoded):
            record = providers.parse(each)
            if isinstance(record, ProviderRecord):
                self._by_loc.setdefault(record.loc, []).append((index, each))

    def begin(self, now: Now) -> None:
        """Walk each location's region, and put there what belongs there."""
        self._open = 1
        for loc, some in self._by_loc.items():
            self._open += 1
            self._walks += 1
            locate(
                self._hub, self._searches, int.from_bytes(loc, "big"), self._storer_of(loc, some),
                now,
            )  # fmt: skip
        self._close(now)

    def _storer_of(self, loc: bytes, some: list[_Numbered]) -> OnTargets:
        size = limits.PROVIDERS_PER_MESSAGE_MAX
        parts = [some[at : at + size] for at in range(0, len(some), size)]

        def store(targets: Sequence[Contact], side: Family, now: Now) -> None:
            if keeps(side, int.from_bytes(loc, "big")):
                self._open += 1
                self._add_here(parts, side, now)
            for contact in targets:
                self._open += 1
                self._add_at(contact, parts, now)
            self._close(now)

        return store

    def _add_here(self, parts: Sequence[list[_Numbered]], side: Family, now: Now) -> None:
        """Keep them one message after the other: all of a location are in one row."""
        part, *rest = parts

        def done(codes: Sequence[int], then: Now) -> None:
            self._take(part, codes)
            if rest:
                self._add_here(rest, side, then)
            else:
                self._close(then)

        self._storing.add([each for _, each in part], side, done, now, writer=None)

    def _add_at(self, contact: Contact, parts: Sequence[list[_Numbered]], now: Now) -> None:
        """Have a node keep them, one message after the other; one that is silent gets no more."""
        part, *rest = parts

        def done(reply: Reply, then: Now) -> None:
            told = messages.decode(reply.number, reply.body) if reply.number else None
            if isinstance(told, Added):
                self._take(part, told.codes)
            if rest and reply.number:
                self._add_at(contact, rest, then)
            else:
                self._close(then)

        body = messages.encode(AddProvider(tuple(each for _, each in part)))
        self._asks.ask(contact, Number.ADD_PROVIDER, body, done, now)

    def _take(self, part: list[_Numbered], codes: Sequence[int]) -> None:
        for (index, _), code in zip(part, codes, strict=False):
            self._acks[index] += code in (AddCode.OK, AddCode.STALE)  # or its signer renewed it

    def _close(self, now: Now) -> None:
        self._open -= 1
        if not self._open:
            self._done(Announced(acks=tuple(self._acks), walks=self._walks), now)
