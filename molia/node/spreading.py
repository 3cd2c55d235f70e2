"""Shares that lie doubled up: sent to nodes that joined, and let go of where they lie elsewhere.

`blobs.spreading.SpreadQueue` says whose turn it is. One blob at a time is spread, under a claim as
a repair, and when no repair runs: what is spread lacks nothing.
Source: docs/reference/audit-and-repair.md, "Spreading".
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import Final, Protocol

import structlog

from molia.base.cid import Cid, Codec
from molia.base.errors import MoliaError
from molia.base.limits import DATA_SHARES, TOTAL_SHARES
from molia.blobs.repair import RepairQueue
from molia.blobs.spreading import SpreadQueue, is_crowded, may_let_go
from molia.blobs.standing import Standing
from molia.blobs.statements import Statement
from molia.dht.blinding import content_loc
from molia.node.claiming import Claims
from molia.node.context import Context
from molia.node.holding import Holder
from molia.node.keeping import Keeper
from molia.node.mending import Mender
from molia.node.placing import Placed
from molia.node.standings import Facts

log = structlog.get_logger(__name__)

TICK_S: Final = 0.5
JOB_S: Final = 45 * 60.0
MayBegin = Callable[[int], Awaitable[bool]]


class OwnBlobs(Protocol):
    """What places the blobs of this node's user."""

    async def spread(self, cid: Cid, here: Collection[bytes], may_begin: MayBegin) -> Placed | None:
        """Place a blob anew if that would move shares; None: it would not, or may not begin."""
        ...


class Spreader:
    """The spreading of one worker."""

    def __init__(
        self, context: Context, keeper: Keeper, mender: Mender, claims: Claims, holder: Holder,
        repairs: RepairQueue,
    ) -> None:  # fmt: skip
        self._context, self._keeper, self._mender = context, keeper, mender
        self._claims, self._holder, self._repairs = claims, holder, repairs
        self.queue = SpreadQueue(context.peer.key, config=repairs.config)
        self._has_claim = False
        """Whether what is being spread was claimed, and not by a repair of it."""
        self._settle_s = float(context.config.repair.grace_13_s)
        """How long a share lies at two nodes before one lets go of it."""
        self.own_blobs: OwnBlobs | None = None
        self.announce_soon: Callable[[Cid], None] = lambda _: None
        self.counts: Counter[str] = Counter()
        keeper.on_facts.append(self._on_facts)
        keeper.on_gone.append(self.queue.forget)
        claims.on_heeded.append(self._on_heeded)
        claims.on_ended.append(self._on_claim_ended)

    # ------------------------------------------------------------------ facts

    def _on_facts(self, facts: Facts, standing: Standing) -> None:
        cid, now = facts.here.cid, self._context.now()
        if cid == self.queue.running:
            return
        held = facts.held()
        is_ripe = not standing.missing and bool(self._ripe(facts, held))
        if standing.missing or not (is_ripe or self._is_crowded(facts, held)):
            self.queue.forget(cid)
            return
        leaders = [key for key, shares in held.items() if len(shares) > 1]
        here = [key for key in facts.wholes() if facts.presence.get(key)]
        loc = content_loc(self._context.network, cid)
        self.queue.on_crowded(cid, [*leaders, *here], loc=loc, is_ripe=is_ripe, now=now)

    def _is_crowded(self, facts: Facts, held: dict[bytes, tuple[int, ...]]) -> bool:
        """Tell whether a node that joins could take something over."""
        here = facts.here
        if here.cid.codec is Codec.RAW:
            return False
        if here.is_whole and self.own_blobs is not None:
            part = is_crowded(here.stored, held, stored=here.stored)
            return part or any(len(shares) > 1 for shares in held.values())
        return is_crowded(here.shares, held, stored=here.stored)

    def _ripe(self, facts: Facts, held: dict[bytes, tuple[int, ...]]) -> tuple[int, ...]:
        """Return the shares that we need not have any more."""
        if not facts.watched.spares:
            return ()
        unix_s, own = self._context.now().unix_s, self._context.peer.key
        settled = facts.watched.settled(unix_s=unix_s, after_s=self._settle_s)
        needed = len(facts.here.stored) - (TOTAL_SHARES - DATA_SHARES)
        return may_let_go({**held, own: facts.here.shares}, own, settled, needed=needed)

    def _on_heeded(self, cid: Cid, claim: Statement) -> None:
        now = self._context.now()
        self.queue.on_claim(cid, now.mono_s + claim.expires - now.unix_s)

    def _on_claim_ended(self, cid: Cid, _: Statement) -> None:
        self.queue.on_claim_ended(cid, self._context.now())

    # ------------------------------------------------------------------ our turn

    async def run(self) -> None:
        """Spread what is our turn, for as long as the node lives."""
        while self._context.config.repair.enabled:
            await asyncio.sleep(TICK_S)
            if self._repairs.under_way():
                continue
            cid = self.queue.begin(self._context.now())
            if cid is not None:
                await self._run_one(cid)

    async def _run_one(self, cid: Cid) -> None:
        is_better = False
        try:
            async with asyncio.timeout(self._repairs.config.job_s):
                is_better = await self._spread(cid)
        except (MoliaError, TimeoutError) as error:
            self.counts["failed"] += 1
            log.debug("spreading_failed", blob=cid.short, reason=str(error))
        finally:
            if self._has_claim:
                self._claims.forget(cid)
            self._has_claim = False
            self.queue.on_spread(cid, is_better=is_better, now=self._context.now())

    async def _spread(self, cid: Cid) -> bool:
        """Move what others have room for, let go of what lies elsewhere; tell whether any did."""
        found = await self._keeper.look_closely(cid, anew=True)
        if found is None or found[1].missing or self.queue.is_claimed(cid, self._context.now()):
            return False
        try:
            has_moved = await self._move(cid, found[0])
            has_gone = await self._let_go(cid)
        finally:
            if self._has_claim:  # else others would wait until it has run out
                self._has_claim = False
                await self._claims.end(cid)
        if has_moved or has_gone:
            await self._keeper.look(cid, anew=True)
        return has_moved or has_gone

    async def _move(self, cid: Cid, facts: Facts) -> bool:
        async def may_begin(size: int) -> bool:
            may = self._repairs.may_spend(size, self._context.now())
            return may and await self._claim(cid)

        here = facts.held()
        if facts.here.is_whole and self.own_blobs is not None:
            has_moved = await self.own_blobs.spread(cid, here, may_begin) is not None
        elif len(facts.here.shares) > 1:
            has_moved = await self._mender.spread(cid, facts.watched, here, may_begin)
        else:
            return False
        if has_moved:
            self.counts["spread"] += 1
            self._context.metrics.repairs.labels("spread").inc()
            log.info("blob_spread", blob=cid.short)
        return has_moved

    async def _let_go(self, cid: Cid) -> bool:
        """Let go of what has long been sound elsewhere: under a claim, so that others keep it."""
        facts, shares = await self._look_for_ripe(cid)
        if not shares or not await self._claim(cid):
            return False
        facts, shares = await self._look_for_ripe(cid)  # what they say now, heeding our claim
        held = None
        if facts is not None:
            run, now = self._context.offload.run, self._context.now()
            held = await run(self._holder.held.find, cid, now)
        if held is None or not shares or not await self._holder.life.let_go(held, shares):
            return False
        self.counts["let_go"] += len(shares)
        self._context.metrics.repairs.labels("let_go").inc(len(shares))
        self.announce_soon(cid)
        return True

    async def _look_for_ripe(self, cid: Cid) -> tuple[Facts | None, tuple[int, ...]]:
        found = await self._keeper.look_closely(cid, anew=True)
        if found is None or found[1].missing:
            return None, ()
        facts = found[0]
        ripe = await self._context.offload.run(self._ripe, facts, facts.held())
        return facts, ripe

    async def _claim(self, cid: Cid) -> bool:
        if not self._has_claim:
            until_unix_s = int(self._context.now().unix_s + min(self._repairs.config.job_s, JOB_S))
            self._has_claim = await self._claims.claim(cid, until_unix_s, to_spent=True)
        return self._has_claim
