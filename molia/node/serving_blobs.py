"""What a node gives others of the blobs that it keeps: manifests, leaf lists, blocks, audits.

Who asks much waits for its turn, who takes nothing is cut off: at most 64 replies are under way,
16 of them to one peer, each with one block in memory beside what its stream holds.
Source: docs/reference/blob-messages.md.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from molia.base import limits
from molia.base.errors import ConnectionLost, Damaged, ShardUnavailable
from molia.base.now import Now
from molia.node.context import Context
from molia.node.held import HeldShares
from molia.node.network import Network, StreamHandler
from molia.node.peer_streams import PeerStream
from molia.node.pieces import Pieces
from molia.node.stream_messages import read_request, send_reply
from molia.wire import blob_messages as said
from molia.wire import messages
from molia.wire.messages import ErrorCode, Message, Number
from molia.wire.peer import Peer
from molia.wire.transport import Answer, Handler

PATIENCE_S: Final = 30.0
"""How long a reply may take beside what its bytes take at the lowest rate."""
BUSY_MS: Final = 500
_BAD: Final = messages.Error(code=ErrorCode.BAD_MESSAGE)
_BUSY: Final = messages.Busy(retry_after_ms=BUSY_MS, effort_bits=0)
_NOT_HERE: Final = messages.Error(code=ErrorCode.NOT_HERE)
Give = Callable[[PeerStream, Message, asyncio.Timeout], Awaitable[None]]
"""Answers a request on a stream; may move the deadline once it knows how much it sends."""


class BlobServer:
    """Answers what other nodes ask of this one's blobs."""

    def __init__(self, context: Context, network: Network) -> None:
        self._context, self._network = context, network
        self._pieces, self._turns = Pieces(context), _Turns()
        self._held = HeldShares(context.shards)
        self._tasks: set[asyncio.Task[None]] = set()
        self.handlers: dict[int, Handler] = {Number.GET_MANIFEST: self._on_get_manifest}
        self.streams: dict[int, StreamHandler] = {
            number: partial(self._serve, number, give)
            for number, give in (
                (Number.GET_LEAVES, self._give_leaves),
                (Number.GET_BLOCKS, self._give_blocks),
                (Number.AUDIT, self._give_block_to_audit),
                (Number.GET_MANIFEST, self._give_supplement),
            )
        }

    def _count(self, event: str, times: int = 1) -> None:
        if times:
            self._context.metrics.served.labels(event).inc(times)

    # ------------------------------------------------------------------ datagrams

    def _on_get_manifest(
        self, peer: Peer, request_id: int, body: bytes, _now: Now
    ) -> Answer | None:
        asked = messages.decode(Number.GET_MANIFEST, body)
        if not isinstance(asked, said.GetManifest):
            self._count("malformed")
            return Number.ERROR, messages.encode(_BAD)
        if len(self._tasks) >= limits.SERVED_WAITING_MAX:
            self._count("busy")
            return Number.BUSY, messages.encode(_BUSY)
        task = asyncio.ensure_future(self._give_manifest(peer, request_id, asked))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return None

    async def _give_manifest(self, peer: Peer, request_id: int, asked: said.GetManifest) -> None:
        here = await self._context.offload.run(self._pieces.find, asked.cid)
        answer: said.Manifest | messages.Error = _NOT_HERE
        if here and not asked.supplement:
            answer = said.Manifest(here[0].row.manifest)
        self._count("not_here" if answer is _NOT_HERE else "manifests")
        reply = answer.number, messages.encode(answer)
        self._network.transport.reply(peer, request_id, reply, self._context.now())
        self._network.driver.flush_soon()

    # ------------------------------------------------------------------ streams

    async def _serve(self, number: Number, give: Give, stream: PeerStream) -> None:
        """Answer one stream, when it is its turn."""
        asked = await read_request(stream, number)
        if asked is None:
            self._count("malformed")
            await send_reply(stream, _BAD)
        elif not self._turns.has_room(stream.peer):
            self._count("busy")
            await send_reply(stream, _BUSY)
        else:
            async with self._turns.of(stream.peer):
                await self._give_in_time(stream, give, asked)

    async def _give_in_time(self, stream: PeerStream, give: Give, asked: Message) -> None:
        size = limits.BLOCK_SIZE_MAX * getattr(asked, "stripe_count", 1)
        try:
            async with asyncio.timeout(_time_for(size)) as deadline:
                await give(stream, asked, deadline)
                await stream.finish()
        except TimeoutError:
            self._count("too_slow")
            raise ConnectionLost("a peer takes its answer too slowly") from None

    async def _give_leaves(
        self, stream: PeerStream, asked: Message, deadline: asyncio.Timeout
    ) -> None:
        assert isinstance(asked, said.GetLeaves), "it was read by its number"
        run = self._context.offload.run
        here = await run(self._pieces.find, asked.cid)
        leaves = await run(self._pieces.leaves, here, asked.share)
        if leaves is None:
            await self._not_here(stream)
            return
        deadline.reschedule(asyncio.get_running_loop().time() + _time_for(len(leaves)))
        await send_reply(stream, said.Leaves(asked.share, len(leaves)))
        await self._send(stream, leaves)
        self._count("leaf_lists")

    async def _give_blocks(
        self, stream: PeerStream, asked: Message, _deadline: asyncio.Timeout
    ) -> None:
        """Send the blocks, up to the first that is not here."""
        assert isinstance(asked, said.GetBlocks), "it was read by its number"
        run, first, given = self._context.offload.run, asked.first_stripe, 0
        here, piece = await run(self._pieces.open, asked.cid, asked.share, first)
        if piece is not None:
            head = said.Blocks(
                share=asked.share, first_stripe=first, stripe_count=asked.stripe_count
            )
            await send_reply(stream, head)
        pieces = [] if piece is None else [piece]
        while pieces:
            for piece in pieces:
                await self._send(stream, b"".join(piece.path) if asked.paths else b"")
                await self._send(stream, piece.block)
            given += len(pieces)
            count = min(asked.stripe_count - given, limits.GIVEN_BLOCKS_MAX)
            if not count:
                break
            pieces = await run(self._pieces.read_some, here, asked.share, first + given, count)
        self._count("blocks", given)
        if not given:
            await self._not_here(stream)

    async def _give_block_to_audit(
        self, stream: PeerStream, asked: Message, _deadline: asyncio.Timeout
    ) -> None:
        assert isinstance(asked, said.Audit), "it was read by its number"
        run = self._context.offload.run
        _, piece = await run(self._pieces.open, asked.cid, asked.share, asked.stripe)
        if piece is None:
            self._count("audits_failed")
            await send_reply(stream, said.Audited(code=said.AuditCode.NOT_FOUND))
            return
        self._count("audits")
        code, size = said.AuditCode.HERE, len(piece.block)
        await send_reply(stream, said.Audited(code=code, path=piece.path, size=size))
        await self._send(stream, piece.block)

    async def _give_supplement(
        self, stream: PeerStream, asked: Message, _deadline: asyncio.Timeout
    ) -> None:
        assert isinstance(asked, said.GetManifest), "it was read by its number"
        run, now = self._context.offload.run, self._context.now()
        try:
            held = await run(self._held.find, asked.cid, now)
        except (Damaged, ShardUnavailable):
            held = None
        if held is None or not held.row.supplement or not asked.supplement:
            await self._not_here(stream)
            return
        await send_reply(stream, said.Manifest(held.row.supplement))
        self._count("supplements")

    async def _not_here(self, stream: PeerStream) -> None:
        self._count("not_here")
        await send_reply(stream, _NOT_HERE)

    async def _send(self, stream: PeerStream, data: bytes) -> None:
        if data:
            await stream.send(data)
            self._context.metrics.served_bytes.inc(len(data))


def _time_for(size: int) -> float:
    """Return how long an answer of so many bytes may take; a leaf list has 13 MB at most."""
    return PATIENCE_S + size / limits.SERVED_BYTES_PER_S_MIN


class _Turns:
    """Who is answered now: so many at once in all and of one peer, the others in order."""

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(limits.SERVED_MAX)
        self._peers: dict[Peer, tuple[asyncio.Semaphore, int]] = {}
        """Of each peer its turns, and how many of its requests are here."""
        self._count = 0

    def has_room(self, peer: Peer) -> bool:
        """Tell whether a request of the peer may wait."""
        _, here = self._peers.get(peer, (None, 0))
        most = limits.SERVED_PER_PEER_MAX + limits.SERVED_WAITING_PER_PEER_MAX
        return here < most and self._count < limits.SERVED_MAX + limits.SERVED_WAITING_MAX

    @asynccontextmanager
    async def of(self, peer: Peer) -> AsyncIterator[None]:
        """Run the block when it is the peer's turn."""
        turns, here = self._peers.get(peer) or (asyncio.Semaphore(limits.SERVED_PER_PEER_MAX), 0)
        self._peers[peer] = turns, here + 1
        self._count += 1
        try:
            async with turns, self._all:
                yield
        finally:
            self._count -= 1
            _, here = self._peers[peer]
            if here > 1:
                self._peers[peer] = turns, here - 1
            else:
                del self._peers[peer]
