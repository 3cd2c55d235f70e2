"""Four holders that lie at once: a reader has the right bytes, and their shares move elsewhere."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from molia.base.cid import Cid
from molia.base.limits import TOTAL_SHARES
from tests.network.liars import lie
from tests.node.inside import Inside, config_of, until, with_network
from tests.node.process import body_of
from tests.node.test_reading_inside import get, holders
from tests.node.test_repairs_inside import QUICK, hurry, shares_at

PATIENT = replace(QUICK, takeover_s=10)
"""A repair has four and a half times that."""
NODES = 19
SIZE = 2_600_000
MANNERS = (("wrong", "truncated", "endless", "molasses"), ("stale", "endless", "stale", "wrong"))
RATIO_MAX, LEAST_S = 3.0, 20.0
"""How much longer the read may take; what a busy machine makes of a second is not the liars'."""
Record = Callable[[str, object], None]


def holder_of(nodes: list[Inside], cid: Cid, share: int) -> Inside:
    """Return the node that keeps a share for another."""
    return next(node for node in nodes if share in shares_at([node], cid))


async def timed_get(node: Inside, cid: Cid, body: bytes) -> float:
    """Return how long a read took that gave the right bytes."""
    began_s = time.monotonic()
    assert await get(node, cid) == body
    return time.monotonic() - began_s


def lies(node: Inside) -> int:
    """Return how many lies a node has caught."""
    return int(node.node.context.metrics.fetches.labels("lies")._value.get())


def lost_at(reader: Inside, cid: Cid) -> set[bytes]:
    """Return the nodes whose share of a blob counts as lost."""
    watched = reader.member.keeper.rows.get(cid, reader.node.context.now())
    return {place.key for place in watched.lost}


@pytest.mark.parametrize("manners", MANNERS, ids=" ".join)
def test_four_liars_at_once_are_recorded_and_what_they_had_is_made_again(
    tmp_path: Path, record_property: Record, manners: tuple[str, ...]
) -> None:
    async def act(nodes: list[Inside]) -> None:
        hurry(nodes)
        body = body_of(1, SIZE)
        put = await nodes[0].put(body)
        assert put.survives == 4
        kept = shares_at(nodes, put.cid)
        data = [share for share in kept if share < 10]
        reader = holder_of(nodes, put.cid, max(kept))
        healthy_s = await timed_get(reader, put.cid, body)
        liars = [holder_of(nodes, put.cid, share) for share in data[:4]]
        for node, each in zip(liars, manners, strict=True):
            lie(node, each, body_of(2, SIZE))
        # who has all of it could give all of it: it counts as slow, so that the others are asked
        reader.member.fetcher._pace._taken_s[nodes[0].key] = 10.0
        took_s = await timed_get(reader, put.cid, body)
        assert took_s <= max(RATIO_MAX * healthy_s, LEAST_S)
        caught = {node.key for node in liars[:3]}
        assert lies(reader) >= 3
        await until(lambda: lost_at(reader, put.cid) >= caught, "the liars are not recorded")
        honest = [node for node in nodes[1:] if node.key not in caught]
        wanted = {*data[:3], *kept}
        await until(
            lambda: wanted <= set(shares_at(honest, put.cid)), "what the liars had is not made",
            within_s=240.0,
        )  # fmt: skip
        assert await get(holders(honest, put.cid)[0], put.cid) == body
        made = sum(node.member.repairs.view().shares_made for node in nodes)
        assert made <= TOTAL_SHARES
        record_property(
            "summary",
            f"four liars: a read took {took_s:.2f} s, a healthy one {healthy_s:.2f} s; "
            f"{made} shares made in place of theirs",
        )

    with_network(tmp_path, act, [config_of(repair=PATIENT) for _ in range(NODES)])
