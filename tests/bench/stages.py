"""Where a node's CPU time goes, by stage: `python -m tests.bench.stages run ...` counts it.

The functions of each stage are wrapped with a clock of their thread's CPU time; what one stage
calls of another is charged to the other alone. On SIGUSR1 the sums so far are written to
`stages.json` in the home. The clock costs a call of the system, so only what is called for a block,
a burst or a turn of the event loop is wrapped, nothing that is called for each packet.
"""

import importlib
import json
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Final

PLAIN: Final = {
    "hash": (
        "molia.base.hashing:blake3_digest",
        "molia.base.hashing:purpose_digest",
        "molia.base.hashing:ContentHasher.update",
    ),
    "code": ("molia.blobs.erasure:encode_stripe", "molia.blobs.erasure:decode_stripe"),
    "AEAD": (
        "molia.wire.session:Session.seal",
        "molia.wire.session:Session.seal_many",
        "molia.wire.session:Session.open",
        "molia.wire.session:Session.open_many",
    ),
    "wire": (
        "molia.node.udp:UdpPump._on_readable",
        "molia.node.udp:UdpPump._on_writable",
        "molia.node.udp:UdpDriver._flush_due",
        "molia.node.udp:UdpDriver._on_timer",
        "molia.wire.channel:Channel.read",
        "molia.wire.channel:Channel.write",
    ),
    "store": (
        "molia.store.shard:Shard.apply",
        "molia.store.shard:Shard.work",
        "molia.store.shard:Shard.get",
        "molia.store.shard:Shard.scan",
        "molia.store.shard:Shard.size_of",
    ),
    "HTTP": ("molia.api.protocol:BoundedProtocol.data_received",),
    "blobs": (
        "molia.node.gathering:Gathering._turn",
        "molia.node.taking:_Taking._carry_out",
    ),
}
"""By stage: functions and methods."""
WAITING: Final = {
    "HTTP": ("molia.api.guards:Guard.__call__",),
    "blobs": (
        "molia.node.giving:Giver.give",
        "molia.node.giving:Giver._send_all",
        "molia.node.placing:Placing.run",
        "molia.node.holding:Holder._on_put_share",
        "molia.node.gathering:Gathering._ask_run",
        "molia.node.gathering:Gathering._decode",
        "molia.node.serving_blobs:BlobServer._serve",
        "molia.node.puts:_Put._perform",
    ),
}
"""By stage: coroutine functions, each step of which is charged."""
SOCKET: Final = ("recvmsg_into", "recvfrom", "sendmsg", "sendto")
NAMES: Final = (*dict.fromkeys((*PLAIN, *WAITING)), "UDP calls")


class _Clock(threading.local):
    """One thread's time: which stage it is in, and the sums so far."""

    def __init__(self) -> None:
        self.stack: list[str] = []
        self.mark_ns = 0
        self.spent_ns = dict.fromkeys(NAMES, 0)
        _all.append(self.spent_ns)

    def enter(self, stage: str) -> None:
        now_ns = time.thread_time_ns()
        if self.stack:
            self.spent_ns[self.stack[-1]] += now_ns - self.mark_ns
        self.stack.append(stage)
        self.mark_ns = now_ns

    def leave(self) -> None:
        now_ns = time.thread_time_ns()
        self.spent_ns[self.stack.pop()] += now_ns - self.mark_ns
        self.mark_ns = now_ns


_all: list[dict[str, int]] = []
_clock = _Clock()


def timed(stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same function, its time charged to a stage."""

    def wrapper(*args: Any, **named: Any) -> Any:
        clock = _clock
        clock.enter(stage)
        try:
            return work(*args, **named)
        finally:
            clock.leave()

    return wrapper


def timed_steps(stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same coroutine function, the time of each of its steps charged to a stage."""

    @types.coroutine
    def driven(*args: Any, **named: Any) -> Generator[Any, Any, Any]:
        step = work(*args, **named).__await__()
        send, value = step.send, None
        while True:
            _clock.enter(stage)
            try:
                wanted = send(value)
            except StopIteration as end:
                return end.value
            finally:
                _clock.leave()
            try:
                value, send = (yield wanted), step.send
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's to take
                value, send = error, step.throw

    async def wrapper(*args: Any, **named: Any) -> Any:
        return await driven(*args, **named)

    return wrapper


class _Socket:
    """A socket whose calls are charged."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        for name in SOCKET:
            if hasattr(sock, name):
                setattr(self, name, timed("UDP calls", getattr(sock, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def install() -> None:
    """Wrap everything. Raises AttributeError for what is there no more."""
    for name in ("molia.cli.run", "molia.node.app", "molia.api.app", "molia.api.server"):
        importlib.import_module(name)
    for wrap, stages in ((timed, PLAIN), (timed_steps, WAITING)):
        for stage, places in stages.items():
            for place in places:
                _replace(place, wrap, stage)
    udp = importlib.import_module("molia.node.udp")
    begin = udp.UdpPump.__init__

    def charged(self: Any, sock: Any, *args: Any, **named: Any) -> None:
        begin(self, _Socket(sock), *args, **named)

    udp.UdpPump.__init__ = charged


def _replace(place: str, wrap: Callable[..., Callable[..., Any]], stage: str) -> None:
    module_name, _, path = place.partition(":")
    owner: Any = importlib.import_module(module_name)
    *classes, name = path.split(".")
    for each in classes:
        owner = getattr(owner, each)
    before = getattr(owner, name)
    after = wrap(stage, before)
    setattr(owner, name, after)
    if not classes:  # others may have imported the function by its name
        for module in [m for n, m in sys.modules.items() if n.startswith("molia.")]:
            for known, value in list(vars(module).items()):
                if value is before:
                    setattr(module, known, after)


def sums_s() -> dict[str, float]:
    """Return the CPU seconds of each stage so far, and of the process."""
    found = {name: sum(spent[name] for spent in _all) / 1e9 for name in NAMES}
    return found | {"all": time.process_time()}


def _write(*_: object) -> None:
    target = Path(os.environ["MOLIA_HOME"]) / "stages.json"
    beside = target.with_suffix(".new")
    beside.write_text(json.dumps(sums_s()), "ascii")
    beside.rename(target)


def main() -> None:
    """Run a `molia` command with everything counted."""
    install()
    signal.signal(signal.SIGUSR1, _write)
    from molia.cli.main import main as molia

    sys.exit(molia())


if __name__ == "__main__":
    main()
