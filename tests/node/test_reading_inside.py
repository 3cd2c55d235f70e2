"""What was put on one node is got from all others, when as many holders are gone as may be."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from molia.base.cid import Cid
from molia.base.errors import SharesOutOfReach
from molia.blobs.one_read import GatherConfig
from tests.node.inside import Inside, config_of, with_network
from tests.node.process import body_of

SIZE = 1_300_000
"""One stripe of which each of the 14 shares has a block."""
NODES = 16
SOON_S = 60.0
HEDGING = GatherConfig(manifest_s=120.0, block_s=120.0, progress_s=240.0)
"""With it a read that waited for who is gone would take longer than that."""


def silence(node: Inside) -> None:
    """Let a node hear nothing any more, as one that was killed."""
    for pump in node.member.network.driver.pumps:
        pump._core = _Deaf()


class _Deaf:
    """Takes packets and says nothing."""

    def datagram(self, *_: object) -> None:
        return None

    def burst(self, *_: object) -> tuple[()]:
        return ()

    def take_sends(self, *_: object) -> tuple[()]:
        return ()

    def next_deadline_s(self) -> None:
        return None

    def on_deadline(self, *_: object) -> None:
        return None


def holders(nodes: Sequence[Inside], cid: Cid) -> list[Inside]:
    """Return the nodes that keep a share for another."""
    return [node for node in nodes if any(held.cid == cid for held in node.held())]


async def get(node: Inside, cid: Cid) -> bytes:
    """Read a blob as the API does."""
    reader = await node.node.open_blob(cid)
    return b"".join([chunk async for chunk in reader.read(0, reader.info.size)])


def test_with_four_of_fourteen_gone_every_other_node_has_the_blob_and_with_five_none(
    tmp_path: Path,
) -> None:
    async def act(nodes: list[Inside]) -> None:
        first, second = [await nodes[0].put(body_of(n, SIZE)) for n in (1, 2)]
        assert (first.holders, second.holders) == (14, 14)
        small = await nodes[0].put(b"a small blob" * 50)
        gone = [nodes[0], *holders(nodes, second.cid)[:3]]
        for node in gone:
            silence(node)
        left = [node for node in nodes if node not in gone]
        patience = nodes[0].member.fetcher.patience
        for node in left:
            node.member.fetcher.patience = HEDGING
        began_s = time.monotonic()
        got = await asyncio.gather(*(get(node, first.cid) for node in left[:4]))
        assert set(got) == {body_of(1, SIZE)}
        assert await get(left[5], small.cid) == b"a small blob" * 50
        assert time.monotonic() - began_s < SOON_S
        for node in left:
            node.member.fetcher.patience = patience
        health = await left[6].node.blob_health(second.cid)
        assert health.spare_shares <= 1
        silence(holders(left, second.cid)[0])
        reader = next(node for node in left[1:] if node not in holders(left, second.cid)[:1])
        began_s = time.monotonic()
        with pytest.raises(SharesOutOfReach, match="9 of 10 needed shares") as caught:
            await get(reader, second.cid)
        assert len(caught.value.asked) >= 13
        assert time.monotonic() - began_s < SOON_S

    with_network(tmp_path, act, [config_of() for _ in range(NODES)])
