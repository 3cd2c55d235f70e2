"""What this node keeps for others: answers OFFER, PUT_SHARE, LEASE and HAVE.

Room is what `store.offer_bytes` leaves, the quota and the disk allowing.
Source: docs/reference/holding.md.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

import structlog

from molia.base import limits
from molia.base.cid import Cid
from molia.base.errors import Busy, Damaged, MoliaError, ShardUnavailable
from molia.base.hashing import DIGEST_SIZE
from molia.base.now import Now
from molia.base.views import HoldingView
from molia.blobs.elastic import Supplement
from molia.blobs.intake import Intake
from molia.blobs.leases import Verdict, settle
from molia.blobs.statements import Kind, Statement, check
from molia.node.context import Context
from molia.node.held import Held, HeldShares, cost_of, held_lease, owner_hash
from molia.node.held_life import Change, HeldLife, is_wanted
from molia.node.metrics import HoldingCounts
from molia.node.network import Network, StreamHandler
from molia.node.peer_streams import PeerStream
from molia.node.space import Space
from molia.node.stream_messages import read_request, send_reply
from molia.node.taking import Incoming, Takings
from molia.store import keys
from molia.store.ops import Reply
from molia.store.quota import QuotaMarks
from molia.wire import blob_messages, messages
from molia.wire.blob_messages import (
    Has,
    Have,
    KeptCode,
    Lease,
    LeaseCode,
    Leased,
    Offer,
    OfferCode,
    Offered,
    PutShare,
    ShareKept,
)
from molia.wire.messages import Error, ErrorCode, Number
from molia.wire.peer import Peer
from molia.wire.transport import Answer, Handler

log = structlog.get_logger(__name__)

BAD: Final[Answer] = (int(Number.ERROR), messages.encode(Error(code=ErrorCode.BAD_MESSAGE)))
FAILED: Final[Answer] = (int(Number.ERROR), messages.encode(Error(code=ErrorCode.FAILED)))
MEMORY_S: Final = 10.0
"""How long a share waits for memory: less than its sender waits for it."""
LATER_MS: Final = 2_000
LOOK_S: Final = 5.0
PASS_SHARE: Final = 200
"""A pass over what is held takes at most one part in this many of the time."""
LEASE_TRIES: Final = 4
Sign = Callable[[Cid, tuple[int, ...]], bytes]
"""Returns this node's provider record of some shares, or b"" while it may not announce."""


class Holder:
    """The shares of others, as one worker sees them."""

    def __init__(self, context: Context, network: Network, *, space: Space, sign: Sign) -> None:
        self._context, self._network, self._space, self._sign = context, network, space, sign
        self.counts: Counter[str] = Counter()
        """What was asked and what became of it, refusals and bad input included."""
        self.held = HeldShares(context.shards)
        self.life = HeldLife(context, self.held, self.counts)
        self._coming: Counter[bytes] = Counter()
        """What shares on their way in will count, by owner."""
        self._takings = Takings(context, self.held, self._on_kept)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def handlers(self) -> Mapping[int, Handler]:
        """What is answered by datagram."""
        return {
            Number.OFFER: self._on_offer,
            Number.HAVE: self._on_have,
            Number.LEASE: self._on_lease,
        }

    @property
    def streams(self) -> Mapping[int, StreamHandler]:
        """What is answered by stream."""
        return {Number.PUT_SHARE: self._on_put_share}

    @property
    def is_offering(self) -> bool:
        """Whether this node takes shares at all."""
        return self.life.quotas.total_bytes > 0

    @property
    def room_bytes(self) -> int:
        """What may still come; 0 until what is here was counted."""
        if not self.life.is_counted or not self.is_offering:
            return 0
        found = self._space.look(self._context)
        quota = QuotaMarks(self._context.quota_bytes).high - found.used_bytes
        return max(
            min(self.life.quotas.room_bytes, found.free_bytes, quota) - self._coming.total(), 0
        )

    def _room_of(self, owner: bytes) -> int:
        used = self.life.quotas.used_by(owner) + self._coming[owner]
        return max(self.life.quotas.owner_bytes - used, 0)

    def view(self) -> HoldingView:
        """Return what is kept, over all workers."""
        return HoldingView(
            offered_bytes=self.life.quotas.total_bytes,
            held_bytes=self.life.quotas.used_bytes,
            shares=self.life.share_count,
        )

    def report(self) -> HoldingCounts:
        """Return what is kept and what was asked; the sums of all workers in the first one's."""
        is_first = self._context.team.seat.index == 0
        return HoldingCounts(
            shares=self.life.share_count if is_first else 0,
            held_bytes=self.life.quotas.used_bytes if is_first else 0,
            offered_bytes=self.life.quotas.total_bytes if is_first else 0,
            events=dict(self.counts),
        )

    # ------------------------------------------------------------------ offers

    def _on_offer(self, _peer: Peer, _request_id: int, body: bytes, now: Now) -> Answer:
        offer = messages.decode(Number.OFFER, body)
        if not isinstance(offer, Offer):
            return self._bad("offer_bad")
        try:
            held = self.held.find(offer.cid, now)
        except (Damaged, ShardUnavailable):
            return self._failed()
        answer = self._offered(offer, () if held is None else held.row.shares)
        self.counts[f"offer_{OfferCode(answer.code).name.lower()}"] += 1
        return int(Number.OFFERED), messages.encode(answer)

    def _offered(self, offer: Offer, here: tuple[int, ...]) -> Offered:
        kept = tuple(share for share in offer.shares if share in here)
        wanted = [share for share in offer.shares if share not in here]
        if not self.is_offering:
            return Offered(code=OfferCode.NOT_OFFERING, kept=kept)
        if not self.life.is_counted:
            return Offered(code=OfferCode.LATER, kept=kept, retry_after_ms=LATER_MS)
        room, own = self.room_bytes, self._room_of(owner_hash(offer.owner))
        accepted, total = [], 0
        for share in wanted:
            total += cost_of(offer.size, share)
            if total <= min(room, own):
                accepted.append(share)
        refusal = OfferCode.NO_ROOM if room <= own else OfferCode.QUOTA
        return Offered(
            code=OfferCode.YES if accepted or not wanted else refusal,
            accepted=tuple(accepted), kept=kept, room=min(room, own),
        )  # fmt: skip

    def _on_have(self, _peer: Peer, _request_id: int, body: bytes, now: Now) -> Answer:
        have = messages.decode(Number.HAVE, body)
        if not isinstance(have, Have):
            return self._bad("have_bad")
        self.counts["have"] += 1
        try:
            held = tuple(self._view(cid, now) for cid in have.cids)
        except (Damaged, ShardUnavailable):
            return self._failed()
        return int(Number.HAS), messages.encode(Has(held))

    def _view(self, cid: Cid, now: Now) -> blob_messages.Held:
        held = self.held.find(cid, now)
        shares = () if held is None else held.row.shares
        bits = sum(1 << share for share in shares if share != keys.WHOLE_SHARE)
        partial = [each for each in self._takings.partial(cid) if each[0] not in shares]
        return blob_messages.Held(
            shares=bits.to_bytes((bits.bit_length() + 7) // 8, "little"),
            whole=keys.WHOLE_SHARE in shares or self._is_own(cid, now),
            partial=tuple(partial[: limits.PARTIAL_SHARES_MAX]),
        )

    def _is_own(self, cid: Cid, now: Now) -> bool:
        """Tell whether the user here keeps the whole blob."""
        bound = self._context.catalog.bound(cid, now)
        return bound is not None and not bound.expired(now)

    def _bad(self, what: str) -> Answer:
        self.counts[what] += 1
        return BAD

    def _failed(self) -> Answer:
        self.counts["failed"] += 1
        return FAILED

    # ------------------------------------------------------------------ leases

    def _on_lease(self, peer: Peer, request_id: int, body: bytes, _now: Now) -> Answer | None:
        told = messages.decode(Number.LEASE, body)
        if not isinstance(told, Lease):
            return self._bad("lease_bad_message")
        if len(self._tasks) >= limits.STREAM_TASKS_MAX:
            return self._failed()
        self._spawn(self._take_leases(peer, request_id, told))
        return None

    async def _take_leases(self, peer: Peer, request_id: int, told: Lease) -> None:
        codes, held = [], []
        for encoded in told.leases:
            try:
                code, other = await self._take_lease(encoded)
            except MoliaError as error:
                log.debug("lease_not_taken", reason=str(error))
                code, other = LeaseCode.BAD, b""
            self.counts[f"lease_{code.name.lower()}"] += 1
            codes.append(int(code))
            held += [other] if code is LeaseCode.OLDER else []
        answer = int(Number.LEASED), messages.encode(Leased(tuple(codes), tuple(held)))
        self._network.transport.reply(peer, request_id, answer, self._context.now())
        self._network.driver.flush_soon()

    async def _take_lease(self, encoded: bytes) -> tuple[LeaseCode, bytes]:
        now = self._context.now()
        lease = check(Kind.LEASE, encoded, self._context.network, unix_s=now.unix_s)
        if not isinstance(lease, Statement):
            return LeaseCode.BAD, b""
        for _ in range(LEASE_TRIES):
            found = await self._context.offload.run(self.held.by_digest, lease.digest, now)
            if not found:
                return LeaseCode.NOT_HERE, b""
            answers = []
            for held in found:
                async with self._context.objects.alone(held.row.object_id):  # nobody lets go of it
                    answers.append(await self._take_lease_of(held, lease, now))
            if (answer := next((each for each in answers if each is not None), None)) is not None:
                return answer
        return LeaseCode.BAD, b""

    async def _take_lease_of(
        self, held: Held, lease: Statement, now: Now
    ) -> tuple[LeaseCode, bytes] | None:
        """Take a lease of what is here; None: what is here changed in this moment."""
        run, owner = self._context.offload.run, owner_hash(lease.signer.key)
        leases = await run(self.held.leases, held, now)
        before = held_lease(leases[owner]) if owner in leases else None
        verdict, kept = settle(before, lease)
        if verdict is not Verdict.TAKEN:
            is_older = verdict is Verdict.OLDER
            return (LeaseCode.OLDER, kept.lease.encoded) if is_older else (LeaseCode.TAKEN, b"")
        is_full = len(leases) >= limits.LEASES_PER_HELD_MAX
        is_new = owner not in leases
        if is_new and (is_full or not self.life.quotas.may_take(owner, held.cost, is_new=False)):
            return LeaseCode.QUOTA, b""
        change = self.held.set_lease(held, kept)
        if await self._context.home_writer(held.cid).write(change) is not Reply.APPLIED:
            return None
        if is_new:
            self.life.tell(held.cid, [Change(owner, held.cost, is_new=False)], shares=0)
        return LeaseCode.TAKEN, b""

    # ------------------------------------------------------------------ shares that come in

    async def _on_put_share(self, stream: PeerStream) -> None:
        put = await read_request(stream, Number.PUT_SHARE)
        if not isinstance(put, PutShare):
            self.counts["share_bad_message"] += 1
            await send_reply(stream, Error(code=ErrorCode.BAD_MESSAGE))
            return
        kept = await self.put(stream, put)
        self.counts[f"share_{KeptCode(kept.code).name.lower()}"] += 1
        await send_reply(stream, kept)

    async def put(self, stream: Incoming, put: PutShare) -> ShareKept:
        """Return what to say of a share, once all that was wanted of it was read."""
        context, now = self._context, self._context.now()
        is_known = put.share == keys.WHOLE_SHARE or _is_listed(put)
        if not self.is_offering or not self.life.is_counted or not is_known:
            return ShareKept(code=KeptCode.REFUSED)
        lease = check(Kind.LEASE, put.lease, context.network, unix_s=now.unix_s)
        if not isinstance(lease, Statement) or lease.digest != put.cid.digest:
            return ShareKept(code=KeptCode.BAD_LEASE)
        await self._takings.wait_for_others(put.cid, put.share, stream.peer)
        held = await context.offload.run(self.held.find, put.cid, now)
        refusal = await self._refusal(held, lease, now)
        if refusal is not None:
            return ShareKept(code=refusal)
        if held is not None and put.share in held.row.shares:
            return await self._keep_on(put)
        if not self._takings.may_take(put.cid, put.share, stream.peer):
            return ShareKept(code=KeptCode.REFUSED)
        core = Intake(
            put.cid, put.share, manifest=put.manifest, first_stripe=put.first_stripe, size=put.size,
            root=put.root,
        )  # fmt: skip
        if core.is_over:
            return ShareKept(code=KeptCode.BAD_MANIFEST)
        return await self._take(stream, put, core, lease)

    async def _take(
        self, stream: Incoming, put: PutShare, core: Intake, lease: Statement
    ) -> ShareKept:
        size = put.size if core.manifest is None else core.manifest.size
        owner, cost = owner_hash(lease.signer.key), cost_of(size, put.share)
        if cost > self.room_bytes:
            return ShareKept(code=KeptCode.NO_ROOM)
        if cost > self._room_of(owner) or not self.life.quotas.may_take(owner, cost):
            return ShareKept(code=KeptCode.QUOTA)
        self._coming[owner] += cost
        drawn = 0
        try:
            async with asyncio.timeout(MEMORY_S):
                drawn = await self._context.budget.draw(_memory_of(core))
            if not self._takings.may_take(put.cid, put.share, stream.peer):
                return ShareKept(code=KeptCode.REFUSED)  # others waited for memory as well
            taken = await self._takings.take(
                stream, core, lease, first_stripe=put.first_stripe, size=cost,
                supplement=put.supplement,
            )  # fmt: skip
        except (Busy, TimeoutError):
            return ShareKept(code=KeptCode.REFUSED)
        finally:
            self._context.budget.release(drawn)
            self._coming[owner] -= cost
            if not self._coming[owner]:
                del self._coming[owner]
        if taken.held is None:
            return ShareKept(code=taken.code, stripes=taken.stripes)
        return self._kept(taken.held, taken.stripes)

    async def _keep_on(self, put: PutShare) -> ShareKept:
        """Take the lease that comes with a share that is here, unless that goes in this moment."""
        code, _ = await self._take_lease(put.lease)
        if code is LeaseCode.QUOTA:
            return ShareKept(code=KeptCode.QUOTA)
        held = await self._context.offload.run(self.held.find, put.cid, self._context.now())
        is_taken = code in (LeaseCode.TAKEN, LeaseCode.OLDER)
        if not is_taken or held is None or put.share not in held.row.shares:
            return ShareKept(code=KeptCode.CUT_OFF)
        return self._kept(held, put.first_stripe)

    async def _refusal(self, held: Held | None, lease: Statement, now: Now) -> KeptCode | None:
        """Return why a share is not kept under a lease: it is over, or there are too many."""
        leases, owner = {}, owner_hash(lease.signer.key)
        if held is not None:
            leases = await self._context.offload.run(self.held.leases, held, now)
        before = held_lease(leases[owner]) if owner in leases else None
        if not is_wanted(settle(before, lease)[1].lease, now):
            return KeptCode.BAD_LEASE
        is_full = owner not in leases and len(leases) >= limits.LEASES_PER_HELD_MAX
        return KeptCode.QUOTA if is_full else None

    def _kept(self, held: Held, stripes: int) -> ShareKept:
        provider = self._sign(held.cid, held.row.shares)
        return ShareKept(code=KeptCode.KEPT, stripes=stripes, provider=provider)

    def _on_kept(self, before: Held | None, held: Held, lease: Statement) -> None:
        """Count a share that has come to rest."""
        owner = owner_hash(lease.signer.key)
        earlier = 0 if before is None else before.cost
        cost = held.cost - earlier
        owners = {} if before is None else self.held.leases(before, self._context.now())
        others = [each for each in owners if each != owner]
        has_come = owner not in owners or not before
        changes = [Change(owner, cost, is_new=True)]
        if has_come and earlier:
            changes.append(Change(owner, earlier, is_new=False))
        changes += [Change(other, cost, is_new=False) for other in others]
        self.life.tell(held.cid, changes, shares=1)
        self._context.note_blob(held.cid)
        log.info("share_kept", blob=held.cid.short, shares=len(held.row.shares))

    async def run(self) -> None:
        """Count what is here, and let go of what nobody wants, for as long as the node lives."""
        sweep_s = float(self._context.config.leases.sweep_s)
        due_s = float("-inf")
        while True:
            now = self._context.now()
            if now.mono_s >= due_s:
                try:
                    await self.life.sweep()
                except MoliaError as error:
                    log.warning("held_sweep_failed", reason=str(error))
                took_s = self._context.now().mono_s - now.mono_s
                due_s = now.mono_s + max(sweep_s, took_s * PASS_SHARE)
            await self._takings.drop_broken(now)
            await asyncio.sleep(LOOK_S if self.life.is_counted else 0.5)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _is_listed(put: PutShare) -> bool:
    """Tell whether the manifest lists a share's root, or a supplement that comes with it does."""
    if put.share < limits.TOTAL_SHARES:
        return True
    added = Supplement.decode(put.supplement)
    at = put.share - limits.TOTAL_SHARES
    return added is not None and added.cid == put.cid and added.roots[at : at + 1] == (put.root,)


def _memory_of(core: Intake) -> int:
    """Return what a share on its way in takes of memory: its leaf list, and some blocks."""
    if core.manifest is None:
        return 2 * limits.RAW_SIZE_STOP
    geometry = core.manifest.geometry
    blocks = limits.INTAKE_BLOCKS_MAX * geometry.block_size
    return 2 * geometry.stripe_count * DIGEST_SIZE + blocks
