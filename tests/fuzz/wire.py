"""Coverage-guided fuzzing of all that a stranger or a peer can send: `python -m tests.fuzz.wire`.

Options are libFuzzer's, such as `-max_total_time=60`. The first byte of an input says which door it
knocks on; behind each, checksums and keys are fixed up, so that the fuzzer gets past them. Whatever
comes, no door may raise. Needs atheris, which `make fuzz` installs where it can be had.
"""

import importlib
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from molia.base.hashing import blake2s_mac
from molia.base.now import Now
from molia.dht import held, providers, records
from molia.sim.entropy import SeededEntropy
from molia.wire import messages
from molia.wire.channel import Channel, ChannelConfig
from molia.wire.cookies import mac1_key
from molia.wire.frames import encode_frame
from molia.wire.hello import decode_hello, decode_welcome
from molia.wire.messages import Number
from molia.wire.noise import Initiator
from molia.wire.packet import INITIATION, MACS, Initiation, encode_initiation
from molia.wire.peer import Peer
from molia.wire.puzzle import NO_PUZZLE
from molia.wire.transport import Answer
from tests.wire.net import OURS, START, Host, Net

ADDRESS: Final = ("198.51.100.9", 999)


def nodes(peer: Peer, request_id: int, body: bytes, now: Now) -> Answer | None:
    """Answer a lookup."""
    return Number.NODES, messages.find_node_target(body) or b""


@lru_cache(maxsize=1)
def pair() -> tuple[Net, Host, Peer]:
    """Return a network of two that have met, and the one as the other knows it."""
    ours, theirs = Host(1, {Number.FIND_NODE: nodes}), Host(2)
    net = Net([ours, theirs])
    net.connect(theirs, ours)
    net.run(1.0)
    peer = ours.transport.endpoint.find(theirs.identity.peer_key)
    assert peer is not None
    return net, ours, peer


def raw(data: bytes) -> None:
    """A datagram as it is."""
    net, ours, _ = pair()
    ours.transport.datagram(data, ADDRESS, net.now)


def with_mac1(data: bytes) -> None:
    """Handshake packets of somebody who knows our public key."""
    net, ours, _ = pair()
    body = bytes((data[0] % 3 + 1,)) + bytes(3) + data[1:] if data else INITIATION
    packet = body + blake2s_mac(mac1_key(OURS, ours.identity.exchange_key.public), body)
    ours.transport.datagram(packet + bytes(MACS // 2), ADDRESS, net.now)


def initiation(data: bytes) -> None:
    """A handshake that is sound but for its payload."""
    net, ours, _ = pair()
    stranger = Host(3).identity.exchange_key
    noise = Initiator(
        OURS, static=stranger, responder=ours.identity.exchange_key.public, ephemeral=stranger
    )
    sealed = noise.initiate(data[:900])
    assert sealed is not None
    body = encode_initiation(Initiation(b"\1abc", stranger.public, *sealed, NO_PUZZLE))
    packet = body + blake2s_mac(mac1_key(OURS, ours.identity.exchange_key.public), body)
    ours.transport.datagram(packet + bytes(MACS // 2), ADDRESS, net.now.after(1.0))
    decode_hello(data)
    decode_welcome(data)


def plaintext(data: bytes) -> None:
    """What a peer with a session says."""
    net, ours, peer = pair()
    if not peer.is_up:
        pair.cache_clear()
        net, ours, peer = pair()
    half = len(data) // 2
    for piece in (data, data[:half], data[half:]):
        if piece:
            ours.transport.on_plaintext(peer, piece, net.now)
            ours.transport.on_plaintexts(peer, [piece, encode_frame(1, b""), piece], net.now)
    ours.transport.take_sends(net.now)
    ours.transport.take_events()


def message(data: bytes) -> None:
    """The body of a message of any number."""
    if data and (found := messages.decode(data[0], data[1:])) is not None:
        messages.encode(found)


def signed(data: bytes) -> None:
    """A record, a provider record, and rows of either, from a stranger or a damaged store."""
    network, unix_s = bytes(32), 1_800_000_000.0
    records.check(data, network, unix_s=unix_s)
    providers.check(b"\x01" + data, network, unix_s=unix_s, allow_local=True)
    for kind in (held.RECORD, held.PROVIDERS):
        held.summary_of(kind, b"\x01" + data, unix_s=unix_s)
        held.faded(kind, b"\x01" + data, unix_s=unix_s)
    held.select(b"\x01" + data, salt=b"", unix_s=unix_s)


def streams(data: bytes) -> None:
    """Payloads of streams, one for each run of up to 64 bytes."""
    channel = Channel(ChannelConfig(), initiator=True, entropy=SeededEntropy(1), now_s=0.0)
    stream_id = channel.open_stream()
    assert stream_id is not None
    channel.write(stream_id, b"x" * 5_000)
    now_s = START.mono_s
    for at in range(0, len(data), 64):
        channel.take_payloads(now_s, 8)
        channel.on_payloads([data[at : at + 64]], now_s)
        channel.take_events()
        now_s += 0.01
    channel.on_deadline(now_s + 5)


DOORS: Final[tuple[Callable[[bytes], None], ...]] = (
    raw, with_mac1, initiation, plaintext, message, streams, signed
)  # fmt: skip


def knock(data: bytes) -> None:
    """Send one input to the door that its first byte names."""
    if data:
        DOORS[data[0] % len(DOORS)](data[1:])


def main() -> int:
    """Fuzz until the options say to stop."""
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        print("atheris is not to be had for this Python: fuzzing guided by coverage is left out")
        return 0
    atheris.instrument_all()
    atheris.Setup(sys.argv, knock)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
