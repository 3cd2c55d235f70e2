"""Sending one share to a holder: from the store, no more in memory than a few blocks.

Source: docs/reference/blob-messages.md, "Streams".
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final, NamedTuple

import structlog

from molia.base import limits
from molia.base.cid import Cid
from molia.base.errors import BadAnswer, BlobDamaged, MoliaError
from molia.base.limits import SHARES_MAX, TOTAL_SHARES, WHOLE_SHARE
from molia.blobs.download import FetchBlock, LeafLists, fetch_sound
from molia.blobs.elastic import Supplement
from molia.blobs.geometry import Geometry, StripeShape
from molia.blobs.manifest import Manifest
from molia.node.asking_blobs import Holder, ask_have
from molia.node.catalog import Bound
from molia.node.context import Context
from molia.node.network import Network
from molia.node.peer_streams import PeerStream
from molia.node.stored import fetcher, leaf_lists, read_whole
from molia.node.stream_messages import read_reply, send_request
from molia.wire.blob_messages import KeptCode, PutShare, ShareKept
from molia.wire.messages import Number

log = structlog.get_logger(__name__)

HAVE_S: Final = 5.0
OnStripes = Callable[[int], None]
"""Told how many stripes of the share, from the first on, are on their way."""


class Given(NamedTuple):
    """How sending a share ended."""

    is_kept: bool
    stripes: int = 0
    """Of the share, how many are there when it is not kept."""
    may_retry: bool = False
    """The stream broke: it may be gone on with."""
    record: bytes = b""
    """The holder's provider record, unchecked."""
    outcome: str = "kept"
    """In one word, for counting."""


class Giver:
    """Sends the shares of one blob that is kept whole here."""

    def __init__(
        self, context: Context, network: Network, bound: Bound, lease: bytes,
        supplement: bytes = b"",
    ) -> None:  # fmt: skip
        """supplement: what lists the roots of shares from 14 on, if there are any to send."""
        self._context, self._network, self._bound = context, network, bound
        self._lease, self._supplement = lease, supplement

    async def give(self, to: Holder, share: int, first_stripe: int, on_stripes: OnStripes) -> Given:
        """Return how it ended. Raises BlobDamaged when our own copy cannot be read."""
        try:
            kept = await self._send(to, share, first_stripe, on_stripes)
        except BlobDamaged:
            raise
        except MoliaError as error:
            log.debug("share_broke_off", peer=to.key.short, share=share, reason=str(error))
            stripes = self._most(share, await self._stripes_there(to, share))
            return Given(is_kept=False, stripes=stripes, may_retry=True, outcome="broken")
        if kept.code == KeptCode.KEPT:
            return Given(is_kept=True, record=kept.provider)
        name = KeptCode(kept.code).name.lower() if kept.code in list(KeptCode) else "unknown"
        is_cut_off = kept.code == KeptCode.CUT_OFF
        stripes = self._most(share, kept.stripes)
        return Given(is_kept=False, stripes=stripes, may_retry=is_cut_off, outcome=name)

    def _most(self, share: int, stripes: int) -> int:
        """Return how many stripes a holder may be believed to have; a small blob has none."""
        if share == WHOLE_SHARE:
            return 0
        return min(stripes, Geometry.of(self._bound.row.size).stripe_count)

    async def renew(self, to: Holder, share: int) -> bytes:
        """Bring our lease to who keeps a share already; return its provider record, unchecked.

        Raises MoliaError when it does not keep it after all, or does not answer.
        """
        async with self._network.open_stream(to.key, to.address, Number.PUT_SHARE) as stream:
            await send_request(stream, self.head(share, 0))
            async with asyncio.timeout(HAVE_S):
                reply = await read_reply(stream)
        if not isinstance(reply, ShareKept) or reply.code != KeptCode.KEPT:
            raise BadAnswer(f"peer {to.key.short} does not keep what it said")
        return reply.provider

    def head(self, share: int, first_stripe: int) -> PutShare:
        """Return what a share begins with."""
        row, root = self._bound.row, b""
        if TOTAL_SHARES <= share < SHARES_MAX:
            added = Supplement.decode(self._supplement)
            assert added is not None, "shares from 14 on come with what lists them"
            root = added.roots[share - TOTAL_SHARES]
        return PutShare(
            root=root, supplement=self._supplement if root else b"",
            cid=self._bound.cid, share=share, manifest=row.manifest, lease=self._lease,
            first_stripe=first_stripe, size=row.size if share == WHOLE_SHARE else 0,
        )  # fmt: skip

    async def _send(
        self, to: Holder, share: int, first_stripe: int, on_stripes: OnStripes
    ) -> ShareKept:
        async with self._network.open_stream(to.key, to.address, Number.PUT_SHARE) as stream:
            reading = asyncio.ensure_future(read_reply(stream))
            sending = asyncio.ensure_future(self._send_all(stream, share, first_stripe, on_stripes))
            try:
                # a holder may refuse before it has everything
                await asyncio.wait((reading, sending), return_when=asyncio.FIRST_COMPLETED)
                if sending.done() and isinstance(sending.exception(), BlobDamaged):
                    sending.result()
                reply = await reading  # one that stopped reading has said why
            finally:
                for task in (reading, sending):
                    task.cancel()
                await asyncio.wait((reading, sending))
                _ = [task.cancelled() or task.exception() for task in (reading, sending)]
        if not isinstance(reply, ShareKept):
            raise BadAnswer(f"peer {to.key.short} gave an answer that is none")
        return reply

    async def _send_all(
        self, stream: PeerStream, share: int, first_stripe: int, on_stripes: OnStripes
    ) -> None:
        await send_request(stream, self.head(share, first_stripe))
        async for stripes, data in self.pieces(share, first_stripe):
            if data:
                await stream.send(data)
            on_stripes(stripes)
        stream.end()

    async def pieces(
        self, share: int, first_stripe: int
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """Yield what follows the head, each with how many stripes are sent with it.

        Raises BlobDamaged.
        """
        context, bound, run = self._context, self._bound, self._context.offload.run
        if share == WHOLE_SHARE:
            data = await run(read_whole, context, bound)
            if data is None:
                raise _damaged(bound.cid)
            yield 1, data
            return
        manifest = Manifest.decode(bound.row.manifest)
        lists, fetch = leaf_lists(context, bound, manifest), fetcher(context, bound)
        leaves = await run(lists, share)
        if leaves is None:
            raise _damaged(bound.cid)
        yield first_stripe, leaves
        stop = manifest.geometry.stripe_count
        for first in range(first_stripe, stop, limits.GIVEN_BLOCKS_MAX):
            shapes = [
                manifest.geometry.stripe(index)
                for index in range(first, min(first + limits.GIVEN_BLOCKS_MAX, stop))
            ]
            for index, block in enumerate(await run(_sound, fetch, lists, shapes, share), first):
                if block is None:
                    raise _damaged(bound.cid)
                yield index + 1, block

    async def _stripes_there(self, to: Holder, share: int) -> int:
        """Return how many stripes a holder has of a share that broke.

        0 also when it keeps all of it: being sent it again, it says so at once.
        """
        try:
            (held,) = await ask_have(self._network, to, (self._bound.cid,), timeout_s=HAVE_S)
        except MoliaError:
            return 0
        return dict(held.partial).get(share, 0)


def _sound(
    fetch: FetchBlock, lists: LeafLists, shapes: Sequence[StripeShape], share: int
) -> list[bytes | None]:
    """Return a share's blocks of some stripes, for a thread; None for one that is not sound."""
    return [
        fetch_sound(fetch, lists, shape, share) if shape.size_of(share) else b"" for shape in shapes
    ]


def _damaged(cid: Cid) -> BlobDamaged:
    return BlobDamaged(
        f"{cid} cannot be placed: this node's copy is damaged", hint="put the file again"
    )
