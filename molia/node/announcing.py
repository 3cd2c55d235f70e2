"""Telling the network which blobs this node has: soon after a put, and all of them once a day.

Each worker announces the blobs whose rows lie on its own shards. What a location stands for is kept
in memory, since it does not follow from the location; the schedule is kept in the store.
Source: docs/reference/dht-node.md, "Announcing".
"""

import asyncio
import contextlib
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from threading import Lock
from typing import Final, NamedTuple

import structlog

from molia.base import limits
from molia.base.cid import Cid, Codec
from molia.base.crypto import Identity
from molia.base.errors import Damaged, MoliaError, NotJoined, ShardUnavailable
from molia.base.ids import network_label
from molia.base.now import Now
from molia.base.views import Announced
from molia.dht.blinding import content_loc
from molia.dht.contact import Contact
from molia.dht.outcome import LookupResult
from molia.dht.providers import Kind, Provided, announce, share_bitmap
from molia.dht.results import Announced as AnnounceDone
from molia.dht.sweep import ProviderSweep, Walk, batches, widened
from molia.node.catalog import Bound
from molia.node.context import Context
from molia.node.dht import Dht
from molia.node.held import Held, HeldShares
from molia.node.loading import Loading
from molia.node.shards import ReadShard
from molia.store import keys
from molia.store.keys import Kind as StoreKind
from molia.store.ops import Put, Transaction
from molia.store.rows import AnnounceRow
from molia.wire.addresses import Address
from molia.wire.dht_messages import AddCode, Added, AddProvider

log = structlog.get_logger(__name__)

LIFE_S: Final = limits.RECORD_AHEAD_S
WALK_S: Final = 60.0
ADD_S: Final = 10.0
ADDS_AT_ONCE: Final = 16
IDLE_S: Final = 60.0
LOOK_S: Final = 0.5
UNREACHABLE_S: Final = 1.0
"""How often a node that cannot announce looks whether it can."""


class Place(NamedTuple):
    """What a location stands for."""

    cid: Cid
    """The blob's."""
    named: Cid
    """The CID that the location follows from; of a binding the raw CID of the content hash."""
    kind: Kind
    shares: tuple[int, ...] = ()
    """Those that are kept for others, of kind share."""
    is_ours: bool = True
    """Whether it is a blob of this node's users."""


def places_of(network: bytes, bound: Bound) -> dict[bytes, Place]:
    """Return the locations at which a blob that is kept whole is announced."""
    found = {content_loc(network, bound.cid): Place(bound.cid, bound.cid, Kind.WHOLE)}
    if not bound.is_raw:
        named = Cid(Codec.RAW, bound.row.content)
        found[content_loc(network, named)] = Place(bound.cid, named, Kind.BINDING)
    return found


def places_of_held(network: bytes, held: Held) -> dict[bytes, Place]:
    """Return the locations at which what is kept for others is announced; a small blob is whole."""
    return {content_loc(network, held.cid): place_of_shares(held.cid, held.row.shares)}


def place_of_shares(cid: Cid, shares: tuple[int, ...]) -> Place:
    """Return what is announced of shares that are kept for others."""
    if cid.codec is Codec.RAW:
        return Place(cid, cid, Kind.WHOLE, is_ours=False)
    return Place(cid, cid, Kind.SHARE, shares, is_ours=False)


class Announcer:
    """The announcing of one worker."""

    def __init__(self, context: Context, dht: Dht, identity: Identity) -> None:
        self._context, self._dht, self._identity = context, dht, identity
        self._held = HeldShares(context.shards)
        self._label = bytes.fromhex(network_label(context.network))
        self._places: dict[bytes, Place] = {}
        self._locs: list[bytes] = []
        """The same locations in order."""
        self._sweep = ProviderSweep(self._keys_from, entropy=context.entropy, now=context.now())
        self._bindings: dict[Cid, bytes] = {}
        """Where the content hash of a blob is bound to it."""
        self._changed: dict[Cid, None] = {}
        self._issued: dict[bytes, int] = {}
        """When the last record of a location was issued; those signed last are remembered."""
        self._lock = Lock()
        self._wake = asyncio.Event()
        self._loading = Loading(context, "announced blobs", self._all_wanted, self._take)
        self._is_loaded = False
        self.acks = 0
        """Provider records that others took."""
        self.blob_count = 0
        """Blobs that are announced."""

    @property
    def sweep(self) -> ProviderSweep:
        """The schedule, for its counters."""
        return self._sweep

    @property
    def unread(self) -> int:
        """How often a shard gave less than all of its blobs at the start."""
        return self._loading.failed

    # ------------------------------------------------------------------ told and asked

    def note(self, cid: Cid) -> None:
        """Take note that a blob came, went, or is wanted in another way than before.

        Costs next to nothing; `run` looks at all of them together.
        """
        if len(self._changed) < limits.CHANGED_BLOBS_MAX:
            self._changed[cid] = None  # else the next start finds it

    def announce_soon(self, cid: Cid) -> None:
        """Announce what is here of a blob within seconds: the network does not know of it."""
        loc = content_loc(self._context.network, cid)
        if loc in self._places:
            self._sweep.add(loc, self._context.now())
            self._wake.set()

    async def announce_now(self, bound: Bound) -> Announced:
        """Tell the network at once that this node has a blob. Raises NotJoined, LookupTimedOut."""
        own = self._dht.engine.own
        if own is None or not self._dht.engine.is_joined:
            raise NotJoined
        signed = self._sign(places_of(self._context.network, bound), own, self._context.now())

        def begin(now: Now) -> int:
            return self._dht.engine.announce(list(signed.values()), now)

        done = await self._dht.run_operation("announce", begin, timeout_s=WALK_S)
        assert isinstance(done, AnnounceDone), "announcing ends so"
        return Announced(
            cid=bound.cid, locations=len(signed), acks=sum(done.acks), walks=done.walks
        )  # fmt: skip

    def sign_shares(self, cid: Cid, shares: tuple[int, ...]) -> bytes:
        """Return the record that this node keeps some shares of a blob; b"" while it is no server.

        Whoever sent the shares stores it; from then on it is renewed with the others.
        """
        loc, own = content_loc(self._context.network, cid), self._dht.engine.own
        place = self._places.get(loc)
        if place is None or not place.is_ours:
            place = place_of_shares(cid, shares)
        return b"" if own is None else self._sign({loc: place}, own, self._context.now())[loc]

    def sign_whole(self, bound: Bound) -> bytes:
        """Return the record that this node has a pinned blob; b"" while it announces none."""
        loc, own = content_loc(self._context.network, bound.cid), self._dht.engine.own
        if own is None or not bound.pinned:
            return b""
        place = Place(bound.cid, bound.cid, Kind.WHOLE)
        return self._sign({loc: place}, own, self._context.now())[loc]

    # ------------------------------------------------------------------ life

    async def run(self) -> None:
        """Announce what is due, for as long as the node lives."""
        await self._load()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._loading.rest())
            tasks.create_task(self._watch())
            tasks.create_task(self._announce())

    async def _watch(self) -> None:
        """Look at what changed, or tell the worker that it concerns."""
        team, count = self._context.team, self._context.shards.count
        while True:
            await asyncio.sleep(LOOK_S)
            changed, self._changed = list(self._changed), {}
            own = [cid for cid in changed if self._context.owns(cid)]
            if own:
                for cid, places in await self._context.offload.run(self._look_at, own):
                    self._on_looked(cid, places)
            others = [cid for cid in changed if not self._context.owns(cid)]
            for index in team.links:
                told = [
                    str(cid) for cid in others if team.owner(keys.home_shard(cid, count)) == index
                ]
                if told:
                    team.tell(index, "dht_blobs", told)

    def _look_at(self, cids: Iterable[Cid]) -> list[tuple[Cid, dict[bytes, Place]]]:
        """Return where blobs are announced, of those whose rows can be read now; in a thread."""
        looked = []
        for cid in cids:
            with contextlib.suppress(Damaged, ShardUnavailable):
                looked.append((cid, self._wanted(cid)))
        return looked

    async def _announce(self) -> None:
        while True:
            walk = None
            if self._dht.engine.own is not None and self._dht.engine.is_joined:
                walk = self._sweep.take_walk(self._dht.engine.radius, self._context.now())
            if walk is None:
                await self._wait()
                continue
            ok = False
            try:
                ok = await self._do(walk)
            except MoliaError as error:
                log.debug("walk_failed", reason=str(error), keys=len(walk.keys))
            self._sweep.on_walked(walk, self._context.now(), ok=ok)
            await self._save()

    async def _load(self) -> None:
        context = self._context
        row = await context.offload.run(self._saved)
        if row is not None:
            self._sweep.restore(row.schedule, context.now())
        await self._loading.once()
        self._is_loaded = True

    def _take(self, found: Sequence[dict[bytes, Place]]) -> None:
        """Announce what lies on a shard; of one that is read late it may have been due before."""
        now = self._context.now()
        for places in found:
            late = [loc for loc in places if self._is_loaded and loc not in self._places]
            self._keep(places)
            for loc in late:
                self._sweep.add(loc, now)
        self._wake.set()

    async def _wait(self) -> None:
        if self._dht.engine.own is None or not self._dht.engine.is_joined:
            wait_s = UNREACHABLE_S
        else:
            due_s = self._sweep.next_deadline_s() - self._context.now().mono_s
            wait_s = min(IDLE_S, max(0.1, due_s))
        self._wake.clear()
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _save(self) -> None:
        key = self._key()
        row = AnnounceRow(self._sweep.encode(self._context.now())).encode()
        try:
            await self._context.shards.writer_of(StoreKind.META, key).write(
                Transaction((Put(StoreKind.META, key, row),))
            )
        except MoliaError as error:
            log.debug("schedule_not_saved", reason=str(error))

    # ------------------------------------------------------------------ walks

    async def _do(self, walk: Walk) -> bool:
        """Make one walk and store; False when nobody took anything."""
        responders = await self._walk(walk.center, radius=walk.radius)
        wider = widened(walk, len(responders))
        while wider is not None and len(responders) < self._dht.engine.size_estimate / 2:
            responders = await self._walk(wider.center, radius=wider.radius)
            wider = widened(wider, len(responders))
        own = self._dht.engine.own
        if not responders or own is None:  # others may have stopped reaching us while it went on
            return False
        places = {loc: self._places[loc] for loc in walk.keys if loc in self._places}
        signed, gone = await self._context.offload.run(self._sign_wanted, places, own)
        for cid in gone:
            self._forget(cid)
            self.note(cid)  # it may have come back since
        told = batches(
            [loc for loc in walk.keys if loc in signed],
            [contact.id for contact in responders], self._dht.engine.radius,
        )  # fmt: skip
        acks = await self._add_all(signed, [(responders[each.storer], each.keys) for each in told])
        self.acks += acks
        return acks > 0 or not signed

    async def _walk(self, center: int, *, radius: int | None = None) -> Sequence[Contact]:
        """Return who answers in a region."""

        def begin(now: Now) -> int:
            return self._dht.engine.walk(center.to_bytes(32, "big"), now, radius=radius)

        result = await self._dht.run_operation("walk", begin, timeout_s=WALK_S)
        assert isinstance(result, LookupResult), "a walk ends so"
        return result.responders

    async def _add_all(
        self, signed: dict[bytes, bytes], told: Iterable[tuple[Contact, Sequence[bytes]]]
    ) -> int:
        """Send provider records; return how many were taken."""
        gate = asyncio.Semaphore(ADDS_AT_ONCE)

        async def add(contact: Contact, locs: Sequence[bytes]) -> int:
            async with gate:
                return await self._add(contact, tuple(signed[loc] for loc in locs))

        return sum(await asyncio.gather(*(add(contact, locs) for contact, locs in told)))

    async def _add(self, contact: Contact, records: tuple[bytes, ...]) -> int:
        try:
            answer = await self._dht.network.ask(
                contact.key, contact.address, AddProvider(records), timeout_s=ADD_S
            )
        except MoliaError:
            return 0
        return sum(code == AddCode.OK for code in answer.codes) if isinstance(answer, Added) else 0

    # ------------------------------------------------------------------ signing

    def _sign_wanted(
        self, places: dict[bytes, Place], own: Contact
    ) -> tuple[dict[bytes, bytes], set[Cid]]:
        """Return the signed records of those blobs that are still here and wanted, and which are
        not; in a thread."""
        wanted = dict(self._look_at(dict.fromkeys(place.cid for place in places.values())))
        kept, gone = dict[bytes, Place](), set[Cid]()
        for loc, before in places.items():
            if before.cid not in wanted:
                continue  # its turn comes again
            place = wanted[before.cid].get(loc)
            if place is None:
                gone.add(before.cid)
            else:
                kept[loc] = place
        return self._sign(kept, own, self._context.now()), gone

    def _sign(self, places: dict[bytes, Place], own: Contact, now: Now) -> dict[bytes, bytes]:
        signed = {}
        for loc, place in places.items():
            issued = self._issue(loc, now)
            signed[loc] = announce(
                self._identity, self._context.network, place.named, place.kind,
                _provided(place, own.address), prefix=own.group, issued=issued,
                expires=issued + LIFE_S, entropy=self._context.entropy,
            ).encoded  # fmt: skip
        return signed

    def _issue(self, loc: bytes, now: Now) -> int:
        """Return when a record is issued: it takes the place of an older one only, and two of one
        second are none."""
        with self._lock:
            issued = self._issued[loc] = max(int(now.unix_s), self._issued.pop(loc, 0) + 1)
            if len(self._issued) > limits.ISSUED_MAX:
                del self._issued[next(iter(self._issued))]
        return issued

    # ------------------------------------------------------------------ what is announced

    def _keys_from(self, start: bytes, limit: int) -> Sequence[bytes]:
        at = bisect_left(self._locs, start)
        return self._locs[at : at + limit]

    def _keep(self, places: dict[bytes, Place]) -> None:
        """Announce what lies at these locations from now on."""
        for loc, place in places.items():
            if loc not in self._places:
                if place.kind is Kind.BINDING:
                    self._bindings[place.cid] = loc
                insort(self._locs, loc)
                self.blob_count += place.kind is not Kind.BINDING
            self._places[loc] = place

    def _forget(self, cid: Cid) -> None:
        self._drop(content_loc(self._context.network, cid))
        binding = self._bindings.pop(cid, None)
        if binding is not None:
            self._drop(binding)

    def _drop(self, loc: bytes) -> None:
        place = self._places.pop(loc, None)
        if place is not None:
            del self._locs[bisect_left(self._locs, loc)]
            self._sweep.remove(loc)
            self.blob_count -= place.kind is not Kind.BINDING

    def _on_looked(self, cid: Cid, places: dict[bytes, Place]) -> None:
        """Announce a blob that is new soon; what is kept for others its sender has announced."""
        before = {loc: self._places[loc] for loc in places if loc in self._places}
        if not places or self._bindings.get(cid, b"") not in (b"", *places):
            self._forget(cid)
        self._keep(places)
        for loc, place in places.items():
            if place.is_ours and (loc not in before or not before[loc].is_ours):
                self._sweep.add(loc, self._context.now())
        self._wake.set()

    def _wanted(self, cid: Cid) -> dict[bytes, Place]:
        """Return where a blob that is here is announced: one that is pinned, or kept for others.

        Raises Damaged, ShardUnavailable.
        """
        context = self._context
        bound = context.catalog.bound(cid, context.now())
        if bound is not None and bound.pinned:
            return places_of(context.network, bound)
        held = self._held.find(cid, context.now())
        return {} if held is None else places_of_held(context.network, held)

    def _all_wanted(self, shard: ReadShard) -> Iterator[dict[bytes, Place]]:
        """Yield where what lies on a shard is announced; in a thread.

        Raises Damaged, ShardUnavailable.
        """
        context, failed = self._context, None
        try:
            for held in self._held.on(shard, context.now()):
                yield places_of_held(context.network, held)
        except (Damaged, ShardUnavailable) as error:
            failed = error
        for bound in context.catalog.bound_on(shard, context.now()):
            if bound.pinned:
                yield places_of(context.network, bound)
        if failed is not None:
            raise failed

    # ------------------------------------------------------------------ the schedule's row

    def _key(self) -> bytes:
        return keys.announce_key(self._label, self._context.team.seat.index, 0)

    def _saved(self) -> AnnounceRow | None:
        shard, now = self._context.shards.shard_of(StoreKind.META, self._key()), self._context.now()
        try:
            row = shard.get(StoreKind.META, self._key(), now=now)
            return None if row is None else AnnounceRow.decode(row)
        except (Damaged, ShardUnavailable):
            return None


def _provided(place: Place, address: Address) -> Provided:
    manifest = place.cid if place.kind is Kind.BINDING else None
    return Provided(share_bitmap(list(place.shares)), (address,), manifest)
