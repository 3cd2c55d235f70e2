"""Asking one node for parts of a blob. What comes back is as it came: the cores check it.

Source: docs/reference/blob-messages.md.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, NamedTuple

from molia.base.cid import Cid
from molia.base.errors import BadAnswer, Busy, ConnectionLost, PeerLacks, PeerRefused
from molia.base.hashing import DIGEST_SIZE
from molia.base.ids import PeerKey
from molia.base.limits import HAVE_CIDS_MAX, RAW_SIZE_STOP, WHOLE_SHARE
from molia.blobs.elastic import Supplement
from molia.blobs.merkle import path_length
from molia.node.network import Network
from molia.node.peer_streams import PeerStream
from molia.node.stream_messages import OnPart, read_reply, read_some, send_request
from molia.wire.blob_messages import (
    Blocks,
    GetBlocks,
    GetManifest,
    Has,
    Have,
    Held,
    Manifest,
)
from molia.wire.cookies import Address
from molia.wire.messages import Number

SUPPLEMENT_S: Final = 5.0
_HEAD_ROOM: Final = 64
"""What an answer takes beside its blocks."""
BUSY_WAIT_S: Final = 0.5
"""How long a node that is busy is left alone; the core's own deadline ends the trying."""


class Holder(NamedTuple):
    """A node that says to have something, and where it is."""

    key: PeerKey
    address: Address


class Block(NamedTuple):
    """A block with its path, unchecked."""

    block: bytes
    path: tuple[bytes, ...]


class Run(NamedTuple):
    """Blocks of a share that follow each other."""

    share: int
    first_stripe: int
    sizes: tuple[int, ...]
    leaf_count: int

    def after(self, count: int) -> "Run":
        """Return what is left of it when so many came."""
        return self._replace(first_stripe=self.first_stripe + count, sizes=self.sizes[count:])

    def request(self, cid: Cid) -> GetBlocks:
        """Return the message that asks for it."""
        return GetBlocks(
            cid=cid, share=self.share, first_stripe=self.first_stripe,
            stripe_count=len(self.sizes), paths=True,
        )  # fmt: skip

    def path_size(self, at: int) -> int:
        """Return how many bytes of hashes come before a block of it."""
        return path_length(self.first_stripe + at, self.leaf_count) * DIGEST_SIZE

    @property
    def size(self) -> int:
        """How many bytes come in all."""
        return sum(self.sizes) + sum(self.path_size(at) for at in range(len(self.sizes)))


OnBlock = Callable[[int, Block | None], None]
"""Stripe, and the block."""
OnRunPart = Callable[[int, int], None]
"""Stripe, and bytes of its block."""


async def ask_supplement(network: Network, holder: Holder, cid: Cid) -> Supplement | None:
    """Return what a node says that the roots of a blob's added shares are; None: it does not know.

    Raises ConnectionLost, TimedOut.
    """
    try:
        async with (
            network.open_stream(holder.key, holder.address, Number.GET_MANIFEST) as stream,
            asyncio.timeout(SUPPLEMENT_S),
        ):
            await send_request(stream, GetManifest(cid, supplement=True))
            stream.end()
            reply = await read_reply(stream)
    except (BadAnswer, Busy, PeerLacks, PeerRefused, TimeoutError):
        return None
    found = Supplement.decode(reply.manifest) if isinstance(reply, Manifest) else None
    return found if found is not None and found.cid == cid else None


async def ask_manifest(
    network: Network, holder: Holder, cid: Cid, *, timeout_s: float
) -> bytes | None:
    """Return the bytes of a manifest; None when the node has none.

    Raises ConnectionLost, TimedOut, Busy.
    """
    try:
        answer = await network.ask(
            holder.key, holder.address, GetManifest(cid), timeout_s=timeout_s
        )
    except (BadAnswer, PeerRefused):
        return None
    return answer.manifest if isinstance(answer, Manifest) else None


async def ask_run(
    network: Network, holder: Holder, cid: Cid, wanted: Run, *, on_block: OnBlock,
    on_part: OnRunPart | None = None,
) -> None:  # fmt: skip
    """Ask for blocks of a share that follow each other, and hand each on as it comes.

    What the node does not have is handed on as None. Of the last block one byte more than its size
    is taken: too many. on_part: told how many bytes of a block came, while more are to come.
    Raises ConnectionLost, TimedOut.
    """
    done, is_again = 0, False
    while done < len(wanted.sizes):
        before = done
        try:
            left = wanted.after(done)
            asked = left.request(cid)
            async with _asked(network, holder, asked, expected=left.size + _HEAD_ROOM) as stream:
                while done < len(wanted.sizes):
                    block = await _next_block(stream, wanted, done, on_part)
                    if block is None:
                        break
                    done += 1
                    on_block(wanted.first_stripe + done - 1, block)
        except PeerLacks:
            pass
        except Busy:
            await asyncio.sleep(BUSY_WAIT_S)
            continue
        except ConnectionLost:
            if is_again or not network.is_connected(holder.key):
                raise
            is_again = True
            continue
        if done == before:
            break
    for index in range(wanted.first_stripe + done, wanted.first_stripe + len(wanted.sizes)):
        on_block(index, None)


async def ask_whole(
    network: Network, holder: Holder, cid: Cid, on_part: OnPart | None = None
) -> bytes | None:
    """Return a small blob; None when the node does not have it. Raises as `ask_run`."""
    asked = GetBlocks(cid=cid, share=WHOLE_SHARE)
    return await _ask_bytes(network, holder, asked, RAW_SIZE_STOP, on_part)


async def ask_have(
    network: Network, holder: Holder, cids: tuple[Cid, ...], *, timeout_s: float
) -> tuple[Held, ...]:
    """Return what a node has of some blobs, in their order. Raises as `Network.ask`."""
    assert len(cids) <= HAVE_CIDS_MAX, "one message"
    answer = await network.ask(holder.key, holder.address, Have(cids), timeout_s=timeout_s)
    if not isinstance(answer, Has) or len(answer.held) != len(cids):
        raise BadAnswer(f"peer {holder.key.short} gave an answer that is none")
    return answer.held


async def _ask_bytes(
    network: Network, holder: Holder, asked: GetBlocks, size: int, on_part: OnPart | None
) -> bytes | None:
    """Return at most one byte more than `size` of what a node sends; ask again while it is busy,
    and once when it has restarted."""
    is_again = False
    while True:
        try:
            async with _asked(network, holder, asked) as stream:
                return await read_some(stream, size + 1, on_part)
        except PeerLacks:
            return None
        except Busy:
            await asyncio.sleep(BUSY_WAIT_S)
        except ConnectionLost:
            if is_again or not network.is_connected(holder.key):
                raise
            is_again = True


@asynccontextmanager
async def _asked(
    network: Network, holder: Holder, asked: GetBlocks, *, expected: int = 0
) -> AsyncIterator[PeerStream]:
    """Give a stream on which a node was asked for blocks and has begun to answer.

    expected: bytes that may come at once. Raises PeerLacks, Busy, ConnectionLost, TimedOut.
    """
    async with network.open_stream(holder.key, holder.address, Number.GET_BLOCKS) as stream:
        stream.expect(expected)
        await send_request(stream, asked)
        stream.end()
        if not isinstance(await read_reply(stream), Blocks):
            raise PeerLacks("a peer does not have it")
        yield stream


async def _next_block(
    stream: PeerStream, wanted: Run, at: int, on_part: OnRunPart | None
) -> Block | None:
    """Return a block of a run, which is too short where the stream ends in it; None before it."""
    path_size, is_last = wanted.path_size(at), at == len(wanted.sizes) - 1
    told = None if on_part is None else partial(on_part, wanted.first_stripe + at)
    path = await read_some(stream, path_size)
    block = await read_some(stream, wanted.sizes[at] + is_last, told)
    if not path and not block:
        return None
    hashes = (path[at : at + DIGEST_SIZE] for at in range(0, len(path), DIGEST_SIZE))
    return Block(block, tuple(hashes))
