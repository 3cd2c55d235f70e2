"""The repairs of this node: which wait, which run, who else claims them, and what is shown of it.

`blobs.repair.RepairQueue` decides; here its effects are carried out, claims are signed, told and
heeded, and whoever asks for a repair now gets it.
Source: docs/reference/audit-and-repair.md, "Who repairs".
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import asdict, replace
from typing import Any, Final

import structlog

from molia.base import limits
from molia.base.cid import Cid, Codec
from molia.base.config import RepairConfig as Settings
from molia.base.crypto import Identity
from molia.base.errors import BlobNotFound, MoliaError
from molia.base.ids import PeerKey
from molia.base.now import Now
from molia.base.views import RepairsView, RepairView
from molia.blobs.repair import Repair, RepairQueue, Stop
from molia.blobs.standing import RepairConfig, Standing
from molia.blobs.statements import Kind, Statement, check, state
from molia.dht.blinding import content_loc
from molia.node.context import Context
from molia.node.held import cost_of
from molia.node.keeping import Keeper
from molia.node.mending import Mender
from molia.node.network import Network
from molia.node.placing import Placed
from molia.node.standings import Here
from molia.node.watched import Watched
from molia.store.keys import home_shard
from molia.wire import messages
from molia.wire.blob_messages import Claim, ClaimCode, Claimed
from molia.wire.messages import Error, ErrorCode, Number
from molia.wire.peer import Peer
from molia.wire.transport import Answer, Handler

log = structlog.get_logger(__name__)

TICK_S: Final = 0.5
JOB_S: Final = 45 * 60.0
CLAIM_S: Final = 3.0
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

    def __init__(
        self, context: Context, network: Network, keeper: Keeper, mender: Mender, identity: Identity
    ) -> None:
        self._context, self._network, self._keeper = context, network, keeper
        self._mender, self._identity = mender, identity
        self.queue = RepairQueue(
            context.peer.key, now=context.now(), config=queue_config(context.config.repair)
        )
        self.again: Again | None = None
        """Places a blob of our own once more."""
        self.counts: Counter[str] = Counter()
        self._standings: dict[Cid, Standing] = {}
        self._running: dict[Cid, asyncio.Task[None]] = {}
        self._own_claims: dict[Cid, Statement] = {}
        self._rests: OrderedDict[Cid, tuple[float, int]] = OrderedDict()
        """Until when a blob is left alone unless it has fewer losses left than this."""
        self._tasks: set[asyncio.Task[None]] = set()
        keeper.on_standing.append(self._on_standing)
        keeper.on_gone.append(self._on_gone)

    @property
    def handlers(self) -> dict[int, Handler]:
        """What is answered by datagram."""
        return {Number.CLAIM: self._on_claim}

    async def run(self) -> None:
        """Repair what is our turn, for as long as the node lives."""
        try:
            while self._context.config.repair.enabled:
                self._turn()
                await asyncio.sleep(TICK_S)
        finally:
            for task in (*self._running.values(), *self._tasks):
                task.cancel()

    # ------------------------------------------------------------------ facts

    def _on_standing(self, here: Here, standing: Standing) -> None:
        cid, now = here.cid, self._context.now()
        until_s, left = self._rests.get(cid, (0.0, 0))
        if until_s > now.mono_s and standing.losses_left >= left:
            self.queue.forget(cid)
            return
        self.queue.on_standing(
            cid, standing, loc=content_loc(self._context.network, cid),
            share_bytes=cost_of(here.size, here.stored[-1]), now=now,
        )  # fmt: skip
        if standing.missing and len(self._standings) < limits.REPAIR_CASES_MAX:
            self._standings[cid] = standing
        else:
            self._standings.pop(cid, None)

    def _on_gone(self, cid: Cid) -> None:
        if cid not in self._running:  # a blob that is being placed anew is not watched meanwhile
            self.queue.forget(cid)
            self._standings.pop(cid, None)

    def on_lie(self, cid: Cid, peer: PeerKey, share: int | None) -> None:
        """Take that a node sent wrong bytes to a reader here; see `Fetcher.on_lie`."""

        async def note() -> None:
            await self._keeper.on_lie(cid, peer, share)
            await self._keeper.look(cid)

        if len(self._tasks) < limits.CLAIMS_AT_ONCE:
            self._spawn(note())

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

    def _begin(self, cid: Cid, until_unix_s: int) -> None:
        if cid in self._running:
            return
        task = self._running[cid] = asyncio.ensure_future(self._run_one(cid, until_unix_s))

        def ended(_: asyncio.Task[None]) -> None:
            self._running.pop(cid, None)
            self._own_claims.pop(cid, None)

        task.add_done_callback(ended)

    async def _run_one(self, cid: Cid, until_unix_s: int) -> None:
        """Repair a blob, whatever comes of it."""
        placed: Placed | None = None
        before = self._standings.get(cid)
        try:
            async with asyncio.timeout(self.queue.config.job_s):
                before = await self._keeper.look(cid, anew=True)
                if before is None or not before.is_repairable:
                    return
                if await self._claim(cid, until_unix_s):
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
        return await self._mender.mend(cid, standing.missing, watched)

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
            return
        self.counts["failed"] += 1
        wait_s = REST_TURNS * self._context.config.repair.takeover_s
        self._rests[cid] = (self._context.now().mono_s + wait_s, before.losses_left)
        while len(self._rests) > limits.RESTS_MAX:
            self._rests.popitem(last=False)
        self.queue.forget(cid)
        left = len(after.missing)
        log.warning("repair_in_vain", blob=cid.short, missing=left, reason=placed.reason)

    # ------------------------------------------------------------------ claims

    async def _claim(self, cid: Cid, until_unix_s: int) -> bool:
        """Tell the other holders that we repair a blob; False when another was first."""
        now = self._context.now()
        claim = state(
            Kind.CLAIM, self._identity, self._context.network, cid.digest,
            issued=int(now.unix_s), expires=until_unix_s,
        )  # fmt: skip
        self._own_claims[cid] = claim
        watched = await self._keeper.watched(cid)
        answers = await asyncio.gather(
            *(self._tell(key, watched, claim) for key in watched.holders)
        )
        for encoded in answers:
            other = self._checked(encoded, now) if encoded else None
            if other is not None and other.digest == cid.digest and _is_before(other, claim):
                self.queue.on_claim(cid, other, self._context.now())
                self.counts["yielded"] += 1
                return False
        return True

    async def _tell(self, key: bytes, watched: Watched, claim: Statement) -> bytes:
        """Return the claim that a holder says came before; empty without one."""
        to = PeerKey(key), watched.holders[key].address
        try:
            answer = await self._network.ask(
                *to, Claim(claim.encoded), timeout_s=min(CLAIM_S, self._keeper.have_s)
            )
        except MoliaError:
            return b""
        is_other = isinstance(answer, Claimed) and answer.code == ClaimCode.OTHER
        return answer.claim if is_other and isinstance(answer, Claimed) else b""

    def _checked(self, encoded: bytes, now: Now) -> Statement | None:
        claim = check(Kind.CLAIM, encoded, self._context.network, unix_s=now.unix_s)
        return claim if isinstance(claim, Statement) and claim.lives(now.unix_s) else None

    def _on_claim(self, peer: Peer, request_id: int, body: bytes, _now: Now) -> Answer | None:
        told = messages.decode(Number.CLAIM, body)
        if not isinstance(told, Claim):
            self.counts["claim_bad_message"] += 1
            return int(Number.ERROR), messages.encode(Error(code=ErrorCode.BAD_MESSAGE))
        if len(self._tasks) >= limits.CLAIMS_AT_ONCE:
            self.counts["claim_dropped"] += 1
            return int(Number.ERROR), messages.encode(Error(code=ErrorCode.FAILED))
        self._spawn(self._answer_claim(peer, request_id, told.claim))
        return None

    async def _answer_claim(self, peer: Peer, request_id: int, encoded: bytes) -> None:
        claim, said = self._checked(encoded, self._context.now()), Claimed(int(ClaimCode.BAD))
        if claim is not None:
            said = Claimed(int(ClaimCode.NOT_HERE))
            for codec in (Codec.MANIFEST, Codec.RAW):
                said = await self._heed_there(Cid(codec, claim.digest), claim)
                if said.code != ClaimCode.NOT_HERE:
                    break
        self.counts[f"claim_{ClaimCode(said.code).name.lower()}"] += 1
        answer = int(Number.CLAIMED), messages.encode(said)
        self._network.transport.reply(peer, request_id, answer, self._context.now())
        self._network.driver.flush_soon()

    async def _heed_there(self, cid: Cid, claim: Statement) -> Claimed:
        """Heed a claim in the worker whose blob it is."""
        team, count = self._context.team, self._context.shards.count
        if self._context.owns(cid):
            return await self.heed(cid, claim)
        try:
            code, other = await team.ask(
                team.owner(home_shard(cid, count)), "claim", [str(cid), claim.encoded]
            )
        except MoliaError:
            return Claimed(int(ClaimCode.NOT_HERE))
        return Claimed(int(code), bytes(other))

    async def heed(self, cid: Cid, claim: Statement) -> Claimed:
        """Return what to say of a checked claim to repair a blob of our shards."""
        if await self._context.offload.run(self._keeper.here, cid) is None:
            return Claimed(int(ClaimCode.NOT_HERE))
        watched = await self._keeper.watched(cid)
        if cid not in self._standings and claim.signer.key in watched.holders:
            try:
                await self._keeper.look(cid)  # else we would find out later, and begin as well
            except MoliaError as error:
                log.debug("look_failed", blob=cid.short, reason=str(error))
        own = self._own_claims.get(cid)
        if own is not None and _is_before(own, claim):
            return Claimed(int(ClaimCode.OTHER), own.encoded)
        other = self.queue.on_claim(cid, claim, self._context.now())
        if other is None:
            return Claimed(int(ClaimCode.HEEDED))
        return Claimed(int(ClaimCode.OTHER), other.encoded)

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
        self._begin(cid, int(self._context.now().unix_s) + life_s)
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
                claim = self._checked(bytes(encoded), self._context.now())
                if claim is None:
                    return [int(ClaimCode.BAD), b""]
                said = await self.heed(Cid.parse(text), claim)
                return [int(said.code), said.claim]
            case "repair":
                text, dry_run = arguments
                return packed(await self.start(Cid.parse(text), dry_run=bool(dry_run)))
            case _:
                view = self.view()
                return {**asdict(view), "repairs": [packed(each) for each in view.repairs]}

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except MoliaError as error:
                log.debug("claim_not_answered", reason=str(error))

        task = asyncio.ensure_future(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _is_before(claim: Statement, other: Statement) -> bool:
    return (claim.issued, claim.signer.key) < (other.issued, other.signer.key)


def packed(view: RepairView) -> dict[str, Any]:
    """Return a view as CBOR values."""
    return {**asdict(view), "cid": str(view.cid)}


def unpacked(fields: dict[str, Any]) -> RepairView:
    """Return the view of such values."""
    return RepairView(**{**fields, "cid": Cid.parse(fields["cid"])})
