"""Asking one node for parts of a blob. What comes back is as it came: the cores check it.

Source: docs/reference/blob-messages.md.
"""

import asyncio
from typing import Final, NamedTuple

from molia.base.cid import Cid
from molia.base.errors import BadAnswer, Busy, ConnectionLost, PeerLacks, PeerRefused
from molia.base.hashing import DIGEST_SIZE
from molia.base.ids import PeerKey
from molia.base.limits import HAVE_CIDS_MAX, RAW_SIZE_STOP, WHOLE_SHARE
from molia.blobs.elastic import Supplement
from molia.blobs.merkle import path_length
from molia.node.network import Network
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


async def ask_block(
    network: Network, holder: Holder, cid: Cid, *, share: int, stripe_index: int, size: int,
    leaf_count: int, on_part: OnPart | None = None,
) -> Block | None:  # fmt: skip
    """Return a block; None when the node does not have it. One byte more than `size` is too many.

    on_part: told how many bytes came, while more are to come.
    Raises ConnectionLost, TimedOut.
    """
    asked = GetBlocks(cid=cid, share=share, first_stripe=stripe_index, paths=True)
    path_size = path_length(stripe_index, leaf_count) * DIGEST_SIZE
    data = await _ask_bytes(network, holder, asked, path_size + size, on_part)
    if data is None:
        return None
    path = data[:path_size]
    hashes = tuple(path[at : at + DIGEST_SIZE] for at in range(0, len(path), DIGEST_SIZE))
    return Block(data[path_size:], hashes)


async def ask_whole(
    network: Network, holder: Holder, cid: Cid, on_part: OnPart | None = None
) -> bytes | None:
    """Return a small blob; None when the node does not have it. As `ask_block`."""
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
            async with network.open_stream(holder.key, holder.address, Number.GET_BLOCKS) as stream:
                await send_request(stream, asked)
                stream.end()
                reply = await read_reply(stream)
                if not isinstance(reply, Blocks):
                    return None
                return await read_some(stream, size + 1, on_part)
        except PeerLacks:
            return None
        except Busy:
            await asyncio.sleep(BUSY_WAIT_S)
        except ConnectionLost:
            if is_again or not network.is_connected(holder.key):
                raise
            is_again = True
