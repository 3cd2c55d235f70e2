"""The repairs of this node: which wait, which run, and what is shown of it.

`blobs.repair.RepairQueue` decides; here its effects are carried out, under a claim
(`node.claiming`), and whoever asks for a repair now gets it.
Source: docs/reference/audit-and-repair.md, "Who repairs".
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, replace
from typing import Any, Final

import structlog

from molia.base import limits
from molia.base.cid import Cid
from molia.base.config import RepairConfig as Settings
from molia.base.errors import BlobNotFound, MoliaError
from molia.base.ids import PeerKey
from molia.base.views import RepairsView, RepairView
from molia.blobs.repair import Repair, RepairQueue, Stop
from molia.blobs.standing import RepairConfig, Standing
from molia.blobs.statements import Statement
from molia.dht.blinding import content_loc
from molia.node.claiming import Claims
from molia.node.context import Context
from molia.node.held import cost_of
from molia.node.keeping import Keeper
from molia.node.mending import Mender
from molia.node.placing import Placed
from molia.node.standings import Here
from molia.store.keys import home_shard

log = structlog.get_logger(__name__)

TICK_S: Final = 0.5
JOB_S: Final = 45 * 60.0
REST_TURNS: Final = 6
"""After a repair that made nothing better, so many takeovers pass before the next."""
GRACE_PART: Final = 6
JOB_TURNS: Final = 4.5
"""What a repair may take, in takeovers: 45 minutes if nothing is set."""
Again = Callable[[Cid], Awaitable[Placed | None]]


def queue_config(settings: Settings) -> RepairConfig:
    """Return the queue's part of the settings."""
    return RepairConfig(
        grace_min_s=settings.grace_13_s / GRACE_PART, grace_max_s=float(settings.grace_13_s),
        grace_low_s=float(settings.grace_12_s), grace_critical_s=float(settings.grace_urgent_s),
        takeover_s=float(settings.takeover_s), job_s=min(JOB_TURNS * settings.takeover_s, JOB_S),
        bytes_per_s=float(settings.budget_bytes),
    )  # fmt: skip


class Repairs:
    """The repairs of one worker."""

    def __init__(self, context: Context, keeper: Keeper, mender: Mender, claims: Claims) -> None:
        self._context, self._keeper = context, keeper
        self._mender, self.claims = mender, claims
        self.queue = RepairQueue(
            context.peer.key, now=context.now(), config=queue_config(context.config.repair)
        )
        self.again: Again | None = None
        """Places a blob of our own once more."""
        self.counts: Counter[str] = Counter()
        self._standings: dict[Cid, Standing] = {}
        self._running: dict[Cid, asyncio.Task[None]] = {}
        self._claimed: set[Cid] = set()
        """Those of them that were claimed for it, and not by who spreads them."""
        self._rests: OrderedDict[Cid, tuple[float, int]] = OrderedDict()
        """Until when a blob is left alone unless it has fewer losses left than this."""
        self._tasks: set[asyncio.Task[None]] = set()
        keeper.on_standing.append(self._on_standing)
        keeper.on_gone.append(self._on_gone)
        claims.on_claim.append(self._on_claim)
        claims.on_ended.append(self._on_claim_ended)
        claims.knows = self._standings.__contains__

    async def run(self) -> None:
        """Repair what is our turn, for as long as the node lives."""
        try:
            while self._context.config.repair.enabled:
                self._turn()
                await asyncio.sleep(TICK_S)
        finally:
            self.claims.close()
            for task in (*self._running.values(), *self._tasks):
                task.cancel()

    # ------------------------------------------------------------------ facts

    def _on_standing(self, here: Here, standing: Standing) -> None:
        cid, now = here.cid, self._context.now()
        self._standings.pop(cid, None)
        if standing.missing and len(self._standings) < limits.REPAIR_CASES_MAX:
            self._standings[cid] = standing
        elif not standing.missing:
            self.claims.on_whole(cid)
        until_s, left = self._rests.get(cid, (0.0, 0))
        if until_s > now.mono_s and standing.losses_left >= left:
            self.queue.forget(cid)
            return
        self.queue.on_standing(
            cid, standing, loc=content_loc(self._context.network, cid),
            share_bytes=cost_of(here.size, here.stored[-1]), now=now,
        )  # fmt: skip

    def _on_gone(self, cid: Cid) -> None:
        if cid not in self._running:  # a blob that is being placed anew is not watched meanwhile
            self.queue.forget(cid)
            self._standings.pop(cid, None)
            self.claims.on_whole(cid)

    def _on_claim(self, cid: Cid, claim: Statement) -> Statement | None:
        return self.queue.on_claim(cid, claim, self._context.now())

    def _on_claim_ended(self, cid: Cid, claim: Statement) -> None:
        self.queue.on_claim_ended(cid, claim, self._context.now())

    def is_running(self, cid: Cid) -> bool:
        """Tell whether a blob is being repaired here."""
        return cid in self._running

    def on_lie(self, cid: Cid, peer: PeerKey, share: int | None) -> None:
        """Take that a node sent wrong bytes to a reader here; see `Fetcher.on_lie`."""

        async def note() -> None:
            try:
                await self._keeper.on_lie(cid, peer, share)
                await self._keeper.look(cid)
            except MoliaError as error:
                log.debug("look_failed", blob=cid.short, reason=str(error))

        if len(self._tasks) < limits.CLAIMS_AT_ONCE:
            task = asyncio.ensure_future(note())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    # ------------------------------------------------------------------ our turn

    def _turn(self) -> None:
        self.queue.on_deadline(self._context.now())
        for effect in self.queue.take_effects():
            match effect:
                case Repair(cid=cid, until_unix_s=until_unix_s):
                    self._begin(cid, until_unix_s)
                case Stop(cid=cid, reason=reason):
                    log.info("repair_stopped", blob=cid.short, reason=reason)
                    self.counts["stopped"] += 1
                    task = self._running.get(cid)
                    if task is not None:
                        task.cancel()

    def _begin(self, cid: Cid, until_unix_s: int, seen: Standing | None = None) -> None:
        """Begin a repair. seen: how the blob stands, if that was looked at just now."""
        if cid in self._running:
            return
        work = self._run_one(cid, until_unix_s, seen)
        task = self._running[cid] = asyncio.ensure_future(work)

        def ended(_: asyncio.Task[None]) -> None:
            self._running.pop(cid, None)
            if cid in self._claimed:
                self._claimed.discard(cid)
                self.claims.forget(cid)

        task.add_done_callback(ended)

    async def _run_one(self, cid: Cid, until_unix_s: int, seen: Standing | None) -> None:
        """Repair a blob, whatever comes of it."""
        placed: Placed | None = None
        before = self._standings.get(cid)
        try:
            async with asyncio.timeout(self.queue.config.job_s):
                before = seen or await self._keeper.look(cid, anew=True)
                if before is None or not before.is_repairable:
                    return
                if await self.claims.claim(cid, until_unix_s):
                    self._claimed.add(cid)
                    placed = await self._repair(cid, before)
        except (MoliaError, TimeoutError) as error:
            self.counts["failed"] += 1
            log.warning("repair_failed", blob=cid.short, reason=str(error))
        finally:
            self.queue.on_repaired(cid, is_placed=placed is not None, now=self._context.now())
        if placed is not None and before is not None:
            await self._check(cid, before, placed)

    async def _repair(self, cid: Cid, standing: Standing) -> Placed | None:
        self.counts["begun"] += 1
        log.info("repair_begun", blob=cid.short, shares=len(standing.missing))
        here = await self._context.offload.run(self._keeper.here, cid)
        if here is not None and here.is_whole and self.again is not None:
            return await self.again(cid)
        watched = await self._keeper.watched(cid)
        return await self._mender.mend(cid, standing, watched)

    async def _check(self, cid: Cid, before: Standing, placed: Placed) -> None:
        """See what came of it: where it made nothing better, the blob is left alone for a while."""
        try:
            after = await self._keeper.look(cid, anew=True)
        except MoliaError:
            return
        if after is None:
            return
        if len(after.missing) < len(before.missing):
            self.counts["repaired"] += 1
            self._context.metrics.repairs.labels("repaired").inc()
            log.info("blob_repaired", blob=cid.short, missing=len(after.missing))
            self._claimed.discard(cid)
            await self.claims.end(cid)
            return
        self.counts["failed"] += 1
        wait_s = REST_TURNS * self._context.config.repair.takeover_s
        self._rests[cid] = (self._context.now().mono_s + wait_s, before.losses_left)
        while len(self._rests) > limits.RESTS_MAX:
            self._rests.popitem(last=False)
        self.queue.forget(cid)
        left = len(after.missing)
        log.warning("repair_in_vain", blob=cid.short, missing=left, reason=placed.reason)

    # ------------------------------------------------------------------ shown and asked

    def view(self) -> RepairsView:
        """Return what this worker repairs."""
        now = self._context.now()
        shown = [
            self._view(cid, self._standings.get(cid), state="running") for cid in self._running
        ]
        for cid, due_s in self.queue.waiting(now)[: limits.REPAIRS_SHOWN_MAX]:
            shown.append(self._view(cid, self._standings.get(cid), state="waiting", due_s=due_s))
        for cid, standing in self._standings.items():
            if standing.losses_left < 0 and len(shown) < limits.REPAIRS_SHOWN_MAX:
                shown.append(self._view(cid, standing, state="lost"))
        return RepairsView(
            enabled=self._context.config.repair.enabled, repairs=tuple(shown),
            repaired=self.counts["repaired"], failed=self.counts["failed"],
            shares_made=self._mender.shares_made,
        )  # fmt: skip

    def _view(
        self, cid: Cid, standing: Standing | None, *, state: str, due_s: float | None = None
    ) -> RepairView:
        none = Standing(holdings=())
        known = standing or none
        return RepairView(
            cid=cid, state=state, reachable=len(known.reachable), needed=known.needed,
            missing=len(known.missing), due_s=due_s,
        )  # fmt: skip

    async def start(self, cid: Cid, *, dry_run: bool) -> RepairView:
        """Look at a blob, and repair it now if it lacks anything. Raises BlobNotFound."""
        standing = await self._keeper.look(cid, anew=True)
        if standing is None:
            raise BlobNotFound(cid)
        found = self._view(cid, standing, state="lost" if standing.losses_left < 0 else "waiting")
        if not standing.missing:
            return replace(found, state="whole")
        if cid in self._running:
            return replace(found, state="running")
        if dry_run or not standing.is_repairable:
            return found
        self._rests.pop(cid, None)
        life_s = min(int(self.queue.config.job_s), limits.CLAIM_LIFE_MAX_S)
        self._begin(cid, int(self._context.now().unix_s) + life_s, standing)
        return replace(found, state="running")

    async def start_anywhere(self, cid: Cid, *, dry_run: bool) -> RepairView:
        """See `start`, in the worker whose blob it is."""
        team = self._context.team
        if self._context.owns(cid):
            return await self.start(cid, dry_run=dry_run)
        index = team.owner(home_shard(cid, self._context.shards.count))
        return unpacked(await team.ask(index, "repair", [str(cid), dry_run]))

    def summed(self, others: Iterable[dict[str, Any]]) -> RepairsView:
        """Return what all workers repair; others: what each of the others answered."""
        view, told = self.view(), list(others)
        repairs = [*view.repairs, *(unpacked(each) for one in told for each in one["repairs"])]
        repairs.sort(key=lambda each: (each.reachable - each.needed, each.due_s or 0.0))
        return RepairsView(
            enabled=view.enabled, repairs=tuple(repairs[: limits.REPAIRS_SHOWN_MAX]),
            repaired=view.repaired + sum(one["repaired"] for one in told),
            shares_made=view.shares_made + sum(one["shares_made"] for one in told),
            failed=view.failed + sum(one["failed"] for one in told),
        )  # fmt: skip

    async def answer(self, verb: str, arguments: Any) -> object:  # noqa: ANN401 - by the verb
        """Return as CBOR values what another worker of this node asks."""
        match verb:
            case "claim":
                text, encoded = arguments
                return await self.claims.answer(text, bytes(encoded))
            case "repair":
                text, dry_run = arguments
                return packed(await self.start(Cid.parse(text), dry_run=bool(dry_run)))
            case _:
                view = self.view()
                return {**asdict(view), "repairs": [packed(each) for each in view.repairs]}


def packed(view: RepairView) -> dict[str, Any]:
    """Return a view as CBOR values."""
    return {**asdict(view), "cid": str(view.cid)}


def unpacked(fields: dict[str, Any]) -> RepairView:
    """Return the view of such values."""
    return RepairView(**{**fields, "cid": Cid.parse(fields["cid"])})
