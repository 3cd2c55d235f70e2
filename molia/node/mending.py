"""One repair: what is missing of a blob is read from ten others, checked, and placed.

The shares that are made lie under an object of their own until their new holders have them; a crash
in between leaves it to the next start. Nothing is placed that does not have the root that the
manifest lists.
Source: docs/reference/audit-and-repair.md, "A repair".
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import structlog

from molia.base import limits
from molia.base.cid import Cid, Codec
from molia.base.crypto import Identity
from molia.base.errors import BlobNotFound
from molia.base.ids import ObjectId, PeerKey, new_object_id
from molia.base.limits import MIB
from molia.blobs import gather as cores
from molia.blobs.distribution import FindHolders
from molia.blobs.elastic import Supplement
from molia.blobs.gather import Gather
from molia.blobs.geometry import STRIPE_SIZE_MAX
from molia.blobs.manifest import Manifest
from molia.blobs.merkle import share_root
from molia.blobs.one_read import Failed
from molia.blobs.placement import Candidate
from molia.blobs.rebuilt import Rebuilt
from molia.blobs.standing import Standing
from molia.blobs.statements import Statement
from molia.node.announcing import Announcer
from molia.node.asking_blobs import Holder
from molia.node.catalog import Bound
from molia.node.context import Context
from molia.node.courier import Courier, OnPlaced
from molia.node.dht import Dht
from molia.node.fetching import Fetcher
from molia.node.giving import Given, Giver
from molia.node.held import Held, cost_of, held_lease
from molia.node.holding import Holder as OwnHolder
from molia.node.network import Network
from molia.node.own_shares import take_own
from molia.node.placing import Offer, Placed, Placing, holdings_of, shares_of
from molia.node.watched import Watched
from molia.store import keys
from molia.store.ops import Reply
from molia.store.rows import PlacedRow
from molia.wire.blob_messages import Lease

log = structlog.get_logger(__name__)

TOGETHER_BYTES: Final = MIB
"""Of what is made, written with one sync: all of it goes anew when the repair breaks off."""
MayBegin = Callable[[int], Awaitable[bool]]


class RepairCourier(Courier):
    """Places shares of a blob that this node keeps for others, under a lease of theirs."""

    def __init__(
        self, context: Context, network: Network, dht: Dht, identity: Identity, *,
        announcer: Announcer, holder: OwnHolder, held: Held, lease: Statement, watched: Watched,
    ) -> None:  # fmt: skip
        shares = held.row.shares

        def sign(bound: Bound) -> bytes:
            now = holder.held.find(bound.cid, context.now())  # we may have taken one ourselves
            return announcer.sign_shares(bound.cid, shares if now is None else now.row.shares)

        super().__init__(context, network, dht, identity, sign_whole=sign)
        self._holder = holder
        self._wholes = frozenset(key for key, seen in watched.holders.items() if seen.is_whole)
        self._held_shares, self._lessee = shares, lease.signer
        for key, seen in watched.holders.items():
            self._scout.note(Holder(PeerKey(key), seen.address))
        self.lost = lambda _: watched.lost

    async def find(
        self, bound: Bound, shares: tuple[int, ...], wanted: FindHolders
    ) -> list[Candidate]:
        """See `Carrier.find`. Who has all for itself counts for its part whatever it is given."""
        found = await super().find(bound, shares, wanted)
        if bound.is_raw:
            return found
        return [each for each in found if each.key not in self._wholes]

    @property
    def _owner(self) -> PeerKey:
        return self._lessee

    def _ours(self, shares: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(share for share in self._held_shares if share in shares)

    @property
    def _room_bytes(self) -> int:
        return self._holder.room_bytes

    async def offer(self, bound: Bound, key: bytes, shares: tuple[int, ...]) -> Offer | None:
        """See `Carrier.offer`. What we offer ourselves is looked at when the share comes."""
        if self.is_own(key):
            return Offer(accepted=shares, kept=())
        return await super().offer(bound, key, shares)

    async def take(self, giver: Giver, share: int) -> Given:
        """See `Carrier.take`."""
        return await take_own(self._holder, giver, share)

    async def save(self, bound: Bound, row: PlacedRow) -> None:
        """Note nothing: what lies where is the network's to say."""

    async def hand_on(self, keys_of: Sequence[bytes], leases: Sequence[Statement]) -> None:
        """Bring other owners' leases to nodes that got shares under the first."""
        for lease in leases:
            for key in keys_of:
                await self._tell(key, Lease((lease.encoded,)))


class Mender:
    """Carries out the repairs of one worker."""

    def __init__(
        self, context: Context, fetcher: Fetcher, dht: Dht, identity: Identity,
        announcer: Announcer, holder: OwnHolder,
    ) -> None:  # fmt: skip
        self._context, self._fetcher, self._dht = context, fetcher, dht
        self._identity, self._announcer, self._holder = identity, announcer, holder
        self._held = holder.held
        self.shares_made = 0
        self.on_placed: list[OnPlaced] = []

    async def mend(self, cid: Cid, standing: Standing, watched: Watched) -> Placed:
        """Make and place what is missing of a blob that is kept for others; return what came of it.

        standing: how it was found when it was looked at just now.

        Raises BlobNotFound when nobody wants it, BlobDamaged when it was wrongly coded, and what a
        read raises.
        """
        held, leases = await self._wanted(cid)
        courier, row = self._courier(held, leases, watched)
        missing = standing.missing
        if cid.codec is Codec.RAW:
            placed = await Placing(courier, held.bound, row).run(_ignore)
        else:
            added = _added(held, missing, watched)
            shares = tuple(share for share in missing if share in shares_of(held.bound, added))
            async with self._made(held, shares, added, standing.absent) as (bound, supplement):
                if supplement:
                    await self._correct(cid, supplement)
                courier.supplement = supplement or held.row.supplement
                placing = Placing(courier, bound, row, only=shares, added=added)
                placed = await placing.run(_ignore)
        await self._note(cid, courier, placed, watched, leases)
        return placed

    async def spread(
        self, cid: Cid, watched: Watched, here: Collection[bytes], may_begin: MayBegin
    ) -> bool:
        """Send shares that lie doubled up here to nodes that have room; tell whether any came.

        here: the holders that answer. may_begin: asked once there is something to send, with how
        many bytes. Raises as `mend`.
        """
        held, leases = await self._wanted(cid)
        courier, row = self._courier(held, leases, watched)
        added, only = _added(held, (), watched), held.row.shares
        courier.supplement = held.row.supplement
        moves = await courier.would_move(held.bound, row, only=only, here=here, added=added)
        if not moves or not await may_begin(moves * cost_of(held.row.size, held.row.shares[0])):
            return False
        before = {key: set(seen.shares) for key, seen in watched.holders.items()}
        placed = await Placing(courier, held.bound, row, only=only, floor=0, added=added).run(
            _ignore
        )
        await self._note(cid, courier, placed, watched, leases)
        after = holdings_of(placed.row)
        return any(set(shares) - before.get(key, set()) for key, shares in after.items())

    async def _wanted(self, cid: Cid) -> tuple[Held, list[Statement]]:
        """Return what is kept of a blob, and under which leases. Raises BlobNotFound."""
        run, now = self._context.offload.run, self._context.now()
        held = await run(self._held.find, cid, now)
        leases = [] if held is None else await run(self._leases, held)
        if held is None or not leases:
            raise BlobNotFound(cid)
        return held, leases

    def _courier(
        self, held: Held, leases: Sequence[Statement], watched: Watched
    ) -> tuple["RepairCourier", PlacedRow]:
        courier = RepairCourier(
            self._context, self._fetcher.network, self._dht, self._identity,
            announcer=self._announcer, holder=self._holder, held=held, lease=leases[0],
            watched=watched,
        )  # fmt: skip
        row = PlacedRow(is_done=False, survives=0, lease=leases[0].encoded, cursor=_cursor(watched))
        return courier, row

    async def _note(
        self, cid: Cid, courier: "RepairCourier", placed: Placed, watched: Watched,
        leases: Sequence[Statement],
    ) -> None:  # fmt: skip
        """Hand the other leases on, and say who has shares now."""
        holdings = holdings_of(placed.row)
        await courier.hand_on([key for key in holdings if key not in watched.holders], leases[1:])
        for told in self.on_placed:
            await told(cid, courier.placed_at(holdings))

    def _leases(self, held: Held) -> list[Statement]:
        """Return the leases that others have on a blob, the one that lasts longest first."""
        now = self._context.now()
        rows = map(held_lease, self._held.leases(held, now).values())
        signed = [row.lease for row in rows if row is not None]
        live = [each for each in signed if each.lives(now.unix_s) and not each.is_release]
        return sorted(live, key=lambda lease: (-lease.expires, lease.signer.key))

    # ------------------------------------------------------------------ making shares

    @asynccontextmanager
    async def _made(
        self, held: Held, shares: tuple[int, ...], added: int, absent: Collection[bytes]
    ) -> AsyncIterator[tuple[Bound, bytes]]:
        """Give the blob with these shares, made anew, under an object that goes in the end.

        And the supplement that lists those from 14 on, if there are any.
        """
        objects, object_id = self._context.objects, new_object_id(self._context.entropy)
        await objects.begin(object_id)
        try:
            supplement = b""
            if shares:
                supplement = await self._make(held, shares, added, absent, object_id)
            bound = held.bound
            yield replace(bound, row=replace(bound.row, object_id=object_id)), supplement
        finally:
            self._context.leaves.forget(object_id)
            await objects.drop(object_id)

    async def _make(
        self, held: Held, wanted: tuple[int, ...], added: int, absent: Collection[bytes],
        object_id: ObjectId,
    ) -> bytes:  # fmt: skip
        """Store what is wanted; return the supplement where that holds shares from 14 on.

        A supplement lists all of them, so all are made then, and those kept that are wanted.
        """
        listed = tuple(share for share in wanted if share < limits.TOTAL_SHARES)
        more = tuple(range(limits.TOTAL_SHARES, limits.TOTAL_SHARES + added))
        shares = wanted if listed == wanted else (*listed, *more)
        context, fetcher, here = self._context, self._fetcher, held.bound
        manifest = Manifest.decode(held.row.manifest)
        find = fetcher.finds.get(held.cid)
        find.manifest, find.own = manifest, held.row.shares
        cost = await context.budget.draw(fetcher.patience.ahead * STRIPE_SIZE_MAX)
        try:
            core = Gather(
                held.cid, now_s=context.now().mono_s, manifest=manifest, shares=shares,
                absent=absent, config=fetcher.patience,
            )  # fmt: skip
            running = fetcher.begin(core, find, (here,))
            rebuilt = Rebuilt(manifest, shares)
            waiting: list[tuple[int, int, bytes]] = []
            try:
                while True:
                    match await running.next():
                        case cores.Deliver(stripe_index=index, chunks=chunks):
                            blocks = await context.offload.run(rebuilt.on_stripe, index, chunks)
                            waiting += [(it, index, block) for it, block in blocks if it in wanted]
                            if sum(len(block) for _, _, block in waiting) >= TOGETHER_BYTES:
                                await context.objects.store(object_id, waiting)
                                waiting = []
                            running.delivered(index)
                        case Failed(error=error):
                            raise fetcher.explain(error, find)
                        case _:
                            break
                await context.objects.store(object_id, waiting)
            finally:
                running.close()
                fetcher.note_read(core)
        finally:
            context.budget.release(cost)
        leaves = await context.offload.run(rebuilt.leaves)
        lists = [(share, keys.LEAVES_STRIPE, leaves[share]) for share in wanted]
        await context.objects.store(object_id, lists)
        self.shares_made += len(wanted)
        context.metrics.repairs.labels("shares_made").inc(len(wanted))
        log.info("shares_made", blob=held.cid.short, shares=len(wanted))
        if listed == wanted:
            return b""
        context.metrics.repairs.labels("parity_added").inc(len(wanted) - len(listed))
        return Supplement(held.cid, tuple(rebuilt.root(share) for share in more)).encode()

    async def _correct(self, cid: Cid, computed: bytes) -> None:
        """Part with a supplement that was taken on a stranger's word and is wrong, and its shares.

        Without it the others that hold added shares would fail our audits for ever.
        """
        run, truth = self._context.offload.run, Supplement.decode(computed)
        held = await run(self._held.find, cid, self._context.now())
        kept = None if held is None else Supplement.decode(held.row.supplement)
        if held is None or kept is None or truth is None or kept.fits(truth):
            return
        row = replace(held.row, supplement=computed)
        change = self._held.without(held, row)
        if await self._context.home_writer(cid).write(change) is not Reply.APPLIED:
            return  # it changed meanwhile: the next repair sees to it
        log.warning("supplement_was_wrong", blob=cid.short)
        held = Held(cid, row, row.encode())
        wrong = await run(self._wrong_shares, held, truth)
        if wrong and len(wrong) < len(row.shares):
            await self._holder.life.let_go(held, wrong)

    def _wrong_shares(self, held: Held, truth: Supplement) -> list[int]:
        """Return the added shares that are kept and are not the blob's; in a thread."""
        leaves, now = self._context.leaves, self._context.now()
        roots = dict(zip(truth.shares, truth.roots, strict=True))
        kept = {
            share: leaves.read(held.row.object_id, share, now)
            for share in held.row.shares if share in roots
        }  # fmt: skip
        return [
            share for share, found in kept.items()
            if found is not None and share_root(found) != roots[share]
        ]  # fmt: skip


def _added(held: Held, missing: Sequence[int], watched: Watched) -> int:
    """Return how many shares from 14 on there are, those that are to be made included."""
    known = [*missing, *held.row.shares]
    for seen in watched.holders.values():
        known += [] if seen.is_whole else seen.shares
    stop = limits.TOTAL_SHARES + limits.ADDED_SHARES_MAX
    last = max((share for share in known if share < stop), default=0)
    return max(last + 1 - limits.TOTAL_SHARES, 0)


def _cursor(watched: Watched) -> dict[str, object]:
    """Return who holds shares as a placing knows it; those that do not answer fall out."""
    placed = [
        [key.hex(), share, ""]
        for key, seen in watched.holders.items()
        if not seen.is_whole
        for share in seen.shares
    ]
    return {"placed": placed}


def _ignore(_: dict[str, Any]) -> None:
    """Nobody watches."""
