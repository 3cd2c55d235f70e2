"""Reads through the network over real sockets: whatever the holders do, right bytes or a reason."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from molia.base.cid import Cid, Codec
from molia.base.errors import (
    BlobNotFound,
    Busy,
    IntegrityFailure,
    LookupTimedOut,
    NoHolders,
    NotJoined,
    SharesOutOfReach,
)
from molia.base.hashing import blake3_digest
from molia.base.ids import PeerKey
from molia.base.limits import BUFFER_WORKER_MIN_BYTES, READS_MAX
from molia.base.views import PutOptions
from molia.blobs.manifest import cid_of_bytes
from molia.blobs.one_read import GatherConfig
from molia.dht.providers import Kind, Provided
from molia.node.budget import Budget
from molia.node.network_readers import HintedReader
from molia.node.stored import parts_here
from tests.blobs.remote import coded
from tests.node.holders import Holder, World, fourteen, open_world, world
from tests.node.inside import until

KIB = 1024
BLOB = coded(2_600_000)
BIG = coded(3 * 2_621_440 + 5)
CID = BLOB.manifest.cid
LIES = ("wrong", "truncated", "endless", "stale", "stalled", "slow", "mute", "gone", "forger",
        "refusing")  # fmt: skip
PATIENT = GatherConfig(
    hedge_min_s=60.0, hedge_max_s=60.0, manifest_hedge_s=60.0, block_s=120.0, progress_s=120.0
)
"""For tests that count who is asked, on a machine that may be busy."""
HEDGING = GatherConfig(lookup_s=60.0, manifest_s=60.0, block_s=60.0, progress_s=120.0)
"""For tests in which somebody else is asked soon, however patient a read is with each holder."""
SOON_S = 30.0
"""Far less than that, and far more than a busy machine stands still."""
SMALL = random.Random(5).randbytes(40_000)


def bad(count: int, manners: str) -> dict[int, str]:
    """Return manners for some of fourteen holders, of data and of parity."""
    return dict.fromkeys((0, 4, 9, 12)[:count], manners)


async def test_healthy_holders_of_data_are_asked_and_nobody_decodes(tmp_path: Path) -> None:
    async with world(tmp_path / "home", fourteen(BIG)) as it:
        it.fetcher.patience = PATIENT
        assert await it.read(BIG.manifest.cid) == BIG.data
        assert it.metrics.get("decoded", 0) == 0
        assert sum(len(holder.asked) for holder in it.holders.values()) == 40 - 9


async def test_a_small_range_asks_one_holder_and_the_next_one_nobody_anew(tmp_path: Path) -> None:
    async with world(tmp_path / "home", fourteen(BIG)) as it:
        it.fetcher.patience = PATIENT
        cid, at = BIG.manifest.cid, 5_000_000
        for _ in range(2):
            assert await it.read(cid, at, at + 64 * KIB) == BIG.data[at : at + 64 * KIB]
        asked = [place for holder in it.holders.values() for place in holder.asked]
        assert len(asked) == 2
        assert it.look_ups == 1
        assert sum(holder.manifests for holder in it.holders.values()) == 1


async def test_any_four_of_fourteen_may_be_gone(tmp_path: Path) -> None:
    drawn = random.Random(11).sample(list(combinations(range(14), 4)), 50)
    async with world(tmp_path / "home", fourteen(BLOB)) as it:
        (providers,) = it.found.values()
        for gone in drawn:  # a holder that is not found is one that was killed, at no cost
            it.found[CID] = [each for n, each in enumerate(providers) if n not in gone]
            it.fetcher.finds.forget(CID)
            it.fetcher.finds.get(CID).shares.clear()
            assert await it.read(CID) == BLOB.data


@pytest.mark.parametrize("manners", LIES)
async def test_four_bad_holders_are_survived(tmp_path: Path, manners: str) -> None:
    told: set[PeerKey] = set()
    async with world(tmp_path / "home", fourteen(BLOB, bad(4, manners))) as it:
        it.fetcher.patience = HEDGING
        it.fetcher.on_lie.append(lambda _cid, key, _share: told.add(key))
        async with asyncio.timeout(SOON_S):
            assert await it.read(CID) == BLOB.data
        liars = {
            holder.number for holder in it.holders.values() if holder.identity.peer_key in told
        }
        assert len(liars) == len(told)
        if manners in ("wrong", "truncated", "endless", "forger"):
            # parity is asked for as it is near; who lied about the manifest is asked last
            assert {0, 4, 9} <= liars <= {0, 4, 9, 12}
            assert it.metrics["lies"] >= len(liars)
        else:
            assert not liars
            assert "lies" not in it.metrics


async def test_four_different_liars_at_once_are_recorded_and_asked_last(tmp_path: Path) -> None:
    manners = {0: "wrong", 3: "stalled", 6: "endless", 9: "truncated"}
    told: list[int | None] = []
    async with world(tmp_path / "home", fourteen(BIG, manners)) as it:
        it.fetcher.on_lie.append(lambda _cid, _key, share: told.append(share))
        assert await it.read(BIG.manifest.cid) == BIG.data
        assert sorted(told, key=str) == [0, 6, 9]
        assert it.metrics["lies"] == 3
        asked = len(it.holders[0].asked)
        assert await it.read(BIG.manifest.cid) == BIG.data
        assert len(it.holders[0].asked) == asked


async def test_nine_of_ten_is_said_with_who_was_asked(tmp_path: Path) -> None:
    holders = fourteen(BLOB, dict.fromkeys(range(5), "stale"))
    async with world(tmp_path / "home", holders) as it:
        with pytest.raises(SharesOutOfReach, match="9 of 10 needed shares") as caught:
            await it.read(CID)
        assert len(caught.value.asked) == 14
        assert "does not have" in str(caught.value)


async def test_a_blob_that_nobody_has_fails_with_a_reason(tmp_path: Path) -> None:
    async with open_world(tmp_path / "home", []) as it:
        for cid in (CID, cid_of_bytes(b"x")):
            with pytest.raises(NoHolders):
                await it.read(cid)
        it.look_up_error = LookupTimedOut("too few nodes answered")
        with pytest.raises(LookupTimedOut):
            await it.read(CID)


async def test_of_a_search_that_takes_too_long_nobody_hears_that_there_is_none(
    tmp_path: Path,
) -> None:
    async with open_world(tmp_path / "home", []) as it:
        assert it.fetcher.patience.lookup_s <= 10
        it.fetcher.patience = GatherConfig(lookup_s=0.2)
        it.look_up_s = 60.0
        with pytest.raises(LookupTimedOut):
            await it.read(CID)


async def test_a_read_goes_on_with_whom_the_search_has_found_so_far(tmp_path: Path) -> None:
    async with world(tmp_path / "home", fourteen(BLOB)) as it:
        it.heard_first, it.found, it.look_up_s = it.found, {}, 60.0
        it.fetcher.patience = HEDGING
        async with asyncio.timeout(SOON_S):
            assert await it.read(CID) == BLOB.data


async def test_who_lacks_a_share_is_not_asked_for_it_again_when_more_is_heard(
    tmp_path: Path,
) -> None:
    async with world(tmp_path / "home", fourteen(BLOB)) as it:
        (providers,) = it.found.values()
        it.holders[0].shares = ()
        it.heard_first, it.found = {CID: providers[:10]}, {}
        it.look_up_s = 60.0
        reading = asyncio.ensure_future(it.read(CID))
        async with asyncio.timeout(SOON_S):
            while not it.holders[0].asked:
                await asyncio.sleep(0.01)
        find = it.fetcher.finds.get(CID)
        for provider in providers[10:]:
            find.take([provider], own=it.node.context.peer)
            find.tell()
            await asyncio.sleep(0.01)
        assert await reading == BLOB.data
        assert len(it.holders[0].asked) == 1


async def test_who_began_before_anything_was_here_is_not_sent_to_our_own_shares(
    tmp_path: Path,
) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield BLOB.data

    async with world(tmp_path / "home", fourteen(BLOB)) as it:
        await it.node.put_blob(body(), PutOptions())
        here = parts_here(it.node.context, CID)
        it.look_up_s = 0.5
        first = asyncio.ensure_future(it.read(CID))  # as one does that found nothing here
        await asyncio.sleep(0)
        await it.fetcher.open(CID, here)
        assert await first == BLOB.data
        assert it.look_ups == 1


async def test_readers_of_one_blob_share_its_search(tmp_path: Path) -> None:
    async with world(tmp_path / "home", fourteen(BLOB)) as it:
        it.look_up_s = 0.05
        got = await asyncio.gather(*(it.read(CID) for _ in range(8)))
        assert set(got) == {BLOB.data}
        assert it.look_ups == 1


async def test_a_holder_of_everything_that_is_busy_at_first_is_asked_again(tmp_path: Path) -> None:
    holder = Holder(0, BLOB, tuple(range(14)), "busy")
    async with world(tmp_path / "home", [holder]) as it:
        assert await it.read(CID) == BLOB.data


async def test_holders_that_were_killed_and_came_back_are_read_from(tmp_path: Path) -> None:
    async with world(tmp_path / "home", fourteen(BLOB, dict.fromkeys(range(4), "gone"))) as it:
        assert await it.read(CID) == BLOB.data
        for holder in list(it.holders.values())[4:]:
            await holder.restart(it.node.context.offload)
        it.fetcher.patience = GatherConfig(block_s=60.0)
        assert await it.read(CID) == BLOB.data


async def test_a_reader_that_leaves_ends_what_was_asked(tmp_path: Path) -> None:
    holders = fourteen(BLOB, dict.fromkeys(range(14), "stalled"))
    async with world(tmp_path / "home", holders) as it:
        reader = await it.fetcher.open(CID)
        waiting = asyncio.ensure_future(_take_all(reader.read(0, 100)))
        await until(lambda: any(holder.asked for holder in it.holders.values()), "nobody is asked")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert not it.fetcher._running
        assert it.node.context.budget.used_bytes == 0
        assert not it.fetcher.network._streams


async def _take_all(chunks: AsyncIterator[bytes], given: list[bytes] | None = None) -> None:
    async for chunk in chunks:
        if given is not None:
            given.append(chunk)


async def test_a_slow_reader_makes_nobody_hold_more_than_four_stripes(tmp_path: Path) -> None:
    blob = coded(8 * 2_621_440)
    async with world(tmp_path / "home", fourteen(blob)) as it:
        reader = await it.fetcher.open(blob.manifest.cid)
        chunks = reader.read(0, blob.manifest.size)
        first = await anext(chunks)

        def asked() -> set[int]:
            return {stripe for holder in it.holders.values() for _, stripe in holder.asked}

        await until(lambda: asked() >= {0, 1, 2, 3}, "four stripes are not asked for")
        await asyncio.sleep(0.5)  # nothing to wait for: it is to be seen that nothing comes
        assert asked() == {0, 1, 2, 3}
        rest = [chunk async for chunk in chunks]
        assert first + b"".join(rest) == blob.data


async def test_two_blobs_that_are_fetched_to_be_kept_do_not_wait_for_each_other(
    tmp_path: Path,
) -> None:
    """As two pins are, by a worker that has as little memory for stripes as one may have."""
    blobs = [coded(4 * 2_621_440 + 5, seed=seed) for seed in (1, 2)]
    holders = [Holder(n, blobs[n // 14], (n % 14,)) for n in range(28)]
    async with world(tmp_path / "home", holders) as it:
        budget = Budget(BUFFER_WORKER_MIN_BYTES, wait_s=60.0)
        object.__setattr__(it.node.context, "budget", budget)

        async def keep(cid: Cid) -> Cid:
            reader = await it.fetcher.open(cid)
            size = reader.info.size
            return (await it.node.put_blob(reader.read(0, size), PutOptions(size=size))).cid

        cids = [blob.manifest.cid for blob in blobs]
        assert await asyncio.gather(*(keep(cid) for cid in cids)) == cids
        assert budget.used_bytes == 0


async def test_too_many_reads_at_once_are_told_so(tmp_path: Path) -> None:
    async with world(tmp_path / "home", fourteen(BLOB)) as it:
        reader = await it.fetcher.open(CID)
        it.fetcher._running |= {object() for _ in range(READS_MAX)}  # type: ignore[misc]
        with pytest.raises(Busy):
            await _take_all(reader.read(0, 10))
        it.fetcher._running.clear()


# ---------------------------------------------------------------------------- small blobs


@pytest.mark.parametrize("manners", ["wrong", "stale", "stalled", "gone", "refusing", "endless"])
async def test_a_small_blob_comes_from_one_that_keeps_it(tmp_path: Path, manners: str) -> None:
    cid = cid_of_bytes(SMALL)
    holders = [Holder(n, BLOB, (), manners if n < 4 else "good", SMALL) for n in range(5)]
    async with open_world(tmp_path / "home", holders) as it:
        it.found[cid] = [holder.provider for holder in it.holders.values()]
        assert await it.read(cid) == SMALL
        assert await it.read(cid, 5, 90) == SMALL[5:90]


# ---------------------------------------------------------------------------- content hashes


def binding(it: World, manifest: Cid, content: bytes) -> Cid:
    """Let a stranger say that a manifest is a content's; return the content's own CID."""
    named = Cid(Codec.RAW, content)
    record, _ = it.holders[0].provider
    it.found[named] = [(replace(record, kind=Kind.BINDING), Provided(manifest=manifest))]
    return named


async def test_a_content_hash_leads_to_the_blob(tmp_path: Path) -> None:
    async with world(tmp_path / "home", fourteen(BLOB)) as it:
        named = binding(it, CID, BLOB.manifest.content)
        reader = await it.fetcher.open_ref(named, BlobNotFound(named))
        assert isinstance(reader, HintedReader)
        assert reader.info.cid == CID
        part = [chunk async for chunk in reader.read(70_000, 90_000)]
        assert b"".join(part) == BLOB.data[70_000:90_000]
        asked = sum(len(holder.asked) for holder in it.holders.values())
        assert asked >= 11, "all of it was read before the part was given"
        whole = [chunk async for chunk in reader.read(0, reader.info.size)]
        assert b"".join(whole) == BLOB.data


async def test_a_manifest_that_claims_another_content_gives_no_byte(tmp_path: Path) -> None:
    lie = blake3_digest(b"what the reader wants")
    manifest = replace(BLOB.manifest, content=lie)
    forged = replace(BLOB, manifest=manifest)
    async with world(tmp_path / "home", fourteen(forged)) as it:
        named = binding(it, manifest.cid, lie)
        reader = await it.fetcher.open_ref(named, BlobNotFound(named))
        with pytest.raises(IntegrityFailure):
            await _take_all(reader.read(5, 10))
        given: list[bytes] = []
        with pytest.raises(IntegrityFailure):
            await _take_all(reader.read(0, reader.info.size), given)
        assert sum(map(len, given)) < reader.info.size
        other = binding(it, manifest.cid, BLOB.manifest.content)
        with pytest.raises(NoHolders):
            await it.fetcher.open_ref(other, BlobNotFound(other))


# ---------------------------------------------------------------------------- alone, or beginning


async def test_a_node_alone_says_that_it_has_no_such_blob(tmp_path: Path) -> None:
    async with open_world(tmp_path / "home", []) as it:
        it.is_joined = it.may_join = False
        with pytest.raises(BlobNotFound):
            await it.fetcher.open_ref(CID, BlobNotFound(CID))
        it.may_join, it.fetcher.join_wait_s = True, 0.1
        with pytest.raises(NotJoined):
            await it.fetcher.open_ref(CID, BlobNotFound(CID))
