"""Figures of the handshake and its sessions: CPU per side, refusals, bytes held, packets."""

import gc
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from molia.base.crypto import Aead, ExchangeKey, Identity
from molia.base.ids import PeerKey, network_id
from molia.base.now import Now
from molia.node.system import SystemEntropy
from molia.wire.cookies import Address
from molia.wire.effects import Send
from molia.wire.endpoint import Endpoint
from molia.wire.noise import molia_profile
from molia.wire.peer import Peer
from tests.bench.report import Figure, against_limit, against_number, alternate

PROFILE = molia_profile(network_id("bench"))
NOW = Now(1_000.0, 1_700_000_000.0)
HERE: Address = ("192.0.2.1", 1)
THERE: Address = ("192.0.2.2", 2)
SESSIONS = 10_000
BURST, PACKET, SMALL = 40, 1_344, 64


class Echo:
    """A handler that answers what it hears, and nothing to bursts."""

    def on_plaintext(self, peer: Peer, plaintext: bytes, now: Now) -> bytes | None:
        """Return it."""
        return plaintext

    def is_wanted(self, peer: Peer) -> bool:
        return True

    def on_plaintexts(self, peer: Peer, plaintexts: list[bytes], now: Now) -> Sequence[bytes]:
        """Return nothing."""
        return ()

    def on_early(
        self, identity: PeerKey, address: Address, request: bytes, now: Now
    ) -> bytes | None:
        """Return nothing."""
        return None


def endpoint(identity: Identity) -> Endpoint:
    """Return an endpoint of the bench's network."""
    return Endpoint(
        PROFILE, static=identity.exchange_key, identity=identity.peer_key,
        entropy=SystemEntropy(), handler=Echo(),
    )  # fmt: skip


def first_packet(node: Endpoint) -> bytes:
    """Return the first packet that a node wants sent."""
    sends = [effect for effect in node.take_effects() if isinstance(effect, Send)]
    return sends[0].packets[0]


def x25519() -> float:
    """Return the CPU microseconds of a handshake's X25519: a fresh key and four exchanges."""
    key, other = ExchangeKey(b"a" * 32), ExchangeKey(b"b" * 32).public
    started_s = time.process_time()
    ExchangeKey(b"c" * 32)
    for _ in range(4):
        key.exchange(other)
    return (time.process_time() - started_s) * 1e6


class Meter:
    """Sums the CPU time of each side."""

    def __init__(self) -> None:
        self.spent_s = {"initiator": 0.0, "responder": 0.0}

    def __call__(self, side: str, work: Callable[[], bytes | None]) -> bytes:
        started_s = time.process_time()
        result = work()
        self.spent_s[side] += time.process_time() - started_s
        return result or b""


def handshake(ours: Endpoint, theirs: Endpoint, key: PeerKey, now: Now, meter: Meter) -> None:
    """Run one handshake to its confirmation."""

    def begin() -> bytes:
        ours.connect(key, THERE, now)
        return first_packet(ours)

    def finish() -> bytes:
        ours.datagram(response, THERE, now)
        return first_packet(ours)

    initiation = meter("initiator", begin)
    response = meter("responder", lambda: theirs.datagram(initiation, HERE, now))
    confirmation = meter("initiator", finish)
    meter("responder", lambda: theirs.datagram(confirmation, HERE, now))
    theirs.take_effects()


def bench_handshake(folder: Path, scale: float) -> Iterator[Figure]:
    """A handshake per side; the limit is its five X25519 operations."""
    count = max(3, int(500 * min(1.0, scale)))
    target = Identity(b"t" * 32)
    fresh = iter(range(10**9))
    meter = Meter()

    def one(side: str) -> float:
        meter.spent_s[side] = 0.0
        ours = endpoint(Identity(next(fresh).to_bytes(32, "big")))
        handshake(ours, endpoint(target), target.peer_key, NOW, meter)
        return meter.spent_s[side] * 1e6

    first, second, floor = alternate(
        count, lambda: one("initiator"), lambda: one("responder"), x25519
    )
    yield against_number("handshake, initiator", first, "us CPU", floor, at_most=180.0)
    yield against_number("handshake, responder", second, "us CPU", floor, at_most=180.0)
    yield from _refusals(count * 10)


def _refusals(count: int) -> Iterator[Figure]:
    target, ours = Identity(b"t" * 32), endpoint(Identity(b"o" * 32))
    node = endpoint(target)
    ours.connect(target.peer_key, THERE, NOW)
    bad = first_packet(ours)[:-20] + bytes(20)

    def refuse() -> float:
        started_s = time.process_time()
        for _ in range(count):
            node.datagram(bad, HERE, NOW)
        return (time.process_time() - started_s) / count * 1e6

    (took,) = alternate(5, refuse)
    assert node.counters.bad_mac1 > 0
    yield against_number("wrong mac1 refused", took, "us CPU", None, at_most=5.0)


def bench_sessions(folder: Path, scale: float) -> Iterator[Figure]:
    """Bytes per idle session with its peer, both ciphers used, 10,000 held.

    In a new process: in this one they would live in what earlier benches gave back.
    """
    count = max(20, int(SESSIONS * min(1.0, scale)))
    command = [sys.executable, "-m", "tests.bench.bench_wire_handshake", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    yield against_number(
        f"memory per idle session, {count:,} held", max(float(done.stdout), 0.001), "B", None,
        at_most=8 * 1024,
    )  # fmt: skip


def hold_sessions(count: int) -> float:
    """Return how many bytes each of `count` sessions adds to this process."""
    target = Identity(b"t" * 32)
    node, meter = endpoint(target), Meter()
    gc.collect()
    before = _resident_bytes()
    for number in range(count):
        _visit(node, target.peer_key, endpoint(Identity(number.to_bytes(32, "big"))), meter)
    gc.collect()
    assert node.session_count == node.peer_count == count
    return (_resident_bytes() - before) / count


def _visit(node: Endpoint, key: PeerKey, ours: Endpoint, meter: Meter) -> None:
    """Handshake and have one packet answered."""
    handshake(ours, node, key, NOW, meter)
    peer = ours.find(key)
    assert peer
    packet = ours.seal(peer, b"ping", NOW)
    assert packet
    assert node.datagram(packet, HERE, NOW)


def _resident_bytes() -> int:
    fields = Path("/proc/self/statm").read_text("ascii").split()
    return int(fields[1]) * 4096


def bench_packets(folder: Path, scale: float) -> Iterator[Figure]:
    """Sealing and opening bursts, and one small packet that is answered; limits are bare AEAD."""
    count = max(2, int(200 * min(1.0, scale)))
    target = Identity(b"t" * 32)
    ours, theirs = endpoint(Identity(b"o" * 32)), endpoint(target)
    handshake(ours, theirs, target.peer_key, NOW, Meter())
    peer = ours.find(target.peer_key)
    assert peer
    texts, cipher = [bytes(PACKET)] * BURST, Aead(bytes(32))
    sealed, nonce = cipher.encrypt(bytes(12), bytes(PACKET), None), bytes(12)
    small = cipher.encrypt(nonce, bytes(SMALL), None)

    def per(packets: int, work: Callable[[], object]) -> float:
        started_s = time.process_time()
        work()
        return (time.process_time() - started_s) / packets * 1e6

    def seal() -> float:
        return per(count * BURST, lambda: [ours.seal_many(peer, texts, NOW) for _ in range(count)])

    def open_() -> float:
        bursts = [ours.seal_many(peer, texts, NOW) for _ in range(count)]
        return per(count * BURST, lambda: [theirs.burst(burst, HERE, NOW) for burst in bursts])

    def serve() -> float:
        asked = [ours.seal(peer, bytes(SMALL), NOW) or b"" for _ in range(count * 10)]
        return per(len(asked), lambda: [theirs.datagram(raw, HERE, NOW) for raw in asked])

    def bare(work: Callable[[], object]) -> Callable[[], float]:
        return lambda: per(count * BURST, lambda: [work() for _ in range(count * BURST)])

    bare_seal = bare(lambda: cipher.encrypt(nonce, texts[0], None))
    bare_open = bare(lambda: cipher.decrypt(nonce, sealed, None))
    bare_serve = bare(
        lambda: cipher.encrypt(nonce, cipher.decrypt(nonce, small, None), None)
    )  # fmt: skip
    values = alternate(5, seal, bare_seal, open_, bare_open, serve, bare_serve)
    yield against_limit("packet sealed in a burst", *_pair(values[0:2]), at_most=1.6)
    yield against_limit("packet opened in a burst", *_pair(values[2:4]), at_most=1.6)
    yield against_limit("small packet opened and answered", *_pair(values[4:6]), at_most=3.0)


def _pair(values: Sequence[float]) -> tuple[float, str, float]:
    return values[0], "us CPU", values[1]


if __name__ == "__main__":
    print(hold_sessions(int(sys.argv[1])))
