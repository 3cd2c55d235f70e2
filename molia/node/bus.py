"""The local bus: how the workers of a node ask each other, over Unix sockets.

A message is two u32le lengths, a CBOR head, and the bytes of values back to back, which are never
copied into the head. Requests carry a number and may be answered in any order.
Source: docs/decisions/0008-workers.md.
"""

import asyncio
import contextlib
import struct
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from socket import socket
from typing import Any, Final, cast

import cbor2
import structlog

from molia.base import limits
from molia.base.errors import OUTCOMES, Busy, MoliaError, ShardUnavailable
from molia.store.disk import Buffer

log = structlog.get_logger(__name__)

_LENGTHS: Final = struct.Struct("<II")
_REQUEST, _REPLY, _ERROR, _CLOSING, _QUIET = range(5)
RETRY_S: Final = 0.05
CLOSE_S: Final = 10.0
_KINDS: Final = {kind.__name__: kind for kind in OUTCOMES}
Head = list[Any]
Handler = Callable[["Caller", str, Any, memoryview], Awaitable[Any]]
"""Answers a request: who asks, the verb, its arguments, the values. Returns CBOR values."""


class Cut(Exception):
    """The connection broke before the answer: the request was done, or was not."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The worker at the other end of a connection: its number, and which start of it."""

    index: int
    start: int


def encode_error(error: MoliaError) -> Head:
    """Return an error as the bus carries it."""
    return [type(error).__name__, error.message, error.hint]


def decode_error(fields: Sequence[Any]) -> MoliaError:
    """Return the error that another worker raised, of the same class where that is known."""
    name, message, hint = fields
    kind = _KINDS.get(name, MoliaError)
    error = kind.__new__(kind)
    MoliaError.__init__(error, str(message), hint=str(hint))
    if isinstance(error, Busy):
        error.retry_after_s = 5
    return error


class Frames(asyncio.Protocol):
    """One connection: messages out, messages in, both ways whole."""

    def __init__(
        self,
        on_message: "Callable[[Frames, Head, memoryview], None]",
        on_lost: "Callable[[Frames], None]",
    ) -> None:
        self._on_message, self._on_lost = on_message, on_lost
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._frame: bytearray | None = None
        self._filled = self._head_size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Say that nothing more will come."""
        del exc
        self._on_lost(self)

    def data_received(self, data: bytes) -> None:
        """Cut what came into messages; close the connection on one that is too long."""
        if self._frame is None:
            data = self._rest + data if self._rest else data
            self._rest = b""
        view = memoryview(data)
        while view:
            if self._frame is None:
                if len(view) < _LENGTHS.size:
                    self._rest = bytes(view)
                    return
                head_size, blob_size = _LENGTHS.unpack_from(view)
                if head_size > limits.BUS_HEAD_MAX or blob_size > limits.BUS_BLOB_MAX:
                    self.close()
                    return
                self._frame, self._filled = bytearray(head_size + blob_size), 0
                self._head_size = head_size
                view = view[_LENGTHS.size :]
            size = min(len(view), len(self._frame) - self._filled)
            self._frame[self._filled : self._filled + size] = view[:size]
            self._filled += size
            view = view[size:]
            if self._filled == len(self._frame):
                self._deliver(self._frame)

    def _deliver(self, frame: bytearray) -> None:
        self._frame = None
        try:
            head = cbor2.loads(bytes(memoryview(frame)[: self._head_size]))
            self._on_message(self, head, memoryview(frame)[self._head_size :].toreadonly())
        except (cbor2.CBORDecodeError, ValueError, TypeError, LookupError) as error:
            log.warning("bus_message_unreadable", reason=type(error).__name__)
            self.close()

    def send(self, head: Head, blobs: Sequence[Buffer] = ()) -> bool:
        """Queue a message; who sends long ones bounds what is not answered.

        False: its head is too long, and the other end would drop the connection.
        """
        if self._transport is None or self._transport.is_closing():
            return True
        encoded = cbor2.dumps(head)
        if len(encoded) > limits.BUS_HEAD_MAX:
            return False
        lengths = _LENGTHS.pack(len(encoded), sum(map(len, blobs)))
        if blobs:
            self._transport.writelines([lengths + encoded, *blobs])
        else:
            self._transport.write(lengths + encoded)
        return True

    def close(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()


# ---------------------------------------------------------------------------- asking


class Link:
    """The way to one other worker; it connects again whenever the other one starts anew."""

    def __init__(self, path: str, me: Caller) -> None:
        self._path, self._me = path, me
        self._frames: Frames | None = None
        self._lost = asyncio.Event()
        self._ready = asyncio.Event()
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._in_flight_bytes = 0
        self._room = asyncio.Event()
        self._room.set()

    @property
    def ready(self) -> bool:
        """Whether the other worker answers."""
        return self._ready.is_set()

    async def run(self) -> None:
        """Keep the connection up, for as long as the node lives."""
        loop = asyncio.get_running_loop()
        while True:
            lost = asyncio.Event()
            with contextlib.suppress(OSError):
                _, frames = await loop.create_unix_connection(
                    lambda: Frames(self._on_message, self._on_lost), self._path
                )
                self._frames, self._lost = frames, lost
                try:
                    # nothing else is asked before the other worker says that it is open
                    hello = self._post("hello", [self._me.index, self._me.start], ())
                    hello.add_done_callback(self._on_hello)
                    await lost.wait()
                finally:
                    frames.close()
                    self._on_lost(frames)
            await asyncio.sleep(RETRY_S)

    def _on_hello(self, hello: "asyncio.Future[Any]") -> None:
        if not hello.cancelled() and hello.exception() is None:
            self._ready.set()

    def _on_lost(self, frames: Frames) -> None:
        if frames is not self._frames:
            return
        self._ready.clear()
        self._frames = None
        self._lost.set()
        for waiting in list(self._waiting.values()):
            if not waiting.done():
                waiting.set_exception(Cut())

    async def wait_ready(self, wait_s: float) -> None:
        """Return once the other worker answers. Raises ShardUnavailable."""
        if self._ready.is_set():
            return
        try:
            async with asyncio.timeout(wait_s):
                while not self._ready.is_set():
                    await self._ready.wait()
        except TimeoutError:
            raise ShardUnavailable(
                "the worker that has it is starting anew", hint="try again in a moment"
            ) from None

    async def ask(
        self,
        verb: str,
        arguments: Any = None,  # noqa: ANN401 - what CBOR can say
        blobs: Sequence[Buffer] = (),
        *,
        wait_s: float = limits.WRITE_WAIT_S,
    ) -> Any:  # noqa: ANN401 - what the verb answers
        """Return the answer. Raises what the other worker raised, ShardUnavailable, Busy, Cut."""
        size = sum(map(len, blobs))
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    await self.wait_ready(limits.SHARD_WAIT_S)
                    if self._in_flight_bytes == 0 or (
                        self._in_flight_bytes + size <= limits.BUS_IN_FLIGHT_BYTES
                    ):
                        break
                    self._room.clear()
                    await self._room.wait()
                answer = self._post(verb, arguments, blobs)
                # a write that nobody waits for any more is still under way: see `settle`
                return await (asyncio.shield(answer) if blobs or verb == "write" else answer)
        except TimeoutError:
            raise Busy("another worker did not answer in time") from None

    def _post(self, verb: str, arguments: object, blobs: Sequence[Buffer]) -> "asyncio.Future[Any]":
        """Send now. What nobody waits for any more still counts until it is answered."""
        assert self._frames is not None, "there is a connection"
        number, size = next(self._numbers), sum(map(len, blobs))
        waiting: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        self._in_flight_bytes += size

        def forget(done: "asyncio.Future[Any]") -> None:
            if not done.cancelled():
                done.exception()  # nobody may be listening any more
            self._waiting.pop(number, None)
            self._in_flight_bytes -= size
            self._room.set()

        waiting.add_done_callback(forget)
        if not self._frames.send([_REQUEST, number, verb, arguments], blobs):
            waiting.set_exception(_too_long(verb))
        return waiting

    def tell(self, verb: str, arguments: object, blobs: Sequence[Buffer] = ()) -> bool:
        """Say something that needs no answer; False when it is dropped, as a datagram may be.

        That is while the other worker starts anew, or has too much to do already.
        """
        size = sum(map(len, blobs))
        if not self.ready or self._in_flight_bytes + size > limits.BUS_IN_FLIGHT_BYTES:
            return False
        self._post(verb, arguments, blobs)
        return True

    async def settle(self) -> None:
        """Return when everything sent so far was answered, or never will be."""
        if self._waiting:
            await asyncio.wait(list(self._waiting.values()), timeout=limits.WRITE_WAIT_S)

    def _on_message(self, frames: Frames, head: Head, blob: memoryview) -> None:
        del blob
        if head[0] == _CLOSING:
            self._ready.clear()  # what is asked from now on waits for the next one
            frames.send([_QUIET])
            return
        waiting = self._waiting.get(head[1])
        if waiting is None or waiting.done():
            return
        if head[0] == _REPLY:
            waiting.set_result(head[2])
        else:
            waiting.set_exception(decode_error(head[2:5]))


# ---------------------------------------------------------------------------- answering


@dataclass(eq=False, slots=True)
class _Connection:
    frames: Frames
    caller: Caller | None = None
    quiet: asyncio.Event = field(default_factory=asyncio.Event)


class Server:
    """Answers the other workers. A worker that starts anew ends the connections of its past."""

    def __init__(self, sock: socket, handle: Handler) -> None:
        self._sock, self._handle = sock, handle
        self._connections: dict[Frames, _Connection] = {}
        self._tasks: defaultdict[int, set[asyncio.Task[None]]] = defaultdict(set)
        """What is being done for each worker, whichever connection it came by."""
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to answer; what waits in the socket's queue comes first."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._new, sock=self._sock)

    async def close(self) -> None:
        """Let every caller go quiet, answer what came before, then close."""
        if self._server is not None:
            self._server.close()
        connections = list(self._connections.values())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                for connection in connections:
                    connection.frames.send([_CLOSING])
                for connection in connections:
                    await connection.quiet.wait()
                while tasks := [task for tasks in self._tasks.values() for task in tasks]:
                    await asyncio.wait(tasks)
        for connection in connections:
            connection.frames.close()

    def _new(self) -> Frames:
        frames = Frames(self._on_message, self._on_lost)
        self._connections[frames] = _Connection(frames)
        return frames

    def _on_lost(self, frames: Frames) -> None:
        connection = self._connections.pop(frames, None)
        if connection is not None:
            connection.quiet.set()

    def _on_message(self, frames: Frames, head: Head, blob: memoryview) -> None:
        connection = self._connections.get(frames)
        if connection is None:
            return
        if head[0] == _QUIET:
            connection.quiet.set()
            return
        _, number, verb, arguments = head
        if verb == "hello":
            self._greet(connection, arguments)
            frames.send([_REPLY, number, None])
            return
        if connection.caller is None:
            raise ValueError("a caller says who it is first")
        task = asyncio.ensure_future(self._answer(connection, number, verb, arguments, blob))
        tasks = self._tasks[connection.caller.index]
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def _greet(self, connection: _Connection, arguments: Sequence[int]) -> None:
        index, start = arguments
        for other in list(self._connections.values()):
            if other.caller is not None and other.caller.index == index:
                other.frames.close()  # what it still had to say is not done any more
                self._on_lost(other.frames)
        for task in self._tasks[index]:
            task.cancel()  # whoever waited for it is gone
        connection.caller = Caller(int(index), int(start))

    async def _answer(
        self, connection: _Connection, number: int, verb: str, arguments: object, blob: memoryview
    ) -> None:
        assert connection.caller is not None, "it has said who it is"
        try:
            reply = [_REPLY, number, await self._handle(connection.caller, verb, arguments, blob)]
        except MoliaError as error:
            reply = [_ERROR, number, *encode_error(error)]
        if not connection.frames.send(reply):
            connection.frames.send([_ERROR, number, *encode_error(_too_long(verb))])


def _too_long(verb: str) -> MoliaError:
    return MoliaError(f"what goes with {verb!r} is too long for another worker to be told")


def bus_paths(directory: Path, count: int) -> list[str]:
    """Return where each worker's socket is."""
    return [str(directory / f"worker-{index:02d}.sock") for index in range(count)]
