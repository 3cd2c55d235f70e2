"""What a repairer keeps itself takes as long as it takes, while something moves."""

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest

from molia.node import own_shares
from molia.node.giving import Given, Giver
from molia.node.holding import Holder
from molia.node.own_shares import take_own
from molia.node.taking import Incoming
from molia.wire.blob_messages import KeptCode, ShareKept

PIECES = 14


class Slow:
    """A giver and a holder of one share, each of which takes a moment for a piece of it."""

    def __init__(self, *, give_s: float, keep_s: float) -> None:
        self.give_s, self.keep_s, self.kept = give_s, keep_s, 0

    async def pieces(self, _share: int, _first: int) -> AsyncIterator[tuple[int, bytes]]:
        for stripe in range(PIECES):
            await asyncio.sleep(self.give_s)
            yield stripe, b"piece"

    def head(self, _share: int, _first: int) -> None: ...

    async def put(self, stream: Incoming, _: object) -> ShareKept:
        while await stream.receive():
            await asyncio.sleep(self.keep_s)
            self.kept += 1
        return ShareKept(code=KeptCode.KEPT, provider=b"record")


def taken(monkeypatch: pytest.MonkeyPatch, slow: Slow) -> Given:
    monkeypatch.setattr(own_shares, "STUCK_S", 3.0)
    return asyncio.run(take_own(cast("Holder", slow), cast("Giver", slow), 3))


@pytest.mark.parametrize(("give_s", "keep_s"), [(0.3, 0.0), (0.0, 0.3)])
def test_a_share_that_comes_slowly_is_kept(
    monkeypatch: pytest.MonkeyPatch, give_s: float, keep_s: float
) -> None:
    slow = Slow(give_s=give_s, keep_s=keep_s)
    assert taken(monkeypatch, slow) == Given(is_kept=True, record=b"record", outcome="kept_here")
    assert slow.kept == PIECES


@pytest.mark.parametrize(("give_s", "keep_s"), [(30.0, 0.0), (0.0, 30.0)])
def test_one_that_comes_no_more_is_given_up(
    monkeypatch: pytest.MonkeyPatch, give_s: float, keep_s: float
) -> None:
    slow = Slow(give_s=give_s, keep_s=keep_s)
    assert taken(monkeypatch, slow) == Given(is_kept=False, outcome="broken")
