"""Of several holders, and of several tasks of one, that set about a blob one works on it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from molia.base.cid import Cid
from molia.base.config import Config, StoreConfig
from molia.base.crypto import Identity
from molia.base.errors import TimedOut
from molia.base.ids import PeerKey
from molia.base.limits import CLAIMS_HEEDED_S, TOTAL_SHARES
from molia.base.now import Now
from molia.blobs.manifest import cid_of_bytes
from molia.blobs.standing import Holding, Presence, Standing
from molia.blobs.statements import Kind, Statement, check, state
from molia.node.app import open_node
from molia.node.claiming import Claims
from molia.node.context import Context
from molia.node.holding import Holder
from molia.node.home import init_home
from molia.node.keeping import Keeper
from molia.node.mending import Mender
from molia.node.network import Network
from molia.node.repairs import Repairs
from molia.node.spreading import Spreader
from molia.node.system import SystemClock
from molia.node.watched import Seen, Watched
from molia.wire.addresses import Address
from molia.wire.blob_messages import Claim, ClaimCode, Claimed
from tests.node.inside import until

CID = cid_of_bytes(b"a blob")
LIFE_S = 600
FIRST, SECOND = sorted((Identity(bytes((n,)) * 32) for n in (1, 2)), key=lambda i: i.peer_key.key)
"""Of claims of one second the first one's counts."""
LACKING = Standing(
    holdings=tuple(
        Holding(share=share, key=FIRST.peer_key.key, presence=Presence.HERE)
        for share in range(TOTAL_SHARES - 1)
    )
)


class Watch:
    """A keeper of one blob, which two nodes have, and their way to each other."""

    def __init__(self) -> None:
        self.have_s = 1.0
        self.on_standing: list[object] = []
        self.on_facts: list[object] = []
        self.on_gone: list[object] = []
        self.nodes: dict[PeerKey, Claims] = {}
        self.losing: set[PeerKey] = set()
        """Nodes whose answers never come."""
        self.is_lost, self.may_fail = asyncio.Event(), asyncio.Event()
        """Set when one is waited for; when that may end."""
        self.liars: dict[PeerKey, Identity] = {}
        """Holders that were always first, each of them."""
        self.life_s = LIFE_S
        """How long they claim for."""
        self.network, self.start, self.passed_s = bytes(32), Now(1_000.0, 1_800_000_000.0), 0.0

    def here(self, _: Cid) -> object:
        return self

    def now(self) -> Now:
        """Return the time as a test has it go."""
        return self.start.after(self.passed_s)

    async def watched(self, _: Cid) -> Watched:
        seen = Seen((0,), is_whole=False, address=("127.0.0.1", 1))
        return Watched(holders={key.key: seen for key in (*self.nodes, *self.liars)})

    async def age(self, _: Cid) -> None: ...

    async def look(self, _: Cid) -> None: ...

    async def look_closely(self, _: Cid, *, anew: bool) -> None: ...

    async def ask(
        self, key: PeerKey, address: Address, message: Claim, *, timeout_s: float
    ) -> Claimed:
        if key in self.liars:
            heard = check(Kind.CLAIM, message.claim, self.network, unix_s=self.now().unix_s)
            assert isinstance(heard, Statement)
            lie = state(
                Kind.CLAIM, self.liars[key], self.network, CID.digest, issued=heard.issued - 1,
                expires=heard.issued + self.life_s,
            )  # fmt: skip
            return Claimed(int(ClaimCode.OTHER), lie.encoded)
        claims = self.nodes[key]
        claim = claims.checked(message.claim, claims._context.now())
        assert claim is not None
        if claim.signer == key:
            return Claimed(int(ClaimCode.HEEDED))  # who asks is no other
        said = await claims.heed(CID, claim)
        if key in self.losing:
            self.is_lost.set()
            await self.may_fail.wait()
            raise TimedOut("it did not answer")
        return said


def claimed(context: Context, identity: Identity, issued: int) -> Statement:
    """Return somebody's claim."""
    return state(
        Kind.CLAIM, identity, context.network, CID.digest, issued=issued, expires=issued + LIFE_S
    )  # fmt: skip


def with_claims(home: Path, act: Callable[[Context, Watch], Awaitable[None]]) -> None:
    """Act with two nodes that have the blob; they share a store."""

    async def go() -> None:
        config = Config(store=StoreConfig(shards=1, quota_bytes=1 << 30), workers=1)
        init_home(home, config, "")
        async with open_node(home, config) as node:
            watch = Watch()
            for identity in (FIRST, SECOND):
                watch.nodes[identity.peer_key] = Claims(
                    node.context, cast("Network", watch), cast("Keeper", watch), identity
                )
            await act(node.context, watch)

    asyncio.run(go())


def test_a_claim_stays_until_the_task_that_made_it_is_done(tmp_path: Path) -> None:
    async def act(context: Context, watch: Watch) -> None:
        claims, keeper = watch.nodes[FIRST.peer_key], cast("Keeper", watch)
        repairs = Repairs(context, keeper, cast("Mender", watch), claims)
        spreader = Spreader(
            context, keeper, cast("Mender", watch), claims, cast("Holder", watch), repairs.queue
        )
        now_s = int(context.now().unix_s)
        later = claimed(context, SECOND, now_s + 60)
        assert await claims.claim(CID, now_s + LIFE_S)
        repairs._begin(CID, now_s + LIFE_S, LACKING)
        await until(lambda: not repairs.is_running(CID), "it does not end")
        assert (await claims.heed(CID, later)).code == ClaimCode.OTHER
        later_on = context.now().after(86_400.0)
        spreader.queue.on_crowded(CID, [], loc=bytes(32), now=context.now())
        assert spreader.queue.begin(later_on) == CID
        await spreader._run_one(CID)
        assert (await claims.heed(CID, later)).code == ClaimCode.OTHER

    with_claims(tmp_path / "home", act)


def test_who_gives_way_while_it_tells_of_its_own_claim_has_not_won(tmp_path: Path) -> None:
    async def act(context: Context, watch: Watch) -> None:
        watch.losing = {FIRST.peer_key}  # so the second never hears that it was not first
        until_s = int(context.now().unix_s) + LIFE_S
        second = asyncio.ensure_future(watch.nodes[SECOND.peer_key].claim(CID, until_s))
        await watch.is_lost.wait()
        first = claimed(context, FIRST, until_s - LIFE_S)
        said = await watch.nodes[SECOND.peer_key].heed(CID, first)
        assert said.code == ClaimCode.HEEDED
        watch.may_fail.set()
        assert not await second
        assert watch.nodes[SECOND.peer_key]._own == {}

    with_claims(tmp_path / "home", act)


@pytest.mark.parametrize("life_s", [1, LIFE_S, 3_600 - 1])
@pytest.mark.parametrize("count", [2, 5])
def test_holders_who_claim_in_turn_hold_a_repairer_back_for_hours_and_no_longer(
    tmp_path: Path, count: int, life_s: int
) -> None:
    async def act(context: Context, watch: Watch) -> None:
        watch.life_s = life_s
        watch.liars = {
            it.peer_key: it for it in (Identity(bytes((n + 9,)) * 32) for n in range(count))
        }
        watch.network, watch.nodes = context.network, {}
        timed = replace(context, clock=cast("SystemClock", watch))
        claims = Claims(timed, cast("Network", watch), cast("Keeper", watch), FIRST)
        while not await claims.claim(CID, int(watch.now().unix_s) + LIFE_S):
            assert watch.passed_s < 10 * CLAIMS_HEEDED_S, "it waits for ever"
            watch.passed_s += 600.0
        assert watch.passed_s == CLAIMS_HEEDED_S
        late = claimed(context, next(iter(watch.liars.values())), int(watch.now().unix_s) - 1)
        assert (await claims.heed(CID, late)).code == ClaimCode.OTHER, "ours was first now"
        claims.forget(CID)
        assert (await claims.heed(CID, late)).code == ClaimCode.HEEDED
        assert not await claims.claim(CID, int(watch.now().unix_s) + LIFE_S), "it waits anew"

    with_claims(tmp_path / "home", act)


@pytest.mark.parametrize("step_s", [-1_800.0, -86_400.0, 3_600.0])
def test_a_clock_that_was_put_back_or_on_since_the_plan_makes_no_claim_that_none_may_make(
    tmp_path: Path, step_s: float
) -> None:
    async def act(context: Context, watch: Watch) -> None:
        planned_s = int(watch.start.unix_s)
        watch.network, watch.nodes = context.network, {}
        watch.start = watch.start._replace(unix_s=planned_s + step_s)
        timed = replace(context, clock=cast("SystemClock", watch))
        claims = Claims(timed, cast("Network", watch), cast("Keeper", watch), FIRST)
        is_claimed = await claims.claim(CID, planned_s + 2_700)
        own = claims._own.get(CID)
        assert is_claimed == (step_s < 0), "one that has run out would say that we are done"
        assert (own is not None) == is_claimed
        if own is not None:
            later = check(Kind.CLAIM, own.encoded, context.network, unix_s=watch.now().unix_s)
            assert isinstance(later, Statement)
            assert later.lives(watch.now().unix_s)

    with_claims(tmp_path / "home", act)
