"""A node keeps what others bring, as far as it offers, and refuses everything bad."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from molia.base.cid import Cid, Codec
from molia.base.config import Config, LeaseConfig
from molia.base.crypto import Identity
from molia.base.errors import Busy, ConnectionLost, NoSpace
from molia.base.hashing import blake3_digest
from molia.base.limits import WHOLE_SHARE
from molia.blobs.leases import release, renew
from molia.blobs.manifest import Manifest
from molia.blobs.statements import Statement
from molia.node.asking_blobs import Holder, ask_have
from molia.node.held import owner_hash
from molia.node.stream_messages import read_reply, send_request
from molia.node.system import SystemClock
from molia.store.keys import Kind, split_block_key
from molia.store.ops import Reply, Transaction
from molia.wire.blob_messages import (
    KeptCode,
    Lease,
    LeaseCode,
    Leased,
    Offer,
    OfferCode,
    Offered,
    PutShare,
    ShareKept,
)
from molia.wire.messages import Error, ErrorCode, Message, Number, decode
from tests.blobs.shell import LEAVES, stored
from tests.node.inside import OFFER, WAIT_S, Inside, Shifted, config_of, with_network
from tests.node.scan import assert_no_orphans

MANIFEST, STORE, _ = stored(5_300_000)
"""A blob of three stripes."""
CID = MANIFEST.cid
OWNER = Identity(b"o" * 32)
ASK_S = 30.0
SMALL = b"kept whole"
SMALL_CID = Cid(Codec.RAW, blake3_digest(SMALL))


class Asker:
    """A node that asks another one what a publisher would, well or badly."""

    def __init__(self, asker: Inside, holder: Inside) -> None:
        self.network, self.holder = asker.member.network, holder
        self.to = Holder(holder.node.context.peer, holder.member.network.driver.pumps[0].address)
        self.unix_s = asker.node.context.now().unix_s

    def lease(self, cid: Cid = CID, *, owner: Identity = OWNER, life_s: int = 3_600) -> Statement:
        """Return a lease."""
        network = self.network.settings.network
        return renew(owner, network, cid.digest, before=None, unix_s=self.unix_s, life_s=life_s)

    async def ask(self, message: Message) -> Message:
        """Return the answer to a datagram."""
        return await self.network.ask(self.to.key, self.to.address, message, timeout_s=ASK_S)

    async def ask_raw(self, number: int, body: bytes) -> Message | None:
        """Return the answer to bytes that are no message."""
        network = self.network
        request_id = network.transport.ask_at(
            self.to.key, self.to.address, number, body, self.holder.node.context.now(),
            timeout_s=ASK_S,
        )  # fmt: skip
        assert request_id is not None
        done = network._waiting[request_id] = asyncio.get_running_loop().create_future()
        network.driver.flush()
        ended = await done
        return decode(ended.number, ended.body)

    def blocks(self, share: int) -> list[bytes]:
        """Return the keys of what is stored of a share, complete or not."""
        context = self.holder.node.context
        rows = [
            row.key
            for shard in context.shards.shards
            for row in shard.scan(Kind.BLOCK, b"", now=context.now(), limit=1_000)
        ]
        return [key for key in rows if split_block_key(key).share == share]

    def share(self, number: int, **changes: object) -> PutShare:
        """Return the head of a share."""
        head = PutShare(
            cid=CID, share=number, manifest=MANIFEST.encode(), lease=self.lease().encoded
        )
        return replace(head, **changes)  # type: ignore[arg-type]

    async def send(self, head: PutShare, body: bytes) -> ShareKept:
        """Send a share to its end; return what is said of it."""
        async with self.network.open_stream(
            self.to.key, self.to.address, Number.PUT_SHARE
        ) as stream:
            with contextlib.suppress(ConnectionLost):  # a holder stops reading what it refuses
                await send_request(stream, head)
                await stream.send(body)
                stream.end()
            kept = await read_reply(stream)
            assert isinstance(kept, ShareKept)
            return kept


def body_of(share: int, first_stripe: int = 0, *, stop: int | None = None) -> bytes:
    """Return what follows the head of a share."""
    stripes = range(first_stripe, MANIFEST.geometry.stripe_count if stop is None else stop)
    blocks = [STORE.values.get((stripe, share), b"") for stripe in stripes]
    return b"".join((STORE.values[LEAVES, share], *blocks))


def _offering(*, offer: int = OFFER, owner_percent: int = 100, min_age_s: int = 3_600) -> Config:
    config = config_of(offer=offer, owner_percent=owner_percent)
    # its pass is made by who tests it: one of its own in the midst of that would take what is to go
    return replace(config, leases=LeaseConfig(min_age_s=min_age_s, sweep_s=86_400))


def with_two(
    directory: Path, act: Callable[[Asker], Awaitable[None]], *,
    clock: Shifted | None = None, **settings: int,
) -> None:  # fmt: skip
    """Act on a node that offers space, through another. clock: its own."""

    async def both(nodes: list[Inside]) -> None:
        await act(Asker(nodes[0], nodes[1]))

    clocks: dict[int, SystemClock] = {} if clock is None else {1: clock}
    with_network(directory, both, [config_of(), _offering(**settings)], clocks=clocks)
    assert_no_orphans(directory / "home1")


def test_a_share_is_kept_with_its_lease_and_is_there_after_a_restart(tmp_path: Path) -> None:
    async def first(asker: Asker) -> None:
        offered = await asker.ask(
            Offer(cid=CID, size=MANIFEST.size, shares=(3, 11), owner=OWNER.peer_key.key)
        )
        assert isinstance(offered, Offered)
        assert (offered.code, offered.accepted, offered.kept) == (OfferCode.YES, (3, 11), ())
        kept = await asker.send(asker.share(11), body_of(11))
        assert (kept.code, kept.stripes) == (KeptCode.KEPT, 3)
        assert kept.provider, "the publisher can announce it"
        small = asker.share(
            WHOLE_SHARE, cid=SMALL_CID, manifest=b"", size=len(SMALL),
            lease=asker.lease(SMALL_CID).encoded,
        )  # fmt: skip
        assert (await asker.send(small, SMALL)).code == KeptCode.KEPT
        again = await asker.send(asker.share(11), b"")
        assert again.code == KeptCode.KEPT, "who sends it again is told at once"
        assert asker.holder.member.holder.view().shares == 2

    async def second(asker: Asker) -> None:
        large, small, other = await ask_have(
            asker.network, asker.to, (CID, SMALL_CID, Cid(Codec.RAW, b"n" * 32)), timeout_s=ASK_S
        )
        assert (large.shares, large.whole) == ((1 << 11).to_bytes(2, "little"), False)
        assert (small.whole, other.whole, other.shares) == (True, False, b"")
        holder = asker.holder.member.holder
        assert holder.view().shares == 2
        assert holder.view().held_bytes > 2 * 262_144
        offer = Offer(cid=CID, size=MANIFEST.size, shares=(3, 11), owner=OWNER.peer_key.key)
        offered = await asker.ask(offer)
        assert isinstance(offered, Offered)
        assert (offered.accepted, offered.kept) == ((3,), (11,))

    with_two(tmp_path, first)
    with_two(tmp_path, second)


def test_every_bad_message_gets_a_refusal_and_a_counter_and_leaves_nothing(tmp_path: Path) -> None:
    forged = bytearray(renew(OWNER, bytes(32), CID.digest, before=None, unix_s=1, life_s=1).encoded)

    async def act(asker: Asker) -> None:
        wrong_leaf = bytearray(body_of(2))
        wrong_leaf[5] ^= 1
        wrong_block = bytearray(body_of(2))
        wrong_block[-1] ^= 1
        other = Manifest(MANIFEST.size, MANIFEST.roots[::-1], MANIFEST.content)
        ended = asker.lease(life_s=0).encoded
        bad = [
            (asker.share(2, lease=bytes(forged)), body_of(2), KeptCode.BAD_LEASE),
            (asker.share(2, lease=ended), body_of(2), KeptCode.BAD_LEASE),
            (asker.share(2, lease=asker.lease(SMALL_CID).encoded), b"", KeptCode.BAD_LEASE),
            (asker.share(2, manifest=b"none"), body_of(2), KeptCode.BAD_MANIFEST),
            (asker.share(2, manifest=other.encode()), body_of(2), KeptCode.BAD_MANIFEST),
            (asker.share(3), body_of(2), KeptCode.BAD_BLOCK),
            (asker.share(2), bytes(wrong_leaf), KeptCode.BAD_BLOCK),
            (asker.share(2), bytes(wrong_block), KeptCode.BAD_BLOCK),
            (asker.share(2), body_of(2) + b"x", KeptCode.BAD_BLOCK),
            (asker.share(2), body_of(2)[:40], KeptCode.CUT_OFF),
            (asker.share(2, first_stripe=1), body_of(2, 1), KeptCode.CUT_OFF),
            (asker.share(20, root=bytes(32)), body_of(2), KeptCode.REFUSED),
        ]
        for head, body, code in bad:
            kept = await asker.send(head, body)
            assert kept.code == code, (code, kept)
            assert asker.holder.count(f"share_{code.name.lower()}")
        for number, event in (
            (Number.OFFER, "offer_bad"), (Number.HAVE, "have_bad"),
            (Number.LEASE, "lease_bad_message"),
        ):  # fmt: skip
            for body in (b"", b"\xff" * 20, b"\x0a\x01x"):
                assert await asker.ask_raw(number, body) == Error(code=ErrorCode.BAD_MESSAGE)
            assert asker.holder.count(event) == 3
        leased = await asker.ask(Lease((bytes(forged), asker.lease().encoded)))
        assert leased == Leased((LeaseCode.BAD, LeaseCode.NOT_HERE))
        assert asker.holder.member.holder.view().shares == 0
        assert asker.holder.member.holder.life.quotas.used_bytes == 0

    with_two(tmp_path, act)


def test_a_share_that_broke_off_goes_on_where_it_stopped(tmp_path: Path) -> None:
    async def act(asker: Asker) -> None:
        async with asker.network.open_stream(
            asker.to.key, asker.to.address, Number.PUT_SHARE
        ) as stream:
            await send_request(stream, asker.share(4))
            await stream.send(body_of(4, stop=2))
            stripes = 0
            async with asyncio.timeout(WAIT_S):
                while stripes < 2:  # what is on the disk is not told until the stream ends
                    await asyncio.sleep(0.05)
                    stripes = len(asker.blocks(4)) > 2
                    stripes *= 2
        async with asyncio.timeout(WAIT_S):
            (held,) = await ask_have(asker.network, asker.to, (CID,), timeout_s=ASK_S)
            while not held.partial:
                await asyncio.sleep(0.05)
                (held,) = await ask_have(asker.network, asker.to, (CID,), timeout_s=ASK_S)
        assert held.partial == ((4, 2),)
        kept = await asker.send(asker.share(4, first_stripe=2), body_of(4, 2))
        assert (kept.code, kept.stripes) == (KeptCode.KEPT, 3)

    with_two(tmp_path, act)


def test_offers_end_with_the_room_and_with_what_one_owner_may_have(tmp_path: Path) -> None:
    async def act(asker: Asker) -> None:
        async def code(owner: Identity, shares: tuple[int, ...]) -> tuple[int, int]:
            offer = Offer(cid=CID, size=MANIFEST.size, shares=shares, owner=owner.peer_key.key)
            said = await asker.ask(offer)
            assert isinstance(said, Offered)
            return said.code, len(said.accepted)

        assert await code(OWNER, tuple(range(10))) == (OfferCode.YES, 2)
        for share in (0, 1):
            assert (await asker.send(asker.share(share), body_of(share))).code == KeptCode.KEPT
        assert await code(OWNER, (2,)) == (OfferCode.QUOTA, 0)
        assert (await asker.send(asker.share(2), body_of(2))).code == KeptCode.QUOTA
        other = Identity(b"p" * 32)
        assert await code(other, (2, 3, 4)) == (OfferCode.YES, 2)
        for share in (2, 3):
            head = asker.share(share, lease=asker.lease(owner=other).encoded)
            await asker.send(head, body_of(share))
        assert asker.holder.count("share_quota") >= 1

    # room for four shares of 550 kB, half of it for one owner
    with_two(tmp_path, act, offer=2_400_000, owner_percent=50)


def test_a_share_whose_rows_could_not_be_written_is_asked_for_again_and_kept(
    tmp_path: Path,
) -> None:
    async def act(asker: Asker) -> None:
        (writer,) = asker.holder.node.context.shards.own
        write = writer.write

        async def busy_once(transaction: Transaction) -> Reply:
            if transaction.guard is None:
                return await write(transaction)
            writer.write = write  # type: ignore[method-assign]
            raise Busy("the disk is slow")

        writer.write = busy_once  # type: ignore[method-assign]
        assert (await asker.send(asker.share(4), body_of(4))).code == KeptCode.REFUSED
        (held,) = await ask_have(asker.network, asker.to, (CID,), timeout_s=ASK_S)
        assert (held.shares, held.partial) == (b"", ((4, 3),))
        kept = await asker.send(asker.share(4, first_stripe=3), body_of(4, 3))
        assert (kept.code, kept.stripes) == (KeptCode.KEPT, 3)

    with_two(tmp_path, act)


def test_a_holder_whose_disk_fills_up_at_the_last_row_says_so(tmp_path: Path) -> None:
    async def act(asker: Asker) -> None:
        (writer,) = asker.holder.node.context.shards.own
        write = writer.write

        async def is_full(transaction: Transaction) -> Reply:
            if transaction.guard is None:
                return await write(transaction)
            raise NoSpace("the disk is full")

        small = asker.share(
            WHOLE_SHARE, cid=SMALL_CID, manifest=b"", size=len(SMALL),
            lease=asker.lease(SMALL_CID).encoded,
        )  # fmt: skip
        writer.write = is_full  # type: ignore[method-assign]
        assert (await asker.send(small, SMALL)).code == KeptCode.NO_ROOM
        assert (await asker.send(asker.share(4), body_of(4))).code == KeptCode.NO_ROOM
        assert not asker.blocks(4)
        assert asker.holder.count("share_no_room") == 2
        writer.write = write  # type: ignore[method-assign]

    with_two(tmp_path, act)


def test_an_owner_has_room_again_as_soon_as_its_shares_are_gone(tmp_path: Path) -> None:
    async def act(asker: Asker) -> None:
        lease, network = asker.lease(), asker.network.settings.network
        for share in (0, 1):
            await asker.send(asker.share(share, lease=lease.encoded), body_of(share))
        ended = release(OWNER, network, CID.digest, before=lease, unix_s=asker.unix_s)
        assert await asker.ask(Lease((ended.encoded,))) == Leased((LeaseCode.TAKEN,))
        holder = asker.holder.member.holder
        assert await holder.life.sweep() == 1
        assert holder.life.quotas.used_by(owner_hash(OWNER.peer_key.key)) == 0
        assert (holder.view().shares, holder.view().held_bytes) == (0, 0)
        again = renew(OWNER, network, CID.digest, before=ended, unix_s=asker.unix_s, life_s=3_600)
        head = asker.share(0, lease=again.encoded)
        assert (await asker.send(head, body_of(0))).code == KeptCode.KEPT

    with_two(tmp_path, act, offer=2_400_000, owner_percent=50, min_age_s=0)


def test_a_released_share_goes_and_an_older_lease_does_not_bring_it_back(tmp_path: Path) -> None:
    async def act(asker: Asker) -> None:
        lease = asker.lease()
        await asker.send(asker.share(1, lease=lease.encoded), body_of(1))
        network = asker.network.settings.network
        ended = release(OWNER, network, CID.digest, before=lease, unix_s=asker.unix_s)
        assert await asker.ask(Lease((ended.encoded,))) == Leased((LeaseCode.TAKEN,))
        older = await asker.ask(Lease((lease.encoded,)))
        assert older == Leased((LeaseCode.OLDER,), (ended.encoded,))
        holder = asker.holder.member.holder
        assert await holder.life.sweep() == 1
        assert (holder.view().shares, holder.view().held_bytes) == (0, 0)
        assert await holder.life.sweep() == 0

    with_two(tmp_path, act, min_age_s=0)
