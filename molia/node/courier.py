"""What placing a blob asks of this node: look for holders, offer, announce, note, sign leases.

That a blob is to be placed is written in the same transaction that makes it exist, as a PLACED row;
it says what lies where as well, for as long as the blob is here.
Source: docs/reference/distribution.md.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from molia.base import limits
from molia.base.cid import Cid
from molia.base.crypto import Identity
from molia.base.errors import BlobNotFound, MoliaError, NotJoined
from molia.base.ids import PeerKey
from molia.blobs import distribution as core
from molia.blobs.distribution import DistributionConfig
from molia.blobs.leases import release, renew, renewal_due_s
from molia.blobs.placement import Candidate, Place
from molia.blobs.statements import Kind, Statement, check, parse
from molia.dht import providers
from molia.dht.blinding import content_loc
from molia.dht.providers import ProviderRecord
from molia.dht.results import Announced
from molia.node.asking_blobs import Holder
from molia.node.catalog import Bound
from molia.node.context import Context
from molia.node.dht import Dht
from molia.node.giving import Given, Giver
from molia.node.network import Network
from molia.node.offers import Scout, Wanted
from molia.node.placing import (
    Offer,
    OnProgress,
    Placed,
    Placing,
    holdings_of,
    planner_of,
    shares_of,
)
from molia.store import keys
from molia.store.keys import Kind as StoreKind
from molia.store.ops import Guard, Put, Transaction
from molia.store.rows import PlacedRow
from molia.wire.addresses import Address
from molia.wire.blob_messages import Lease, LeaseCode, Leased

ANNOUNCE_S: Final = 30.0
LEASE_S: Final = 5.0
RELEASE_AGAIN_S: Final = 2.0
OnPlaced = Callable[[Cid, Mapping[bytes, tuple[tuple[int, ...], Address]]], Awaitable[None]]
"""Told which node was given which shares of a blob, and where it is."""
WAITING: Final = PlacedRow(is_done=False, survives=0, lease=b"", cursor={})
"""Of a blob that is to be placed."""


def lease_of(row: PlacedRow) -> Statement | None:
    """Return our lease as the holders of a blob have it; None before one was given out."""
    lease = parse(Kind.LEASE, row.lease) if row.lease else None
    return lease if isinstance(lease, Statement) else None


def _nothing(_: Cid) -> frozenset[Place]:
    return frozenset()


def _nobody(_: Cid) -> Mapping[bytes, Address]:
    return {}


class Courier:
    """Places blobs for one worker, and ends what it placed."""

    def __init__(
        self, context: Context, network: Network, dht: Dht, identity: Identity, *,
        sign_whole: Callable[[Bound], bytes],
    ) -> None:  # fmt: skip
        """sign_whole: gives our record of a pinned blob, or b""."""
        self._context, self._network, self._dht = context, network, dht
        self._identity, self._sign_whole = identity, sign_whole
        self._scout = Scout(context, network, dht)
        self.patience = DistributionConfig()
        """How long holders are waited for."""
        self.lost: Callable[[Cid], frozenset[Place]] = _nothing
        """What audits lost: it is as good as not there, and who lost it gets nothing more. Read in
        a thread."""
        self.watched: Callable[[Cid], Mapping[bytes, Address]] = _nobody
        """Who else is known to have a blob, and where they are: repairs and spreading bring it to
        nodes that were not there when it was placed. Read in a thread."""

        self.on_placed: list[OnPlaced] = []
        self._ended: dict[Cid, Statement] = {}
        """What was said last of blobs that were removed: what is put again is to beat it, also
        before a second has passed."""
        self.copies: Callable[[Cid], int] = lambda _: limits.COPIES_MIN
        """On how many nodes a small blob shall be."""
        self.supplement = b""
        """Of a blob that has shares from 14 on."""

    @property
    def has_peers(self) -> bool:
        """Whether there is anybody to place anything at."""
        return self._dht.engine.is_joined and bool(self._dht.engine.contacts())

    async def save(self, bound: Bound, row: PlacedRow) -> None:
        """Note what is known; nothing when the blob is gone meanwhile."""
        put = Put(StoreKind.META, keys.placed_key(bound.cid), row.encode())
        guard = Guard(StoreKind.META, keys.bind_key(bound.cid), bound.encoded)
        await self._context.home_writer(bound.cid).write(Transaction((put,), guard))

    async def place(self, cid: Cid, on_progress: OnProgress, *, floor: int | None = None) -> Placed:
        """Place a blob; return what came of it. What is there already stays.

        One that is removed meanwhile has its holders released; put again, it is placed anew.
        floor: another one than the setting. Raises BlobNotFound, BlobDamaged, NotJoined.
        """
        if not self.has_peers:
            raise NotJoined
        bound, cursor = await self._bound(cid), None
        while bound is not None and not bound.expired(self._context.now()):
            placing = await self._placing(bound, cursor, floor)
            placed = failure = None
            try:
                placed = await placing.run(on_progress)
            except MoliaError as error:
                failure = error
            placed_bound, bound = bound, await self._bound(cid)
            if bound is None:
                await self._release_reached(cid, placing)
                bound = await self._bound(cid)
            if bound is not None and bound.row.object_id == placed_bound.row.object_id:
                if placed is None:
                    assert failure is not None, "a placing has an outcome"
                    raise failure
                for told in self.on_placed:
                    await told(cid, self.placed_at(holdings_of(placed.row)))
                return placed
            cursor = placing.cursor
        raise BlobNotFound(cid)

    async def _placing(
        self, bound: Bound, cursor: dict[str, Any] | None, floor: int | None
    ) -> Placing:
        """Return what places a blob; cursor: what lies where, if not as its row says."""
        context = self._context
        row = await context.offload.run(context.catalog.placed, bound.cid, context.now()) or WAITING
        lease = self._lease(bound, row)
        begun = PlacedRow(
            is_done=False, survives=row.survives, lease=lease.encoded, cursor=cursor or row.cursor
        )
        return Placing(self, bound, begun, floor=floor)

    async def _bound(self, cid: Cid) -> Bound | None:
        context = self._context
        return await context.offload.run(context.catalog.bound, cid, context.now())

    def placed_at(
        self, holdings: Mapping[bytes, tuple[int, ...]]
    ) -> dict[bytes, tuple[tuple[int, ...], Address]]:
        """Return the same with where each node is."""
        found = {key: self._scout.holder(key) for key in holdings}
        return {
            key: (holdings[key], (at.address[0], at.address[1]))
            for key, at in found.items() if at is not None
        }  # fmt: skip

    def _lease(self, bound: Bound, row: PlacedRow) -> Statement:
        """Return our lease of a blob: the one that was given out, until it is due to be renewed."""
        unix_s, expires = self._context.now().unix_s, bound.row.expires_unix_s
        given, ended = lease_of(row), self._ended.get(bound.cid)
        if ended is not None and (given is None or ended.beats(given)):
            given = ended
        elif given is not None and (
            unix_s < renewal_due_s(given) or (expires is not None and given.expires >= expires)
        ):
            return given
        life_s = min(self._context.config.leases.default_s, limits.LEASE_LIFE_MAX_S)
        if expires is not None:
            life_s = max(1, min(life_s, expires - int(unix_s)))
        return renew(
            self._identity, self._context.network, bound.cid.digest, before=given, unix_s=unix_s,
            life_s=life_s,
        )  # fmt: skip

    def is_due(self, cid: Cid, row: PlacedRow) -> bool:
        """Tell whether a blob's holders are to be brought our next lease; in a thread.

        Nobody renews that of a blob which is not pinned, or has a date: it stays due until it ends.
        """
        if not row.is_done or not self.is_late(row):
            return False
        bound = self._context.catalog.bound(cid, self._context.now())
        return bound is not None and bound.pinned and self._lease(bound, row).encoded != row.lease

    def is_late(self, row: PlacedRow) -> bool:
        """Tell whether our lease of a blob has lived so long that it would be renewed."""
        given = lease_of(row)
        return given is not None and self._context.now().unix_s >= renewal_due_s(given)

    async def renew_lease(self, cid: Cid) -> int:
        """Bring the holders of a pinned blob our next lease if it is due; return who took it."""
        context = self._context
        bound = await context.offload.run(context.catalog.bound, cid, context.now())
        row = await context.offload.run(context.catalog.placed, cid, context.now())
        if bound is None or row is None or not row.is_done or not bound.pinned:
            return 0
        lease = self._lease(bound, row)
        if lease.encoded == row.lease:
            return 0
        took = await self._tell_holders(cid, holdings_of(row), lease)
        if took:  # else, or when it is placed anew meanwhile, it is tried again with the next look
            key, renewed = keys.placed_key(cid), replace(row, lease=lease.encoded)
            put = Put(StoreKind.META, key, renewed.encode())
            guard = Guard(StoreKind.META, key, row.encode())
            await context.home_writer(cid).write(Transaction((put,), guard))
        return took

    def end_leases(self, cid: Cid, row: PlacedRow) -> Coroutine[Any, Any, int] | None:
        """End our lease of a blob that was removed; None: nobody has one.

        What is put from now on has a lease that beats the release; the rest tells the holders, and
        returns how many heard it.
        """
        before = lease_of(row)
        if before is None:
            return None
        return self._tell_holders(cid, holdings_of(row), self._release(cid, before))

    def _release(self, cid: Cid, before: Statement) -> Statement:
        """Return what ends our lease of a blob; the last release, if that does."""
        ended = self._ended.get(cid)
        if ended is None or not ended.beats(before):
            ended = release(
                self._identity, self._context.network, cid.digest, before=before,
                unix_s=self._context.now().unix_s,
            )  # fmt: skip
        self._note_ended(cid, ended)
        return ended

    def _note_ended(self, cid: Cid, ended: Statement) -> None:
        self._ended.pop(cid, None)
        while len(self._ended) >= limits.RELEASES_KEPT_MAX:
            del self._ended[next(iter(self._ended))]
        self._ended[cid] = ended

    async def beat(self, bound: Bound, to: Holder, lease: bytes) -> bytes | None:
        """See `Carrier.beat`."""
        context, cid = self._context, bound.cid
        try:
            told = Lease((lease,))
            answer = await self._network.ask(to.key, to.address, told, timeout_s=LEASE_S)
        except MoliaError:
            return None
        if not isinstance(answer, Leased) or not answer.held:
            return None
        theirs = check(
            Kind.LEASE, answer.held[0], context.network, unix_s=context.now().unix_s
        )  # fmt: skip
        if not isinstance(theirs, Statement):
            return None
        if (theirs.signer, theirs.digest) != (context.peer, cid.digest):
            return None
        self._note_ended(cid, theirs)
        newer = self._lease(bound, replace(WAITING, lease=lease)).encoded
        return None if newer == lease else newer

    async def _release_reached(self, cid: Cid, placing: Placing) -> None:
        """Tell whom a placing reached that the blob was removed meanwhile."""
        if self._context.config.store.trash_s:  # it may be brought back
            return
        before = lease_of(placing.row)
        assert before is not None, "shares go out with a lease"
        ended = self._release(cid, before)
        reached = [key for key in placing.reached if not self.is_own(key)]
        if await self._tell_holders(cid, reached, ended) < len(reached):
            await asyncio.sleep(RELEASE_AGAIN_S)  # what was cut off may come to rest yet
            await self._tell_holders(cid, reached, ended)

    async def _tell_holders(self, cid: Cid, holders: Collection[bytes], lease: Statement) -> int:
        """Bring all who are known to have shares of a blob a lease; return how many took it."""
        watched = await self._context.offload.run(self.watched, cid)
        keys_of = dict.fromkeys((*holders, *watched))
        told = [self._tell(key, Lease((lease.encoded,)), watched.get(key)) for key in keys_of]
        return sum(await asyncio.gather(*told))

    async def _tell(self, key: bytes, lease: Lease, seen_at: Address | None = None) -> bool:
        """Bring a node a lease where it was found last, or where the watch over a blob saw it."""
        seen = None if seen_at is None else Holder(PeerKey(key), seen_at)
        for to in dict.fromkeys((self._scout.holder(key), seen)):
            if to is None:
                continue
            try:
                answer = await self._network.ask(to.key, to.address, lease, timeout_s=LEASE_S)
            except MoliaError:  # it may have moved since
                continue
            return isinstance(answer, Leased) and answer.codes[0] == LeaseCode.TAKEN
        return False

    # ------------------------------------------------------------------ for one placing

    async def find(
        self, bound: Bound, shares: tuple[int, ...], wanted: core.FindHolders
    ) -> list[Candidate]:
        """Return candidates, our own node first: it has everything."""
        context, own = self._context, self._dht.engine.own
        ours = Candidate(
            key=context.peer.key, room_bytes=self._room_bytes,
            group=b"" if own is None else own.group,
            asn=0 if own is None else self._network.asn_of(own.address[0]),
            held=self._ours(shares),
        )  # fmt: skip
        count = max(wanted.count, 2 * limits.COPIES_MIN + 2)
        asked = Wanted(bound.cid, bound.row.size, shares, self._owner)
        known = [key for key in wanted.known if key != ours.key]
        found = await self._scout.find(asked, count=count, known=known, own=ours)
        lost = await context.offload.run(self.lost, bound.cid)
        return [_without(candidate, lost) for candidate in found]

    @property
    def _owner(self) -> PeerKey:
        """Who wants what is placed kept."""
        return self._context.peer

    def _ours(self, shares: tuple[int, ...]) -> tuple[int, ...]:
        """Return what this node has of the shares of a blob that it places: all."""
        return shares

    def copies_of(self, bound: Bound) -> int:
        """See `Carrier.copies_of`."""
        return self.copies(bound.cid) if bound.is_raw else limits.COPIES_MIN

    @property
    def _room_bytes(self) -> int:
        """What this node takes beside what it has: nothing, where it has everything."""
        return 0

    def is_own(self, key: bytes) -> bool:
        """Tell whether it is this node."""
        return key == self._context.peer.key

    async def take(self, _giver: Giver, _share: int) -> Given:
        """See `Carrier.take`: this node has every share."""
        return Given(is_kept=False, outcome="nowhere")

    async def would_move(
        self, bound: Bound, row: PlacedRow, *, only: Collection[int], here: Collection[bytes],
        added: int = 0,
    ) -> int:  # fmt: skip
        """Return how many of these shares a new plan would bring to others, none of them twice.

        here: who answered a moment ago; without one of them a plan would place its shares anew.
        """
        known = tuple(dict.fromkeys((*here, *holdings_of(row))))
        shares = shares_of(bound, added)
        found = await self.find(bound, shares, core.FindHolders(2 * len(shares), known))
        if not set(here) <= {candidate.key for candidate in found}:
            return 0
        plan = await self._context.offload.run(planner_of(bound, floor=0, added=added), found)
        return sum(move.share in only and not self.is_own(move.key) for move in plan.moves)

    def note(self, holder: Holder) -> None:
        """Remember where a node is said to be."""
        self._scout.note(holder)

    def holder(self, key: bytes) -> Holder | None:
        """Return where a candidate is."""
        return self._scout.holder(key)

    def giver(self, bound: Bound, lease: bytes) -> Giver:
        """Return what sends the shares of a blob."""
        return Giver(self._context, self._network, bound, lease, self.supplement)

    @property
    def now_s(self) -> float:
        """Monotonic seconds."""
        return self._context.now().mono_s

    @property
    def floor(self) -> int:
        """How many losses a blob shall survive."""
        return self._context.config.durability.floor

    async def offer(self, bound: Bound, key: bytes, shares: tuple[int, ...]) -> Offer | None:
        """See `Carrier.offer`."""
        asked = Wanted(bound.cid, bound.row.size, shares, self._owner)
        said = await self._scout.offer(key, asked)
        if said is None:
            return None
        accepted = tuple(share for share in said.accepted if share in shares)
        return Offer(accepted, tuple(share for share in said.kept if share in shares))

    async def announce(self, bound: Bound, records: Sequence[bytes]) -> bool:
        """See `Carrier.announce`."""
        newest = await self._context.offload.run(self._newest, bound.cid, records)
        if not newest:
            return not records
        own = self._sign_whole(bound)  # whoever looks at once finds this node as well
        newest += [own] if own else []
        try:
            done = await self._dht.run_operation(
                "announce", lambda now: self._dht.engine.announce(newest, now),
                timeout_s=ANNOUNCE_S,
            )  # fmt: skip
        except MoliaError:
            return False
        return isinstance(done, Announced) and all(done.acks)

    def _newest(self, cid: Cid, records: Sequence[bytes]) -> list[bytes]:
        """Return of each signer the newest of those provider records of a blob that hold."""
        context, found = self._context, dict[bytes, ProviderRecord]()
        loc, own = content_loc(context.network, cid), self._dht.engine.own
        for encoded in records:
            record = providers.check(
                encoded, context.network, unix_s=context.now().unix_s,
                allow_local=own is None or own.is_local,
            )  # fmt: skip
            if not isinstance(record, ProviderRecord) or record.loc != loc:
                self.count("bad_record")
                continue
            known = found.get(record.signer.key)
            if known is None or record.issued > known.issued:
                found[record.signer.key] = record
        return [record.encoded for record in found.values()]

    def count(self, outcome: str) -> None:
        """Count what became of a share that was sent."""
        self._context.metrics.shares_out.labels(outcome).inc()


def _without(candidate: Candidate, lost: frozenset[Place]) -> Candidate:
    """Return a candidate without what audits lost there."""
    held = tuple(share for share in candidate.held if Place(share, candidate.key) not in lost)
    has_lost = any(place.key == candidate.key for place in lost)
    return replace(candidate, held=held, room_bytes=0) if has_lost else candidate
