"""The bus between workers: whole messages, the right answers, and an end to each wait."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molia.base import limits
from molia.base.errors import (
    OUTCOMES,
    BlobNotFound,
    Busy,
    MoliaError,
    NoSpace,
    ShardUnavailable,
    outcome_of,
)
from molia.node.bus import Caller, Cut, Frames, Link, Server, decode_error, encode_error
from molia.node.remote import pack_transaction, unpack_transaction
from molia.node.team import Seat
from molia.store.keys import DATA_KINDS
from molia.store.ops import Delete, Guard, Put, Transaction

Answer = Callable[[Caller, str, Any, memoryview], Awaitable[Any]]
ME = Caller(1, 0)


class Sink(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.data, self.aborted = b"", False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data += bytes(data)

    def writelines(self, list_of_data: Any) -> None:
        self.data += b"".join(bytes(part) for part in list_of_data)

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


def frames() -> tuple[Frames, Sink, list[tuple[list[Any], bytes]]]:
    got: list[tuple[list[Any], bytes]] = []
    made = Frames(lambda _, head, blob: got.append((head, bytes(blob))), lambda _: None)
    sink = Sink()
    made.connection_made(sink)
    return made, sink, got


@given(
    messages=st.lists(
        st.tuples(st.lists(st.integers() | st.text()), st.lists(st.binary(max_size=300))),
        max_size=5,
    ),
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
def test_messages_arrive_whole_however_they_are_cut(
    messages: list[tuple[list[Any], list[bytes]]], cuts: list[int]
) -> None:
    out, sink, _ = frames()
    for head, blobs in messages:
        out.send(["x", *head], blobs)
    inward, _, got = frames()
    left = sink.data
    for cut in cuts:
        piece, left = left[:cut], left[cut:]
        if piece:
            inward.data_received(piece)
    if left:
        inward.data_received(left)
    assert got == [(["x", *head], b"".join(blobs)) for head, blobs in messages]


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_nonsense_ends_the_connection_or_waits_and_raises_nothing(data: bytes) -> None:
    inward, sink, got = frames()
    inward.data_received(struct.pack("<II", len(data), 0) + data)
    try:
        whole = cbor2.loads(data)
    except Exception:  # noqa: BLE001 - whatever it says, it is no message
        assert sink.aborted
        assert not got
    else:
        assert got or sink.aborted, whole


@pytest.mark.parametrize(
    "lengths", [(limits.BUS_HEAD_MAX + 1, 0), (0, limits.BUS_BLOB_MAX + 1), (2**32 - 1, 2**32 - 1)]
)
def test_a_message_over_its_bound_ends_the_connection_before_it_is_read(
    lengths: tuple[int, int],
) -> None:
    inward, sink, _ = frames()
    inward.data_received(struct.pack("<II", *lengths))
    assert sink.aborted


@pytest.mark.parametrize("kind", OUTCOMES, ids=lambda kind: kind.__name__)
def test_every_error_crosses_the_bus_with_its_class(kind: type[MoliaError]) -> None:
    error = kind.__new__(kind)
    MoliaError.__init__(error, "a message", hint="a hint")
    got = decode_error(cbor2.loads(cbor2.dumps(encode_error(error))))
    assert type(got) is kind
    assert (got.message, got.hint) == ("a message", "a hint")
    assert outcome_of(got) == outcome_of(error)
    if isinstance(got, Busy):
        assert got.retry_after_s > 0


kinds = st.sampled_from(list(DATA_KINDS))
keys = st.binary(max_size=80)
ops = st.one_of(
    st.builds(Put, kinds, keys, st.binary(max_size=100), st.integers(0, 2**32 - 1), st.booleans()),
    st.builds(Delete, kinds, keys),
)
guards = st.none() | st.builds(Guard, kinds, keys, st.none() | st.binary(max_size=50))


@given(st.builds(Transaction, st.lists(ops, max_size=6).map(tuple), guards))
def test_a_transaction_crosses_the_bus_unchanged(transaction: Transaction) -> None:
    fields, blobs = pack_transaction(transaction)
    got = unpack_transaction(cbor2.loads(cbor2.dumps(fields)), memoryview(b"".join(blobs)))
    assert got == transaction
    assert [type(op) for op in got.ops] == [type(op) for op in transaction.ops]


# ---------------------------------------------------------------------------- two ends


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen(8)
    sock.setblocking(False)
    return sock


@asynccontextmanager
async def linked(path: Path, answer: Answer) -> AsyncIterator[tuple[Link, Server, socket.socket]]:
    """A server and the link of another worker to it."""
    sock = listening(path)
    server = Server(sock.dup(), answer)
    await server.start()
    link = Link(str(path), ME)
    running = asyncio.ensure_future(link.run())
    try:
        await link.wait_ready(10)
        yield link, server, sock
    finally:
        running.cancel()
        await server.close()
        sock.close()


async def echo(caller: Caller, verb: str, arguments: Any, blob: memoryview) -> Any:
    match verb:
        case "fail":
            raise NoSpace("full", hint="delete something")
        case "never":
            await asyncio.sleep(3600)
        case "later":
            await asyncio.sleep(arguments / 100)
    return [caller.index, arguments, bytes(blob)]


async def test_answers_come_to_who_asked_whatever_their_order(tmp_path: Path) -> None:
    async with linked(tmp_path / "bus", echo) as (link, _, _):
        asked = [link.ask("later", 9 - number, (b"blob%d" % number,)) for number in range(10)]
        got = await asyncio.gather(*asked)
        assert got == [[1, 9 - number, b"blob%d" % number] for number in range(10)]
        with pytest.raises(NoSpace, match="full"):
            await link.ask("fail")
        big = bytes(3_000_000)
        assert (await link.ask("echo", None, (big, big)))[2] == big + big


async def test_what_waits_when_the_other_end_dies_is_cut(tmp_path: Path) -> None:
    async with linked(tmp_path / "bus", echo) as (link, server, _):
        waiting = asyncio.ensure_future(link.ask("never"))
        await link.ask("echo")
        for connection in list(server._connections.values()):
            connection.frames.close()
        with pytest.raises(Cut):
            await waiting
        assert await link.ask("echo") == [1, None, b""], "the link is up again"


async def test_questions_to_one_that_starts_anew_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with linked(tmp_path / "bus", echo) as (link, server, sock):
        slow = asyncio.ensure_future(link.ask("later", 5))
        await asyncio.sleep(0)
        await server.close()
        assert await slow == [1, 5, b""], "what was asked before is answered"
        waiting = asyncio.ensure_future(link.ask("echo", "new"))
        next_one = Server(sock.dup(), echo)
        await next_one.start()
        assert await waiting == [1, "new", b""]
        await next_one.close()
        monkeypatch.setattr(limits, "SHARD_WAIT_S", 0.05)
        with pytest.raises(ShardUnavailable, match="starting anew"):
            await link.ask("echo")


async def test_who_waits_for_one_that_ends_as_soon_as_it_is_ready_waits_on(tmp_path: Path) -> None:
    sock = listening(tmp_path / "bus")
    link = Link(str(tmp_path / "bus"), ME)
    asking = asyncio.ensure_future(link.ask("echo"))
    await asyncio.sleep(0)
    link._ready.set()  # both before who waits has its turn
    link._ready.clear()
    server, running = Server(sock, echo), asyncio.ensure_future(link.run())
    await server.start()
    assert await asking == [1, None, b""]
    running.cancel()
    await server.close()


async def test_what_is_too_long_to_be_told_is_an_error_of_who_asked_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BUS_HEAD_MAX", 1_000)
    async with linked(tmp_path / "bus", echo) as (link, _, _):
        other = asyncio.ensure_future(link.ask("later", 20))
        with pytest.raises(MoliaError, match="too long"):
            await link.ask("echo", None, (bytes(1_000),))
        with pytest.raises(MoliaError, match="too long"):
            await link.ask("echo", bytes(1_000))
        assert await other == [1, 20, b""]


async def test_no_more_bytes_are_sent_than_may_be_unanswered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BUS_IN_FLIGHT_BYTES", 1_000)
    release, begun = asyncio.Event(), []

    async def hold(_: Caller, verb: str, arguments: Any, blob: memoryview) -> Any:
        if verb == "write":
            begun.append(len(blob))
            await release.wait()
        return arguments

    async with linked(tmp_path / "bus", hold) as (link, _, _):
        writes = [asyncio.ensure_future(link.ask("write", n, (bytes(400),))) for n in range(6)]
        while len(begun) < 2:
            await link.ask("echo")
        assert begun == [400, 400]
        release.set()
        assert await asyncio.gather(*writes) == list(range(6))
        assert await link.ask("write", 9, (bytes(5_000),)) == 9, "one alone may be larger"


async def test_what_is_told_is_dropped_when_nobody_listens(tmp_path: Path) -> None:
    heard = []

    async def listen(_: Caller, verb: str, arguments: Any, blob: memoryview) -> Any:
        heard.append((verb, arguments, bytes(blob)))
        raise NoSpace("nobody reads this")

    async with linked(tmp_path / "bus", listen) as (link, server, _):
        assert link.tell("packet", 7, (b"data",))
        assert not link.tell("packet", 8, (bytes(limits.BUS_IN_FLIGHT_BYTES),))
        await link.settle()
        assert heard == [("packet", 7, b"data")]
        await server.close()
        while link.ready:
            await asyncio.sleep(0.01)
        assert not link.tell("packet", 9)


async def test_settling_waits_for_what_nobody_waits_for_any_more(tmp_path: Path) -> None:
    done = []

    async def slow(_: Caller, verb: str, arguments: Any, blob: memoryview) -> Any:
        del verb, blob
        await asyncio.sleep(0.05)
        done.append(arguments)

    async with linked(tmp_path / "bus", slow) as (link, _, _):
        write = asyncio.ensure_future(link.ask("write", "cancelled"))
        await asyncio.sleep(0.01)
        write.cancel()
        await link.settle()
        assert done == ["cancelled"]


async def test_a_worker_that_starts_anew_ends_what_its_past_asked(tmp_path: Path) -> None:
    async with linked(tmp_path / "bus", echo) as (link, _, _):
        waiting = asyncio.ensure_future(link.ask("never"))
        await link.ask("echo")
        again = Link(str(tmp_path / "bus"), Caller(ME.index, 1))
        running = asyncio.ensure_future(again.run())
        with pytest.raises(Cut):
            await waiting
        await again.wait_ready(10)
        running.cancel()


def test_errors_of_fields_of_their_own_have_their_text() -> None:
    error = decode_error(encode_error(BlobNotFound("bafk")))
    assert isinstance(error, BlobNotFound)
    assert "bafk" in error.message
    assert isinstance(decode_error(["NoSuchClass", "text", ""]), MoliaError)


# ---------------------------------------------------------------------------- seats


def test_every_start_of_every_worker_has_an_epoch_of_its_own() -> None:
    seats = [
        Seat(index=index, count=4, node_unix_ms=ms, start=start)
        for index in range(4) for ms in (1_700_000_000_000, 1_700_000_000_001)
        for start in range(3)
    ]  # fmt: skip
    assert len({seat.epoch for seat in seats}) == len(seats)
    assert all(seat.epoch < 2**63 for seat in seats)


def test_what_was_left_behind_is_swept_by_one_worker_and_what_is_under_way_by_none() -> None:
    def seat(index: int, start: int = 0, ms: int = 2_000) -> Seat:
        return Seat(index=index, count=3, node_unix_ms=ms, start=start)

    for epoch in (0, 1_700_000_000_000, seat(1, ms=1_999).epoch):  # of an earlier run
        assert seat(1).left_behind(epoch, on_own_shard=True)
        assert not seat(1).left_behind(epoch, on_own_shard=False)
    for on_own_shard in (True, False):
        assert not seat(1).left_behind(seat(1).epoch, on_own_shard=on_own_shard)
        assert not seat(1, 1).left_behind(seat(2).epoch, on_own_shard=on_own_shard)
        assert seat(1, 1).left_behind(seat(1).epoch, on_own_shard=on_own_shard)
