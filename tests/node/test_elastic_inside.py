"""Parity is added where holders come and go, and readers live on it: real nodes in this process."""

import asyncio
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from molia.base.cid import Cid
from molia.base.errors import SharesOutOfReach
from molia.base.ids import PeerKey
from molia.base.limits import ADDED_SHARES_MAX, DATA_SHARES, TOTAL_SHARES
from molia.blobs.elastic import Supplement
from molia.node.asking_blobs import Holder, ask_supplement
from molia.node.held import Held
from molia.store.ops import Reply
from tests.node.inside import Inside, config_of, until, with_network
from tests.node.process import body_of
from tests.node.test_reading_inside import SIZE, get, silence
from tests.node.test_spreading_inside import QUICK, WITHIN_S, holdings, hurry

WANTED = 18
"""Shares for holders that answer nine times of ten."""


def make_flaky(nodes: list[Inside]) -> None:
    """Let nodes remember that all others were away now and then."""
    for node in nodes:
        presences = node.member.keeper.presences
        node.member.keeper.node_count = lambda: WANTED + 2
        for it in presences._nodes.values():
            it.reached, it.asked = 450, 500


def shares_at(nodes: list[Inside], cid: Cid) -> set[int]:
    """Return the shares that nodes keep."""
    return {share for shares in holdings(nodes, cid).values() for share in shares}


def test_flaky_holders_get_added_parity_that_reads_live_on(
    tmp_path: Path,
) -> None:
    async def act(nodes: list[Inside]) -> None:
        hurry(nodes)
        body = body_of(1, SIZE)
        put = await nodes[0].put(body)
        left = nodes[1:]
        cid = put.cid
        await until(lambda: all(n.member.keeper.presences._nodes for n in left), "nobody looks")
        stop = asyncio.Event()

        async def keep_flaky() -> None:
            while not stop.is_set():
                make_flaky(left)
                await asyncio.sleep(0.2)

        keeping = asyncio.ensure_future(keep_flaky())
        everything = set(range(WANTED))
        await until(lambda: shares_at(left, cid) >= everything - _part(left, cid),
                    "no parity was added", within_s=WITHIN_S)  # fmt: skip
        added = [node for node in left if max(holdings([node], cid).get(node.key, (0,))) >= 14]
        told = await _supplement_of(left[0], added[-1], cid)
        assert told is not None
        assert len(told.shares) == WANTED - TOTAL_SHARES
        async with asyncio.timeout(WITHIN_S):  # the last one may be announced a moment later
            for node in left:  # those that hold added shares themselves among them
                while len((await node.node.blob_health(cid)).shares) != WANTED:
                    await asyncio.sleep(0.2)
        stop.set()
        await keeping
        await _a_wrong_supplement_is_parted_with(added[-1], cid, told)

        silence(nodes[0])
        gone = _those_whose_loss_needs_added_parity(left, cid)
        for node in gone:
            silence(node)
        reader = next(node for node in added if node not in gone)  # its own share is read as well
        reader.member.fetcher.finds.forget(cid)
        assert await _get_soon(reader, cid) == body
        opened = await reader.node.open_blob(cid)
        part = b"".join([chunk async for chunk in opened.read(300_000, 700_001)])
        assert part == body[300_000:700_001]

    with_network(tmp_path, act, [config_of(repair=QUICK) for _ in range(9)])


def _part(nodes: list[Inside], cid: Cid) -> set[int]:
    """Return the listed shares that only the publisher has."""
    return {share for share in range(TOTAL_SHARES) if share not in shares_at(nodes, cid)}


def _those_whose_loss_needs_added_parity(nodes: list[Inside], cid: Cid) -> list[Inside]:
    """Return nodes without whom fewer than ten listed shares are left, and ten of all."""
    for count in range(1, len(nodes)):
        for gone in combinations(nodes, count):
            kept = shares_at([node for node in nodes if node not in gone], cid)
            listed = [share for share in kept if share < TOTAL_SHARES]
            if len(listed) < DATA_SHARES <= len(kept):
                return list(gone)
    pytest.fail("added parity makes no difference")


async def _a_wrong_supplement_is_parted_with(node: Inside, cid: Cid, truth: Supplement) -> None:
    """One that a stranger gave, as long as any: it goes once the roots were computed."""
    member, context = node.member, node.node.context
    held = member.holder.held.find(cid, context.now())
    assert held is not None
    false = Supplement(cid, (bytes(32),) * ADDED_SHARES_MAX).encode()
    taken = Held(cid, replace(held.row, supplement=false), b"")
    change = member.holder.held.without(held, taken.row)
    assert await context.home_writer(cid).write(change) is Reply.APPLIED
    await member.repairs._mender._correct(cid, truth.encode())
    after = member.holder.held.find(cid, context.now())
    assert after is not None
    assert (after.row.supplement, after.row.shares) == (truth.encode(), held.row.shares)
    added = max(held.row.shares)
    roots = list(truth.roots)
    roots[added - TOTAL_SHARES] = bytes(32)
    wrong = member.repairs._mender._wrong_shares(after, Supplement(cid, tuple(roots)))
    assert wrong == [added], "a share that is not the blob's goes with it"


async def _supplement_of(asker: Inside, holder: Inside, cid: Cid) -> Supplement | None:
    host, port = holder.member.network.addresses()[0].rsplit("@")[1].rsplit(":", 1)
    there = Holder(PeerKey(holder.key), (host, int(port)))
    return await ask_supplement(asker.member.network, there, cid)


async def _get_soon(reader: Inside, cid: Cid) -> bytes:
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                return await get(reader, cid)
            except SharesOutOfReach:
                await asyncio.sleep(0.5)
