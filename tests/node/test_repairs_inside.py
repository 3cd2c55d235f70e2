"""Holders watch and audit each other, and make again what is lost: real nodes in this process."""

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path

from molia.base.cid import Cid
from molia.base.config import RepairConfig
from molia.base.errors import LookupTimedOut, NoHolders, SharesOutOfReach
from molia.base.ids import PeerKey
from molia.base.limits import DATA_SHARES, TOTAL_SHARES
from molia.blobs.placement import losses_survived
from molia.blobs.standing import Holding, Presence, Standing
from molia.node.whereabouts import Heard, Provider
from molia.store import keys
from molia.store.keys import Kind
from molia.store.ops import Delete, Transaction
from tests.node.inside import Inside, Shifted, config_of, until, with_network
from tests.node.process import body_of
from tests.node.test_reading_inside import SIZE, get, holders, silence

QUICK = RepairConfig(
    look_s=1, grace_13_s=2, grace_12_s=2, grace_urgent_s=1, takeover_s=10, budget_bytes=10**9
)
NODES = 18
FEW = 6
HOUR_S = 3_600
WITHIN_S = 120.0


def hurry(nodes: list[Inside]) -> None:
    """Let nodes wait less for those that were killed."""
    for node in nodes:
        node.member.keeper.have_s = 2.0


def shares_at(nodes: list[Inside], cid: Cid) -> list[int]:
    """Return the shares that some nodes hold of a blob, in order."""
    held = [each.row.shares for node in nodes for each in node.held() if each.cid == cid]
    return sorted(share for shares in held for share in shares)


def audits(nodes: list[Inside], cid: Cid) -> list[tuple[int, int]]:
    """Return the share and the failures of each audit that some nodes noted."""
    found = []
    for node in nodes:
        watched = node.member.keeper.rows.get(cid, node.node.context.now())
        found += [(place.share, it.failures) for place, it in watched.audits.items()]
    return sorted(found)


def _made(nodes: list[Inside]) -> int:
    return sum(node.member.repairs.view().shares_made for node in nodes)


def _noted(nodes: list[Inside], cid: Cid, audit: tuple[int, int]) -> bool:
    return audit in audits(nodes, cid)


def test_four_holders_and_the_publisher_gone_the_others_bring_back_all_fourteen_shares(
    tmp_path: Path,
) -> None:
    async def act(nodes: list[Inside]) -> None:
        hurry(nodes)
        put = await nodes[0].put(body_of(1, SIZE))
        assert put.survives == 4
        small = await nodes[0].put(b"a small blob" * 50)
        gone = [nodes[0], *holders(nodes, put.cid)[:3]]
        for node in gone:
            silence(node)
        left = [node for node in nodes if node not in gone]
        assert len(set(shares_at(left, put.cid))) == DATA_SHARES
        everything = set(range(TOTAL_SHARES))
        await until(lambda: set(shares_at(left, put.cid)) == everything, "it was not repaired",
                    within_s=WITHIN_S)  # fmt: skip
        await until(lambda: len(holders(left, small.cid)) >= 5, "the small one was not repaired",
                    within_s=WITHIN_S)  # fmt: skip
        await until(lambda: _made(left) >= 4, "nobody counts what was made", within_s=WITHIN_S)
        assert len(shares_at(left, put.cid)) <= TOTAL_SHARES + 4, "many made the same"
        assert _made(left) <= 8
        # some may hold two, where others answered too late to be chosen
        survives = losses_survived([shares_at([node], put.cid) for node in left])
        assert survives >= 2
        second = holders(left, put.cid)[:survives]
        for node in second:
            silence(node)
        reader = next(node for node in left if node not in second)
        assert await _get_soon(reader, put.cid) == body_of(1, SIZE)

    with_network(tmp_path, act, [config_of(repair=QUICK) for _ in range(NODES)])


def test_a_share_that_three_audits_miss_or_a_reader_finds_wrong_is_made_for_another_node(
    tmp_path: Path,
) -> None:
    clock = Shifted()

    async def act(nodes: list[Inside]) -> None:
        hurry(nodes)
        begun: list[bool] = []
        for node in nodes:
            node.member.keeper._is_joined = lambda: bool(begun)
        put = await nodes[0].put(body_of(1, SIZE))
        assert put.survives == 4
        forgetful, liar = holders(nodes, put.cid)[:2]
        (lost,) = shares_at([forgetful], put.cid)
        (wrong,) = shares_at([liar], put.cid)
        await _forget_blocks(forgetful, put.cid, lost)
        begun.append(True)
        await until(lambda: len(audits(nodes, put.cid)) >= TOTAL_SHARES - 1, "no audits")
        sound = [failures for share, failures in audits(nodes, put.cid) if share != lost]
        assert sound == [0] * len(sound)
        for failures in (1, 2, 3):
            await until(partial(_noted, nodes, put.cid, (lost, failures)), "it is not audited")
            clock.ahead_s += HOUR_S
        others = [node for node in nodes if node is not forgetful]
        auditor = next(node for node in others if (lost, 3) in audits([node], put.cid))
        looked = await auditor.node.start_repair(put.cid, dry_run=True)
        assert (looked.state, looked.reachable, looked.missing) == ("waiting", 13, 1)
        assert (await auditor.node.start_repair(put.cid, dry_run=False)).state == "running"
        await until(lambda: lost in shares_at(others, put.cid), "the lost share was not made")
        reader = next(node for node in holders(others, put.cid) if node is not liar)
        others.remove(liar)
        async with asyncio.timeout(90.0):  # a later audit may find the share sound: it is
            while wrong not in shares_at(others, put.cid):
                reader.member.repairs.on_lie(put.cid, PeerKey(liar.key), wrong)
                await reader.node.start_repair(put.cid, dry_run=False)
                await asyncio.sleep(1.0)

    configs = [config_of(repair=QUICK) for _ in range(NODES)]
    with_network(tmp_path, act, configs, clocks=dict.fromkeys(range(NODES), clock))


def test_what_is_known_of_the_holders_of_a_blob_stays_while_it_is_placed_anew_and_goes_with_it(
    tmp_path: Path,
) -> None:
    async def act(nodes: list[Inside]) -> None:
        publisher, keeper = nodes[0], nodes[0].member.keeper
        keeper._is_joined = lambda: False  # it walks when it is told to
        cid = (await publisher.put(body_of(1, SIZE))).cid
        await keeper.look(cid, anew=True)
        holder = next(iter((await keeper.watched(cid)).holders))
        await keeper.on_lie(cid, PeerKey(holder), None)
        known = dict(audits([publisher], cid)).keys()
        assert known
        courier = publisher.member.courier
        bound = publisher.node.context.catalog.bound(cid, publisher.node.context.now())
        row = publisher.node.context.catalog.placed(cid, publisher.node.context.now())
        assert bound is not None
        assert row is not None
        await courier.save(bound, replace(row, is_done=False))
        await keeper._walk()
        assert known <= dict(audits([publisher], cid)).keys()
        await courier.save(bound, row)
        await keeper._walk()
        assert known <= dict(audits([publisher], cid)).keys()
        await publisher.node.delete_blob(cid)
        await keeper._walk()
        assert audits([publisher], cid) == []

    with_network(tmp_path, act, [config_of(repair=QUICK) for _ in range(FEW)])


def test_a_blob_whose_holders_came_back_is_not_called_lost_while_it_rests(tmp_path: Path) -> None:
    async def act(nodes: list[Inside]) -> None:
        node = nodes[0]
        node.member.keeper._is_joined = lambda: False  # it walks when it is told to
        cid = (await node.put(body_of(1, SIZE))).cid
        here, repairs = node.member.keeper.here(cid), node.member.repairs
        assert here is not None

        def states(reachable: int) -> list[str]:
            shares = (
                Holding(share=share, key=node.key, presence=Presence.HERE)
                for share in range(reachable)
            )
            repairs._on_standing(here, Standing(holdings=tuple(shares)))
            return [shown.state for shown in repairs.view().repairs]

        until_s = node.node.context.now().mono_s + HOUR_S
        repairs._rests[cid] = until_s, 2  # a repair of it was in vain
        assert states(DATA_SHARES - 1) == ["lost"]
        assert states(DATA_SHARES + 2) == []
        assert states(DATA_SHARES + 1) == ["waiting"]

    with_network(tmp_path, act, [config_of(repair=QUICK) for _ in range(FEW)])


def test_who_got_shares_while_the_holders_are_looked_up_stays_known(tmp_path: Path) -> None:
    async def act(nodes: list[Inside]) -> None:
        publisher, keeper = nodes[0], nodes[0].member.keeper
        keeper._is_joined = lambda: False  # it walks when it is told to
        cid = (await publisher.put(body_of(1, SIZE))).cid
        await keeper.look(cid, anew=True)
        watched = await keeper.watched(cid)
        key, seen = watched.holders.popitem()
        await keeper.rows.put(cid, watched)

        async def look_up(cid: Cid, _: Heard) -> list[Provider]:
            await keeper.take_placed(cid, {key: (seen.shares, seen.address)})
            return []  # the record of who has them now is still on its way

        keeper._look_up = look_up
        await keeper.look(cid, anew=True)
        known = await keeper.watched(cid)
        assert known.holders.keys() == watched.holders.keys() | {key}

    with_network(tmp_path, act, [config_of(repair=QUICK) for _ in range(FEW)])


def test_holders_that_are_known_are_watched_while_nobody_can_be_looked_up(tmp_path: Path) -> None:
    async def act(nodes: list[Inside]) -> None:
        for node in nodes:
            node.member.keeper._is_joined = lambda: False  # it walks when it is told to
        cid = (await nodes[0].put(body_of(6, SIZE))).cid
        keeper = next(node for node in nodes[1:] if node.held()).member.keeper
        before = await keeper.look(cid, anew=True)
        assert before is not None
        await keeper.age(cid)
        asked: list[Cid] = []

        async def nobody_answers(of: Cid, *_: object) -> list[Provider]:
            asked.append(of)
            raise LookupTimedOut("nobody answered in time")

        keeper._look_up = nobody_answers
        now = await keeper.look(cid)
        assert asked == [cid]
        assert now is not None
        assert sorted(each.share for each in now.holdings) == sorted(
            each.share for each in before.holdings
        )

    with_network(tmp_path, act, [config_of() for _ in range(FEW)])


def test_shares_whose_sender_died_before_it_announced_them_are_announced_by_their_holders(
    tmp_path: Path,
) -> None:
    async def act(nodes: list[Inside]) -> None:
        hurry(nodes)
        publisher, others = nodes[0], nodes[1:]
        publisher.member.courier.announce = _announce_nothing  # type: ignore[method-assign,assignment]
        put = await publisher.put(body_of(1, SIZE))
        assert put.survives >= 1
        silence(publisher)
        reader = others[-1]
        assert await _get_soon(reader, put.cid) == body_of(1, SIZE)

    with_network(tmp_path, act, [config_of(repair=QUICK) for _ in range(FEW)])


async def _announce_nothing(*_: object) -> bool:
    return True


async def _get_soon(reader: Inside, cid: Cid) -> bytes:
    """Return a blob, once those that hold it since a moment ago have said so."""
    async with asyncio.timeout(120.0):
        while True:
            try:
                return await get(reader, cid)
            except (SharesOutOfReach, NoHolders):
                await asyncio.sleep(1.0)


async def _forget_blocks(node: Inside, cid: Cid, share: int) -> None:
    """Delete a share's blocks behind the node's back."""
    context = node.node.context
    (held,) = [each for each in node.held() if each.cid == cid]
    key = keys.block_key(held.row.object_id, share, 0)
    await context.shards.writer_of(Kind.BLOCK, key).write(Transaction((Delete(Kind.BLOCK, key),)))
