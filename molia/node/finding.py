"""Records and providers as the network has them: asked through the engine, opened, shown."""

from collections.abc import Callable, Iterable
from typing import Final

from molia.base.cid import Cid, Ref
from molia.base.errors import (
    BadRecord,
    Conflict,
    LookupTimedOut,
    NotJoined,
    RecordNotFound,
    RecordStale,
    RecordTooLarge,
)
from molia.base.ids import PeerKey
from molia.base.limits import RECORD_VALUE_MAX
from molia.base.now import Now
from molia.base.views import ProviderKind, ProviderView, RecordPut, RecordView
from molia.dht import providers, records
from molia.dht.blinding import content_cid, content_loc
from molia.dht.providers import Kind, Provided, ProviderRecord
from molia.dht.records import Fault, RecordAddress
from molia.dht.results import Got, ProvidersFound, Stored
from molia.node.context import Context
from molia.node.dht import Dht
from molia.wire.addresses import PeerAddress

GET_S: Final = 25.0
PUT_S: Final = 30.0
MANIFESTS_MAX: Final = 4
"""Bindings of one content hash that are followed: each is a hint of a stranger."""
_SHOWN: Final = {
    Kind.SHARE: ProviderKind.SHARE, Kind.WHOLE: ProviderKind.WHOLE, Kind.CACHE: ProviderKind.CACHE,
}  # fmt: skip


class Finder:
    """Asks for what lies in the network."""

    def __init__(self, context: Context, dht: Dht) -> None:
        self._context, self._dht = context, dht

    # ------------------------------------------------------------------ records

    async def record(self, publisher: PeerKey, salt: bytes, *, consistent: bool) -> RecordView:
        """Return a record. Raises RecordNotFound, NotJoined, LookupTimedOut."""
        address = RecordAddress(publisher, salt)

        def begin(now: Now) -> int:
            return self._dht.engine.get_record(address, now, consistent=consistent)

        got = await self._dht.run_operation("get", begin, timeout_s=GET_S)
        assert isinstance(got, Got), "a read ends so"
        if got.opened is None and not self._dht.engine.is_joined:
            raise NotJoined  # nobody was asked: that it is nowhere is not known
        if got.opened is None and not got.is_complete:
            raise LookupTimedOut(f"too few nodes answered for {address}")
        if got.opened is None:
            raise RecordNotFound(str(address))
        return RecordView(
            address=str(address), value=got.opened.value, seq=got.opened.seq,
            expires_unix_s=got.opened.expires,
        )  # fmt: skip

    async def publish(self, encoded: bytes) -> RecordPut:
        """Publish a record that somebody else signed. Raises as `NodeService.publish_record`."""
        context = self._context
        signed = records.check(encoded, context.network, unix_s=context.now().unix_s)
        if signed is Fault.OVERSIZED:
            raise RecordTooLarge(RECORD_VALUE_MAX)
        if isinstance(signed, Fault):
            raise BadRecord(f"the record is not taken: {signed.value}")
        if not self._dht.engine.is_joined:
            raise NotJoined

        def begin(now: Now) -> int:
            return self._dht.engine.put_record([encoded], now)

        stored = await self._dht.run_operation("put", begin, timeout_s=PUT_S)
        assert isinstance(stored, Stored), "a put ends so"
        if stored.stale_seq and stored.stale >= stored.acks:
            raise RecordStale(stored.stale_seq)
        if stored.conflicts > stored.acks:
            raise Conflict(
                f"another record with seq {signed.seq} stands there",
                hint="read it, and put one with a higher seq",
            )
        if not stored.acks:
            raise LookupTimedOut("no node took the record")
        return RecordPut(
            address=signed.blinded_key.hex(), seq=signed.seq, expires_unix_s=signed.expires,
            acks=stored.acks, created=stored.held_seq == 0,
        )  # fmt: skip

    # ------------------------------------------------------------------ providers

    async def providers(self, ref: Ref) -> tuple[ProviderView, ...]:
        """Return who says to have a blob; through a content hash, what it is bound to as well.

        Raises NotJoined, LookupTimedOut.
        """
        found = await self.provided(content_cid(ref))
        if not found and not self._dht.engine.is_joined:
            raise NotJoined
        views = self._views(found)
        manifests = dict.fromkeys(
            provided.manifest for _, provided in found if provided.manifest is not None
        )
        for manifest in list(manifests)[:MANIFESTS_MAX]:
            views += self._views(await self.provided(manifest))
        return tuple(dict.fromkeys(views))

    async def provided(
        self, cid: Cid, heard: Callable[[ProviderRecord, Provided], None] | None = None
    ) -> list[tuple[ProviderRecord, Provided]]:
        """Return the records at a CID's own location, opened. Raises LookupTimedOut.

        heard: told of some of them as they come.
        """
        network = self._context.network

        def on_heard(record: ProviderRecord) -> None:
            it = providers.read(record, network, cid)
            if heard is not None and not isinstance(it, Fault):
                heard(record, it)

        def begin(now: Now) -> int:
            return self._dht.engine.find_providers([content_loc(network, cid)], now)

        found = await self._dht.run_operation(
            "providers", begin, timeout_s=GET_S, on_heard=None if heard is None else on_heard
        )
        assert isinstance(found, ProvidersFound), "a search for providers ends so"
        if not found.records and not found.is_complete and self._dht.engine.is_joined:
            raise LookupTimedOut(f"too few nodes answered for {cid}")
        opened = ((record, providers.read(record, network, cid)) for record in found.records)
        return [(record, it) for record, it in opened if not isinstance(it, Fault)]

    def _views(self, found: Iterable[tuple[ProviderRecord, Provided]]) -> list[ProviderView]:
        return [
            ProviderView(
                peer=str(record.signer), kind=_SHOWN[record.kind],
                shares=tuple(providers.shares_in(provided.shares)),
                addresses=tuple(
                    str(PeerAddress(record.signer, *address)) for address in provided.hints
                ),
                expires_unix_s=record.expires,
            )
            for record, provided in found
            if record.kind in _SHOWN
        ]  # fmt: skip
