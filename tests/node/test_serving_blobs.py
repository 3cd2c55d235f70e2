"""What a node gives others of its blobs: what it has and can prove, in bounds, and never a lie."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, cast

import pytest

from molia.base import limits
from molia.base.cid import Cid
from molia.base.crypto import Identity
from molia.base.errors import ConnectionLost, PeerLacks, PeerRefused, SharesOutOfReach
from molia.base.hashing import blake3_digest
from molia.base.limits import SERVED_MAX, SERVED_PER_PEER_MAX, TOTAL_SHARES, WHOLE_SHARE
from molia.base.views import PutOptions
from molia.blobs.elastic import Supplement
from molia.blobs.manifest import Manifest, cid_of_manifest
from molia.blobs.merkle import verify_path
from molia.dht.providers import Kind, Provided, ProviderRecord, share_bitmap
from molia.node import fetching, serving_blobs
from molia.node.app import open_node
from molia.node.asking_blobs import (
    Block,
    Holder,
    Run,
    ask_manifest,
    ask_run,
    ask_whole,
)
from molia.node.catalog import Bound
from molia.node.fetching import Fetcher
from molia.node.home import init_home
from molia.node.local import LocalNode
from molia.node.network import Network
from molia.node.pieces import Pieces
from molia.node.reads import LocalReader
from molia.node.serving_blobs import BlobServer
from molia.node.stream_messages import read_all, read_reply, send_request
from molia.node.whereabouts import Find, Provider
from molia.store import keys
from molia.store.keys import Kind as StoreKind
from molia.store.ops import Delete, Put, Transaction
from molia.wire import blob_messages as said
from molia.wire import messages
from molia.wire.messages import Number
from molia.wire.scores import Standing
from tests.node.holders import CONFIG, network_of
from tests.node.process import body_of

SIZE = 2 * 2_621_440 + 70_000
BODY = body_of(8, SIZE)
SMALL = body_of(9, 50_000)


async def ask_block(
    network: Network, holder: Holder, cid: Cid, *, share: int, stripe_index: int, size: int,
    leaf_count: int,
) -> Block | None:  # fmt: skip
    """Ask for a run of one block."""
    found: list[Block | None] = []
    wanted = Run(share, stripe_index, (size,), leaf_count)
    await ask_run(network, holder, cid, wanted, on_block=lambda _, block: found.append(block))
    return found[0]


@dataclass
class Place:
    """A node with its store that serves, and reads from the others of its world."""

    node: LocalNode
    network: Network
    address: tuple[str, int]
    fetcher: Fetcher = field(init=False)
    shares: dict[Cid, tuple[int, ...]] = field(default_factory=dict)

    is_joined = may_join = True

    @property
    def holder(self) -> Holder:
        return Holder(self.network.settings.identity.peer_key, self.address)

    def provider(self, cid: Cid) -> Provider:
        kind = Kind.WHOLE if cid.codec is cid.codec.RAW else Kind.SHARE
        record = ProviderRecord(
            kind=kind, loc=bytes(32), signer=self.holder.key, issued=1, expires=2, prefix=b"",
            sealed=b"", signature=b"", encoded=b"",
        )  # fmt: skip
        shares = b"" if kind is Kind.WHOLE else share_bitmap(list(self.shares[cid]))
        return record, Provided(shares=shares, hints=(self.address,))

    async def put(self, body: bytes, shares: Sequence[int] = range(TOTAL_SHARES)) -> Cid:
        """Put a blob, and keep some of its shares only."""

        async def chunks() -> AsyncIterator[bytes]:
            yield body

        cid = (await self.node.put_blob(chunks(), PutOptions(size=len(body)))).cid
        gone = [share for share in range(TOTAL_SHARES) if share not in shares]
        if cid.codec is not cid.codec.RAW:
            await self.drop(cid, gone)
        self.shares[cid] = tuple(shares)
        return cid

    async def drop(self, cid: Cid, shares: Sequence[int]) -> None:
        """Delete shares of a blob."""
        context = self.node.context
        bound = context.catalog.bound(cid, context.now())
        assert bound is not None
        for share in shares:
            prefix = keys.block_key(bound.row.object_id, share, 0)[:18]
            writer = context.shards.writer_of(StoreKind.BLOCK, prefix + bytes(4))
            rows = writer.shard.scan(StoreKind.BLOCK, prefix, now=context.now(), limit=1000)
            await writer.write(Transaction(tuple(Delete(StoreKind.BLOCK, r.key) for r in rows)))
        context.leaves.forget(bound.row.object_id)

    async def spoil(self, cid: Cid, share: int, stripe: int) -> None:
        """Put wrong bytes in the place of a block."""
        context = self.node.context
        bound = context.catalog.bound(cid, context.now())
        assert bound is not None
        key = keys.block_key(bound.row.object_id, share, stripe)
        put = Put(StoreKind.BLOCK, key, bytes(262_144), overwrite=True)
        await context.shards.writer_of(StoreKind.BLOCK, key).write(Transaction((put,)))

    def count(self, event: str) -> float:
        """Return how often it answered in some way."""
        return float(self.node.context.metrics.served.labels(event)._value.get())


@asynccontextmanager
async def places(home: Path, count: int) -> AsyncIterator[list[Place]]:
    """Give nodes that find each other."""
    made: list[Place] = []

    async def look_up(cid: Cid, _: object) -> list[Provider]:
        return [place.provider(cid) for place in made if cid in place.shares]

    async with contextlib.AsyncExitStack() as held:
        tasks: list[asyncio.Task[None]] = []
        for number in range(count):
            init_home(home / str(number), CONFIG, "")
            node = await held.enter_async_context(open_node(home / str(number), CONFIG))
            sock = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind(("127.0.0.1", 0))
            network = network_of(Identity(bytes((number + 50,)) * 32), node.context.offload)
            server = BlobServer(node.context, network)
            network.serve(server.handlers, server.streams)
            place = Place(node, network, sock.getsockname())
            place.fetcher = Fetcher(node.context, network, look_up, place)
            tasks.append(asyncio.ensure_future(network.run([sock])))
            made.append(place)
        try:
            yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[list[Place]]:
    async with places(tmp_path, 2) as made:
        yield made


async def take(reader: object, start: int, stop: int) -> bytes:
    """Read a range."""
    return b"".join([chunk async for chunk in reader.read(start, stop)])  # type: ignore[attr-defined]


async def test_blocks_come_with_their_proofs(two: list[Place]) -> None:
    cid = await two[0].put(BODY)
    asker, holder = two[1].network, two[0].holder
    data = await ask_manifest(asker, holder, cid, timeout_s=30.0)
    assert data is not None
    assert cid_of_manifest(data) == cid
    manifest = Manifest.decode(data)
    for share, stripe in ((0, 0), (9, 1), (13, 2), (0, 2)):
        shape = manifest.geometry.stripe(stripe)
        got = await ask_block(
            asker, holder, cid, share=share, stripe_index=stripe, size=shape.size_of(share),
            leaf_count=manifest.geometry.stripe_count,
        )  # fmt: skip
        assert got is not None
        assert len(got.block) == shape.size_of(share)
        assert verify_path(
            root=manifest.roots[share], leaf=blake3_digest(got.block), index=stripe,
            leaf_count=manifest.geometry.stripe_count, path=got.path,
        )  # fmt: skip
    assert two[0].count("blocks") == 4


async def test_a_run_of_blocks_comes_by_one_request_up_to_what_is_not_here(
    two: list[Place],
) -> None:
    cid = await two[0].put(BODY)
    asker, holder = two[1].network, two[0].holder
    data = await ask_manifest(asker, holder, cid, timeout_s=30.0)
    assert data is not None
    manifest = Manifest.decode(data)
    shapes = [manifest.geometry.stripe(index) for index in range(3)]
    wanted = Run(0, 0, tuple(shape.size_of(0) for shape in shapes), leaf_count=3)
    for missing in ((), (1, 2)):
        got: list[tuple[int, Block | None]] = []
        if missing:
            await two[0].spoil(cid, 0, missing[0])
        await ask_run(asker, holder, cid, wanted, on_block=lambda *each: got.append(each))  # noqa: B023
        assert [index for index, _ in got] == [0, 1, 2]
        for index, block in got:
            assert (block is None) == (index in missing)
            assert block is None or verify_path(
                root=manifest.roots[0], leaf=blake3_digest(block.block), index=index, leaf_count=3,
                path=block.path,
            )  # fmt: skip


async def test_leaf_lists_runs_of_blocks_and_audits_are_answered(two: list[Place]) -> None:
    cid = await two[0].put(BODY)
    key, address = two[0].holder
    async with two[1].network.open_stream(key, address, Number.GET_LEAVES) as stream:
        await send_request(stream, said.GetLeaves(cid, 3))
        stream.end()
        head = await read_reply(stream)
        assert head == said.Leaves(3, 3 * 32)
        leaves = await read_all(stream, 3 * 32)
    async with two[1].network.open_stream(key, address, Number.GET_BLOCKS) as stream:
        await send_request(stream, said.GetBlocks(cid=cid, share=3, stripe_count=5))
        stream.end()
        await read_reply(stream)
        first = await read_all(stream, 262_144)
        assert blake3_digest(first) == leaves[:32]
        rest = await stream.receive_all(SIZE)
        column = [(3 * 262_144, 262_144), (13 * 262_144, 262_144), (2 * 2_621_440 + 24_576, 8_192)]
        assert first + rest == b"".join(BODY[at : at + size] for at, size in column)
    async with two[1].network.open_stream(key, address, Number.AUDIT) as stream:
        await send_request(stream, said.Audit(cid=cid, share=3, stripe=1))
        stream.end()
        head = await read_reply(stream)
        assert isinstance(head, said.Audited)
        assert (head.code, head.size) == (said.AuditCode.HERE, 262_144)
        block = await read_all(stream, head.size)
        assert blake3_digest(block) == leaves[32:64]
    assert two[0].count("audits") == 1


async def test_a_long_leaf_list_has_the_time_that_its_bytes_take_on_a_thin_line(
    two: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    cid, size = await two[0].put(BODY), 12 * limits.STREAM_WINDOW_START
    monkeypatch.setattr(Pieces, "leaves", lambda *_: bytes(size))
    monkeypatch.setattr(serving_blobs, "PATIENCE_S", 0.5)
    monkeypatch.setattr(limits, "SERVED_BYTES_PER_S_MIN", size / 6.0)
    for rest_s, is_whole in ((1.5, True), (9.0, False)):
        async with two[1].network.open_stream(*two[0].holder, Number.GET_LEAVES) as stream:
            await send_request(stream, said.GetLeaves(cid, 3))
            stream.end()
            await read_reply(stream)
            try:
                async with asyncio.timeout(30.0):
                    await asyncio.sleep(rest_s)
                    got = await stream.receive_all(size)
            except ConnectionLost:
                assert not is_whole
            else:
                assert is_whole
                assert len(got) == size
    assert two[0].count("too_slow") == 1


async def test_what_is_not_here_is_said(two: list[Place]) -> None:
    cid, asker, holder = await two[0].put(BODY, range(3)), two[1].network, two[0].holder
    small = await two[0].put(SMALL)
    absent = Cid(small.codec, bytes(32))
    assert await ask_whole(asker, holder, small) == SMALL
    assert await ask_whole(asker, holder, absent) is None
    for share in (5, 20):
        assert await ask_block(
            asker, holder, cid, share=share, stripe_index=0, size=262_144, leaf_count=3
        ) is None  # fmt: skip
    nothing = Cid(cid.codec, bytes(32))
    assert await ask_manifest(asker, holder, nothing, timeout_s=30.0) is None
    async with asker.open_stream(*holder, Number.GET_LEAVES) as stream:
        await send_request(stream, said.GetLeaves(cid, 5))
        stream.end()
        with pytest.raises(PeerLacks):
            await read_reply(stream)
    async with asker.open_stream(*holder, Number.AUDIT) as stream:
        await send_request(stream, said.Audit(cid=cid, share=5, stripe=0))
        stream.end()
        assert await read_reply(stream) == said.Audited(code=said.AuditCode.NOT_FOUND)
    async with asker.open_stream(*holder, Number.GET_BLOCKS) as stream:
        await stream.send(b"\xff" * 40)
        stream.end()
        with pytest.raises(PeerRefused, match=str(int(messages.ErrorCode.BAD_MESSAGE))):
            await read_reply(stream)
    assert two[0].count("malformed") == 1


async def test_a_damaged_block_is_not_here_and_no_lie(two: list[Place]) -> None:
    cid = await two[0].put(BODY)
    await two[0].spoil(cid, 4, 0)
    reader = await two[1].fetcher.open(cid)
    assert await take(reader, 0, SIZE) == BODY
    assert two[1].node.context.metrics.fetches.labels("lies")._value.get() == 0
    assert two[0].count("not_here") >= 1


async def test_shares_spread_over_nodes_make_the_blob_for_all_of_them(tmp_path: Path) -> None:
    async with places(tmp_path, 4) as made:
        spread = (0, 1, 2, 3), (4, 5, 6), (7, 8, 11, 12)
        cid, _, _ = [await made[n].put(BODY, shares) for n, shares in enumerate(spread)]
        for place in made[:3]:  # who has some of them has them at once
            reader = await place.fetcher.open(cid, (_bound(place, cid),))
            assert await take(reader, 0, SIZE) == BODY
            assert await take(reader, 900_000, 950_000) == BODY[900_000:950_000]
        assert await take(await made[3].fetcher.open(cid), 0, SIZE) == BODY
        await made[0].drop(cid, (0, 1))
        made[0].shares[cid] = (2, 3)
        for place in made:
            place.fetcher.finds.forget(cid)
        with pytest.raises(SharesOutOfReach, match="9 of 10 needed"):
            await take(await made[3].fetcher.open(cid), 0, 10)


def _bound(place: Place, cid: Cid) -> Bound:
    bound = place.node.context.catalog.bound(cid, place.node.context.now())
    assert bound is not None
    return bound


async def test_a_node_mends_its_read_from_others(two: list[Place]) -> None:
    small, cid = await two[0].put(SMALL), await two[0].put(BODY)
    await two[1].put(SMALL)
    await two[1].put(BODY)
    reader = two[0]
    for share in range(5):
        await reader.spoil(cid, share, 1)
    await reader.spoil(small, WHOLE_SHARE, 0)
    reader.node.member = _Member(reader.fetcher)  # type: ignore[assignment]
    for body, named in ((BODY, cid), (SMALL, small)):
        opened = await reader.node.open_blob(named)
        assert await take(opened, 0, len(body)) == body
        assert isinstance(await reader.node.open_blob(named, local_only=True), LocalReader)


@dataclass
class _Member:
    fetcher: Fetcher


async def test_who_gave_a_wrong_supplement_is_asked_last_and_holders_are_not_blamed_by_it(
    two: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetcher, cid = two[1].fetcher, await two[0].put(BODY)
    names = [bytes((n,)) * 32 for n in range(1, 7)]
    gives = {key: Supplement(cid, (blake3_digest(key),) * 2) for key in names}
    asked: list[bytes] = []

    async def ask(_: object, key: bytes, of: Cid) -> Supplement:
        asked.append(key)
        return gives[key]

    class Somebody:
        shares: ClassVar = {key: (14 + n,) for n, key in enumerate(names)}

        def __init__(self, cid: Cid) -> None:
            self.cid = cid

        def holder(self, key: bytes) -> bytes:
            return key

    monkeypatch.setattr(fetching, "ask_supplement", ask)
    find = cast("Find", Somebody(cid))
    first = [found async for found in fetcher.supplements(find)]
    assert first == [gives[key] for key in reversed(names[2:])], "four are asked"
    async for found in fetcher.supplements(find):
        fetcher.note_untrue(found)
    assert [found async for found in fetcher.supplements(find)] == [
        gives[names[1]],
        gives[names[0]],
    ]

    told: list[object] = []
    fetcher.on_lie.append(lambda *lie: told.append(lie))
    liar = two[0].holder.key
    for share in (14, 20, 20, 63):
        fetcher._on_liar(cid, liar.key, share)
    assert not told, "what an added share must be was a stranger's word"
    assert two[1].network.admission.standing(liar, 0.0) is Standing.GOOD
    fetcher._on_liar(cid, liar.key, 3)
    assert told == [(cid, liar, 3)]


# ---------------------------------------------------------------------------- bounds


async def test_who_asks_much_waits_and_others_are_answered(two: list[Place]) -> None:
    cid = await two[0].put(BODY)
    turns = two[0].network._stream_handlers[Number.GET_BLOCKS].args[0]  # type: ignore[attr-defined]
    assert turns == Number.GET_BLOCKS
    got = await asyncio.gather(
        *(
            ask_block(
                two[1].network, two[0].holder, cid, share=n % 14, stripe_index=0, size=262_144,
                leaf_count=3,
            )
            for n in range(3 * SERVED_PER_PEER_MAX)
        )
    )  # fmt: skip
    assert all(piece is not None for piece in got)
    assert two[0].count("blocks") == 3 * SERVED_PER_PEER_MAX


async def test_who_takes_nothing_is_cut_off(
    two: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    cid = await two[0].put(BODY)
    monkeypatch.setattr(serving_blobs, "PATIENCE_S", -30.0)
    key, address = two[0].holder
    async with two[1].network.open_stream(key, address, Number.GET_BLOCKS) as stream:
        await send_request(stream, said.GetBlocks(cid=cid, share=0, stripe_count=2))
        stream.end()
        with pytest.raises(ConnectionLost):
            await _read_to_the_end(stream.receive)
    assert two[0].count("too_slow") == 1


async def _read_to_the_end(receive: Callable[[], object]) -> None:
    while await receive():  # type: ignore[misc]
        pass


async def test_turns_are_few_in_all_and_for_one() -> None:
    turns, peers = serving_blobs._Turns(), [object() for _ in range(6)]
    inside: list[object] = []
    most = 0
    let_go = asyncio.Event()

    async def one(peer: object) -> None:
        nonlocal most
        async with turns.of(peer):  # type: ignore[arg-type]
            inside.append(peer)
            most = max(most, len(inside))
            await let_go.wait()
            inside.remove(peer)

    tasks = [asyncio.ensure_future(one(peer)) for peer in peers for _ in range(80)]
    await asyncio.sleep(0)
    for _ in range(200):
        await asyncio.sleep(0)
    assert len(inside) == SERVED_MAX
    assert max(map(inside.count, peers)) <= SERVED_PER_PEER_MAX
    assert not turns.has_room(peers[0])  # type: ignore[arg-type]
    assert turns.has_room(object())  # type: ignore[arg-type]
    let_go.set()
    await asyncio.gather(*tasks)
    assert most == SERVED_MAX
    assert turns.has_room(peers[0])  # type: ignore[arg-type]
    assert not turns._peers
