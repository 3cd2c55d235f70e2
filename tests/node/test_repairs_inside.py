"""Holders watch and audit each other, and make again what is lost, on real nodes in this process."""

from pathlib import Path

from molia.base.cid import Cid
from molia.base.config import RepairConfig
from molia.base.limits import DATA_SHARES, TOTAL_SHARES
from tests.node.inside import Inside, config_of, until, with_network
from tests.node.process import body_of
from tests.node.test_reading_inside import SIZE, get, holders, silence

QUICK = RepairConfig(
    look_s=1, grace_13_s=2, grace_12_s=2, grace_urgent_s=1, takeover_s=4, budget_bytes=10**9
)
NODES = 18


def shares_at(nodes: list[Inside], cid: Cid) -> list[int]:
    """Return the shares that some nodes hold of a blob, in order."""
    return sorted(
        share for node in nodes for held in node.held() if held.cid == cid
        for share in held.row.shares
    )  # fmt: skip


def test_four_holders_and_the_publisher_gone_the_others_bring_back_all_fourteen_shares(
    tmp_path: Path,
) -> None:
    async def act(nodes: list[Inside]) -> None:
        put = await nodes[0].put(body_of(1, SIZE))
        assert put.survives == 4
        small = await nodes[0].put(b"a small blob" * 50)
        gone = [nodes[0], *holders(nodes, put.cid)[:3]]
        for node in gone:
            silence(node)
        left = [node for node in nodes if node not in gone]
        assert len(set(shares_at(left, put.cid))) == DATA_SHARES
        await until(
            lambda: set(shares_at(left, put.cid)) == set(range(TOTAL_SHARES)), "not repaired"
        )
        assert len(shares_at(left, put.cid)) <= TOTAL_SHARES + 4, "made by many at once"
        await until(lambda: len(holders(left, small.cid)) >= 5, "the small one was not repaired")
        second = holders(left, put.cid)[:4]
        for node in second:
            silence(node)
        reader = next(node for node in left if node not in holders(left, put.cid))
        assert await get(reader, put.cid) == body_of(1, SIZE)
        made = sum(node.member.repairs.view().shares_made for node in left)
        assert 4 <= made <= 8

    with_network(tmp_path, act, [config_of(repair=QUICK) for _ in range(NODES)])
