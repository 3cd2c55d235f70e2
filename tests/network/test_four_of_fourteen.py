"""Any four holders gone, whichever they are: every other node has the blob."""

import asyncio
import os
import random
from functools import partial
from pathlib import Path

import pytest

from tests.network.crowd import Crowd, got, put_well
from tests.network.cuts import cut, heal
from tests.network.reads import get_soon
from tests.node.inside import Inside, config_of, with_network
from tests.node.process import body_of, until
from tests.node.test_reading_inside import holders

FOURTEEN = 1_180_000, 1_310_720
"""Between these sizes a blob has one stripe, and each of its 14 shares a block."""
OTHERS = 1_000_000, 2_000_000
"""Of these fewer shares may have one, and fewer nodes a share."""
DRAWS_INSIDE = 50
READERS = int(os.environ.get("MOLIA_TEST_READERS", "1"))
"""How many nodes read after each draw inside one process."""


@pytest.mark.parametrize("draw", range(5))
def test_any_four_holders_killed_every_other_node_gives_the_same_bytes(
    crowd: Crowd, draw: int
) -> None:
    rng, sizes = random.Random(draw), FOURTEEN if draw < 3 else OTHERS
    publisher = rng.choice(crowd.nodes)
    body = body_of(rng.getrandbits(32), rng.randrange(*sizes))
    cid = put_well(publisher, body)
    holders = crowd.holders(cid, publisher)
    assert len(holders) == 14 or sizes != FOURTEEN
    reader = rng.choice(crowd.up(*holders))
    told = until(lambda: at_least(reader.survives(cid), 4), "others are told something else")
    try:
        crowd.kill(rng.sample(holders, 4))
        read = crowd.each(crowd.up(), partial(got, cid))
        assert len(read) == len(crowd.nodes) - 4
        assert set(read) == {body}
        until(lambda: told - 4 <= reader.survives(cid) < told, "nobody misses them")
    finally:
        crowd.revive()


def at_least(number: int, least: int) -> int:
    """Return a number; nothing of one that is too small."""
    return number if number >= least else 0


def test_fifty_draws_of_four_inside_one_process_give_the_same_bytes(tmp_path: Path) -> None:
    rng = random.Random(50)

    async def act(nodes: list[Inside]) -> None:
        blobs = []
        for number in range(4):
            body = body_of(number, rng.randrange(*FOURTEEN))
            publisher = rng.choice(nodes)
            put = await publisher.put(body)
            assert put.survives == 4
            blobs.append((put.cid, body, [publisher, *holders(nodes, put.cid)]))
        for _ in range(DRAWS_INSIDE):
            cid, body, all_holders = rng.choice(blobs)
            gone = rng.sample(all_holders, 4)
            others = [node for node in nodes if node not in gone]
            cut(gone, others)
            readers = rng.sample(others, min(READERS, len(others)))
            read = await asyncio.gather(*(get_soon(node, cid) for node in readers))
            assert set(read) == {body}
            heal(nodes)

    with_network(tmp_path, act, [config_of() for _ in range(16)])
