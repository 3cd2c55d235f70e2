"""A pin of what other nodes have: fetched, kept, placed, and its leases renewed from then on."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from molia.base import limits
from molia.base.cid import Cid, Codec, ContentHash
from molia.base.errors import BlobNotFound, IntegrityFailure, MoliaError, NoHolders, NoSpace
from molia.base.hashing import blake3_digest
from molia.base.views import BlobInfo, JobView, PinView, PutOptions, PutResult
from molia.blobs.manifest import Manifest, cid_of_manifest
from molia.node import pinning
from molia.node.courier import lease_of
from molia.node.held import owner_hash
from molia.node.local import LocalNode
from molia.node.network_readers import info_of
from molia.node.service import BlobReader
from molia.store import keys
from molia.store.keys import Kind
from molia.store.ops import Put, Transaction
from molia.store.rows import PinRow
from tests.node.inside import Inside, Shifted, config_of, ended, running, until, with_network
from tests.node.process import body_of
from tests.node.test_reading_inside import SIZE, get, silence
from tests.node.test_spreading_inside import holdings

NODES = 5


def owners(node: Inside, cid: Cid) -> set[bytes]:
    """Return whose leases a node has of what it holds of a blob."""
    now = node.node.context.now()
    held = node.member.holder.held.find(cid, now)
    return set() if held is None else set(node.member.holder.held.leases(held, now))


def _all_owned(nodes: list[Inside], cid: Cid, owner: bytes) -> bool:
    return all(owner in owners(node, cid) for node in nodes)


def test_a_pin_fetches_and_keeps_what_its_first_publisher_no_longer_wants(tmp_path: Path) -> None:
    clock = Shifted()

    async def act(nodes: list[Inside]) -> None:
        first, pinner = nodes[0], nodes[-1]
        large = (await first.put(body_of(1, SIZE))).cid
        small = (await first.put(b"a small one" * 50)).cid
        for cid in (large, small):
            before = holdings(nodes, cid)
            kept = [node for node in nodes if node.key in before]
            view = await pinner.node.pin_blob(cid, pinned=True)
            assert view.info.pinned
            assert view.job is not None
            again = await pinner.node.pin_blob(cid, pinned=True)
            assert again.info.cid == cid
            done = await ended(pinner.node, view.job)
            assert (done.state.value, done.error) == ("done", "")
            assert done.progress["bytes"] == done.progress["size"] == view.info.size
            info = await pinner.node.blob_info(cid)
            assert (info.pinned, info.size) == (True, view.info.size)
            assert await pinner.node.pin_blob(cid, pinned=True) is not None
            others = [node for node in kept if node is not pinner]
            has_lease = partial(_all_owned, others, cid, owner_hash(pinner.key))
            await until(has_lease, "a holder has no lease of ours")
            after = holdings(nodes, cid)
            assert all(set(after[key]) >= set(before[key]) for key in before), "a share went"
            of_pinner = len(
                before.get(pinner.key, ())
            )  # who has all now counts once: others get it
            made = sum(map(len, after.values())) - sum(map(len, before.values()))
            assert made <= max(1, of_pinner), "it was placed anew"
            await first.node.delete_blob(cid)
        assert (await pinner.node.blob_health(large)).survives >= 1

        row = pinner.node.context.catalog.placed(large, pinner.node.context.now())
        assert row is not None
        lease = lease_of(row)
        assert lease is not None
        clock.ahead_s += 20 * 86_400
        assert await pinner.node._placements.renew_due() == 2
        renewed = pinner.node.context.catalog.placed(large, pinner.node.context.now())
        assert renewed is not None
        newer = lease_of(renewed)
        assert newer is not None
        assert newer.expires > lease.expires
        silence(first)
        assert await get(pinner, large) == body_of(1, SIZE)

    configs = [config_of() for _ in range(NODES)]
    with_network(tmp_path, act, configs, clocks=dict.fromkeys(range(NODES), clock))


async def _pin_soon(node: Inside, ref: ContentHash) -> PinView:
    """Pin what was put a moment ago: its content hash is announced some seconds later."""
    async with asyncio.timeout(60.0):
        while True:
            try:
                return await node.node.pin_blob(ref, pinned=True)
            except NoHolders:
                await asyncio.sleep(0.2)


def test_a_pin_by_content_hash_and_what_cannot_be_pinned(tmp_path: Path) -> None:
    async def act(nodes: list[Inside]) -> None:
        body = body_of(1, SIZE)
        put = await nodes[0].put(body)
        tiny = nodes[-1]
        view = await _pin_soon(nodes[1], ContentHash(blake3_digest(body)))
        assert view.info.cid == put.cid
        assert view.job is not None
        assert (await ended(nodes[1].node, view.job)).state.value == "done"
        assert (await nodes[1].node.blob_info(put.cid)).pinned
        absent = Cid(put.cid.codec, bytes(32))
        with pytest.raises((NoHolders, BlobNotFound)):
            await tiny.node.pin_blob(absent, pinned=True)
        with pytest.raises(BlobNotFound):
            await tiny.node.pin_blob(absent, pinned=False)
        object.__setattr__(tiny.node.context, "quota_bytes", 1)
        with pytest.raises(NoSpace):
            await tiny.node.pin_blob(put.cid, pinned=True)

    with_network(tmp_path, act, [config_of() for _ in range(3)])


def test_a_wish_outlives_a_restart_and_a_failure_and_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pinning, "AGAIN_S", 0.5)

    async def act(nodes: list[Inside]) -> None:
        body = body_of(1, SIZE)
        wanted, given_up = [(await nodes[0].put(body_of(n, SIZE))).cid for n in (1, 2)]
        home = tmp_path / "pinner"
        told = replace(config_of(offer=0), dht=nodes[1].node.context.config.dht)
        async with running(home, told) as pinner:
            pinner.node._pinning._hands = _Hands(pinner.node, {}, is_joined=False)
            await _wish(pinner, wanted, given_up)
            assert await pinner.node._pinning.end(given_up)
            with pytest.raises(BlobNotFound):
                await pinner.node.blob_info(wanted)
        async with running(home, told) as pinner:
            await until(lambda: _is_here(pinner, wanted), "the wish was forgotten", within_s=90.0)
            assert await get(pinner, wanted) == body
            assert not _is_here(pinner, given_up)
            (info,) = (
                await pinner.node.list_blobs(cursor=None, limit=9, state=None, pinned=True)
            ).blobs
            assert info.cid == wanted

    with_network(tmp_path, act, [config_of() for _ in range(3)])


@dataclass
class _Hands:
    """What is read for pins in place of what others hold; the rest nobody has."""

    node: LocalNode
    bodies: dict[Cid, bytes]
    error: MoliaError | None = None
    is_joined: bool = True

    async def open(self, cid: Cid) -> BlobReader:
        if cid not in self.bodies:
            raise NoHolders(cid, waited_s=0.0)
        return _Read(cid, self.bodies[cid], self.error)

    async def keep(self, chunks: AsyncIterator[bytes], options: PutOptions) -> PutResult:
        return await self.node.keep_fetched(chunks, options)


@dataclass
class _Read:
    cid: Cid
    body: bytes
    error: MoliaError | None

    @property
    def info(self) -> BlobInfo:
        return info_of(self.cid, size=len(self.body), content=bytes(32))

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        yield self.body[start:stop]
        if self.error is not None:
            raise self.error


async def _job_of(node: LocalNode, cid: Cid) -> JobView:
    """Return how a pin's job ended."""
    view = await node._pinning.begin(info_of(cid, size=SIZE, content=bytes(32)))
    return await ended(node, view.id)


async def test_only_a_manifest_that_lies_ends_a_wish(tmp_path: Path) -> None:
    async with running(tmp_path / "home", config_of(offer=0)) as it:
        node, body = it.node, body_of(1, SIZE)
        true = Manifest.decode((await node.blob_manifest((await it.put(body)).cid)).encoded)
        cid = cid_of_manifest(true.encode())
        lie = cid_of_manifest(Manifest(true.size, true.roots, bytes(32)).encode())
        await node.delete_blob(cid)
        hands = _Hands(node, {cid: body, lie: body})
        node._pinning._hands = hands

        hands.error = IntegrityFailure("what was added to this blob by others is not part of it")
        assert (await _job_of(node, cid)).state.value == "failed"
        assert node._pinning._is_wished(cid), "a stranger's word ended the wish"
        hands.error = None
        assert (await _job_of(node, cid)).state.value == "done"
        assert (await node.blob_info(cid)).pinned

        done = await _job_of(node, lie)
        assert (done.state.value, "not" in done.error) == ("failed", True)
        assert not node._pinning._is_wished(lie), "it is read for ever"


@pytest.mark.parametrize("jobs", [1, 2])
async def test_a_pin_that_is_removed_while_its_blob_begins_to_exist_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    """The blob comes when its PIN row was removed, and the job not ended yet."""
    async with running(tmp_path / "home", config_of(offer=0)) as it:
        node, body, go = it.node, b"wanted no more", asyncio.Event()
        cid, pins = Cid(Codec.RAW, blake3_digest(body)), it.node._pinning

        class Late(_Hands):
            async def open(self, cid: Cid) -> BlobReader:
                await go.wait()
                return await super().open(cid)

        pins._hands = Late(node, {cid: body})
        await pins.begin(info_of(cid, size=len(body), content=bytes(32)))
        for _ in range(jobs - 1):  # as when it was asked for twice at once
            await pins._start(cid, len(body), None)
        find = pins._running

        async def find_late(wanted: Cid) -> JobView | None:
            found = await find(wanted)
            go.set()
            await until(lambda: _is_here(it, cid), "the blob does not come")
            return found

        monkeypatch.setattr(pins, "_running", find_late)
        assert not (await node.pin_blob(cid, pinned=False)).info.pinned
        assert not (await node.blob_info(cid)).pinned, "it is pinned after all"


@pytest.mark.parametrize("absent", [0, 6])
async def test_all_pins_have_their_turn_whoever_has_none_of_the_first(
    tmp_path: Path, absent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PINS_COMING_MAX", 3)
    async with running(tmp_path / "home", config_of(offer=0)) as it:
        made = [b"somebody has this: %d" % n for n in range(8)]
        bodies = {Cid(Codec.RAW, blake3_digest(body)): body for body in made}
        hands = _Hands(it.node, bodies, is_joined=False)
        it.node._pinning._hands, it.node._pinning.again_s = hands, 0.1
        monkeypatch.setattr(pinning, "AGAIN_MAX_S", 0.2)
        await _wish(it, *(Cid(Codec.RAW, bytes((0, n, *bytes(30)))) for n in range(absent)))
        await _wish(it, *bodies)
        hands.is_joined = True
        await until(lambda: all(_is_here(it, cid) for cid in bodies), "a pin is not fetched")


async def _wish(node: Inside, *cids: Cid) -> None:
    """Write what a pin writes before anything is fetched, as a restored backup does."""
    for cid in cids:
        put = Put(Kind.META, keys.pin_key(cid), PinRow(1).encode())
        await node.node.context.home_writer(cid).write(Transaction((put,)))


def _is_here(node: Inside, cid: Cid) -> bool:
    return node.node.context.catalog.bound(cid, node.node.context.now()) is not None
