"""The parent of a node's workers: holds the sockets and the home's lock, starts, restarts, stops.

It opens no store and answers no request. Each worker is a new process, never a fork of a running
one. Parent and worker talk over a socket pair, a line at a time: the worker says `loaded`, `ready`,
`drained` or `failed`, the parent `go`, `drain` and `close`; its end tells a worker to end at once.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from molia.base import limits
from molia.base.errors import MoliaError, WorkerFailed
from molia.node.bus import bus_paths, decode_error
from molia.node.steering import UdpGroup
from molia.store.delta import forget_deltas
from molia.store.os_disk import OsDisk

log = structlog.get_logger(__name__)

FIRST_PAUSE_S: Final = 0.1
PAUSE_MAX_S: Final = 10.0
STEADY_S: Final = 60.0
"""A worker that lived so long is started again without a pause."""
LOAD_S: Final = 120.0
READY_S: Final = 3600.0
"""Recovery of a large store takes its time."""
DRAIN_S: Final = limits.SHUTDOWN_S + 15.0
CLOSE_S: Final = 90.0
FOREVER_S: Final = 1e8
LINGER_S: Final = 2.0
"""A worker that is replaced goes on answering on open connections for so long, and then says that
it closes them: a client that is at work is told before, and loses no request."""
_BACKLOG: Final = 256
_LINE_MAX: Final = 1 << 20


@contextmanager
def bus_directory(home: Path) -> Iterator[Path]:
    """Give a directory that is ours alone for the workers' sockets; it goes afterwards."""
    made = home / "run"
    if len(os.fsencode(bus_paths(made, 1)[0])) <= limits.SOCKET_PATH_MAX:
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(mode=0o700)
    else:
        made = Path(tempfile.mkdtemp(prefix="molia-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def forget_past(data: Path) -> None:
    """Remove what an earlier run of the node showed its processes: a power cut may have hit it."""
    disk = OsDisk(str(data))
    for name in disk.list_dir(""):
        if name.startswith("shard-"):
            forget_deltas(disk, name)


def listen_on_bus(paths: Sequence[str]) -> list[socket.socket]:
    """Return a listening socket for each worker: what comes while it starts anew waits there."""
    sockets = []
    for path in paths:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(path)
        sock.listen(_BACKLOG)
        sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
        sockets.append(sock)
    return sockets


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """What every worker is handed: the parent opened it and keeps it open."""

    command: tuple[str, ...]
    """Starts a worker; the number of its control socket is appended."""
    plan: dict[str, Any]
    """JSON for the worker: what is the same for all of them."""
    api: tuple[socket.socket, ...]
    udp: UdpGroup
    bus: Sequence[socket.socket]
    lock: int
    """The descriptor of the home's lock: held until the last process of the node has gone."""

    def sockets_of(self, index: int) -> dict[str, list[int]]:
        """Return the descriptors for one worker, by what they are."""
        return {
            "api": [sock.fileno() for sock in self.api],
            "udp": [sock.fileno() for sock in self.udp.by_worker[index]],
            "bus": [self.bus[index].fileno()],
            "lock": [self.lock],
        }


@dataclass(eq=False, slots=True)
class _Process:
    """One start of a worker."""

    index: int
    process: asyncio.subprocess.Process
    control: asyncio.StreamWriter
    said: dict[str, asyncio.Event] = field(
        default_factory=lambda: {word: asyncio.Event() for word in ("loaded", "ready", "drained")}
    )
    error: MoliaError | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    listening: "asyncio.Task[None] | None" = None

    async def listen(self, reader: asyncio.StreamReader) -> None:
        """Take what the worker says until it ends."""
        with contextlib.suppress(OSError, ValueError):
            while line := await reader.readline():
                word, _, rest = line.decode().strip().partition(" ")
                if word == "failed":
                    self.error = decode_error(json.loads(rest))
                elif word in self.said:
                    self.said[word].set()
        await self.process.wait()
        self.control.close()
        self.ended.set()

    def tell(self, line: str) -> None:
        """Say something to the worker; one that has ended does not hear it."""
        if not self.ended.is_set():
            self.control.write(line.encode() + b"\n")

    async def wait_for(self, word: str, wait_s: float) -> bool:
        """Tell whether the worker has said a word, before it ended and in time."""
        waiting = [asyncio.ensure_future(event.wait()) for event in (self.said[word], self.ended)]
        try:
            await asyncio.wait(waiting, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        return self.said[word].is_set() and not self.ended.is_set()

    async def end(self, wait_s: float) -> None:
        """Return when the process has ended, which it is made to after a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self.ended.wait()
                return
        log.warning("worker_killed", worker=self.index, reason="it did not end in time")
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        await self.ended.wait()


class Supervisor:
    """Keeps the workers of one node running."""

    def __init__(self, handed: Handed, count: int) -> None:
        self._handed, self._indexes = handed, range(count)
        self._processes: dict[int, _Process] = {}
        self._starts = [0] * count
        self._turns = [asyncio.Lock() for _ in self._indexes]
        """One start of a worker at a time."""
        self._stopping = self._replacing = False
        self._ready = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, *, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        """Start all workers, call `ready`, keep them running until `stop`, then drain and end them.

        Raises what made the first start of a worker fail.
        """
        try:
            await self._start_all(stop)
            if stop.is_set():
                return
            for index in self._indexes:
                self._spawn(self._keep(index))
            self._ready = True
            ready()
            await stop.wait()
        finally:
            self._stopping = True
            for task in list(self._tasks):
                task.cancel()
            await self._end_all()

    def replace_all(self) -> None:
        """Restart the workers one after another; nothing happens while that is under way."""
        if self._ready and not self._replacing and not self._stopping:
            self._replacing = True
            self._spawn(self._replace_all())

    # ------------------------------------------------------------------ starting

    async def _start_all(self, stop: asyncio.Event) -> None:
        """Return when all workers answer or the node is to stop. Raises why one does not."""
        starting: set[asyncio.Task[Any]] = {
            asyncio.ensure_future(self._start(index)) for index in self._indexes
        }
        stopped: asyncio.Task[Any] = asyncio.ensure_future(stop.wait())
        left = set(starting)
        try:
            while left and not stop.is_set():
                done, _ = await asyncio.wait({*left, stopped}, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    await task
                left -= done
        finally:
            for task in (*starting, stopped):
                task.cancel()
            await asyncio.gather(*starting, stopped, return_exceptions=True)

    async def _start(self, index: int) -> None:
        """Return when the worker answers. Raises why it does not."""
        process = await self._load(index)
        self._processes[index] = process
        process.tell("go")
        if not await process.wait_for("ready", READY_S):
            raise process.error or WorkerFailed(f"worker {index} ended before it was ready")

    async def _load(self, index: int) -> _Process:
        """Return a new process that waits for its `go`. Raises WorkerFailed."""
        start, self._starts[index] = self._starts[index], self._starts[index] + 1
        fds = self._handed.sockets_of(index)
        try:
            process, ours = await self._new_process(fds)
        except OSError as error:  # too many processes or files, or no memory: that may pass
            raise WorkerFailed(f"worker {index} cannot be started: {error.strerror}") from None
        reader, writer = await asyncio.open_connection(sock=ours, limit=_LINE_MAX)
        made = _Process(index, process, writer)
        made.listening = asyncio.ensure_future(made.listen(reader))
        plan = {**self._handed.plan, "index": index, "start": start, "fds": fds}
        made.tell(json.dumps(plan))
        if not await made.wait_for("loaded", LOAD_S):
            await made.end(0)
            raise made.error or WorkerFailed(f"worker {index} ended while it was loaded")
        return made

    async def _new_process(
        self, fds: Mapping[str, list[int]]
    ) -> tuple[asyncio.subprocess.Process, socket.socket]:
        """Return a new process, and our end of its control socket. Raises OSError."""
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *self._handed.command,
                str(theirs.fileno()),
                pass_fds=[theirs.fileno(), *(fd for some in fds.values() for fd in some)],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is the parent's to hear
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return process, ours

    # ------------------------------------------------------------------ keeping

    async def _keep(self, index: int) -> None:
        """Start a worker anew whenever it ends by itself."""
        loop, pause_s = asyncio.get_running_loop(), FIRST_PAUSE_S
        while True:
            process, since_s = self._processes[index], loop.time()
            if await process.wait_for("drained", FOREVER_S) and process is self._processes[index]:
                async with self._turns[index]:  # it was told by somebody else, or is being replaced
                    process.tell("close")
            await process.ended.wait()
            if self._processes[index] is not process:
                continue  # it was replaced
            code = process.process.returncode
            log.warning("worker_ended", worker=index, exit_code=code, pause_ms=int(pause_s * 1000))
            await asyncio.sleep(pause_s)
            steady = loop.time() - since_s >= STEADY_S
            pause_s = FIRST_PAUSE_S if steady else min(2 * pause_s, PAUSE_MAX_S)
            async with self._turns[index]:
                if self._processes[index] is process:
                    await self._start_again(index)

    async def _start_again(self, index: int) -> None:
        try:
            await self._start(index)
        except MoliaError as error:
            log.warning("worker_not_started", worker=index, reason=str(error))
            await self._processes[index].end(CLOSE_S)
        else:
            log.info("worker_started", worker=index, pid=self._processes[index].process.pid)

    async def _replace_all(self) -> None:
        log.info("workers_restarting", count=len(self._indexes))
        try:
            for index in self._indexes:
                await self._replace(index)
        except MoliaError as error:
            log.warning("workers_not_restarted", reason=str(error))
        else:
            log.info("workers_restarted", count=len(self._indexes))
        finally:
            self._replacing = False

    async def _replace(self, index: int) -> None:
        """Let a new process take over: it is loaded before the old one closes its shards."""
        async with self._turns[index]:
            await self._take_over(index, await self._load(index))

    async def _take_over(self, index: int, new: _Process) -> None:
        old = self._processes[index]
        try:
            if not old.ended.is_set():
                old.tell(f"drain {LINGER_S}")
                await old.wait_for("drained", DRAIN_S)
            self._processes[index] = new
            old.tell("close")
            await old.end(CLOSE_S)
        except BaseException:
            self._processes[index] = new
            raise
        new.tell("go")
        if not await new.wait_for("ready", READY_S):
            raise new.error or WorkerFailed(f"worker {index} ended before it was ready")

    # ------------------------------------------------------------------ stopping

    async def _end_all(self) -> None:
        """Let all end what they answer, and only then close their shards: others write to them."""
        processes = list(self._processes.values())
        for process in processes:
            process.tell("drain 0")
        await asyncio.gather(*(process.wait_for("drained", DRAIN_S) for process in processes))
        for process in processes:
            process.tell("close")
        await asyncio.gather(*(process.end(CLOSE_S) for process in processes))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
