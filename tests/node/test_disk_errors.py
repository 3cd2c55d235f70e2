"""A disk that fails: that shard writes no more, reads go on, and readyz says why."""

import asyncio
import errno
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import pytest

from molia.api.app import create_app
from molia.api.listeners import bind
from molia.api.server import new_event_loop, serve
from molia.base.cid import Cid
from molia.base.config import ApiConfig, Config, StoreConfig
from molia.base.errors import ShardUnavailable
from molia.base.now import Now
from molia.node.app import open_node
from molia.node.home import init_home
from molia.node.shards import ShardWriter
from molia.node.system import SystemClock
from molia.store.disk import Buffer, File
from molia.store.keys import home_shard
from molia.store.os_disk import OsDisk
from molia.store.shard import Shard
from tests.node.process import Client, body_of
from tests.node.scan import assert_no_orphans
from tests.store.shards import disk_at, open_shard

CONFIG = Config(
    api=ApiConfig(loopback="trusted", listen=("127.0.0.1:0",)),
    store=StoreConfig(shards=2, quota_bytes=1 << 30),
)


BLOCK_READ_SIZE = 100_000


@dataclass
class Fault:
    """Which call fails, once armed, and with what."""

    call: str
    after: int = 0
    """So many calls still succeed."""
    code: int = errno.EIO
    shard: str = "shard-00"
    """Whose segments fail."""
    armed: bool = False
    left: int = 1 << 30
    """So many calls fail."""
    failed: int = field(default=0, init=False)
    seen: Counter[str] = field(default_factory=Counter, init=False)

    def meet(self, call: str, name: str) -> None:
        if call == self.call:
            self.seen[name.split("/")[0]] += 1
        if not self.armed or call != self.call or not name.startswith(self.shard + "/seg"):
            return
        if self.after:
            self.after -= 1
            return
        if not self.left:
            return
        self.left -= 1
        self.failed += 1
        raise OSError(self.code, "Input/output error")

    def seen_by_shard(self) -> Counter[str]:
        """Return and forget how many such calls each shard saw."""
        seen, self.seen = self.seen, Counter()
        return seen


class FailingFile:
    """A file of the real disk that fails as it is told."""

    def __init__(self, inner: File, name: str, fault: Fault) -> None:
        self._inner, self._name, self._fault = inner, name, fault

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def read(self, offset: int, size: int) -> bytes:
        self._fault.meet("read" if size < BLOCK_READ_SIZE else "read block", self._name)
        return self._inner.read(offset, size)

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        self._fault.meet("write", self._name)
        self._inner.write(offset, buffers)

    def sync(self) -> None:
        self._fault.meet("sync", self._name)
        self._inner.sync()


class FailingDisk(OsDisk):
    """The real disk, whose files fail as they are told."""

    def __init__(self, root: str, fault: Fault) -> None:
        super().__init__(root)
        self._fault = fault

    def open(self, name: str, *, create: bool = False, writable: bool = True) -> File:
        inner = super().open(name, create=create, writable=writable)
        return cast("File", FailingFile(inner, name, self._fault))


@contextmanager
def running(home: Path, fault: Fault | None = None) -> Iterator[Client]:
    """Run a node and its API in a thread of this process; yield a client."""
    listeners, ready = bind(CONFIG.api, None), threading.Event()
    stops: list[Callable[[], object]] = []
    failures: list[BaseException] = []

    async def main() -> None:
        stop = asyncio.Event()
        stops.append(partial(asyncio.get_running_loop().call_soon_threadsafe, stop.set))
        open_disk = partial(FailingDisk, fault=fault or Fault("none"))
        async with open_node(home, CONFIG, open_disk=open_disk) as node:
            app = create_app(node, CONFIG.api, token=None, version="1")
            await serve(app, listeners, stop=stop, ready=ready.set)

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(main())
        except BaseException as error:  # noqa: BLE001 - told by the main thread
            failures.append(error)
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(60), "the node does not start"
        assert not failures, failures[0]
        yield Client(urlsplit(listeners.urls[0]).port or 0)
    finally:
        for stop in stops:
            stop()
        thread.join(60)
    assert not failures, failures[0]


def home_of(cid: str) -> int:
    return home_shard(Cid.parse(cid), 2)


def check(client: Client, kept: dict[str, bytes]) -> None:
    for cid, body in kept.items():
        answer = client("GET", f"/blob/{cid}")
        assert (answer.status, answer.body == body, answer.whole) == (200, True, True)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    init_home(tmp_path / "home", CONFIG, "")
    return tmp_path / "home"


def fill(client: Client) -> dict[str, bytes]:
    """Put a large blob, and small ones until both shards have two."""
    kept = {}
    bodies = [body_of(0, 3_000_000), *(body_of(number, 5_000) for number in range(1, 40))]
    for body in bodies:
        kept[client.put(body)] = body
        small = Counter(home_of(cid) for cid in kept)
        if min(small[0], small[1]) >= 3:
            return kept
    raise AssertionError("forty blobs fall on one shard")


@pytest.mark.parametrize("after", [0, 1, 4])
@pytest.mark.parametrize("call", ["write", "sync"])
def test_after_a_failed_write_the_shard_is_read_only_and_says_why(
    home: Path, call: str, after: int
) -> None:
    fault = Fault(call, after)
    with running(home, fault) as client:
        kept = fill(client)
        assert (client("GET", "/readyz")).status == 200
        fault.armed = True
        answer = client("PUT", "/blob", body_of(100, 20_000_000))
        assert (answer.status, answer.code) == (503, "shard-unavailable")
        assert fault.failed == 1
        check(client, kept)
        fault.armed = False  # the disk is well again; nobody may trust it
        for size in (2_000_000, 2_000_001):
            answer = client("PUT", "/blob", body_of(101, size))
            assert (answer.status, answer.code) == (503, "shard-unavailable")
        ready = client("GET", "/readyz")
        assert ready.status == 503
        assert "shard 0 takes no writes" in ready.body.decode()
        assert "Input/output error" in ready.body.decode()
        metrics = (client("GET", "/metrics")).body.decode()
        assert 'molia_shard_writable{shard="0"} 0.0' in metrics
        assert 'molia_shard_writable{shard="1"} 1.0' in metrics
        shards = (client("GET", "/node")).json()["shards"]
        assert [shard["state"] for shard in shards] == ["read-only", "ok"]
        statuses = Counter[int]()
        for number in range(200, 220):  # small ones go where the disk still writes
            body = body_of(number, 3_000)
            answer = client("PUT", "/blob", body)
            statuses[answer.status] += 1
            if answer.status == 201:
                kept[answer.body.decode().strip()] = body
        assert set(statuses) == {201, 503}
        doomed = next(cid for cid in kept if home_of(cid) == 0)
        assert (client("DELETE", f"/blob/{doomed}")).status == 503
        check(client, kept)
    with running(home) as client:
        assert (client("GET", "/readyz")).status == 200
        listed = (client("GET", "/blob")).json()["blobs"]
        assert {blob["cid"] for blob in listed} == set(kept)
        check(client, kept)
        kept[client.put(body_of(100, 20_000_000))] = body_of(100, 20_000_000)
        check(client, kept)
    assert set(assert_no_orphans(home)) == set(kept)


def test_a_failing_read_is_read_around_or_an_error_but_never_wrong(home: Path) -> None:
    fault = Fault("read block")
    with running(home, fault) as client:
        kept = fill(client)
        large = next(cid for cid, body in kept.items() if len(body) == 3_000_000)
        fault.seen_by_shard()
        assert client("GET", f"/blob/{large}").whole
        # which of two shards keeps a share is drawn anew in each run; one of them keeps five of ten
        fault.shard, most = fault.seen_by_shard().most_common(1)[0]
        assert most >= 5
        for count in (1, 2, 4):
            fault.armed, fault.left = True, count
            answer = client("GET", f"/blob/{large}")
            assert (answer.status, answer.body == kept[large]) == (200, True)
            assert fault.left == 0
        fault.call, fault.left = "read", 1 << 30
        for cid, body in kept.items():
            answer = client("GET", f"/blob/{cid}")
            right = answer.whole and answer.body == body
            assert right or answer.status >= 502 or not answer.whole, answer.status
        fault.armed = False
        check(client, kept)
    assert set(assert_no_orphans(home)) == set(kept)


# ---------------------------------------------------------------------------- calls to a writer


def shard_at(path: Path) -> Shard:
    """Return a shard of its own, open."""
    return open_shard(disk_at(path), now=SystemClock().now())[0]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_call_is_answered_also_when_the_writer_ends_by_it(tmp_path: Path) -> None:
    def fails(_: Shard) -> int:
        raise OSError(errno.EIO, "Input/output error")

    async def call() -> None:
        writer = ShardWriter(shard_at(tmp_path), 0, SystemClock())
        calls = [asyncio.ensure_future(writer.call(work)) for work in (fails, lambda _: 1)]
        done, waiting = await asyncio.wait(calls, timeout=60)
        assert not waiting, "nobody answers"
        assert {type(task.exception()) for task in done} == {ShardUnavailable}
        await asyncio.to_thread(writer._thread.join)

    asyncio.run(call())


def test_a_call_that_was_made_before_the_writer_stops_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works, gate = threading.Event(), threading.Event()

    def work(_: Shard, now: Now, *, idle: bool) -> None:
        works.set()
        gate.wait(60)

    monkeypatch.setattr(Shard, "work", work)

    async def call() -> None:
        writer = ShardWriter(shard_at(tmp_path), 0, SystemClock())
        await asyncio.to_thread(works.wait)
        calling = asyncio.ensure_future(writer.call(lambda _: 7))
        stopping = asyncio.ensure_future(writer.stop())
        await asyncio.sleep(0)
        gate.set()
        await stopping
        assert await asyncio.wait_for(calling, 60) == 7

    asyncio.run(call())


def test_verify_goes_on_behind_a_segment_that_cannot_be_read(home: Path) -> None:
    fault = Fault("read block", left=1)
    with running(home, fault) as client:
        kept = fill(client)
        fault.armed = True
        progress = client.verify()
        assert fault.left == 0
        assert progress["log_damaged"] == 1
        assert progress["blobs"] == len(kept)
