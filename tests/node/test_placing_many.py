"""More small blobs than may wait to be placed: none of them is forgotten."""

from pathlib import Path

import pytest

from molia.base import limits
from molia.node import placements
from tests.node.inside import Inside, config_of, until, with_network

COUNT = 30


def test_what_found_no_room_in_the_queue_is_placed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PLACINGS_MAX", 5)
    monkeypatch.setattr(placements, "AGAIN_S", 0.5)
    monkeypatch.setattr(placements, "AGAIN_MAX_S", 0.5)

    async def act(nodes: list[Inside]) -> None:
        for number in range(COUNT):
            await nodes[0].put(b"a small blob %d" % number, placed=False)
        await until(lambda: len(nodes[1].held()) == COUNT, "some are not placed")

    with_network(tmp_path, act, [config_of(), config_of()])
