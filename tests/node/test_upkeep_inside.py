"""What repairs leave behind: who has which share then, and what health says of it."""

from functools import partial
from pathlib import Path

from molia.base.limits import TOTAL_SHARES
from molia.blobs.placement import losses_survived
from tests.node.inside import Inside, config_of, until, until_told, with_network
from tests.node.process import body_of
from tests.node.test_reading_inside import SIZE, silence
from tests.node.test_spreading_inside import QUICK, WITHIN_S, holdings, hurry


def test_a_repairer_takes_its_part_itself_and_every_health_tells_of_it_at_once(
    tmp_path: Path,
) -> None:
    async def act(nodes: list[Inside]) -> None:
        hurry(nodes)
        put = await nodes[0].put(body_of(1, SIZE))
        left = nodes[1:]
        assert put.survives == 1

        async def agrees(node: Inside) -> bool:
            return (await node.node.blob_health(put.cid)).survives == 1

        for node in left:
            await until_told(partial(agrees, node), "health says something else")
        silence(nodes[0])
        assert sum(map(len, holdings(left, put.cid).values())) == 10

        def loads() -> list[int]:
            return sorted(map(len, holdings(left, put.cid).values()))

        await until(lambda: loads() == [4, 5, 5], "not all three have their part",
                    within_s=WITHIN_S)  # fmt: skip
        kept = holdings(left, put.cid)
        assert {share for shares in kept.values() for share in shares} == set(range(TOTAL_SHARES))
        await until(lambda: any(n.member.repairs.counts["repaired"] for n in left), "no end of it",
                    within_s=WITHIN_S)  # fmt: skip

        async def tells_all(node: Inside) -> bool:
            for _ in range(3):  # on a busy machine somebody may answer too late to be named
                health = await node.node.blob_health(put.cid)
                assert health.survives <= losses_survived(kept.values())
                if all(share.holders for share in health.shares):
                    return True
            return False

        for node in left:
            assert await tells_all(node), "health knows of no holder of a share"

    with_network(tmp_path, act, [config_of(repair=QUICK) for _ in range(4)])
