"""A node of two workers places each blob once, whichever of them was given it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from molia.base.cid import Cid
from molia.base.limits import COPIES_MIN, WHOLE_SHARE
from tests.node.inside import Inside, config_of, join
from tests.node.process import Answer, Client, Node, body_of, until
from tests.node.test_releases import wanted
from tests.node.test_workers import TWO, linux, one_of_each

OTHERS = 9
ROUNDS = 6


def _start(node: Node, firsts: list[str]) -> tuple[Client, Client]:
    """Start a node that joins others; return a connection to each of its workers."""
    node.settings["MOLIA_DHT__BOOTSTRAP"] = ",".join(firsts)
    node.settings["MOLIA_DHT__REACHABLE"] = "yes"
    node.start()
    pair = one_of_each(node)
    for client in pair:
        until(partial(_has_joined, client), "a worker does not join")
    return pair


def _has_joined(client: Client) -> bool:
    shown = client("GET", "/node").json()["dht"]
    return bool(shown["is_joined"] and shown["contacts"] >= OTHERS - 1)


def _put(client: Client, body: bytes) -> Answer:
    return client("PUT", "/blob?wait=placed", body, accept="application/json")


async def _put_by_both(pair: tuple[Client, Client], body: bytes) -> list[Answer]:
    return await asyncio.gather(*(asyncio.to_thread(_put, client, body) for client in pair))


def _copies(nodes: list[Inside], cid: str) -> list[tuple[int, ...]]:
    return [each.row.shares for node in nodes for each in node.held() if str(each.cid) == cid]


def _with_two(
    directory: Path, act: Callable[[tuple[Client, Client], list[Inside]], Awaitable[None]]
) -> None:
    """Act on a node of two workers and some others of one each."""
    publisher = Node(directory / "publisher", dict(TWO))

    async def go() -> None:
        async with AsyncExitStack() as stack:
            nodes: list[Inside] = []
            await join(stack, directory, nodes, [config_of()] * OTHERS)
            firsts = [str(node.member.network.addresses()[0]) for node in nodes[:3]]
            await act(await asyncio.to_thread(partial(_start, publisher, firsts)), nodes)

    try:
        asyncio.run(go())
    finally:
        publisher.close()


@linux
def test_a_blob_that_two_workers_are_given_at_once_is_placed_once(tmp_path: Path) -> None:
    async def act(pair: tuple[Client, Client], nodes: list[Inside]) -> None:
        for seed in range(ROUNDS):
            told = await _put_by_both(pair, body_of(seed, 1_000))
            assert {answer.status for answer in told} == {200, 201}
            views = [answer.json() for answer in told]
            assert {view["cid"] for view in views} == {views[0]["cid"]}
            assert [view["survives"] for view in views] == [COPIES_MIN - 1] * 2
            copies = _copies(nodes, views[0]["cid"])
            assert copies == [(WHOLE_SHARE,)] * (COPIES_MIN - 1), "it is placed twice"

    _with_two(tmp_path, act)


@linux
def test_what_one_worker_removes_the_other_puts_again_at_once(tmp_path: Path) -> None:
    async def act(pair: tuple[Client, Client], nodes: list[Inside]) -> None:
        cids = []
        for seed in range(ROUNDS):
            first = await asyncio.to_thread(_put, pair[seed % 2], body_of(seed, 1_000))
            cids.append(Cid.parse(first.json()["cid"]))
            await asyncio.to_thread(pair[0].delete, str(cids[-1]))
            again = await asyncio.to_thread(_put, pair[1], body_of(seed, 1_000))
            assert again.json()["survives"] == COPIES_MIN - 1
        await asyncio.sleep(0.5)  # the last release has come by now
        kept = [sum(any(wanted(node, cid)) for node in nodes) for cid in cids]
        assert kept == [COPIES_MIN - 1] * ROUNDS

    _with_two(tmp_path, act)
