"""The part of `NodeService` that asks the network: records, providers, peers, pings, lookups."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

from molia.base import limits
from molia.base.cid import Cid, Ref, parse_ref
from molia.base.errors import (
    BadCid,
    BadLookupKey,
    BadPeerKey,
    BadRecordAddress,
    BlobNotFound,
    MoliaError,
    NoProviders,
    NotJoined,
    PeerNotFound,
    PeerSilent,
    RecordNotFound,
    TimedOut,
)
from molia.base.ids import PeerKey
from molia.base.record_ref import RecordRef
from molia.base.views import (
    Announced,
    LookupEvent,
    PeerState,
    PeerView,
    PingView,
    ProviderView,
    RecordPut,
    RecordView,
    RepairsView,
    RepairView,
)
from molia.dht.blinding import content_cid, content_loc, read_locations
from molia.dht.contact import Contact, routing_id
from molia.dht.outcome import LookupResult, Step
from molia.node.context import Context
from molia.node.finding import Finder
from molia.node.member import ADDRESS_SALT, Member
from molia.wire.addresses import Address, PeerAddress, pack_host, parse_addresses
from molia.wire.messages import Ping, Pong

PING_S: Final = 5.0
LOOKUP_S: Final = 30.0
_HEX_SIZE: Final = 64


class NetworkFace:
    """What a node answers of the network around it."""

    context: Context
    member: Member | None

    @property
    def _member(self) -> Member:
        if self.member is None:
            raise NotJoined
        return self.member

    @property
    def _finder(self) -> Finder:
        return Finder(self.context, self._member.dht)

    # ------------------------------------------------------------------ records

    async def put_record(self, name: str, value: bytes, *, if_seq: int | None) -> RecordPut:
        """See `NodeService.put_record`."""
        return await self._member.records.put(name.encode(), value, if_seq=if_seq)

    async def publish_record(self, encoded: bytes) -> RecordPut:
        """See `NodeService.publish_record`."""
        return await self._finder.publish(encoded)

    async def get_record(self, ref: RecordRef, *, consistent: bool) -> RecordView:
        """See `NodeService.get_record`."""
        under = ref.under(self.context.peer)
        assert under.peer is not None, "it is our own then"
        try:
            return await self._finder.record(under.peer, under.salt, consistent=consistent)
        except NotJoined:
            own = under.peer == self.context.peer and not consistent
            kept = self._member.records.kept(under.salt) if own else None
            if kept is None:
                raise
            return kept

    async def own_records(self) -> tuple[RecordView, ...]:
        """See `NodeService.own_records`."""
        return () if self.member is None else await self.member.records.views()

    # ------------------------------------------------------------------ providers

    async def providers(self, ref: Ref) -> tuple[ProviderView, ...]:
        """See `NodeService.providers`."""
        found = await self._finder.providers(ref)
        if not found:
            raise NoProviders(ref)
        return found

    async def announce(self, ref: Ref) -> Announced:
        """See `NodeService.announce`."""
        context = self.context
        bound = await context.offload.run(context.catalog.find, ref, context.now())
        return await self._member.announcer.announce_now(bound)

    # ------------------------------------------------------------------ repairs

    async def repairs(self) -> RepairsView:
        """See `NodeService.repairs`."""
        if self.member is None:
            enabled = self.context.config.repair.enabled
            return RepairsView(enabled=enabled, repairs=(), repaired=0, shares_made=0, failed=0)
        return self.member.repairs.summed((await self.context.team.ask_all("repairs")).values())

    async def start_repair(self, ref: Ref, *, dry_run: bool) -> RepairView:
        """See `NodeService.start_repair`."""
        context, cid = self.context, content_cid(ref)
        with contextlib.suppress(BlobNotFound):
            cid = (await context.offload.run(context.catalog.find, ref, context.now())).cid
        if not self._member.dht.engine.is_joined:
            raise NotJoined
        return await self._member.repairs.start_anywhere(cid, dry_run=dry_run)

    # ------------------------------------------------------------------ peers

    async def peers(self) -> tuple[PeerView, ...]:
        """See `NodeService.peers`."""
        if self.member is None:
            return ()
        told = [self.member.dht.peers()]
        told += (await self.context.team.ask_all("dht_peers")).values()
        views: dict[str, PeerView] = {}
        for fields in (fields for some in told for fields in some):
            view = PeerView(**{**fields, "state": PeerState(fields["state"])})
            known = views.get(view.address)
            if known is None or _rank(view) < _rank(known):
                views[view.address] = view
        return tuple(sorted(views.values(), key=lambda view: (_rank(view)[0], -view.age_s)))

    async def ping(self, peer: str) -> PingView:
        """See `NodeService.ping`."""
        key, places = await self._places_of(peer)
        network = self._member.network
        for place in places:
            now = self.context.now()
            try:
                if not network.transport.has_session(key, now):
                    await network.ask(key, place, Ping(), timeout_s=PING_S)
                started = self.context.now()
                pong = await network.ask(key, place, Ping(), timeout_s=PING_S)
            except MoliaError:
                continue
            if isinstance(pong, Pong):
                return _ping_view(key, place, pong, self.context, started.mono_s)
        raise PeerSilent(f"peer {key.short} did not answer")

    async def _places_of(self, peer: str) -> tuple[PeerKey, list[Address]]:
        """Return a peer's key and where it may be. Raises BadPeerKey, BadAddress, PeerNotFound."""
        if peer.startswith("molia://"):
            named = PeerAddress.parse(peer)
            places = await self._member.dht.resolve([named])
            if not places:
                raise PeerNotFound(peer)
            return named.peer_key, [place for _, place in places]
        key = PeerKey.parse(peer)
        found = await self._known_places(key)
        if not found:
            raise PeerNotFound(key)
        return key, found

    async def _known_places(self, key: PeerKey) -> list[Address]:
        contact = self._member.dht.engine.find_contact(key)
        if contact is not None:
            return [contact.address]
        at_session = self._member.dht.address_of_session(key)
        if at_session is not None:
            return [at_session]
        try:
            view = await self._finder.record(key, ADDRESS_SALT, consistent=False)
            said = parse_addresses(view.value.decode("ascii", "replace"))
        except (MoliaError, ValueError):
            return []
        return [
            (each.host, each.port)
            for each in said[: limits.BOOTSTRAP_PLACES_MAX]
            if each.peer_key == key and pack_host(each.host) is not None
        ]

    # ------------------------------------------------------------------ lookups

    async def lookup(self, key: str, *, trace: bool) -> AsyncIterator[LookupEvent]:
        """See `NodeService.lookup`."""
        target, kind = self._target_of(key)
        dht = self._member.dht
        if not dht.engine.is_joined:
            raise NotJoined
        steps: asyncio.Queue[Step] = asyncio.Queue()
        started_s = self.context.now().mono_s
        running = asyncio.ensure_future(
            dht.run_operation(
                "lookup", lambda now: dht.engine.find(target, now, trace=trace), timeout_s=LOOKUP_S,
                on_step=steps.put_nowait if trace else None,
            )
        )  # fmt: skip
        try:
            async for step in _until_done(steps, running):
                yield LookupEvent(kind=step.kind, data=_step_data(step, started_s))
            result = await running
            assert isinstance(result, LookupResult), "a lookup ends so"
            data = {"key": key, **_result_data(result)}
            data["found"] = await self._what_is_there(key, kind)
            data["took_ms"] = round(1000 * (self.context.now().mono_s - started_s), 1)
            yield LookupEvent(kind="done", data=data)
        finally:
            running.cancel()

    def _target_of(self, text: str) -> tuple[bytes, str]:
        """Return the id that a key stands for, and what kind of key it is. Raises BadLookupKey."""
        network = self.context.network
        if len(text) == _HEX_SIZE and all(digit in "0123456789abcdef" for digit in text.lower()):
            return bytes.fromhex(text), "id"
        try:
            key = PeerKey.parse(text)
        except BadPeerKey:
            pass
        else:
            return self._position_of(key).to_bytes(32, "big"), "peer"
        try:
            ref = parse_ref(text)
        except BadCid:
            pass
        else:
            named = Cid.parse(str(ref)) if isinstance(ref, Cid) else None
            if named is not None:
                return content_loc(network, named), "cid"
        try:
            record = RecordRef.parse(text).under(self.context.peer)
        except BadRecordAddress:
            raise BadLookupKey(text) from None
        if "/" not in text or record.peer is None:
            raise BadLookupKey(text)
        places = read_locations(network, record.peer, record.salt, self.context.now().unix_s)
        if not places:
            raise BadLookupKey(text)
        return places[0].loc, "record"

    def _position_of(self, key: PeerKey) -> int:
        """Return where a peer is in the space, as far as is known: it follows from its address."""
        contact = self._member.dht.engine.find_contact(key)
        if contact is not None:
            return contact.id
        return routing_id(self.context.network, b"", key.key, bind_ids=False)

    async def _what_is_there(self, key: str, kind: str) -> object:
        try:
            if kind == "cid":
                found = await self._finder.providers(parse_ref(key))
                return [{"peer": each.peer, "kind": each.kind.value} for each in found]
            if kind == "record":
                record = await self.get_record(RecordRef.parse(key), consistent=False)
                return {"seq": record.seq, "size": len(record.value)}
        except (RecordNotFound, NotJoined, TimedOut):
            return None
        return None


async def _until_done(
    steps: "asyncio.Queue[Step]", running: "asyncio.Future[object]"
) -> AsyncIterator[Step]:
    """Yield steps as they come, and what is left of them when the operation has ended."""
    while not running.done():
        getting = asyncio.ensure_future(steps.get())
        waiting: set[asyncio.Future[Any]] = {getting, running}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                yield getting.result()
        finally:
            getting.cancel()
    while not steps.empty():
        yield steps.get_nowait()


def _rank(view: PeerView) -> tuple[int, bool]:
    """Return what sorts the better known first."""
    order = (PeerState.VERIFIED, PeerState.DOUBTED, PeerState.SESSION)
    return order.index(view.state), not view.has_session


def _ping_view(
    key: PeerKey, place: Address, pong: Pong, context: Context, started_s: float
) -> PingView:
    now = context.now()
    rtt_s = now.mono_s - started_s
    host, port = pong.seen
    return PingView(
        peer=str(key), address=str(PeerAddress(key, *place)), rtt_ms=round(1000 * rtt_s, 3),
        seen_address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        clock_offset_s=round(pong.unix_ms / 1000 + rtt_s / 2 - now.unix_s, 3), serves=pong.serves,
    )  # fmt: skip


def _contact_data(contact: Contact) -> dict[str, object]:
    return {"peer": str(contact.key), "address": str(PeerAddress(contact.key, *contact.address))}


def _step_data(step: Step, started_s: float) -> dict[str, object]:
    data: dict[str, object] = {"at_ms": round(1000 * (step.at_s - started_s), 1)}
    if step.contact is not None:
        data |= _contact_data(step.contact)
    if step.detail:
        data["detail"] = step.detail
    return data


def _result_data(result: LookupResult) -> dict[str, Any]:
    return {
        "closest": [_contact_data(contact) for contact in result.closest],
        "rpcs": result.probes, "took_ms": round(1000 * result.took_s, 1),
        "why": result.end.value, "failures": result.failures, "attacked": result.is_attacked,
    }  # fmt: skip
