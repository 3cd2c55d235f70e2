"""Nodes join, and shares that lay doubled up for want of them move: real nodes in this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from molia.base.cid import Cid
from molia.base.config import RepairConfig
from molia.base.crypto import Identity
from molia.base.limits import TOTAL_SHARES
from molia.base.views import BlobHealth
from molia.blobs.placement import losses_survived
from molia.blobs.standing import Holding, Presence, Standing
from molia.blobs.statements import Kind, Statement, state
from molia.node import whereabouts
from tests.node.inside import Inside, Shifted, config_of, join, until, until_told, with_network
from tests.node.process import body_of
from tests.node.test_reading_inside import SIZE, get, silence

QUICK = RepairConfig(
    look_s=1, grace_13_s=2, grace_12_s=1, grace_urgent_s=1, takeover_s=10, budget_bytes=10**9
)
WITHIN_S = 120.0


def holdings(nodes: list[Inside], cid: Cid) -> dict[bytes, tuple[int, ...]]:
    """Return the shares that nodes keep of a blob."""
    found = {node.key: each.row.shares for node in nodes for each in node.held() if each.cid == cid}
    return dict(sorted(found.items()))


def survived(nodes: list[Inside], cid: Cid) -> int:
    """Return how many of the nodes that keep shares may vanish; beyond four does not count."""
    return min(losses_survived(holdings(nodes, cid).values()), 4)


@asynccontextmanager
async def watching(nodes: list[Inside], cid: Cid) -> AsyncIterator[None]:
    """Look all the time at what is survived while the block runs: it must never become less."""
    best, fell = -1, list[tuple[int, int]]()

    async def look() -> None:
        nonlocal best
        while True:
            now = survived(nodes, cid)
            if now < best:
                fell.append((best, now))
            best = max(best, now)
            await asyncio.sleep(0.05)

    looking = asyncio.ensure_future(look())
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.wait([looking])
    assert looking.cancelled()
    assert fell == []


def hurry(nodes: list[Inside]) -> None:
    """Let nodes wait less for those that are gone."""
    for node in nodes:
        node.member.keeper.have_s = 2.0
        turns = node.member.spreader.queue
        turns.config = replace(turns.config, takeover_s=0.3, grace_low_s=0.5)


def named(health: BlobHealth) -> set[str]:
    """Return the nodes that a blob's health names."""
    return {holder for share in health.shares for holder in share.holders}


def test_with_the_publisher_gone_nodes_that_join_get_what_lay_doubled_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whereabouts, "FRESH_S", 3_600.0)  # for readers; health asks anew

    async def act(nodes: list[Inside]) -> None:
        hurry(nodes)
        put = await nodes[0].put(body_of(1, SIZE))
        assert put.survives == 1
        silence(nodes[0])
        left = nodes[1:]  # grows when others join
        everything = set(range(TOTAL_SHARES))

        def kept() -> set[int]:
            return {share for some in holdings(left, put.cid).values() for share in some}

        await until(lambda: kept() == everything, "what the publisher had is lost",
                    within_s=WITHIN_S)  # fmt: skip
        assert len(named(await left[0].node.blob_health(put.cid))) <= 5
        async with AsyncExitStack() as stack, watching(left, put.cid):
            await join(stack, tmp_path, left, [config_of(repair=QUICK)] * 4, gone=1)
            hurry(left)
            await until(lambda: len(holdings(left, put.cid)) == 9, "the new nodes got nothing",
                        within_s=WITHIN_S)  # fmt: skip

            def is_even() -> bool:
                loads = [len(shares) for shares in holdings(left, put.cid).values()]
                return max(loads) <= 2 and sum(loads) == TOTAL_SHARES

            await until(is_even, "nobody lets go", within_s=WITHIN_S)
            assert survived(left, put.cid) == 2
            assert kept() == everything
            names = {str(node.node.context.peer) for node in left}
            await _told(left[0], put.cid, names)
            assert await get(left[-1], put.cid) == body_of(1, SIZE)
            new = [node.key for node in left[5:]]
            assert [len(holdings(left, put.cid)[key]) for key in new] == [1] * 4

    with_network(tmp_path, act, [config_of(repair=QUICK) for _ in range(6)])


async def _told(node: Inside, cid: Cid, names: set[str]) -> None:
    """Return when a node's health names all of these, and nobody else."""

    async def holds() -> bool:
        return named(await node.node.blob_health(cid)) == names

    await until_told(holds, "health does not name who has shares")


def test_full_sets_on_few_nodes_are_thinned_when_others_join_and_the_publisher_sends(
    tmp_path: Path,
) -> None:
    config = config_of(floor=2, repair=QUICK)

    async def act(nodes: list[Inside]) -> None:
        hurry(nodes)
        put = await nodes[0].put(body_of(1, SIZE))
        assert put.survives == 2
        before = holdings(nodes, put.cid)
        assert sorted(map(len, before.values())) == [10, 10]
        async with AsyncExitStack() as stack, watching(nodes, put.cid):
            await join(stack, tmp_path, nodes, [config] * 4)
            hurry(nodes)
            await until(lambda: len(holdings(nodes, put.cid)) == 6, "the new nodes got nothing",
                        within_s=WITHIN_S)  # fmt: skip

            def is_thin() -> bool:
                now = holdings(nodes, put.cid)
                return all(len(now[key]) < 10 for key in before)

            await until(is_thin, "nobody lets go", within_s=WITHIN_S)

        async def is_well() -> bool:
            return (await nodes[0].node.blob_health(put.cid)).survives >= 2

        await until_told(is_well, "two may not vanish any more")

    with_network(tmp_path, act, [config] * 3)


def test_a_repair_and_a_spreading_of_one_blob_leave_each_others_claims_alone(
    tmp_path: Path,
) -> None:
    async def act(nodes: list[Inside]) -> None:
        node = nodes[0]
        cid = (await node.put(body_of(1, SIZE))).cid
        spreader, repairs = node.member.spreader, node.member.repairs
        claims = repairs.claims
        until_unix_s = int(node.node.context.now().unix_s) + 600
        lacking = Standing(
            holdings=tuple(
                Holding(share=share, key=node.key, presence=Presence.HERE) for share in range(12)
            )
        )

        assert await claims.claim(cid, until_unix_s), "a repair is at it"
        spreader.queue._running = cid
        assert not await spreader._claim(cid)
        await spreader._run_one(cid)
        assert cid in claims._own
        claims.forget(cid)

        assert await spreader._claim(cid)
        repairs._begin(cid, until_unix_s, lacking)
        await repairs._running[cid]
        assert cid in claims._own

    with_network(tmp_path, act, [config_of(repair=replace(QUICK, enabled=False))] * 3)


def test_claims_of_strangers_and_of_who_came_to_nothing_hold_nobody_back(tmp_path: Path) -> None:
    clock = Shifted()

    async def act(nodes: list[Inside]) -> None:
        node, context = nodes[0], nodes[0].node.context
        spreader, claims = node.member.spreader, node.member.repairs.claims
        cid = (await node.put(body_of(1, SIZE))).cid
        await node.member.keeper.look(cid, anew=True)
        unix_s = int(context.now().unix_s)
        stranger, holder = Identity(b"s" * 32), nodes[1].member.network.settings.identity

        def claim_of(who: Identity, life_s: int) -> Statement:
            return state(
                Kind.CLAIM, who, context.network, cid.digest, issued=unix_s - 5,
                expires=unix_s + life_s,
            )  # fmt: skip

        async def claim_against(claim: Statement) -> bool:
            async def tell_all(_: Cid, __: Statement) -> list[bytes]:
                return [claim.encoded]  # one of those who are told shows it

            claims._tell_all = tell_all  # type: ignore[method-assign, assignment]
            try:
                return await claims.claim(cid, unix_s + 600)
            finally:
                claims.forget(cid)

        spreader.queue.on_crowded(cid, [], loc=bytes(32), now=context.now())
        for who in (stranger, holder):
            await claims.heed(cid, claim_of(who, 120))
            assert spreader.queue.is_claimed(cid, context.now()) is (who is holder)
        assert not await claim_against(claim_of(holder, 600))
        clock.ahead_s += 121
        assert await claim_against(claim_of(stranger, 600))
        assert await claim_against(claim_of(holder, 600))

    configs = [config_of(repair=replace(QUICK, enabled=False))] * 3
    with_network(tmp_path, act, configs, clocks={0: clock})
