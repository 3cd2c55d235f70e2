"""Claims: who works on a blob's shares now, told to its other holders and heeded by them.

A claim lasts as long as a job may. Whose work came to a good end says so with a claim that ends
at once: the others then look at the blob anew, and need not wait.
Source: docs/reference/leases.md, "Claims"; docs/reference/audit-and-repair.md, "Who repairs".
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from molia.base import limits
from molia.base.cid import Cid, Codec
from molia.base.crypto import Identity
from molia.base.errors import MoliaError
from molia.base.ids import PeerKey
from molia.base.now import Now
from molia.blobs.statements import Kind, Statement, check, state
from molia.node.context import Context
from molia.node.keeping import Keeper
from molia.node.network import Network
from molia.node.watched import Watched
from molia.store.keys import home_shard
from molia.wire import messages
from molia.wire.blob_messages import Claim, ClaimCode, Claimed
from molia.wire.messages import Error, ErrorCode, Number
from molia.wire.peer import Peer
from molia.wire.transport import Answer, Handler

log = structlog.get_logger(__name__)

CLAIM_S: Final = 3.0
OnClaim = Callable[[Cid, Statement], Statement | None]
"""Takes another's checked claim; returns the one that stands in its way, if any does."""
OnHeeded = Callable[[Cid, Statement], None]
"""Takes that a holder's claim is heeded."""
OnEnded = Callable[[Cid, Statement], None]
"""Takes that the signer of a claim is done."""


class Claims:
    """The claims that one worker makes and hears."""

    def __init__(
        self, context: Context, network: Network, keeper: Keeper, identity: Identity
    ) -> None:
        self._context, self._network = context, network
        self._keeper, self._identity = keeper, identity
        self._own: dict[Cid, Statement] = {}
        self._heeded: OrderedDict[Cid, Statement] = OrderedDict()
        """Claims of others that stand, or ran out with nothing done: such a one's signer is not
        heeded twice."""
        self._held_back_s: OrderedDict[Cid, float] = OrderedDict()
        """Since when others' claims keep us from repairing what lacks shares; monotonic."""
        self._insisted: set[Cid] = set()
        """Blobs with a claim of our own that no other's is before: we waited long enough."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.on_claim: list[OnClaim] = []
        self.on_heeded: list[OnHeeded] = []
        self.on_ended: list[OnEnded] = []
        self.knows: Callable[[Cid], bool] = lambda _: False
        """Whether it is known that a blob lacks shares."""
        self.counts: Counter[str] = Counter()

    @property
    def handlers(self) -> dict[int, Handler]:
        """What is answered by datagram."""
        return {Number.CLAIM: self._on_claim}

    def close(self) -> None:
        """Answer nothing more."""
        for task in self._tasks:
            task.cancel()

    # ------------------------------------------------------------------ our own

    async def claim(self, cid: Cid, until_unix_s: int, *, to_spent: bool = False) -> bool:
        """Tell the other holders that we work on a blob; False when another was first.

        Only who is told True may say `end` or `forget`. to_spent: give way to a holder whose last
        claim came to nothing as well, and however long we have given way.
        """
        now = self._context.now()
        if cid in self._own:
            self.counts["yielded"] += 1
            return False  # another task of ours is at it
        issued = int(now.unix_s)
        expires = min(until_unix_s, issued + limits.CLAIM_LIFE_MAX_S)  # the clock was put back
        if expires <= issued:
            return False  # it was put on: such a claim would say that our work is done
        if not to_spent and self._has_waited(cid):
            self._insisted.add(cid)
        claim = self._own[cid] = self._state(cid, issued, expires)
        is_won = False
        try:
            is_won = not self._is_heeding(cid, now) and await self._is_first(
                cid, claim, to_spent=to_spent
            )
        finally:
            if not is_won:
                self.forget(cid)
        if is_won:
            self._held_back_s.pop(cid, None)
        else:
            self.counts["yielded"] += 1
            if not to_spent:
                self._note_held_back(cid)
        return is_won

    async def _is_first(self, cid: Cid, claim: Statement, *, to_spent: bool) -> bool:
        now = self._context.now()
        for encoded in await self._tell_all(cid, claim):
            other = self.checked(encoded, now) if encoded else None
            if other is None or other.digest != cid.digest or not _is_before(other, claim):
                continue
            watched = await self._keeper.watched(cid)
            if cid in self._insisted or other.signer.key not in watched.holders:
                continue
            if self._heed(cid, other) or to_spent:
                self._tell_of(cid, other)
                return False
        return not self._is_heeding(cid, now)  # its signer was first, and its answer may be lost

    def _is_heeding(self, cid: Cid, now: Now) -> bool:
        """Tell whether we gave way to somebody that may be at work on a blob."""
        heeded = self._heeded.get(cid)
        return heeded is not None and heeded.lives(now.unix_s) and cid not in self._insisted

    async def end(self, cid: Cid) -> None:
        """Tell the other holders that what we claimed is done, and well."""
        own = self._own.get(cid)
        self.forget(cid)
        if own is not None:
            issued = max(int(self._context.now().unix_s), own.issued + 1)
            await self._tell_all(cid, self._state(cid, issued, issued))

    def forget(self, cid: Cid) -> None:
        """Let our claim run out: others have their turn then."""
        self._own.pop(cid, None)
        self._insisted.discard(cid)

    def on_whole(self, cid: Cid) -> None:
        """Take that a blob lacks nothing, or is no longer here: what held us back did no harm."""
        self._held_back_s.pop(cid, None)

    def _note_held_back(self, cid: Cid) -> None:
        self._held_back_s.setdefault(cid, self._context.now().mono_s)
        while len(self._held_back_s) > limits.RESTS_MAX:
            self._held_back_s.popitem(last=False)

    def _has_waited(self, cid: Cid) -> bool:
        """Tell whether others' claims have kept us from a repair for as long as they may.

        Else holders who work together could claim in turn, and it would never be made.
        """
        since_s = self._held_back_s.get(cid)
        return since_s is not None and (
            self._context.now().mono_s >= since_s + limits.CLAIMS_HEEDED_S
        )

    def _state(self, cid: Cid, issued: int, expires: int) -> Statement:
        return state(
            Kind.CLAIM, self._identity, self._context.network, cid.digest, issued=issued,
            expires=expires,
        )  # fmt: skip

    async def _tell_all(self, cid: Cid, claim: Statement) -> list[bytes]:
        watched = await self._keeper.watched(cid)
        told = (self._tell(key, watched, claim) for key in watched.holders)
        return list(await asyncio.gather(*told))

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

    # ------------------------------------------------------------------ those of others

    def checked(self, encoded: bytes, now: Now) -> Statement | None:
        """Return a claim that holds, or that ends one; None of anything else."""
        claim = check(Kind.CLAIM, encoded, self._context.network, unix_s=now.unix_s)
        if not isinstance(claim, Statement):
            return None
        is_recent = claim.issued + limits.CLAIM_LIFE_MAX_S > now.unix_s
        return claim if claim.lives(now.unix_s) or (claim.is_release and is_recent) else None

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
        claim, said = self.checked(encoded, self._context.now()), Claimed(int(ClaimCode.BAD))
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

    async def answer(self, text: str, encoded: bytes) -> list[object]:
        """Return as CBOR values what to say of a claim that another worker was told."""
        claim = self.checked(encoded, self._context.now())
        if claim is None:
            return [int(ClaimCode.BAD), b""]
        said = await self.heed(Cid.parse(text), claim)
        return [int(said.code), said.claim]

    async def heed(self, cid: Cid, claim: Statement) -> Claimed:
        """Return what to say of a checked claim about a blob of our shards."""
        if await self._context.offload.run(self._keeper.here, cid) is None:
            return Claimed(int(ClaimCode.NOT_HERE))
        watched = await self._keeper.watched(cid)
        is_holder = claim.signer.key in watched.holders
        if claim.is_release:
            heeded = self._heeded.get(cid)
            if heeded is not None and heeded.signer == claim.signer:
                del self._heeded[cid]
            if is_holder:
                await self._keeper.age(cid)
            for ended in self.on_ended:
                ended(cid, claim)
            return Claimed(int(ClaimCode.HEEDED))
        own = self._own.get(cid)
        if own is not None and (cid in self._insisted or _is_before(own, claim)):
            return Claimed(int(ClaimCode.OTHER), own.encoded)
        for told in self.on_claim:
            other = told(cid, claim)
            if other is not None:
                return Claimed(int(ClaimCode.OTHER), other.encoded)
        if is_holder:
            if self._heed(cid, claim) and self.knows(cid):
                self._note_held_back(cid)
            for tell in self.on_heeded:
                tell(cid, claim)
            if not self.knows(cid) and len(self._tasks) < limits.CLAIMS_AT_ONCE:
                self._spawn(self._look(cid, claim))  # who claims waits for no look
        return Claimed(int(ClaimCode.HEEDED))

    async def _look(self, cid: Cid, claim: Statement) -> None:
        """Find out why somebody claims a blob: else we would later, and heed no claim then."""
        await self._keeper.look(cid)
        self._tell_of(cid, claim)

    def _tell_of(self, cid: Cid, claim: Statement) -> None:
        """Tell of a claim of a holder that is heeded."""
        if cid in self._insisted:
            return  # ours was made since
        for told in self.on_claim:
            told(cid, claim)
        for heeded in self.on_heeded:
            heeded(cid, claim)

    def _heed(self, cid: Cid, claim: Statement) -> bool:
        """Make no claim of our own while this one stands; False: its signer is spent."""
        before, unix_s = self._heeded.get(cid), self._context.now().unix_s
        if before is not None and before.lives(unix_s):
            return True
        if before is not None and before.signer == claim.signer:
            return False
        self._heeded[cid] = claim
        while len(self._heeded) > limits.RESTS_MAX:
            self._heeded.popitem(last=False)
        return True

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
