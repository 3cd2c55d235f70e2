"""Two nodes' networks over real sockets on loopback: requests, streams, puzzles, proofs, ends."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import pytest

from molia.base import limits
from molia.base.config import AdmissionConfig
from molia.base.crypto import Identity
from molia.base.errors import Busy, ConnectionLost, MoliaError, PeerRefused, TimedOut
from molia.base.ids import PeerKey
from molia.node.network import Network, NetworkSettings, StreamHandler
from molia.node.offload import Offload
from molia.node.peer_streams import PeerStream
from molia.node.system import SystemClock
from molia.wire.frames import CLOSE, encode_frame
from molia.wire.gate import Verdict
from molia.wire.messages import FindNode, Hello, Number, Ping, Pong
from molia.wire.puzzle import Effort
from molia.wire.requests import REQUEST, pack
from molia.wire.scores import Offence
from tests.node.inside import until

ECHO = 130


class Host:
    """A network with its socket and key."""

    def __init__(self, network: Network, sock: socket.socket) -> None:
        self.network = network
        self.address = sock.getsockname()
        self.key: PeerKey = network.settings.identity.peer_key


@asynccontextmanager
async def hosts(
    count: int = 2, *, stream_handlers: Mapping[int, StreamHandler] | None = None,
    names: tuple[str, ...] = ("test", "test"), secret: bytes = b"", host: str = "127.0.0.1",
) -> AsyncIterator[list[Host]]:  # fmt: skip
    """Give running networks on loopback."""
    offload = Offload(2)
    made: list[Host] = []
    tasks: list[asyncio.Task[None]] = []
    with contextlib.ExitStack() as held:
        held.callback(offload.close)
        for number in range(count):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            sock = held.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            sock.bind((host, 0))
            settings = NetworkSettings(
                identity=Identity(bytes((number + 1,)) * 32), name=names[number], secret=secret,
                admission=AdmissionConfig(),
            )  # fmt: skip
            network = Network(
                settings, offload, clock=SystemClock(), stream_handlers=stream_handlers
            )
            made.append(Host(network, sock))
            tasks.append(asyncio.ensure_future(network.run([sock])))
        await asyncio.sleep(0)
        try:
            yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def run(work: Callable[[list[Host]], Awaitable[None]], **options: object) -> None:
    async def go() -> None:
        async with hosts(**options) as made:  # type: ignore[arg-type]
            async with asyncio.timeout(60):
                await work(made)

    asyncio.run(go())


async def ask(one: Host, other: Host, timeout_s: float = 20.0) -> Pong:
    answer = await one.network.ask(other.key, other.address, Ping(), timeout_s=timeout_s)
    assert isinstance(answer, Pong)
    return answer


def test_a_ping_says_where_it_came_from() -> None:
    async def work(made: list[Host]) -> None:
        ours, theirs = made
        assert (await ask(ours, theirs)).seen == ours.address
        assert (await ask(theirs, ours)).seen == theirs.address
        hello = await ours.network.ask(
            theirs.key, theirs.address,
            Hello(version_min=1, version_max=1, features=0, software="x", workers=1,
                  network=bytes(8)),
            timeout_s=20.0,
        )  # fmt: skip
        assert isinstance(hello, Hello)
        assert hello.software.startswith("molia/")

    run(work)


def has_ipv6() -> bool:
    """Tell whether this machine has an IPv6 loopback."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        return True
    return False


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback")
def test_an_ipv6_address_may_be_given_by_host_and_port_alone() -> None:
    async def work(made: list[Host]) -> None:
        ours, theirs = made
        pong = await ours.network.ask(theirs.key, theirs.address[:2], Ping(), timeout_s=20.0)
        assert isinstance(pong, Pong)
        assert pong.seen == ours.address[:2]

    run(work, host="::1")


def test_many_ask_at_once_and_each_gets_its_answer() -> None:
    async def work(made: list[Host]) -> None:
        ours, theirs = made
        await ask(ours, theirs)
        await asyncio.gather(*(ask(ours, theirs) for _ in range(200)))
        counters = theirs.network.transport.counters
        asked_again = ours.network.transport.requests.retried
        assert counters.early_requests == 1
        assert 200 <= counters.requests_in <= 200 + asked_again

    run(work)


@pytest.mark.parametrize("nowhere", [("192.0.2.1", 0), ("240.0.0.1", 7071)])
def test_who_says_that_it_is_where_nothing_can_be_sent_is_not_followed_there(
    nowhere: tuple[str, int],
) -> None:
    async def work(made: list[Host]) -> None:
        ours, theirs = made
        seen, now = theirs.network.transport, SystemClock().now()
        stranger = Network(
            NetworkSettings(identity=Identity(bytes(32)), name="test", admission=AdmissionConfig()),
            Offload(1), clock=SystemClock(),
        )  # fmt: skip
        stranger.transport.ask_at(theirs.key, theirs.address, Number.PING, b"", now)
        ((packets, _),) = stranger.transport.take_sends(now)
        assert seen.datagram(packets[0], nowhere, now) is None

        for _ in range(2):  # the second in the session
            await ask(ours, theirs)
        peer = ours.network.connect(theirs.key, theirs.address)
        asking = ours.network.transport.endpoint.seal(peer, pack(REQUEST, 7, Number.PING, b""), now)
        assert asking is not None
        assert seen.datagram(asking, nowhere, now) is not None
        known = seen.endpoint.find(ours.key)
        assert known is not None
        assert known.address == ours.address

    run(work)


def test_what_a_node_does_not_serve_it_says() -> None:
    async def work(made: list[Host]) -> None:
        ours, theirs = made
        with pytest.raises(PeerRefused):
            await ours.network.ask(theirs.key, theirs.address, FindNode(bytes(32)), timeout_s=20.0)

    run(work)


def test_nobody_there_is_told_in_time_and_our_own_key_at_once() -> None:
    async def work(made: list[Host]) -> None:
        ours, _ = made
        nobody = Identity(b"n" * 32).peer_key
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            with pytest.raises(TimedOut):
                await ours.network.ask(nobody, silent.getsockname(), Ping(), timeout_s=0.3)
        with pytest.raises(ConnectionLost):
            await ours.network.ask(ours.key, ours.address, Ping(), timeout_s=0.3)

    run(work)


@pytest.mark.parametrize("secret", [b"", b"s" * 32])
def test_networks_of_different_names_never_meet(secret: bytes) -> None:
    async def work(made: list[Host]) -> None:
        ours, theirs = made
        with pytest.raises(TimedOut):
            await ask(ours, theirs, timeout_s=0.5)
        counters = theirs.network.transport.endpoint.counters
        assert counters.handshakes_in == 0

    run(work, names=("one", "two"), secret=secret)


# ---------------------------------------------------------------------------- streams


async def first_word(ours: Host, theirs: Host, number: int, *, size_max: int = 100) -> bytes:
    """Ask by a stream; return the whole reply."""
    async with ours.network.open_stream(theirs.key, theirs.address, number) as stream:
        await stream.send(b"x")
        return await stream.receive_all(size_max)


async def echo(stream: PeerStream) -> None:
    """Send back what comes."""
    while data := await stream.receive():
        await stream.send(data)


def test_a_request_of_any_size_goes_over_a_stream_and_comes_back() -> None:
    body = random.Random(3).randbytes(5_000_000)

    async def work(made: list[Host]) -> None:
        ours, theirs = made
        async with ours.network.open_stream(theirs.key, theirs.address, ECHO) as stream:

            async def write() -> None:
                await stream.send(body)
                await stream.finish()

            writing = asyncio.ensure_future(write())
            assert await stream.receive_all(len(body)) == body
            await writing
        assert not ours.network._streams
        await until(lambda: not theirs.network._streams, "a stream that has ended is kept")

    run(work, stream_handlers={ECHO: echo})


def test_who_writes_waits_for_who_reads() -> None:
    let_go = asyncio.Event()
    read: list[int] = []

    async def slow(stream: PeerStream) -> None:
        await let_go.wait()
        while data := await stream.receive():
            read.append(len(data))

    async def work(made: list[Host]) -> None:
        ours, theirs = made
        async with ours.network.open_stream(theirs.key, theirs.address, ECHO) as stream:
            sending = asyncio.ensure_future(stream.send(bytes(60_000_000)))
            for _ in range(20):
                await asyncio.sleep(0.02)
            assert not sending.done()
            let_go.set()
            await sending
            await stream.finish()
        assert sum(read) == 60_000_000

    run(work, stream_handlers={ECHO: slow})


def test_of_a_peer_that_opens_a_stream_and_leaves_at_once_nothing_stays() -> None:
    async def work(made: list[Host]) -> None:
        ours, theirs = made
        await ask(ours, theirs)
        transport, now = ours.network.transport, SystemClock().now()
        peer = ours.network.connect(theirs.key, theirs.address)
        channel = transport.channel(peer, now)
        stream_id = channel.open_stream()
        assert stream_id is not None
        channel.write(stream_id, b"hello")
        opening, close = channel.take_payloads(now.mono_s, 1)[0], encode_frame(CLOSE, b"")
        packets = [transport.endpoint.seal(peer, said, now) for said in (opening, close)]
        for packet in packets:  # both are there before the other side looks
            assert packet is not None
            ours.network.driver.pumps[0].send([packet], theirs.address)
        left = theirs.network
        await until(lambda: not left.session_count, "it does not leave")
        await until(
            lambda: not (left.transport._links or left._streams or left._tasks), "something stays"
        )

    run(work)


def test_streams_that_say_nothing_leave_room_for_those_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "STREAM_TASKS_MAX", 8)

    async def work(made: list[Host]) -> None:
        server, *greedy, other = made
        async with contextlib.AsyncExitStack() as held:
            served = server.network._served

            def counts() -> list[int]:
                return [served[peer] for peer in served]

            for expected, each in zip(([4], [4, 2]), greedy, strict=True):
                for _ in range(8):
                    silent = each.network.open_stream(server.key, server.address, ECHO)
                    await held.enter_async_context(silent)
                await until(lambda: counts() == expected, "not as many are served")  # noqa: B023
                await asyncio.sleep(0.2)  # the rest of what it opened comes
                assert counts() == expected
            async with other.network.open_stream(server.key, server.address, ECHO) as stream:
                await stream.send(b"x")
                stream.end()
                assert await stream.receive() == b"x"
        await until(lambda: not served, "what has ended is counted")

    run(work, count=4, names=("test",) * 4, stream_handlers={ECHO: echo})


def test_an_unknown_number_and_a_handler_that_fails_end_the_stream_with_an_error() -> None:
    async def fails(stream: PeerStream) -> None:
        await stream.receive(1)
        raise ConnectionLost("no more")

    async def work(made: list[Host]) -> None:
        ours, theirs = made
        for number in (ECHO, ECHO + 1):
            with pytest.raises(MoliaError):
                await first_word(ours, theirs, number)

    run(work, stream_handlers={ECHO: fails})


def test_the_streams_and_requests_of_an_ignored_peer_are_not_served() -> None:
    async def says(stream: PeerStream) -> None:
        await stream.receive(1)
        await stream.send(b"here")

    async def work(made: list[Host]) -> None:
        ours, theirs = made
        assert await first_word(ours, theirs, ECHO) == b"here"
        door, now_s = theirs.network.admission, SystemClock().now().mono_s
        for _ in range(2):
            door.penalise(ours.key, ours.address, Offence.WRONG_BYTES, now_s)
        with pytest.raises(ConnectionLost):
            await first_word(ours, theirs, ECHO)
        with pytest.raises(TimedOut):
            await ask(ours, theirs, timeout_s=1.0)
        assert isinstance(await ask(theirs, ours), Pong), "it is asked as before"

    run(work, stream_handlers={ECHO: says})


def test_more_than_a_reader_wants_is_cut() -> None:
    async def chatty(stream: PeerStream) -> None:
        await stream.send(bytes(100_000))

    async def work(made: list[Host]) -> None:
        ours, theirs = made
        with pytest.raises(ConnectionLost):
            await first_word(ours, theirs, ECHO, size_max=50_000)

    run(work, stream_handlers={ECHO: chatty})


# ---------------------------------------------------------------------------- work in threads


def test_a_puzzle_is_solved_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(made: list[Host]) -> None:
        ours, theirs = made
        door = theirs.network.admission

        def admit(address: object, ephemeral: object, trailer: object, *_: object) -> Verdict:
            return Verdict.ADMIT if getattr(trailer, "bits", 0) >= 10 else Verdict.PUZZLE

        monkeypatch.setattr(type(door), "admit", lambda _self, *words: admit(*words))
        monkeypatch.setattr(
            type(door), "effort", lambda _self, now, address: Effort(10, 1, bytes(3))
        )
        await ask(ours, theirs)
        assert theirs.network.transport.endpoint.counters.refused_puzzle == 1

    run(work)


def test_the_identity_proof_follows_a_confirmed_address_and_rides_along() -> None:
    async def work(made: list[Host]) -> None:
        ours, theirs = made
        assert ours.network.current_proof() is None
        ours.network.on_external_address(("198.51.100.7", 7071))
        await until(ours.network.current_proof, "there is no proof")
        for _ in range(2):  # the second one shows that the session is known on both sides
            await ask(ours, theirs)
        seen = theirs.network.transport.endpoint.find(ours.key)
        assert seen is not None
        proof = ours.network.current_proof()
        assert proof is not None
        assert seen.proof == proof.encode()

    run(work)


def test_a_stopping_node_leaves_no_one_waiting() -> None:
    async def go() -> None:
        async with hosts() as made:
            ours = made[0]
            nobody = Identity(b"n" * 32).peer_key
            waiting = asyncio.ensure_future(
                ours.network.ask(nobody, made[1].address, Ping(), timeout_s=50.0)
            )
            await asyncio.sleep(0.05)
        with pytest.raises((ConnectionLost, Busy)):
            await waiting

    asyncio.run(go())
