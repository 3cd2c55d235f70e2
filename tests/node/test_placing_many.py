"""More small blobs than may wait to be placed: none of them is forgotten."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from molia.base import limits
from molia.base.cid import Cid
from molia.node import placements
from tests.node.inside import Inside, config_of, until, with_network

COUNT = 24


def _left(node: Inside, cids: list[Cid]) -> list[Cid]:
    """Return the blobs that are still to be placed."""
    context = node.node.context
    rows = {cid: context.catalog.placed(cid, context.now()) for cid in cids}
    return [cid for cid, row in rows.items() if row is None or not row.is_done]


def test_what_found_no_room_in_the_queue_is_placed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PLACINGS_MAX", 5)
    for name in ("LOOK_S", "AGAIN_S", "AGAIN_MAX_S"):
        monkeypatch.setattr(placements, name, 0.5)

    async def act(nodes: list[Inside]) -> None:
        bodies = [b"a small blob %d" % number for number in range(COUNT)]
        puts = await asyncio.gather(*(nodes[0].put(body, placed=False) for body in bodies))
        left = partial(_left, nodes[0], [put.cid for put in puts])
        await until(lambda: not left(), "some wait for ever", within_s=120.0)

    with_network(tmp_path, act, [config_of(), config_of()])
