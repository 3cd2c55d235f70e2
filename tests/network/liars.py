"""Nodes of one process that lie about the blocks that they hold, to readers and to auditors."""

import asyncio
from typing import Any

from molia.node.peer_streams import PeerStream
from molia.wire.messages import Number
from tests.node.inside import Inside

BLOCK_MIN = 4_096
"""What is shorter is the head of an answer, or a Merkle path."""
SLOW_PIECE, SLOW_S = 2_048, 0.2


class _Lying:
    """A stream on which blocks are sent in a bad way."""

    def __init__(self, stream: PeerStream, manners: str, before: bytes) -> None:
        self._stream, self._manners, self._before = stream, manners, before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def send(self, data: bytes) -> None:
        """Send bytes; of a block, others."""
        stream = self._stream
        if len(data) < BLOCK_MIN:
            await stream.send(data)
            return
        match self._manners:
            case "wrong":
                await stream.send(bytes(len(data)))
            case "stale":
                await stream.send(self._before[: len(data)])
            case "truncated":
                await stream.send(data[:-1])
            case "endless":
                await stream.send(data)
                while True:
                    await stream.send(bytes(65_536))
            case "molasses":
                for at in range(0, len(data), SLOW_PIECE):
                    await stream.send(data[at : at + SLOW_PIECE])
                    await asyncio.sleep(SLOW_S)


def lie(node: Inside, manners: str, before: bytes) -> None:
    """Let a node lie from now on: wrong, stale, truncated, endless, or slow as molasses.

    before: what the file had in it once; a stale node answers with its beginning.
    """
    network = node.member.network
    for number in (Number.GET_BLOCKS, Number.AUDIT):
        honest = network._stream_handlers[number]

        async def serve(stream: PeerStream, honest: Any = honest) -> None:
            await honest(_Lying(stream, manners, before))

        network.serve({}, {number: serve})
