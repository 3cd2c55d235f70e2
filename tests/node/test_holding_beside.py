"""Shares that come, go and are leased in one moment: what was answered KEPT is there, whole."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from molia.base.crypto import Identity
from molia.base.ids import ObjectId
from molia.base.now import Now
from molia.blobs.leases import release, renew
from molia.node.held import Held, owner_hash
from molia.node.held_life import _Seen
from molia.node.holding import Holder as HeldHolder
from molia.node.stream_messages import read_reply, send_request
from molia.store.keys import Kind, coming_key
from molia.store.ops import Put, Transaction
from molia.store.rows import UploadRow
from molia.wire.blob_messages import (
    KeptCode,
    Lease,
    LeaseCode,
    Leased,
    ShareKept,
)
from molia.wire.messages import Number
from tests.node.inside import WAIT_S, Shifted, until
from tests.node.test_holding import (
    CID,
    OWNER,
    Asker,
    body_of,
    with_two,
)


def test_a_share_on_its_way_in_stays_whole_when_the_others_of_its_blob_go(tmp_path: Path) -> None:
    async def act(asker: Asker) -> None:
        ends, stays = asker.lease(), asker.lease(owner=Identity(b"p" * 32))
        await asker.send(asker.share(1, lease=ends.encoded), body_of(1))
        network, holder = asker.network.settings.network, asker.holder.member.holder
        ended = release(OWNER, network, CID.digest, before=ends, unix_s=asker.unix_s)
        body, most = body_of(4), len(body_of(4, stop=2))
        async with asker.network.open_stream(
            asker.to.key, asker.to.address, Number.PUT_SHARE
        ) as stream:
            await send_request(stream, asker.share(4, lease=stays.encoded))
            await stream.send(body[:most])
            async with asyncio.timeout(WAIT_S):
                while len(asker.blocks(4)) < 3:
                    await asyncio.sleep(0.05)
            assert await asker.ask(Lease((ended.encoded,))) == Leased((LeaseCode.TAKEN,))
            assert await holder.life.sweep() == 1
            assert not asker.blocks(1)
            await stream.send(body[most:])
            stream.end()
            kept = await read_reply(stream)
        assert isinstance(kept, ShareKept)
        assert (kept.code, len(asker.blocks(4))) == (KeptCode.KEPT, 4)
        assert holder.view().shares == 1

    with_two(tmp_path, act, min_age_s=0)


def test_a_share_begun_anew_while_what_broke_off_is_removed_stays_whole(tmp_path: Path) -> None:
    async def act(asker: Asker) -> None:
        context, takings = asker.holder.node.context, asker.holder.member.holder._takings
        await asker.send(asker.share(1), body_of(1))  # both are of one object then
        assert (await asker.send(asker.share(4), body_of(4, stop=2))).code == KeptCode.CUT_OFF
        (broken,) = takings._broken.values()
        begun, may_go_on, drop = asyncio.Event(), asyncio.Event(), context.objects.drop_share

        async def drop_slowly(object_id: ObjectId, share: int) -> None:
            begun.set()
            await may_go_on.wait()
            await drop(object_id, share)

        context.objects.drop_share = drop_slowly  # type: ignore[method-assign]
        later = Now(broken.until_s, asker.unix_s)
        async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(takings.drop_broken(later))
            await begun.wait()
            sent = tasks.create_task(asker.send(asker.share(4), body_of(4)))
            await asyncio.sleep(0.3)
            may_go_on.set()
        assert (sent.result().code, len(asker.blocks(4))) == (KeptCode.KEPT, 4)

    with_two(tmp_path, act)


def test_a_share_begun_anew_while_another_worker_starts_anew_stays_whole(tmp_path: Path) -> None:
    async def act(asker: Asker) -> None:
        assert (await asker.send(asker.share(1), body_of(1))).code == KeptCode.KEPT
        objects = asker.holder.node.context.objects
        (held,) = asker.holder.held()
        object_id, left_behind = held.row.object_id, objects._left_behind
        key, epoch = coming_key(object_id, 3), UploadRow(0)  # what a worker left that was killed
        writer = objects._shards.writer_of(Kind.META, key)
        await writer.write(Transaction((Put(Kind.META, key, epoch.encode()),)))

        def and_then(now: Now) -> Sequence[tuple[ObjectId, int | None]]:
            found = left_behind(now)
            assert found == [(object_id, 3)]
            sending.call_soon_threadsafe(begin.set)
            assert begun.wait(WAIT_S)
            return found

        sending, begin, begun = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
        objects._left_behind = and_then  # type: ignore[method-assign]
        sweeping = asyncio.ensure_future(objects.sweep_unfinished())
        await begin.wait()
        network, to = asker.network, asker.to
        body, most = body_of(3), len(body_of(3, stop=2))
        async with network.open_stream(to.key, to.address, Number.PUT_SHARE) as stream:
            await send_request(stream, asker.share(3))
            await stream.send(body[:most])
            await until(lambda: len(asker.blocks(3)) == 3, "nothing of it is written")
            begun.set()
            await sweeping
            await stream.send(body[most:])
            stream.end()
            kept = await read_reply(stream)
        assert isinstance(kept, ShareKept)
        assert kept.code == KeptCode.KEPT
        assert len(asker.blocks(3)) == 4, "what was kept has blocks that are gone"

    with_two(tmp_path, act)


def _asleep_after_its_walk(holder: HeldHolder) -> tuple[threading.Event, threading.Event]:
    """Let the next passes wait after they have looked; return what tells so, what ends it."""
    looked, may_go_on, walk = threading.Event(), threading.Event(), holder.life._walk

    def walk_and_wait(seen: _Seen, now: Now) -> None:
        walk(seen, now)
        looked.set()
        assert may_go_on.wait(WAIT_S)

    holder.life._walk = walk_and_wait  # type: ignore[method-assign]
    return looked, may_go_on


@pytest.mark.parametrize("is_last", [True, False])
def test_a_lease_that_is_renewed_while_a_pass_is_under_way_counts(
    tmp_path: Path, *, is_last: bool
) -> None:
    """Whether it was the last that wanted the blob, or one that had run out beside another."""

    clock = Shifted()

    async def act(asker: Asker) -> None:
        holder, network = asker.holder.member.holder, asker.network.settings.network
        ends = asker.lease(life_s=120)
        await asker.send(asker.share(1, lease=ends.encoded), body_of(1))
        if not is_last:
            other = asker.lease(owner=Identity(b"p" * 32))
            assert await asker.ask(Lease((other.encoded,))) == Leased((LeaseCode.TAKEN,))
        clock.ahead_s += 121
        looked, may_go_on = _asleep_after_its_walk(holder)
        async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
            swept = tasks.create_task(holder.life.sweep())
            await asyncio.to_thread(looked.wait)
            again = renew(
                OWNER, network, CID.digest, before=ends, unix_s=asker.unix_s + 121, life_s=3_600
            )
            assert await asker.ask(Lease((again.encoded,))) == Leased((LeaseCode.TAKEN,))
            may_go_on.set()
        assert swept.result() == 0
        (held,) = asker.holder.held()
        leases = holder.held.leases(held, asker.holder.node.context.now())
        assert leases[owner_hash(OWNER.peer_key.key)].signed == again.encoded

    with_two(tmp_path, act, clock=clock, min_age_s=0)


@pytest.mark.parametrize("when", ["ahead of the walk", "behind the walk"])
def test_what_comes_and_goes_while_a_pass_looks_is_counted_once(tmp_path: Path, when: str) -> None:
    async def act(asker: Asker) -> None:
        holder = asker.holder.member.holder
        for share in (1, 4):
            await asker.send(asker.share(share), body_of(share))
        looked, may_go_on, find_all = threading.Event(), threading.Event(), holder.held.all

        def wait() -> None:
            looked.set()
            assert may_go_on.wait(WAIT_S)

        def all_slowly(now: Now) -> Iterator[Held]:
            if when == "ahead of the walk":
                wait()
            yield from find_all(now)
            if when == "behind the walk":
                wait()

        holder.held.all = all_slowly  # type: ignore[method-assign,assignment]
        async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
            swept = tasks.create_task(holder.life.sweep())
            await asyncio.to_thread(looked.wait)
            assert (await asker.send(asker.share(2), body_of(2))).code == KeptCode.KEPT
            held = holder.held.find(CID, asker.holder.node.context.now())
            assert held is not None
            assert await holder.life.let_go(held, (1, 4))
            may_go_on.set()
        assert swept.result() == 0
        holder.held.all = find_all  # type: ignore[method-assign]
        counted = holder.view(), holder.life.quotas.used_by(owner_hash(OWNER.peer_key.key))
        await holder.life.sweep()
        there = holder.view(), holder.life.quotas.used_by(owner_hash(OWNER.peer_key.key))
        assert there[0].shares == 1
        assert counted == there, "a pass forgets what it did not see"

    with_two(tmp_path, act)


def test_of_two_that_send_one_share_and_wait_for_memory_one_may_send_it(tmp_path: Path) -> None:
    async def act(asker: Asker) -> None:
        await asker.send(asker.share(1), body_of(1))  # both are of one object then
        budget = asker.holder.node.context.budget
        drawn = await budget.draw(1 << 60)
        wrong = body_of(4)[:-1] + b"x"
        async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
            sent = [
                tasks.create_task(asker.send(asker.share(4), body))
                for body in (body_of(4), wrong)
            ]  # fmt: skip
            while budget.waiting_count < len(sent):
                await asyncio.sleep(0.02)
            budget.release(drawn)
        codes = sorted(task.result().code for task in sent)
        is_kept = codes == [KeptCode.KEPT, KeptCode.REFUSED]
        assert is_kept or codes == [KeptCode.BAD_BLOCK, KeptCode.REFUSED]
        assert len(asker.blocks(4)) == 4 * is_kept

    with_two(tmp_path, act)


def test_a_share_that_is_let_go_of_while_its_lease_is_taken_is_not_called_kept(
    tmp_path: Path,
) -> None:
    async def act(asker: Asker) -> None:
        for share in (1, 4):
            await asker.send(asker.share(share), body_of(share))
        holder = asker.holder.member.holder
        (held,) = asker.holder.held()
        take_lease = holder._take_lease

        async def take_later(encoded: bytes) -> tuple[LeaseCode, bytes]:
            assert await holder.life.let_go(held, (4,))
            return await take_lease(encoded)

        holder._take_lease = take_later  # type: ignore[method-assign]
        kept = await asker.send(asker.share(4), b"")
        assert (kept.code, kept.stripes) == (KeptCode.CUT_OFF, 0)
        assert (await asker.send(asker.share(4), body_of(4))).code == KeptCode.KEPT
        assert len(asker.blocks(4)) == 4

    with_two(tmp_path, act)


class Sent:
    """A share that is sent to another worker of a node; its last piece waits until it may go."""

    def __init__(self, body: bytes, last: bytes = b"") -> None:
        self._pieces, self.may_end = [last, body], asyncio.Event()
        if not last:
            self.may_end.set()

    @property
    def peer(self) -> object:
        """Who sends it."""
        return self

    async def receive(self) -> bytes:
        """Return the next bytes."""
        if len(self._pieces) == 1:
            await self.may_end.wait()
        return self._pieces.pop() if self._pieces else b""


async def other_worker(asker: Asker) -> HeldHolder:
    """Return what another worker of the holder would take shares with."""
    holder, member = asker.holder.member.holder, asker.holder.member
    other = HeldHolder(
        asker.holder.node.context, member.network, space=holder._space, sign=holder._sign
    )
    await other.life.sweep()
    return other


def test_what_broke_off_at_one_worker_does_not_count_once_another_has_the_blob(
    tmp_path: Path,
) -> None:
    async def act(asker: Asker) -> None:
        other = await other_worker(asker)
        kept = await other.put(Sent(body_of(4, stop=2)), asker.share(4))
        assert (kept.code, kept.stripes) == (KeptCode.CUT_OFF, 2)
        assert (await asker.send(asker.share(1), body_of(1))).code == KeptCode.KEPT
        kept = await other.put(Sent(body_of(4, 2)), asker.share(4, first_stripe=2))
        assert (kept.code, kept.stripes) == (KeptCode.CUT_OFF, 0)
        assert (await other.put(Sent(body_of(4)), asker.share(4))).code == KeptCode.KEPT
        assert len(asker.blocks(4)) == 4

    with_two(tmp_path, act)


def test_a_share_that_two_workers_take_at_once_is_kept_whole_or_not_at_all(
    tmp_path: Path,
) -> None:
    """What the other one does meanwhile: it refuses the share, keeps it, or lets go of it again."""

    async def act(asker: Asker) -> None:
        other, holder = await other_worker(asker), asker.holder.member.holder
        await asker.send(asker.share(1), body_of(1))
        body, most = body_of(4), len(body_of(4, stop=2))
        async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:

            async def begin(last: bytes) -> tuple[Sent, asyncio.Task[ShareKept]]:
                sent = Sent(body[:most], last)
                task = tasks.create_task(other.put(sent, asker.share(4)))
                while len(asker.blocks(4)) < 3:
                    await asyncio.sleep(0.02)
                return sent, task

            sent, task = await begin(body[most:])
            wrong = body[:-1] + b"x"
            assert (await asker.send(asker.share(4), wrong)).code == KeptCode.BAD_BLOCK
            sent.may_end.set()
            kept = await task
            assert (kept.code, kept.stripes) == (KeptCode.CUT_OFF, 0)
            assert not asker.blocks(4)

            sent, task = await begin(wrong[most:])
            assert (await asker.send(asker.share(4), body)).code == KeptCode.KEPT
            sent.may_end.set()
            assert (await task).code == KeptCode.BAD_BLOCK
            assert len(asker.blocks(4)) == 4

            (held,) = asker.holder.held()
            assert await holder.life.let_go(held, (4,))
            sent, task = await begin(body[most:])
            assert (await asker.send(asker.share(4), body)).code == KeptCode.KEPT
            (held,) = asker.holder.held()
            assert await holder.life.let_go(held, (4,))
            sent.may_end.set()
            kept = await task
            assert (kept.code, kept.stripes) == (KeptCode.CUT_OFF, 0)
        assert not asker.blocks(4)

    with_two(tmp_path, act)


def test_a_pass_that_saw_a_share_leaves_alone_what_comes_in_of_it_anew(tmp_path: Path) -> None:
    async def act(asker: Asker) -> None:
        context, holder = asker.holder.node.context, asker.holder.member.holder
        for share in (1, 4):
            await asker.send(asker.share(share), body_of(share))
        seen = holder.held.find(CID, context.now())
        assert seen is not None
        assert await holder.life.let_go(seen, (4,))
        body, most = body_of(4), len(body_of(4, stop=2))
        async with asker.network.open_stream(
            asker.to.key, asker.to.address, Number.PUT_SHARE
        ) as stream:
            await send_request(stream, asker.share(4))
            await stream.send(body[:most])
            async with asyncio.timeout(WAIT_S):
                while len(asker.blocks(4)) < 3:
                    await asyncio.sleep(0.05)
            assert not await holder.life._remove(seen, (1, 4), lambda *_: holder.held.end(seen, []))
            (shard,) = context.shards.shards
            key = coming_key(seen.row.object_id, 4)
            assert shard.get(Kind.META, key, now=context.now()), "a crash would leave its blocks"
            await stream.send(body[most:])
            stream.end()
            kept = await read_reply(stream)
        assert isinstance(kept, ShareKept)
        assert kept.code == KeptCode.KEPT

    with_two(tmp_path, act)
