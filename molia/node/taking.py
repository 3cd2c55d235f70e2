"""Shares that peers send for keeping, on their way in: each drives an `Intake` core.

A stream is read only while the disk keeps up, so back pressure reaches the sender through its
window. What is answered KEPT is durable, its row with the lease included. Of a share whose stream
broke what came is kept for a while, and whoever sends it goes on from there.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Protocol

import anyio
import structlog

from molia.base import limits
from molia.base.cid import Cid
from molia.base.errors import ConnectionLost, MoliaError, NoSpace, TimedOut, WriteUnsettled
from molia.base.ids import ObjectId, new_object_id
from molia.base.now import Now
from molia.blobs import intake as cores
from molia.blobs.intake import Fault, Intake, Kept, Refused
from molia.blobs.leases import settle
from molia.blobs.statements import Statement
from molia.node.context import Context
from molia.node.held import Held, HeldShares
from molia.node.shards import keys_of
from molia.store import keys
from molia.store.keys import Kind
from molia.store.ops import Reply
from molia.store.rows import HeldRow
from molia.wire.blob_messages import KeptCode

log = structlog.get_logger(__name__)

CODES: Final = {
    Fault.MANIFEST: KeptCode.BAD_MANIFEST,
    Fault.BLOCK: KeptCode.BAD_BLOCK,
    Fault.CUT_OFF: KeptCode.CUT_OFF,
}
KEEP_TRIES: Final = 8
PATIENCE_S: Final = 30.0
"""How long a share may take beside what its bytes take at the lowest rate."""
SETTLE_S: Final = 30.0
TOGETHER: Final = 3
"""Blocks of a share that are written at once: one transaction and one sync for all of them."""
OTHERS_S: Final = 10.0
"""How long a share waits for another sender of the same one: less than senders wait for it."""


class Incoming(Protocol):
    """What a share is read from: a stream of a peer, or what this node sends itself."""

    @property
    def peer(self) -> object:
        """Who sends it."""
        ...

    async def receive(self) -> bytes:
        """Return the next bytes, b"" at the end. Raises ConnectionLost, TimedOut."""
        ...


OnKept = Callable[[Held | None, Held, Statement], None]
"""Told that a share is kept: what was kept before, what is now, and whose lease came with it."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of a share."""

    code: KeptCode
    stripes: int = 0
    """From the first on that are durable."""
    held: Held | None = None
    """What is kept of the blob now, when the share is."""


class Takings:
    """The shares that come in to one worker."""

    def __init__(self, context: Context, held: HeldShares, on_kept: OnKept) -> None:
        self._context, self._held, self._on_kept = context, held, on_kept
        self._running: dict[tuple[Cid, int], _Taking] = {}
        self._broken: OrderedDict[tuple[Cid, int], _Broken] = OrderedDict()

    def partial(self, cid: Cid) -> Iterator[tuple[int, int]]:
        """Yield shares of a blob that were broken off, and how many of their stripes are here."""
        for (of, share), broken in self._broken.items():
            if of == cid:
                yield share, broken.stripes

    async def wait_for_others(self, cid: Cid, share: int, peer: object) -> None:
        """Return when nobody else sends a share, or after a while; its sender's first try ends."""
        earlier = self._running.get((cid, share))
        if earlier is None:
            return
        if earlier.peer is peer:
            earlier.give_up()
        with anyio.move_on_after(OTHERS_S):
            await earlier.ended.wait()

    def may_take(self, cid: Cid, share: int, peer: object) -> bool:
        """Tell whether a share may come in now."""
        of_peer = sum(taking.peer is peer for taking in self._running.values())
        return (
            (cid, share) not in self._running
            and len(self._running) < limits.INTAKES_MAX
            and of_peer < limits.INTAKES_PER_PEER_MAX
        )

    async def take(
        self, stream: Incoming, core: Intake, lease: Statement, *, first_stripe: int, size: int,
        supplement: bytes = b"",
    ) -> Taken:  # fmt: skip
        """Read a share that may come to its end; return what came of it.

        supplement: of a share from 14 on. size: about what it takes, so that who sends slower than
        any is cut off.
        """
        place = core.cid, core.share
        held = self._held.find(core.cid, self._context.now())
        object_id = self._object_of(core.cid, held)
        broken = self._broken.get(place)
        stale = broken if broken is not None and broken.object_id != object_id else None
        here = 0 if broken is None or stale is not None else broken.stripes
        if first_stripe > here:
            return Taken(KeptCode.CUT_OFF, here)
        taking = self._running[place] = _Taking(self._context, core, object_id, stream.peer, size)
        taking.supplement = supplement
        self._broken.pop(place, None)
        taken = Taken(KeptCode.CUT_OFF)
        try:
            if stale is not None:  # another worker was first: the object it made counts
                await self._drop_alone(core.cid, core.share, stale.object_id)
            came = await taking.run(stream)
            if came.code is KeptCode.KEPT:
                taken = Taken(KeptCode.CUT_OFF, came.stripes)  # should its rows not be written
                async with self._context.objects.alone(object_id):
                    came = await self._keep(taking, lease, stripes=came.stripes)
            taken = came
        except NoSpace:
            taken = Taken(KeptCode.NO_ROOM)
        finally:
            if taken.code is KeptCode.CUT_OFF and taken.stripes:
                until_s = self._context.now().mono_s + limits.BROKEN_KEEP_S
                self._broken[place] = _Broken(object_id, taken.stripes, until_s)
            elif taken.code is not KeptCode.KEPT:
                await self._drop_alone(core.cid, core.share, object_id)
            del self._running[place]
            taking.ended.set()
        return taken

    async def drop_broken(self, now: Now) -> None:
        """Remove what came of shares that nobody went on with."""
        while self._broken:
            (cid, share), broken = next(iter(self._broken.items()))
            if broken.until_s > now.mono_s and len(self._broken) <= limits.BROKEN_MAX:
                return
            del self._broken[cid, share]
            async with self._context.objects.alone(broken.object_id):
                anew = self._running.get((cid, share))
                if anew is None or anew.object_id != broken.object_id:
                    await self._drop(cid, share, broken.object_id)

    # ------------------------------------------------------------------ steps

    def _object_of(self, cid: Cid, held: Held | None) -> ObjectId:
        """Return the object of a blob's shares: one for all of them."""
        if held is not None:
            return held.row.object_id
        for (of, share), taking in self._running.items():
            if of == cid and share != keys.WHOLE_SHARE:
                return taking.object_id
        for (of, _), broken in self._broken.items():
            if of == cid:
                return broken.object_id
        return new_object_id(self._context.entropy)

    async def _keep(self, taking: "_Taking", lease: Statement, *, stripes: int) -> Taken:
        """Write the rows that make the share a kept one."""
        context, core = self._context, taking.core
        for _ in range(KEEP_TRIES):
            now = context.now()
            held = await context.offload.run(self._held.find, core.cid, now)
            if held is not None and held.row.object_id != taking.object_id:
                return Taken(KeptCode.CUT_OFF)  # another worker was first: its object counts
            if held is not None and core.share in held.row.shares:
                await self._end(taking)
                return Taken(KeptCode.KEPT, stripes, held)
            if not await context.offload.run(self._is_whole, taking, now):
                return Taken(KeptCode.CUT_OFF)  # another worker had it too, and removed blocks
            before = None
            if held is not None:
                before = await context.offload.run(self._held.lease_of, held, lease.signer, now)
            row = _with_share(held, taking, now)
            _, kept = settle(before, lease)
            change = self._held.keep(
                core.cid, held, row, kept, share=core.share, whole=taking.whole, now=now
            )
            try:
                reply = await context.home_writer(core.cid).write(change)
            except WriteUnsettled:
                continue
            if reply is Reply.APPLIED:
                made = Held(core.cid, row, row.encode())
                self._on_kept(held, made, lease)
                await self._end(taking)
                return Taken(KeptCode.KEPT, stripes, made)
        return Taken(KeptCode.CUT_OFF)

    def _is_whole(self, taking: "_Taking", now: Now) -> bool:
        """Tell whether all blocks of a share are on the disk."""
        core = taking.core
        if core.manifest is None:
            return True  # a small blob's bytes go with its rows
        shards, prefix = self._context.shards, bytes(taking.object_id) + core.share.to_bytes(2)
        shard = shards.shard_of(Kind.BLOCK, keys.block_key(taking.object_id, core.share, 0))
        count = sum(1 for _ in keys_of(shard, Kind.BLOCK, prefix, now))
        geometry = core.manifest.geometry
        last = geometry.stripe(geometry.stripe_count - 1)  # no other stripe has empty blocks
        return count == geometry.stripe_count + int(last.size_of(core.share) > 0)

    async def _end(self, taking: "_Taking") -> None:
        if taking.core.share != keys.WHOLE_SHARE:
            await self._context.objects.end_share(taking.object_id, taking.core.share)

    async def _drop_alone(self, cid: Cid, share: int, object_id: ObjectId) -> None:
        """See `_drop`; while no other worker keeps the share or lets go of it."""
        async with self._context.objects.alone(object_id):
            await self._drop(cid, share, object_id)

    async def _drop(self, cid: Cid, share: int, object_id: ObjectId) -> None:
        """Remove what came of a share that is not kept; a crash leaves that to the next start."""
        if share == keys.WHOLE_SHARE:
            return
        try:
            held = await self._context.offload.run(self._held.find, cid, self._context.now())
            is_ours = held is not None and held.row.object_id == object_id
            is_kept = is_ours and held is not None and share in held.row.shares
            objects = self._context.objects
            await (objects.end_share if is_kept else objects.drop_share)(object_id, share)
        except MoliaError as error:
            log.warning("share_left_behind", blob=cid.short, reason=type(error).__name__)


@dataclass(frozen=True, slots=True)
class _Broken:
    object_id: ObjectId
    stripes: int
    until_s: float


class _Taking:
    """One share on its way in."""

    def __init__(
        self, context: Context, core: Intake, object_id: ObjectId, peer: object, size: int
    ) -> None:
        self._context, self.core, self.peer = context, core, peer
        self.object_id = object_id
        if core.share == keys.WHOLE_SHARE:
            count = context.shards.count
            self.object_id = keys.small_object_id(core.cid, count, context.entropy)
        self.size, self.supplement = size, b""
        self.whole: bytes | None = None
        """The bytes of a small blob; they go with the rows, in one transaction."""
        self.ended = asyncio.Event()
        self._writes: set[asyncio.Task[None]] = set()
        self._held_back: list[tuple[int, bytes]] = []
        """What is checked and not yet being written: stripe and bytes."""
        self._patience: asyncio.Timeout | None = None
        self._is_given_up = False

    def give_up(self) -> None:
        """End it, because its sender has begun anew."""
        self._is_given_up = True
        if self._patience is not None:
            self._patience.reschedule(0.0)

    async def run(self, stream: Incoming) -> Taken:
        """Return what came of it, once nothing of it is being written any more."""
        try:
            if self.core.share != keys.WHOLE_SHARE:
                objects = self._context.objects
                async with objects.alone(self.object_id):  # not while the share is being let go of
                    await objects.begin_share(self.object_id, self.core.share)
            outcome = await self._take(stream)
        except NoSpace:
            return Taken(KeptCode.NO_ROOM)
        except MoliaError as error:
            log.warning("share_not_kept", blob=self.core.cid.short, reason=str(error))
            return Taken(KeptCode.REFUSED)
        finally:
            await self._settle()
        if isinstance(outcome, Kept):
            return Taken(KeptCode.KEPT, outcome.stripes)
        return Taken(CODES[outcome.fault], outcome.stripes)

    async def _take(self, stream: Incoming) -> Kept | Refused:
        outcome: Kept | Refused | None = None
        wait_s = PATIENCE_S + self.size / limits.SERVED_BYTES_PER_S_MIN
        try:
            # one timeout for the whole stream: a task and a timer for each piece cost more than it
            async with asyncio.timeout(0.0 if self._is_given_up else wait_s) as self._patience:
                outcome = await self._read(stream)
        except (ConnectionLost, TimedOut, TimeoutError):
            pass  # the stream broke, its sender began anew, or is far too slow
        finally:
            self._patience = None
        if outcome is None:
            await self._save()
            self.core.on_end()
        while outcome is None and (outcome := self._carry_out()) is None:
            await self._wait_for_writes()
        return outcome

    async def _read(self, stream: Incoming) -> Kept | Refused | None:
        """Feed the core; return how it ended, None at the end of the stream."""
        while (outcome := self._carry_out()) is None:
            if self._writes and not self.core.wants_bytes:
                await self._wait_for_writes()
            elif data := await stream.receive():
                self.core.on_bytes(data)
            else:
                return None
        return outcome

    async def _save(self) -> None:
        """Return once all that came is durable, also of a share that broke off."""
        if self._held_back:
            self._write()
        while self._writes:
            await self._wait_for_writes()
            self._reap()

    async def _wait_for_writes(self) -> None:
        await asyncio.wait(self._writes, return_when=asyncio.FIRST_COMPLETED)

    def _carry_out(self) -> Kept | Refused | None:
        """Begin to write what is to be written; return how it ended, if it did."""
        self._reap()
        while effects := self.core.take_effects():
            for effect in effects:
                match effect:
                    case Kept() | Refused():
                        return effect
                    case cores.StoreWhole(data=data):
                        self.whole = data
                        self.core.on_leaves_stored()
                    case cores.StoreLeaves(leaves=leaves):
                        self._held_back.append((keys.LEAVES_STRIPE, leaves))
                    case cores.StoreBlock(stripe_index=stripe, block=block):
                        self._held_back.append((stripe, block))
        is_full = len(self._held_back) >= TOGETHER or not self.core.wants_bytes
        if self._held_back and is_full:
            self._write()
        return None

    def _write(self) -> None:
        """Begin to write what was held back."""
        blocks, self._held_back = self._held_back, []
        self._writes.add(asyncio.ensure_future(self._store(blocks)))

    async def _store(self, blocks: list[tuple[int, bytes]]) -> None:
        share = self.core.share
        await self._context.objects.store(
            self.object_id, [(share, stripe, data) for stripe, data in blocks]
        )
        for stripe, _ in blocks:
            if stripe == keys.LEAVES_STRIPE:
                self.core.on_leaves_stored()
            else:
                self.core.on_stored(stripe)

    def _reap(self) -> None:
        """Raise what a write ended in."""
        done = [task for task in self._writes if task.done()]
        self._writes.difference_update(done)
        for task in done:
            task.result()

    async def _settle(self) -> None:
        try:
            if self._writes:
                await asyncio.wait(self._writes, timeout=SETTLE_S)
        finally:
            for task in self._writes:
                if not task.done():
                    task.cancel()  # or what waits for its turn would be written after the clean-up
                elif not task.cancelled():
                    task.exception()
            self._writes.clear()


def _with_share(held: Held | None, taking: _Taking, now: Now) -> HeldRow:
    """Return the row of what is kept with one more share."""
    core = taking.core
    if held is None:
        size = core.manifest.size if core.manifest is not None else len(taking.whole or b"")
        encoded = b"" if core.manifest is None else core.manifest.encode()
        return HeldRow(
            taking.object_id, size, encoded, (core.share,), int(now.unix_s), taking.supplement
        )
    shares = tuple(sorted({*held.row.shares, core.share}))
    longest = max(held.row.supplement, taking.supplement, key=len)
    return replace(held.row, shares=shares, supplement=longest)
