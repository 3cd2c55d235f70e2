"""A partition splits the holders in two halves during a repair: no wrong byte, no lost blob."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from molia.base.cid import Cid
from tests.network.cuts import cut, heal
from tests.network.reads import get_soon, read_or_reason
from tests.node.inside import Inside, config_of, until, with_network
from tests.node.process import body_of
from tests.node.test_reading_inside import holders, silence
from tests.node.test_repairs_inside import QUICK, hurry, shares_at

PATIENT = replace(QUICK, takeover_s=10)
"""A repair has four and a half times that."""
NODES = 18
BLOBS, SIZE = 2, 1_300_000
APART_S, QUIET_S = 8.0, 6.0
"""How long they are apart; and how long nothing may be made once all is well."""
WHOLE_S = 240.0
Record = Callable[[str, object], None]


def made(nodes: list[Inside]) -> int:
    """Return how many shares were made anew."""
    return sum(node.member.repairs.view().shares_made for node in nodes)


def begun(nodes: list[Inside]) -> int:
    """Return how many repairs were begun."""
    return sum(node.member.repairs.counts["begun"] for node in nodes)


def sent(nodes: list[Inside]) -> int:
    """Return the bytes that nodes have sent."""
    pumps = [pump for node in nodes for pump in node.member.network.driver.pumps]
    return sum(pump.counters.bytes_out for pump in pumps)


@pytest.mark.parametrize("is_publisher_there", [True, False])
def test_halves_that_repair_for_themselves_find_together_again_and_then_rest(
    tmp_path: Path, record_property: Record, *, is_publisher_there: bool
) -> None:
    async def act(nodes: list[Inside]) -> None:
        hurry(nodes)
        bodies = {}
        for number in range(BLOBS):
            put = await nodes[0].put(body_of(number, SIZE))
            assert put.survives == 4
            bodies[put.cid] = body_of(number, SIZE)
        first = next(iter(bodies))
        gone = holders(nodes, first)[:1] + ([] if is_publisher_there else nodes[:1])
        for node in gone:
            silence(node)
        left = [node for node in nodes if node not in gone]
        await until(lambda: begun(left) > 0, "nobody repairs")
        ours = holders(left, first)[:7]
        other = [node for node in left if node not in ours]
        one, two = (ours + other[6:], other[:6]) if is_publisher_there else (ours, other)
        before = sent(left)
        cut(one, two)
        await asyncio.sleep(APART_S)  # that they are apart is what is tried
        for cid, body in bodies.items():
            for node in (one[0], two[-1]):
                assert await read_or_reason(node, cid) in (body, None)
        apart = sent(left) - before
        heal(left)
        for cid in bodies:
            await until(partial(_is_whole, left, cid), "it is not whole", within_s=WHOLE_S)
        for cid, body in bodies.items():
            assert await get_soon(left[-1], cid) == body
            assert await get_soon(left[0], cid) == body
        await _rests(left)
        healed = sent(left) - before - apart
        record_property(
            "summary",
            f"partition{' with its publisher' if is_publisher_there else ''}: {made(left)} shares "
            f"made by {begun(left)} repairs, {apart / 1e6:.1f} MB sent apart and "
            f"{healed / 1e6:.1f} MB after it, for {BLOBS} blobs of {SIZE / 1e6:.1f} MB",
        )
        assert made(left) <= BLOBS * 28
        assert apart + healed <= BLOBS * SIZE * 20

    with_network(tmp_path, act, [config_of(repair=PATIENT) for _ in range(NODES)])


def _is_whole(nodes: list[Inside], cid: Cid) -> bool:
    return len(set(shares_at(nodes, cid))) >= 13  # the publisher counts for one


async def _rests(nodes: list[Inside]) -> None:
    """Return once nothing was made for a while."""
    async with asyncio.timeout(120.0):
        while True:
            before = made(nodes)
            await asyncio.sleep(QUIET_S)
            if made(nodes) == before:
                return
