"""Reads of nodes of one process that may have to be tried again."""

import asyncio

from molia.base.cid import Cid
from molia.base.errors import MoliaError
from tests.node.inside import Inside
from tests.node.test_reading_inside import get

SOON_S = 120.0


async def read_or_reason(node: Inside, cid: Cid) -> bytes | None:
    """Return a blob; None where the node says why it has not."""
    try:
        return await get(node, cid)
    except MoliaError:
        return None


async def get_soon(node: Inside, cid: Cid) -> bytes:
    """Return a blob; one that holders were too late for, or had not come back to, is read again."""
    async with asyncio.timeout(SOON_S):
        while (body := await read_or_reason(node, cid)) is None:
            await asyncio.sleep(1.0)
    return body
