"""Placing on many nodes: who gets what, who is replaced, and what a holder says to bad messages."""

from pathlib import Path

from molia.base.limits import WHOLE_SHARE
from tests.node.inside import Inside, config_of, with_network
from tests.node.process import body_of

SIZE = 1_300_000
"""One stripe of which each of the 14 shares has a block."""


def test_fourteen_shares_lie_on_fourteen_of_sixteen_nodes_and_a_small_blob_on_five(
    tmp_path: Path,
) -> None:
    async def act(nodes: list[Inside]) -> None:
        publisher, others = nodes[0], nodes[1:]
        put = await publisher.put(body_of(1, SIZE))
        assert (put.holders, put.survives, put.state.value) == (14, 4, "healthy")
        held = [each for node in others for each in node.held()]
        shares = [share for each in held for share in each.row.shares]
        assert len(held) == len(shares) == len(set(shares)) == 13
        assert {each.cid for each in held} == {put.cid}
        small = await publisher.put(b"a small blob")
        assert (small.holders, small.survives) == (5, 4)
        copies = [each for node in others for each in node.held() if each.cid == small.cid]
        assert [each.row.shares for each in copies] == [(WHOLE_SHARE,)] * 4
        health = await publisher.node.blob_health(put.cid)
        assert health.survives == 4
        assert sum(len(share.holders) for share in health.shares) == 14 + 13

    with_network(tmp_path, act, [config_of() for _ in range(16)])
