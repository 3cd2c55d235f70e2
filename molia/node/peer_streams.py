"""Streams with peers as tasks see them: `send` and `receive` wait, so back pressure reaches both.

Source: docs/reference/streams.md.
"""

import asyncio
import struct
from collections.abc import Callable
from typing import Final

from molia.base import limits
from molia.base.errors import ConnectionLost, TimedOut
from molia.wire.channel import Channel
from molia.wire.peer import Peer
from molia.wire.stream_events import (
    Broken,
    Delivered,
    Event,
    Finished,
    Readable,
    Stopped,
    WasReset,
    Writable,
)

STREAM_HEAD: Final = struct.Struct("<BQB")
"""What either direction begins with: REQUEST or REPLY, the request's id, the message number."""
LOOK_S: Final = 1.0
"""After which a reader that waits for many bytes is given what there is."""
CANCELLED: Final = 1
"""Code of a stream that its owner gave up."""


class PeerStream:
    """One stream with one peer. Use it from one task for each direction."""

    def __init__(
        self, peer: Peer, stream_id: int, channel: Channel, touched: Callable[[Peer], None]
    ) -> None:
        self.peer, self.stream_id = peer, stream_id
        self.request_id = 0
        """The id in the head of the request; its reply repeats it."""
        self._channel, self._touched = channel, touched
        self._loop = asyncio.get_running_loop()
        self._readable, self._writable = asyncio.Event(), asyncio.Event()
        self._delivered = asyncio.Event()
        self._failure = ""
        self._is_unwanted = False
        """Whether the peer reads no more; what it says may still come."""
        self._has_arrived = False
        """Whether the peer has everything."""
        self._is_ended = False

    async def send(self, data: bytes) -> None:
        """Return when the bytes are in the send buffer, which the peer's reading empties.

        Raises ConnectionLost, TimedOut when the peer takes nothing for a while.
        """
        view = memoryview(data)
        while view:
            self._check_wanted()
            self._writable.clear()
            taken = self._channel.write(self.stream_id, view if len(view) < len(data) else data)
            self._touched(self.peer)
            view = view[taken:]
            if view:
                await self._wait(self._writable)

    def expect(self, size: int) -> None:
        """Let the peer send so much at once: as much as its answer takes, and no more is asked."""
        self._channel.expect(self.stream_id, size)

    async def finish(self) -> None:
        """Say that nothing follows, and return when the peer has everything.

        Raises ConnectionLost, TimedOut.
        """
        self.end()
        await self._wait(self._delivered)
        if self._is_unwanted and not self._has_arrived:
            raise self._unwanted()

    def end(self) -> None:
        """Say that nothing follows."""
        self._check_wanted()
        if not self._is_ended:
            self._is_ended = True
            self._channel.finish(self.stream_id)
            self._touched(self.peer)

    async def receive(self, size: int = limits.STREAM_READ_BYTES, *, wanted: int = 1) -> bytes:
        """Return the next bytes, at most `size`; b"" at the end of the stream.

        wanted: how many are worth a call when none are there; after a second fewer are.
        Only what was received lets the peer send more. Raises ConnectionLost, TimedOut.
        """
        while True:
            self._readable.clear()
            data = self._channel.read(self.stream_id, size)
            if data:
                self._touched(self.peer)
                return data
            self._check()
            if self._channel.ended(self.stream_id):
                return b""
            if wanted > 1:
                self._channel.want(self.stream_id, wanted)
                await self._wait_some()
            else:
                await self._wait(self._readable)

    def give_up(self) -> None:
        """Cancel what is unfinished, because nobody is there for it any more."""
        if not (self._delivered.is_set() and self._channel.ended(self.stream_id)):
            self.cancel()

    async def receive_all(self, size_max: int) -> bytes:
        """Return everything to the stream's end. Raises ConnectionLost, also for more than that."""
        parts: list[bytes] = []
        left = size_max
        while data := await self.receive():
            left -= len(data)
            if left < 0:
                self.cancel()
                raise ConnectionLost(f"peer {self._name} sent more than {size_max} bytes")
            parts.append(data)
        return b"".join(parts)

    def cancel(self) -> None:
        """Give up both directions; a stream that ended is fine."""
        if self._channel.broken is None:
            self._channel.reset(self.stream_id, CANCELLED)
            self._channel.stop(self.stream_id, CANCELLED)
            self._touched(self.peer)

    def on_event(self, event: Event) -> None:
        """Take what happened on this stream, or to its channel."""
        if isinstance(event, WasReset):
            self._failure = f"peer {self._name} gave the stream up"
        elif isinstance(event, Stopped):
            self._is_unwanted = True
        elif isinstance(event, Broken):
            self._failure = f"the session with peer {self._name} ended"
        self._has_arrived |= isinstance(event, Delivered)
        if self._failure or isinstance(event, Readable | Finished):
            self._readable.set()
        if self._failure or isinstance(event, Writable | Stopped):
            self._writable.set()
        if self._failure or isinstance(event, Delivered | Stopped):
            self._delivered.set()

    @property
    def _name(self) -> str:
        return self.peer.identity.short if self.peer.identity is not None else "unknown"

    def _check(self) -> None:
        if self._failure:
            raise ConnectionLost(self._failure)

    def _check_wanted(self) -> None:
        self._check()
        if self._is_unwanted and not self._is_ended:
            raise self._unwanted()

    def _unwanted(self) -> ConnectionLost:
        return ConnectionLost(f"peer {self._name} reads no more of the stream")

    async def _wait_some(self) -> None:
        """Return when what is wanted can be read, or after a second whatever there is."""
        until_s = self._loop.time() + limits.STREAM_IDLE_S
        while self._loop.time() < until_s:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._readable.wait()
                self._check()
                return
            except TimeoutError:
                if self._channel.readable(self.stream_id):
                    return
        await self._wait(self._readable, 0.0)

    async def _wait(self, event: asyncio.Event, within_s: float = limits.STREAM_IDLE_S) -> None:
        try:
            async with asyncio.timeout(within_s):
                await event.wait()
        except TimeoutError:
            self.cancel()
            raise TimedOut(f"peer {self._name} did nothing on a stream for too long") from None
        self._check()
