"""What peers put here and get from here: records and provider records.

Nothing is kept whose signature does not hold, and nothing is checked again when it is given out:
readers check for themselves. GET is the hot path: a row is read, and sent as it lies.
Source: docs/reference/dht.md, "Storing".
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from molia.base import limits
from molia.base.now import Now
from molia.dht import held, providers, records
from molia.dht.faults import note_fault
from molia.dht.hub import Family, Hub
from molia.dht.ports import Asker
from molia.dht.providers import ProviderRecord
from molia.dht.records import Fault, SignedRecord
from molia.dht.serving import BAD, REFUSED, Serving, address_of
from molia.dht.writing import Rule, Ruling, Writes
from molia.wire import messages
from molia.wire.dht_messages import (
    AddCode,
    Added,
    AddProvider,
    GetProviders,
    Providers,
    Put,
    PutCode,
    PutReply,
    encode_record,
    get_have_seq,
    get_loc,
)
from molia.wire.messages import Number
from molia.wire.transport import Answer, Handler

_RECORD: Final = int(Number.RECORD)
_MISS: Final = int(Number.MISS)
_FLOOR_S: Final = limits.RECORD_AHEAD_S + limits.CLOCK_SKEW_S
"""How long the row of an expired record stays: older ones may still be valid somewhere."""
AddedCodes: TypeAlias = Callable[[Sequence[int], Now], None]
PutDone: TypeAlias = Callable[[Ruling, Now], None]


class _Pending:
    """The answer to one request: given at once if it is known at once, else later."""

    def __init__(self, hub: Hub, peer: Asker, request_id: int) -> None:
        self._hub, self._peer, self._request_id = hub, peer, request_id
        self._answer: Answer | None = None
        self._is_late = False

    def give(self, answer: Answer, now: Now) -> None:
        """Answer."""
        if self._is_late:
            self._hub.wire.reply(self._peer, self._request_id, answer, now)
        else:
            self._answer = answer

    def taken(self) -> Answer | None:
        """Return the answer if it is there by now: what a handler returns."""
        self._is_late = self._answer is None
        return self._answer


class Storing:
    """The records that one node keeps for others."""

    def __init__(self, hub: Hub, serving: Serving) -> None:
        self._hub, self._serving = hub, serving
        self.writes = Writes(hub)
        self.handlers: dict[int, Handler] = {
            Number.GET: self._on_get,
            Number.PUT: self._on_put,
            Number.GET_PROVIDERS: self._on_get_providers,
            Number.ADD_PROVIDER: self._on_add_provider,
        }

    # ------------------------------------------------------------------ reading

    def _on_get(self, peer: Asker, _request_id: int, body: bytes, now: Now) -> Answer | None:
        side = self._serving.side(peer)
        if side is None:
            return REFUSED
        loc = get_loc(body)
        if loc is None:
            self._hub.counters.bad_requests += 1
            return BAD
        self._hub.counters.served += 1
        row = self._hub.shelf.read(held.RECORD, loc)
        record = None if row is None else held.record_in(row, unix_s=now.unix_s)
        if row is None or record is None:
            return _MISS, side.table.nodes_body(int.from_bytes(loc, "big"))
        have_seq = get_have_seq(body)
        if have_seq is not None and have_seq == held.seq_in(row):
            record = b""
        return _RECORD, encode_record(record)

    def _on_get_providers(
        self, peer: Asker, _request_id: int, body: bytes, now: Now
    ) -> Answer | None:
        side = self._serving.side(peer)
        if side is None:
            return REFUSED
        asked = messages.decode(Number.GET_PROVIDERS, body)
        if not isinstance(asked, GetProviders):
            self._hub.counters.bad_requests += 1
            return BAD
        self._hub.counters.served += 1
        row = self._hub.shelf.read(held.PROVIDERS, asked.loc)
        told = [] if row is None else held.select(row, salt=asked.salt, unix_s=now.unix_s)
        if not told:
            return _MISS, side.table.nodes_body(int.from_bytes(asked.loc, "big"))
        page = held.page_of(told, asked.page)
        answer = Providers(records=page, total=len(told), page=asked.page)
        return Number.PROVIDERS, messages.encode(answer)

    # ------------------------------------------------------------------ writing

    def _on_put(self, peer: Asker, request_id: int, body: bytes, now: Now) -> Answer | None:
        if self._serving.side(peer) is None:
            return REFUSED
        asked = messages.decode(Number.PUT, body)
        if not isinstance(asked, Put) or peer.address is None:
            self._hub.counters.bad_requests += 1
            self._hub.counters.records_malformed += 1
            return BAD
        record = records.check(asked.record, self._hub.space.network, unix_s=now.unix_s)
        if isinstance(record, Fault):
            note_fault(self._hub, record, peer.identity, address_of(peer.address))
            return Number.PUT_REPLY, messages.encode(PutReply(PutCode.BAD))
        self._hub.counters.served += 1
        reply = _Pending(self._hub, peer, request_id)

        def done(ruling: Ruling, then: Now) -> None:
            told = PutReply(ruling.code, ruling.current)
            reply.give((Number.PUT_REPLY, messages.encode(told)), then)

        self.put(record, asked.cas, done, now, writer=peer)
        return reply.taken()

    def put(
        self, record: SignedRecord, cas: int | None, done: PutDone, now: Now, *,
        writer: Asker | None,
    ) -> None:  # fmt: skip
        """Keep a verified record, if the rules and the writer's quota let it; None: our own."""

        def rule(row: bytes | None, then: Now) -> Ruling:
            decided = held.decide(row, record, cas=cas, unix_s=then.unix_s)
            until = decided.expires + _FLOOR_S
            return Ruling(decided.code, decided.row, until, decided.current, row is None)

        def written(rulings: Sequence[Ruling], then: Now) -> None:
            (ruling,) = rulings
            self._count_put(ruling)
            done(ruling, then)

        loc = records.loc_of(record, self._hub.space.network)
        self.writes.offer(
            held.RECORD, loc, [rule], written, now, full=PutCode.FULL,
            writer=None if writer is None else writer.identity,
        )  # fmt: skip

    def _count_put(self, ruling: Ruling) -> None:
        counters = self._hub.counters
        counters.records_stored += ruling.row is not None
        counters.records_stale += ruling.code == PutCode.STALE
        counters.records_conflict += ruling.code == PutCode.CONFLICT
        counters.records_cas += ruling.code == PutCode.CAS_MISMATCH

    def _on_add_provider(
        self, peer: Asker, request_id: int, body: bytes, now: Now
    ) -> Answer | None:
        side = self._serving.side(peer)
        if side is None:
            return REFUSED
        asked = messages.decode(Number.ADD_PROVIDER, body)
        if not isinstance(asked, AddProvider):
            self._hub.counters.bad_requests += 1
            self._hub.counters.records_malformed += 1
            return BAD
        self._hub.counters.served += 1
        reply = _Pending(self._hub, peer, request_id)

        def done(codes: Sequence[int], then: Now) -> None:
            reply.give((Number.ADDED, messages.encode(Added(tuple(codes)))), then)

        self.add(asked.records, side, done, now, writer=peer)
        return reply.taken()

    def add(
        self, encoded: Sequence[bytes], side: Family, done: AddedCodes, now: Now, *,
        writer: Asker | None,
    ) -> None:  # fmt: skip
        """Keep provider records of strangers; `done` is given a code for each."""
        codes: list[int] = [AddCode.BAD] * len(encoded)
        by_loc: dict[bytes, dict[int, ProviderRecord]] = {}
        for index, each in enumerate(encoded):
            record = self._checked(each, side, now, writer)
            if record is not None:
                by_loc.setdefault(record.loc, {})[index] = record
        left = set(by_loc)
        if not left:
            done(codes, now)
        for loc, offered in by_loc.items():

            def added(
                rulings: Sequence[Ruling], then: Now, loc: bytes = loc,
                places: Sequence[int] = tuple(offered),
            ) -> None:  # fmt: skip
                for place, ruling in zip(places, rulings, strict=True):
                    codes[place] = ruling.code
                self._count_added(rulings)
                left.discard(loc)
                if not left:
                    done(codes, then)

            self.writes.offer(
                held.PROVIDERS, loc, list(map(_adding, offered.values())), added, now,
                full=AddCode.FULL, writer=None if writer is None else writer.identity,
            )  # fmt: skip

    def _checked(
        self, encoded: bytes, side: Family, now: Now, writer: Asker | None
    ) -> ProviderRecord | None:
        """Return a provider record that is what it says; None, and a note of who sent another."""
        allow_local = side.own is not None and side.own.is_local
        record = providers.check(
            encoded, self._hub.space.network, unix_s=now.unix_s, allow_local=allow_local
        )
        if not isinstance(record, Fault):
            return record
        if writer is not None and writer.address is not None:
            # who has a neighbour at home announces from there, to public nodes as well
            is_local = record is Fault.PREFIX and isinstance(
                providers.parse(encoded), ProviderRecord
            )
            key = None if is_local else writer.identity
            note_fault(self._hub, record, key, address_of(writer.address))
        return None

    def _count_added(self, rulings: Sequence[Ruling]) -> None:
        counters = self._hub.counters
        for ruling in rulings:
            counters.providers_stored += ruling.row is not None
            counters.providers_refused += ruling.code in (AddCode.FULL, AddCode.CROWDED)


def _adding(record: ProviderRecord) -> Rule:
    """Return the rule by which a provider record is added to a row."""

    def rule(row: bytes | None, then: Now) -> Ruling:
        decided = held.add(row, record, unix_s=then.unix_s)
        return Ruling(decided.code, decided.row, decided.expires, b"", decided.is_new)

    return rule
