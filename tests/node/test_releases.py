"""What is removed has its holders released, also while it is placed, and is put again at once."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from molia.base.cid import Cid
from molia.node import placing
from molia.node.asking_blobs import Holder
from molia.node.giving import Given, Giver, OnStripes
from molia.node.held import held_lease
from molia.node.taking import Taken
from tests.node.inside import Inside, Shifted, config_of, until, with_network
from tests.node.process import body_of

SIZE = 1_300_000
BODIES = pytest.mark.parametrize(
    "body", [b"a small blob", body_of(3, SIZE)], ids=["small", "large"]
)


def wanted(node: Inside, cid: Cid) -> list[bool]:
    """Tell of each lease of what a node holds of a blob whether its owner wants that kept."""
    now, found = node.node.context.now(), []
    for held in node.held():
        if held.cid == cid:
            for row in node.member.holder.held.leases(held, now).values():
                signed = held_lease(row)
                found.append(signed is not None and not signed.lease.is_release)
    return found


class _Held:
    """Holds back what a node gives, once it has been given, until it is let on."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, count: int, but_first: bool = False
    ) -> None:
        """count: with how many shares that are held back `is_full` is set. but_first: the first
        that each holder is given is not.
        """
        self.is_full, self.go = asyncio.Event(), asyncio.Event()
        give, waiting, served = Giver.give, [0], set[Holder]()

        async def give_late(
            giver: Giver, to: Holder, share: int, first_stripe: int, on_stripes: OnStripes
        ) -> Given:
            given = await give(giver, to, share, first_stripe, on_stripes)
            if but_first and to not in served:
                served.add(to)
                return given
            waiting[0] += 1
            if waiting[0] >= count:
                self.is_full.set()
            await self.go.wait()
            return given

        monkeypatch.setattr(Giver, "give", give_late)


@BODIES
def test_a_blob_that_is_removed_while_it_is_placed_has_its_holders_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    async def act(nodes: list[Inside]) -> None:
        publisher, others = nodes[0], nodes[1:]
        back = _Held(monkeypatch, count=len(others))
        put = await publisher.put(body, placed=False)
        async with asyncio.timeout(20.0):
            await back.is_full.wait()
        assert all(wanted(node, put.cid) == [True] for node in others)
        await publisher.node.delete_blob(put.cid)
        back.go.set()
        await until(
            lambda: not any(any(wanted(node, put.cid)) for node in others),
            "a holder keeps what was removed while it was placed", within_s=20.0,
        )  # fmt: skip
        await until(lambda: not publisher.node._placements._ends, "it is placed on and on")

    with_network(tmp_path, act, [config_of() for _ in range(4)])


def test_a_share_that_comes_to_rest_after_the_release_came_is_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(nodes: list[Inside]) -> None:
        publisher, slow = nodes[0], nodes[1]
        keep, asked, go = slow.member.holder._takings._keep, asyncio.Event(), asyncio.Event()

        async def keep_late(*arguments: Any, **named: Any) -> Taken:
            asked.set()
            await go.wait()
            return await keep(*arguments, **named)

        monkeypatch.setattr(slow.member.holder._takings, "_keep", keep_late)
        put = await publisher.put(body_of(4, 20 * SIZE), placed=False)
        async with asyncio.timeout(20.0):
            await asked.wait()
        await publisher.node.delete_blob(put.cid)
        await until(lambda: slow.count("lease_not_here"), "nobody is told", within_s=20.0)
        go.set()
        await until(lambda: not publisher.node._placements._ends, "it is placed on and on")
        assert not any(wanted(slow, put.cid))

    with_network(tmp_path, act, [config_of() for _ in range(4)])


def test_who_has_shares_of_a_blob_whose_placing_was_cancelled_is_released_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "SAVE_S", 60.0)  # what came to rest last is not noted yet

    async def act(nodes: list[Inside]) -> None:
        publisher, others = nodes[0], nodes[1:]
        back = _Held(monkeypatch, count=len(others), but_first=True)
        put = await publisher.put(body_of(5, SIZE), placed=False)
        async with asyncio.timeout(20.0):
            await back.is_full.wait()
        assert all(wanted(node, put.cid) == [True] for node in others)
        assert put.job is not None
        await publisher.node.cancel_job(put.job)
        await until(lambda: not publisher.node._placements._ends, "it does not end")
        await publisher.node.delete_blob(put.cid)
        await until(
            lambda: not any(any(wanted(node, put.cid)) for node in others),
            "a holder is forgotten that was given a share before", within_s=10.0,
        )  # fmt: skip

    with_network(tmp_path, act, [config_of() for _ in range(4)])


@BODIES
def test_what_is_removed_and_put_again_while_it_is_placed_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    async def act(nodes: list[Inside]) -> None:
        publisher, others = nodes[0], nodes[1:]
        back = _Held(monkeypatch, count=len(others))
        put = await publisher.put(body, placed=False)
        async with asyncio.timeout(20.0):
            await back.is_full.wait()
        await publisher.node.delete_blob(put.cid)
        again = asyncio.ensure_future(publisher.put(body))
        await until(lambda: publisher.node.context.blob_count, "it is not put again")
        back.go.set()
        async with asyncio.timeout(30.0):
            assert (await again).holders == len(nodes)
        await asyncio.sleep(0.5)  # a release would have come by now
        assert [wanted(node, put.cid) for node in others] == [[True]] * len(others)

    with_network(tmp_path, act, [config_of() for _ in range(4)])


@BODIES
def test_what_is_put_removed_and_put_within_a_second_is_placed_each_time(
    tmp_path: Path, body: bytes
) -> None:
    async def act(nodes: list[Inside]) -> None:
        publisher, others = nodes[0], nodes[1:]
        for _ in range(4):
            put = await publisher.put(body)
            assert put.holders == len(nodes), "its holders take the last release for newer"
            await publisher.node.delete_blob(put.cid)
        put = await publisher.put(body)
        assert put.holders == len(nodes)
        await asyncio.sleep(0.5)  # the last release has come by now
        assert [wanted(node, put.cid) for node in others] == [[True]] * len(others)

    with_network(tmp_path, act, [config_of() for _ in range(4)])


@BODIES
def test_a_release_that_is_not_known_any_more_is_learned_of_and_beaten(
    tmp_path: Path, body: bytes
) -> None:
    """As after a restart with a clock that was set right."""
    clock = Shifted()
    clock.ahead_s = 1_000

    async def act(nodes: list[Inside]) -> None:
        publisher, others = nodes[0], nodes[1:]
        put = await publisher.put(body)
        await publisher.node.delete_blob(put.cid)
        await until(
            lambda: all(wanted(node, put.cid) == [False] for node in others), "none is released"
        )
        publisher.member.courier._ended.clear()
        clock.ahead_s = 500
        assert (await publisher.put(body)).holders == len(nodes), "its holders refuse its lease"
        assert [wanted(node, put.cid) for node in others] == [[True]] * len(others)
        await publisher.node.delete_blob(put.cid)
        await until(
            lambda: all(wanted(node, put.cid) == [False] for node in others), "none is released"
        )

    with_network(tmp_path, act, [config_of() for _ in range(4)], clocks={0: clock})
