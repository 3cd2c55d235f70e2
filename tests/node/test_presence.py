"""Who answers, and how reliably: counted for nodes that are there, forgotten by halves."""

import asyncio

from molia.base.errors import ConnectionLost
from molia.node.presence import COUNT_MAX, Presences


class Peer:
    """Answers, or does not."""

    def __init__(self) -> None:
        self.is_up, self.asked = True, 0

    async def ask(self) -> None:
        """Be asked."""
        self.asked += 1
        if not self.is_up:
            raise ConnectionLost("it is away")


def test_what_a_node_is_worth_counts_while_it_is_there() -> None:
    now_s = [0.0]

    async def act() -> None:
        known = Presences(lambda: now_s[0], fresh_s=10.0)
        steady, flaky = Peer(), Peer()
        for step in range(100):
            now_s[0] += 11.0
            flaky.is_up = step % 10 != 3
            assert await known.is_here(b"s", steady.ask)
            assert await known.is_here(b"f", flaky.ask) is flaky.is_up
        assert known.counts((b"s", b"f", b"unknown")) == (190, 200)
        flaky.is_up = False
        await known.is_here(b"f", flaky.ask, anew=True)
        assert known.is_away(b"f")
        assert known.counts((b"s", b"f")) == (100, 100)  # gone for good, as far as is known
        for _ in range(COUNT_MAX):
            await known.is_here(b"s", steady.ask, anew=True)
        reached, asked = known.counts((b"s",))
        assert reached == asked < COUNT_MAX

    asyncio.run(act())
