"""Placing on many nodes: who gets what, who is replaced, and what a holder says to bad messages."""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from molia.base import limits
from molia.base.cid import Cid
from molia.base.errors import Busy, ShardUnavailable, TimedOut
from molia.base.ids import JobId, PeerKey
from molia.base.limits import STRIPES_MAX, WHOLE_SHARE
from molia.base.views import JobState, JobView, PutOptions
from molia.blobs.distribution import DistributionConfig
from molia.blobs.leases import renew
from molia.blobs.statements import Statement
from molia.node import jobs
from molia.node.asking_blobs import Holder
from molia.node.courier import Courier, lease_of
from molia.node.identity import read_identity
from molia.node.jobs import Job
from molia.node.peer_streams import PeerStream
from molia.node.placements import JOB_KIND
from molia.node.stream_messages import read_request, send_reply
from molia.node.taking import Taken, _Taking
from molia.store.rows import PlacedRow
from molia.wire.blob_messages import KeptCode, Lease, ShareKept
from molia.wire.cookies import Address
from molia.wire.messages import Message, Number
from tests.node.inside import Inside, Shifted, config_of, ended, join, until, with_network
from tests.node.process import body_of
from tests.node.scan import assert_no_orphans
from tests.node.test_disk_errors import FailingDisk, Fault
from tests.node.test_leases import MovableClock

SIZE = 1_300_000
"""One stripe of which each of the 14 shares has a block."""
SOON_S = 30.0
"""Before what is left over is looked for again: that would hide what nobody set about at once."""


def test_fourteen_shares_lie_on_fourteen_of_sixteen_nodes_and_a_small_blob_on_five(
    tmp_path: Path,
) -> None:
    async def act(nodes: list[Inside]) -> None:
        publisher, others = nodes[0], nodes[1:]
        put = await publisher.put(body_of(1, SIZE))
        assert (put.holders, put.survives, put.state.value) == (14, 4, "healthy")
        held = [each for node in others for each in node.held()]
        shares = [share for each in held for share in each.row.shares]
        assert len(held) == len(shares) == len(set(shares)) == 13
        assert {each.cid for each in held} == {put.cid}
        small = await publisher.put(b"a small blob")
        assert (small.holders, small.survives) == (5, 4)
        copies = [each for node in others for each in node.held() if each.cid == small.cid]
        assert [each.row.shares for each in copies] == [(WHOLE_SHARE,)] * 4
        health = await publisher.node.blob_health(put.cid)
        assert health.survives == 4
        assert sum(len(share.holders) for share in health.shares) == 14 + 13

    with_network(tmp_path, act, [config_of() for _ in range(16)])


QUICK = DistributionConfig(stall_s=4.0, slow_min_s=4.0, round_s=0.2)
"""For holders that stall; a busy machine may stand still for some seconds."""


def stall(node: Inside) -> None:
    """Let a node take shares and never say so."""

    async def take(stream: PeerStream) -> None:
        await read_request(stream, Number.PUT_SHARE)
        await asyncio.Event().wait()

    node.member.network.serve({}, {Number.PUT_SHARE: take})


def refuse(node: Inside) -> None:
    """Let a node offer space and then not have it."""

    async def take(stream: PeerStream) -> None:
        await read_request(stream, Number.PUT_SHARE)
        await send_reply(stream, ShareKept(code=KeptCode.NO_ROOM))

    node.member.network.serve({}, {Number.PUT_SHARE: take})


def forget(node: Inside) -> None:
    """Let a node say that it keeps a share, with a provider record that is none."""

    async def take(stream: PeerStream) -> None:
        await read_request(stream, Number.PUT_SHARE)
        while await stream.receive():
            continue
        await send_reply(stream, ShareKept(code=KeptCode.KEPT, stripes=1, provider=b"none"))

    node.member.network.serve({}, {Number.PUT_SHARE: take})


def kept_of(nodes: list[Inside], cid: Cid) -> list[int]:
    """Return the shares of a blob that nodes keep."""
    return sorted(s for node in nodes for h in node.held() if h.cid == cid for s in h.row.shares)


def test_holders_that_stall_refuse_or_fill_up_are_replaced(tmp_path: Path) -> None:
    full = Fault("write", code=errno.ENOSPC)

    async def act(nodes: list[Inside]) -> None:
        publisher = nodes[0]
        publisher.member.courier.patience = QUICK
        stall(nodes[1])
        refuse(nodes[2])
        full.armed = True  # the third one's disk has no room for a block, whatever it offers
        put = await publisher.put(body_of(2, SIZE))
        assert (put.holders, put.survives, put.state.value) == (5, 1, "healthy")
        kept = kept_of(nodes[4:], put.cid)
        assert len(kept) == len(set(kept)) >= 14 - 3
        assert not kept_of(nodes[1:4], put.cid)
        assert full.failed
        assert nodes[3].count("share_no_room")
        job = await ended(publisher.node, put.job or "")
        assert job.progress["placed"] == 14
        full.armed = False
        again = await publisher.put(body_of(3, SIZE))
        assert kept_of(nodes[3:4], again.cid), "with room again it is a holder again"

    with_network(
        tmp_path, act, [config_of() for _ in range(8)], disks={3: partial(FailingDisk, fault=full)}
    )
    for index in range(8):
        assert_no_orphans(tmp_path / f"home{index}")


@pytest.mark.parametrize("how", ["cancelled", "not saved", "too many jobs"])
def test_who_waits_for_a_blob_is_answered_though_its_job_never_ran(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(nodes: list[Inside]) -> None:
        node, body = nodes[0].node, body_of(8, SIZE)
        work, save = node._jobs, node._jobs.save
        start, begun = node._placements._start, 0

        async def do_not_save(job: Job) -> None:
            if job.state is JobState.RUNNING:
                raise Busy("the shard did not write in time")
            await save(job)

        async def refuse(*_: object) -> JobView:
            await until(lambda: begun == 2, "the second one does not wait")
            raise Busy("too many jobs are kept")

        async def start_counted(cid: Cid, *, wait: bool) -> JobId | None:
            nonlocal begun
            begun += wait  # the second one finds the blob under way, and waits at once
            return await start(cid, wait=wait)

        node._placements._start = start_counted  # type: ignore[method-assign]
        if how == "cancelled":
            monkeypatch.setitem(jobs.AT_ONCE, JOB_KIND, 0)
        elif how == "not saved":
            monkeypatch.setattr(work, "save", do_not_save)
        else:
            monkeypatch.setattr(work, "start", refuse)
        puts = [asyncio.ensure_future(nodes[0].put(body)) for _ in range(2)]
        if how == "cancelled":
            await until(lambda: len(work.views()) == 1, "there is no job")
            await until(lambda: begun == 2, "the second one does not wait")
            await node.cancel_job(work.views()[0].id)
        done, waiting = await asyncio.wait(puts, timeout=SOON_S)
        assert not waiting, "a put is never answered"
        assert {put.result().cid for put in done} == {puts[0].result().cid}
        monkeypatch.undo()
        assert not node._placements._ends
        again = await asyncio.wait_for(nodes[0].put(body), SOON_S)
        assert (again.holders, again.created) == (2, False)

    with_network(tmp_path, act, [config_of(), config_of()])


@pytest.mark.parametrize("says", ["broken", "cut off", "cut off far beyond its end"])
def test_a_small_blob_that_was_not_kept_at_first_is_sent_again(tmp_path: Path, says: str) -> None:
    async def act(nodes: list[Inside]) -> None:
        takings = nodes[1].member.holder._takings
        keep, tries = takings._keep, 0

        async def keep_later(taking: _Taking, lease: Statement, *, stripes: int) -> Taken:
            nonlocal tries
            tries += 1
            if tries == 1 and says == "broken":
                raise ShardUnavailable("the shard takes no writes")
            if tries == 1:
                return Taken(KeptCode.CUT_OFF, 1 if says == "cut off" else STRIPES_MAX)
            return await keep(taking, lease, stripes=stripes)

        takings._keep = keep_later  # type: ignore[method-assign]
        async with asyncio.timeout(SOON_S):
            assert (await nodes[0].put(b"a small blob")).holders == 2
        tries = 0
        async with asyncio.timeout(SOON_S):
            assert (await nodes[0].put(body_of(8, SIZE))).holders == 2
        assert tries == 8, "one of seven shares was sent again"

    with_network(tmp_path, act, [config_of(), config_of()])


def test_few_nodes_or_none_with_room_are_told_honestly(tmp_path: Path) -> None:
    async def act(nodes: list[Inside]) -> None:
        alone = await nodes[1].put(body_of(5, SIZE))
        assert (alone.holders, alone.survives, alone.state.value) == (2, 0, "healthy")
        poor = await nodes[0].put(body_of(6, SIZE))
        assert (poor.holders, poor.survives, poor.state.value) == (2, 1, "degraded")
        small = await nodes[0].put(b"small")
        assert (small.holders, small.survives, small.state.value) == (2, 1, "degraded")
        health = await nodes[0].node.blob_health(poor.cid)
        assert (health.survives, health.state.value) == (1, "degraded")

    # the first wants more than two nodes can give, so that each of them gets a readable set
    with_network(tmp_path, act, [config_of(floor=2), config_of(), config_of(offer=0)])


def test_two_nodes_that_put_one_file_at_once_share_its_holders(tmp_path: Path) -> None:
    async def act(nodes: list[Inside]) -> None:
        forget(nodes[5])
        one, two = await asyncio.gather(
            nodes[0].put(body_of(7, SIZE)), nodes[1].put(body_of(7, SIZE))
        )
        assert one.cid == two.cid
        assert one.survives >= 1
        assert two.survives >= 1
        again = await nodes[1].put(body_of(7, SIZE))
        assert not again.created
        for node in nodes[2:5]:
            for held in node.held():
                now = node.node.context.now()
                owners = node.member.holder.held.leases(held, now)
                assert 1 <= len(owners) <= 2
        assert nodes[0].node.context.metrics.shares_out.labels("bad_record")._value.get() >= 1
        await nodes[0].node.delete_blob(one.cid)
        await until(
            lambda: any(node.count("lease_taken") for node in nodes[1:5]),
            "the holders are not told that it was removed",
        )
        found = b"".join([c async for c in (await nodes[4].node.open_blob(one.cid)).read(0, SIZE)])
        assert found == body_of(7, SIZE)

    with_network(tmp_path, act, [config_of() for _ in range(6)])
    for index in range(6):
        assert_no_orphans(tmp_path / f"home{index}")


def test_leases_of_pinned_blobs_are_renewed_when_they_are_due(tmp_path: Path) -> None:
    async def act(nodes: list[Inside]) -> None:
        publisher, holder = nodes
        pinned = await publisher.put(b"pinned")
        loose = await publisher.put(b"loose", pin=False)
        now = publisher.node.context.now()

        def until_s(cid: Cid) -> int:
            (held,) = [each for each in holder.held() if each.cid == cid]
            (row,) = holder.member.holder.held.leases(held, now).values()
            return row.expires_unix_s

        before = until_s(pinned.cid), until_s(loose.cid)
        assert await publisher.node._placements.renew_due() == 0
        clock = publisher.node.context.clock
        assert isinstance(clock, MovableClock)
        clock.unix_s += 1_000  # the next lease may be issued at most an hour ahead of the holder
        courier = publisher.member.courier
        assert await courier.renew_lease(pinned.cid) == 0, "most of its life is left"
        for cid in (pinned.cid, loose.cid):  # as if most of it had gone
            row = publisher.node.context.catalog.placed(cid, now)
            bound = publisher.node.context.catalog.bound(cid, now)
            assert row is not None
            assert bound is not None
            identity = read_identity(publisher.home)
            old = renew(
                identity, publisher.node.context.network, cid.digest, before=None,
                unix_s=now.unix_s - 3_000_000, life_s=3_100_000,
            )  # fmt: skip
            await courier.save(bound, replace(row, lease=old.encoded))
        assert await publisher.node._placements.renew_due() == 1
        assert until_s(pinned.cid) >= before[0] + 1_000
        assert until_s(loose.cid) == before[1]
        assert await publisher.node._placements.renew_due() == 0

    with_network(tmp_path, act, [config_of(), config_of()], clocks={0: MovableClock()})


async def _age(publisher: Inside, cid: Cid) -> PlacedRow:
    """Make our lease of a blob one of which most has gone; return the row that says so."""
    context = publisher.node.context
    row, bound = (
        context.catalog.placed(cid, context.now()),
        context.catalog.bound(cid, context.now()),
    )
    assert row is not None
    assert bound is not None
    old = renew(
        read_identity(publisher.home), context.network, cid.digest, before=None,
        unix_s=context.now().unix_s - 3_000_000, life_s=3_100_000,
    )  # fmt: skip
    aged = replace(row, lease=old.encoded)
    await publisher.member.courier.save(bound, aged)
    return aged


def test_leases_that_nobody_renews_do_not_stand_in_the_way_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(nodes: list[Inside]) -> None:
        publisher = nodes[0]
        loose = [await publisher.put(b"loose %d" % n, pin=False) for n in range(12)]
        pinned = [await publisher.put(b"pinned %d" % n) for n in range(2)]
        for each in (*loose, *pinned):
            await _age(publisher, each.cid)
        monkeypatch.setattr(limits, "PLACINGS_MAX", 2)
        publisher.node.context.clock.ahead_s += 1_000  # type: ignore[attr-defined]
        assert await publisher.node._placements.renew_due() == len(pinned)
        assert await publisher.node._placements.renew_due() == 0

    with_network(tmp_path, act, [config_of(), config_of()], clocks={0: Shifted()})


def test_a_second_put_of_what_is_not_pinned_renews_the_lease_of_its_holders(
    tmp_path: Path,
) -> None:
    async def act(nodes: list[Inside]) -> None:
        publisher = nodes[0]
        put = await publisher.put(b"loose", pin=False)
        assert put.survives == 4, "no more holders are looked for"
        before = lease_of(await _age(publisher, put.cid))
        again = await publisher.put(b"loose", pin=False)
        assert (again.created, again.holders) == (False, 5)
        context = publisher.node.context
        row = context.catalog.placed(put.cid, context.now())
        assert row is not None
        now = lease_of(row)
        assert now is not None
        assert before is not None
        assert now.expires > before.expires + 1_000_000
        for node in nodes[1:]:
            (held,) = node.held()
            (kept,) = node.member.holder.held.leases(held, context.now()).values()
            assert kept.signed == now.encoded

    with_network(tmp_path, act, [config_of() for _ in range(5)], clocks={0: Shifted()})


def test_a_holder_that_moved_is_told_where_the_watch_has_found_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(nodes: list[Inside]) -> None:
        publisher, holder = nodes
        courier, cid = publisher.member.courier, (await publisher.put(b"pinned")).cid
        await _age(publisher, cid)
        moved, gone = holder.member.network.driver.pumps[0].address, ("127.0.0.1", 9)
        courier.watched = lambda _: {holder.key: moved}
        network, ask = courier._network, courier._network.ask

        async def ask_there(
            key: PeerKey, address: Address, message: Message, *, timeout_s: float
        ) -> Message:
            """Ask, without the session that there may be."""
            if address[:2] != moved:
                raise TimedOut("nobody is there any more")
            return await ask(key, address, message, timeout_s=timeout_s)

        monkeypatch.setattr(network, "ask", ask_there)
        courier._scout._places[holder.key] = Holder(PeerKey(holder.key), gone)
        assert await courier.renew_lease(cid) == 1, "a holder that moved is not told"

    with_network(tmp_path, act, [config_of(), config_of()])


def test_a_renewal_that_a_crash_cuts_off_is_made_again_for_all_holders(tmp_path: Path) -> None:
    async def act(nodes: list[Inside]) -> None:
        publisher, context = nodes[0], nodes[0].node.context
        courier, cid = publisher.member.courier, (await publisher.put(body_of(5, SIZE))).cid
        await _age(publisher, cid)
        tell, told = courier._tell, list[bytes]()

        async def tell_one(key: bytes, lease: Lease, *more: Any) -> bool:
            if told:
                await asyncio.sleep(3_600.0)  # the crash comes first
            told.append(key)
            return await tell(key, lease, *more)

        courier._tell = tell_one  # type: ignore[method-assign,assignment]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.0):
                await courier.renew_lease(cid)
        courier._tell = tell  # type: ignore[method-assign]
        assert await courier.renew_lease(cid) == len(nodes) - 1
        row = context.catalog.placed(cid, context.now())
        assert row is not None
        for node in nodes[1:]:
            (held,) = node.held()
            (kept,) = node.member.holder.held.leases(held, context.now()).values()
            assert kept.signed == row.lease, "a holder was passed over"

    with_network(tmp_path, act, [config_of() for _ in range(4)])


def test_a_lease_that_is_renewed_leaves_alone_what_is_placed_meanwhile(tmp_path: Path) -> None:
    async def act(nodes: list[Inside]) -> None:
        publisher, context = nodes[0], nodes[0].node.context
        courier, cid = publisher.member.courier, (await publisher.put(b"pinned")).cid
        aged = await _age(publisher, cid)
        bound = context.catalog.bound(cid, context.now())
        assert bound is not None
        begun = replace(aged, is_done=False, cursor={"placed": [[bytes(32).hex(), 0, ""]]})
        tell = courier._tell

        async def tell_late(key: bytes, lease: Lease, *more: Any) -> bool:
            await courier.save(bound, begun)
            return await tell(key, lease, *more)

        courier._tell = tell_late  # type: ignore[method-assign,assignment]
        assert await courier.renew_lease(cid) == 1
        row = context.catalog.placed(cid, context.now())
        assert row is not None
        assert (row.is_done, row.cursor) == (False, begun.cursor), "a placing was undone"

    with_network(tmp_path, act, [config_of(), config_of()])


def test_what_is_in_the_trash_is_not_placed_until_it_is_brought_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(nodes: list[Inside]) -> None:
        publisher, node = nodes[0], nodes[0].node
        with monkeypatch.context() as alone:
            alone.setattr(Courier, "has_peers", False)
            puts = [await publisher.put(body) for body in (body_of(9, SIZE), b"small")]
            for put in puts:
                await node.delete_blob(put.cid)
            node._placements._early.clear()
        await node._placements._take_up()
        assert not node._placements._ends, "what does not exist is to be placed"
        assert await node.jobs() == ()
        for put in puts:
            await node.undelete_blob(put.cid)
        await node._placements._take_up()
        await until(lambda: all(kept_of(nodes, put.cid) for put in puts), "it is not placed")

    config = config_of()
    trash = replace(config, store=replace(config.store, trash_s=86_400))
    with_network(tmp_path, act, [trash, config])


@pytest.mark.parametrize("how", ["pinned", "pinned alone", "put alone"])
def test_what_was_cached_is_placed_once_it_is_wanted(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(nodes: list[Inside]) -> None:
        publisher, node = nodes[0], nodes[0].node
        bodies = (body_of(9, SIZE), b"small")
        cids = []
        for body in bodies:

            async def chunks(body: bytes = body) -> AsyncIterator[bytes]:
                yield body

            options = PutOptions(size=len(body), cached=True, wait_placed=True)
            cids.append((await node.put_blob(chunks(), options)).cid)
        assert not any(kept_of(nodes, cid) for cid in cids)
        with monkeypatch.context() as alone:
            if how != "pinned":
                alone.setattr(Courier, "has_peers", False)
            for cid, body in zip(cids, bodies, strict=True):
                if how == "put alone":
                    await publisher.put(body)
                else:
                    assert (await node.pin_blob(cid, pinned=True)).info.pinned
        if how != "pinned":
            node._placements._early.clear()  # as a restart does
            await node._placements._take_up()
        await until(lambda: all(kept_of(nodes, cid) for cid in cids), "it is not placed",
                    within_s=SOON_S)  # fmt: skip

    with_network(tmp_path, act, [config_of(), config_of()])


def test_a_holder_that_has_moved_is_asked_where_it_is_now(tmp_path: Path) -> None:
    async def go() -> None:
        async with AsyncExitStack() as stack, AsyncExitStack() as before:
            nodes: list[Inside] = []
            await join(stack, tmp_path, nodes, [config_of()] * 2)
            await join(before, tmp_path, nodes, [config_of()])
            publisher, key = nodes[0], nodes[2].node.context.peer
            assert (await publisher.put(b"a small blob")).holders == 3
            engine, courier = publisher.member.dht.engine, publisher.member.courier
            known = courier.holder(key.key)
            assert known is not None
            await before.aclose()
            nodes.pop()
            await join(stack, tmp_path, nodes, [config_of()])  # at another port
            assert nodes[2].key == key.key

            def has_moved() -> bool:
                now = engine.find_contact(key)
                return now is not None and now.address != known.address

            await until(has_moved, "nobody notices that it has moved")
            now, contact = courier.holder(key.key), engine.find_contact(key)
            assert now is not None
            assert contact is not None
            assert now.address == contact.address

    asyncio.run(go())


def test_the_last_that_was_said_of_where_a_holder_is_counts(tmp_path: Path) -> None:
    async def act(nodes: list[Inside]) -> None:
        courier, key = nodes[0].member.courier, PeerKey(bytes((9,)) * 32)
        for port in (1_001, 1_002):
            courier.note(Holder(key, ("127.0.0.1", port)))
        assert courier.holder(key.key) == Holder(key, ("127.0.0.1", 1_002))

    with_network(tmp_path, act, [config_of(), config_of()])
