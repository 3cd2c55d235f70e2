"""Shares that this node keeps of what it repairs itself: sent to its own holder, as a peer would.

They go through the same checks and quotas as those that others send.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Final

import structlog

from molia.base.errors import BlobDamaged, MoliaError
from molia.node.giving import Given, Giver
from molia.node.holding import Holder
from molia.wire.blob_messages import KeptCode

log = structlog.get_logger(__name__)

STUCK_S: Final = 120.0
"""How long nothing may happen: a large share on a slow disk takes long in all."""


class _Own:
    """A stream that nobody but this node sends on."""

    def __init__(self, pieces: AsyncIterator[tuple[int, bytes]], patience: asyncio.Timeout) -> None:
        self._pieces, self._patience = pieces, patience

    @property
    def peer(self) -> object:
        """Who sends it."""
        return self

    async def receive(self) -> bytes:
        """Return the next bytes, b"" at the end. Raises BlobDamaged."""
        self._move_on()
        async for _, data in self._pieces:
            self._move_on()
            if data:
                return data
        return b""

    def _move_on(self) -> None:
        self._patience.reschedule(asyncio.get_running_loop().time() + STUCK_S)


async def take_own(holder: Holder, giver: Giver, share: int) -> Given:
    """Keep a share that lies under an object of a repair. Raises BlobDamaged.

    It ends when nothing moves any more; the job that it is part of has a time of its own.
    """
    try:
        async with (
            asyncio.timeout(STUCK_S) as patience,
            aclosing(giver.pieces(share, 0)) as pieces,
        ):
            kept = await holder.put(_Own(pieces, patience), giver.head(share, 0))
    except BlobDamaged:
        raise
    except (MoliaError, TimeoutError) as error:
        log.debug("own_share_not_kept", share=share, reason=str(error))
        return Given(is_kept=False, outcome="broken")
    if kept.code != KeptCode.KEPT:
        return Given(is_kept=False, outcome=KeptCode(kept.code).name.lower())
    return Given(is_kept=True, record=kept.provider, outcome="kept_here")
