"""The pump moves every datagram once, in as few calls as the kernel has, and drops with a count."""

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence

import pytest

from molia.base import limits
from molia.base.now import Now
from molia.node.system import SystemClock
from molia.node.udp import Address, UdpCounters, UdpDriver, UdpPump, _run_end


class Recorder:
    """A core that keeps what it gets, echoes what begins with `?`, and sends what it is told."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.bursts: list[int] = []
        self.sends: list[tuple[list[bytes], Address]] = []
        self.due_s: float | None = None
        self.woken = 0

    def datagram(self, data: bytes, address: Address, now: Now) -> bytes | None:
        self.got.append(data)
        return b"!" + data[1:] if data[:1] == b"?" else None

    def burst(self, packets: Sequence[bytes], address: Address, now: Now) -> list[bytes]:
        self.bursts.append(len(packets))
        self.got += packets
        return [b"!" + packet[1:] for packet in packets if packet[:1] == b"?"]

    def take_sends(self, now: Now) -> list[tuple[list[bytes], Address]]:
        sends, self.sends = self.sends, []
        return sends

    def next_deadline_s(self) -> float | None:
        return self.due_s

    def on_deadline(self, now: Now) -> None:
        self.woken += 1
        self.due_s = None


def bound(family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
    return sock


def serve(*sides: tuple[socket.socket, Recorder], segments: bool = True) -> list[UdpDriver]:
    """Return a driver for each socket and its core."""
    drivers = []
    for sock, core in sides:
        drivers.append(UdpDriver(core, SystemClock()))
        drivers[-1].add(sock, segments=segments)
    return drivers


def sent(driver: UdpDriver) -> UdpCounters:
    """Return the counters of a driver's only socket."""
    (pump,) = driver.pumps
    return pump.counters


def joins(pump: UdpPump) -> bool:
    """Tell whether the kernel joins what arrives."""
    return pump._coalesced


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.005)


def packets_of(sizes: Sequence[int]) -> list[bytes]:
    return [bytes([number % 250]) * size for number, size in enumerate(sizes)]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("segments", [True, False])
def test_every_packet_of_every_size_arrives_once(
    family: socket.AddressFamily, *, segments: bool
) -> None:
    sizes = [1200] * 100 + [7] + [1376] * 47 + [1, 2, 3] + [1200, 1200, 400, 900]

    async def go() -> None:
        with bound(family) as left, bound(family) as right:
            sender, receiver = Recorder(), Recorder()
            pumps = serve((left, sender), (right, receiver), segments=segments)
            sender.sends.append((packets_of(sizes), right.getsockname()))
            pumps[0].flush()
            await until(lambda: len(receiver.got) == len(sizes))
            assert receiver.got == packets_of(sizes)
            assert sent(pumps[0]).packets_out == sent(pumps[1]).packets_in == len(sizes)
            assert sent(pumps[0]).bytes_out == sent(pumps[1]).bytes_in == sum(sizes)
            for pump in pumps:
                pump.close()

    asyncio.run(go())


def test_arrivals_are_joined_while_bulk_comes_and_no_longer() -> None:
    async def go() -> None:
        with bound() as left, bound() as right:
            sender, receiver = Recorder(), Recorder()
            drivers = serve((left, sender), (right, receiver))
            (pump,) = drivers[1].pumps
            if not pump._may_coalesce:
                pytest.skip("this kernel does not join datagrams")
            count = 0

            async def send(sizes: list[int]) -> None:
                nonlocal count
                count += len(sizes)
                sender.sends.append((packets_of(sizes), right.getsockname()))
                drivers[0].flush()
                await until(lambda: len(receiver.got) == count)

            for _ in range(3):
                await send([1200] * 40)
            assert joins(pump)
            assert receiver.bursts
            for _ in range(40):
                await send([60])
            assert not joins(pump)
            await send([1200] * 4)
            for driver in drivers:
                driver.close()

    asyncio.run(go())


def test_an_answer_goes_back_to_whoever_asked() -> None:
    async def go() -> None:
        with bound() as left, bound() as right:
            asker, answerer = Recorder(), Recorder()
            pumps = serve((left, asker), (right, answerer))
            asker.sends.append(([b"?hello"], right.getsockname()))
            asker.sends.append(([b"?1", b"?2", b"?3"], right.getsockname()))
            pumps[0].flush()
            await until(lambda: asker.got == [b"!hello", b"!1", b"!2", b"!3"])
            for pump in pumps:
                pump.close()

    asyncio.run(go())


def test_the_core_is_woken_at_its_deadline_and_earlier_when_that_moves_forward() -> None:
    async def go() -> None:
        with bound() as sock:
            core, clock = Recorder(), SystemClock()
            (pump,) = serve((sock, core))
            core.due_s = clock.now().mono_s + 3600
            pump.flush()
            core.due_s = clock.now().mono_s + 0.01
            pump.flush()
            await until(lambda: core.woken == 1)
            pump.close()

    asyncio.run(go())


def test_a_kernel_without_segments_gets_packets_one_by_one() -> None:
    class Plain(socket.socket):
        refused = 0

        def sendmsg(self, *arguments: object) -> int:
            self.refused += 1
            raise OSError(errno.EIO, "no")

    async def go() -> None:
        with Plain(socket.AF_INET, socket.SOCK_DGRAM) as left, bound() as right:
            left.bind(("127.0.0.1", 0))
            sender, receiver = Recorder(), Recorder()
            pumps = serve((left, sender), (right, receiver))
            for _ in range(2):
                sender.sends.append((packets_of([900] * 5), right.getsockname()))
                pumps[0].flush()
            await until(lambda: len(receiver.got) == 10)
            assert left.refused == 1
            for pump in pumps:
                pump.close()

    asyncio.run(go())


def test_a_socket_that_takes_nothing_fills_a_bounded_queue_and_then_drains_in_order() -> None:
    class Stuck(socket.socket):
        stuck = True

        def sendto(self, *arguments: object) -> int:
            if self.stuck:
                raise BlockingIOError(errno.EAGAIN, "later")
            return super().sendto(*arguments)  # type: ignore[call-overload, no-any-return]

    async def go() -> None:
        with Stuck(socket.AF_INET, socket.SOCK_DGRAM) as left, bound() as right:
            left.bind(("127.0.0.1", 0))
            sender, receiver = Recorder(), Recorder()
            driver, other = serve((left, sender), (right, receiver), segments=False)
            (pump,) = driver.pumps
            count = limits.UDP_QUEUE_BYTES_MAX // 1000 + 50
            for number in range(count):
                packet = number.to_bytes(4, "big") + bytes(996)
                sender.sends.append(([packet], right.getsockname()))
            driver.flush()
            assert pump.waiting_bytes <= limits.UDP_QUEUE_BYTES_MAX
            dropped = pump.counters.dropped["queue_full"]
            assert dropped == count - pump.waiting_bytes // 1000 > 0
            left.stuck = False
            await until(lambda: pump.waiting_bytes == 0 and len(receiver.got) > 0)
            numbers = [int.from_bytes(packet[:4], "big") for packet in receiver.got]
            assert numbers == sorted(numbers)
            driver.close()
            other.close()

    asyncio.run(go())


@pytest.mark.parametrize(
    ("sizes", "stop"),
    [
        ([5], 1),
        ([5, 5, 5], 3),
        ([5, 5, 4, 4], 3),
        ([5, 6], 1),
        ([1200] * 100, 54),
        ([100] * 100, 64),
        ([60_000, 60_000], 1),
    ],
)
def test_a_run_is_equal_packets_and_one_shorter(sizes: list[int], stop: int) -> None:
    assert _run_end(packets_of(sizes), 0) == stop
