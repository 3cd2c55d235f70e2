"""A WireGuard peer that answers pings inside the tunnel, on Molia's transport.

    python -m tests.interop.wg_endpoint --listen HOST:PORT --private-key BASE64 --peer BASE64
        [--psk BASE64] [--connect HOST:PORT]

It answers ICMP and ICMPv6 echo requests to any inner address, so a stock WireGuard peer whose
allowed IPs lead here can `ping` it. With --connect it speaks first; without, it waits.
"""

import argparse
import base64
import contextlib
import select
import socket
import sys
import threading
from collections.abc import Sequence

from molia.base.crypto import ExchangeKey
from molia.base.entropy import Entropy
from molia.base.ids import PeerKey
from molia.base.now import Now
from molia.node.system import SystemClock, SystemEntropy
from molia.wire.cookies import Address
from molia.wire.effects import Send
from molia.wire.endpoint import Endpoint
from molia.wire.gate import OpenAdmission
from molia.wire.handshake import EndpointConfig
from molia.wire.noise import NO_PSK, WIREGUARD
from molia.wire.peer import WIREGUARD_TIMING, Peer, Timing
from tests.interop.echo import echo_reply


class WgNode:
    """One socket, one endpoint in the wireguard profile, one configured peer."""

    def __init__(
        self, *, listen: Address, private: bytes, peer: bytes, psk: bytes = NO_PSK,
        connect: Address | None = None, persistent_s: float = 0.0,
        timing: Timing = WIREGUARD_TIMING, admission: OpenAdmission | None = None,
        entropy: Entropy | None = None,
    ) -> None:  # fmt: skip
        family = socket.AF_INET6 if ":" in listen[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.bind(listen)
        self.socket.setblocking(False)
        self.address: Address = self.socket.getsockname()
        self.clock = SystemClock()
        self.plaintexts: list[bytes] = []
        self.sent: list[bytes] = []
        """Handshake packets that went out or came in, for those who write them down."""
        self.endpoint = Endpoint(
            WIREGUARD, static=ExchangeKey(private), identity=None, handler=self,
            entropy=entropy or SystemEntropy(), admission=admission,
            config=EndpointConfig(timing=timing),
        )  # fmt: skip
        self.peer = self.endpoint.configure(
            peer, self.clock.now(), psk=psk, address=connect, persistent_s=persistent_s
        )
        self._stop = threading.Event()
        self._lock = threading.Lock()
        """Tests send from their own thread while another serves."""

    # -- what the endpoint asks of its handler

    def on_plaintext(self, peer: Peer, plaintext: bytes, now: Now) -> bytes | None:
        """Answer a ping."""
        self.plaintexts.append(plaintext)
        return echo_reply(plaintext)

    def is_wanted(self, peer: Peer) -> bool:
        return True

    def on_plaintexts(self, peer: Peer, plaintexts: list[bytes], now: Now) -> Sequence[bytes]:
        """Answer pings."""
        replies = [self.on_plaintext(peer, plaintext, now) for plaintext in plaintexts]
        return [reply for reply in replies if reply is not None]

    def on_early(
        self, identity: PeerKey, address: Address, request: bytes, now: Now
    ) -> bytes | None:
        """Nothing comes early in this profile."""
        return None

    # -- the loop

    def send(self, plaintext: bytes) -> None:
        """Send an inner packet, after a handshake if there is no session yet."""
        with self._lock:
            self.endpoint.send(self.peer, plaintext, self.clock.now())
            self._carry_out()

    def knock(self) -> None:
        """Begin a handshake as if there had been none."""
        with self._lock:
            self.endpoint.close(self.peer)
            self.endpoint.send(self.peer, b"", self.clock.now())
            self._carry_out()

    def serve(self) -> None:
        """Carry packets until `stop`."""
        while not self._stop.is_set():
            self.step(0.1)

    def stop(self) -> None:
        """Let `serve` return."""
        self._stop.set()

    def step(self, wait_s: float) -> None:
        """Wait for a packet or a timer, at most so long, and do what follows."""
        due_s = self.endpoint.next_deadline_s()
        if due_s is not None:
            wait_s = max(0.0, min(wait_s, due_s - self.clock.now().mono_s))
        readable = select.select([self.socket], [], [], wait_s)[0]
        with self._lock:
            if readable:
                self._drain()
            self.endpoint.on_deadline(self.clock.now())
            self._carry_out()

    def _drain(self) -> None:
        for _ in range(64):
            try:
                data, address = self.socket.recvfrom(2048)
            except (BlockingIOError, ConnectionRefusedError):
                return
            self._note(data)
            answer = self.endpoint.datagram(data, address, self.clock.now())
            if answer is not None:
                self._sendto(answer, address)
            self._carry_out()

    def _carry_out(self) -> None:
        for effect in self.endpoint.take_effects():
            if isinstance(effect, Send):
                for packet in effect.packets:
                    self._sendto(packet, effect.address)

    def _sendto(self, packet: bytes, address: Address) -> None:
        self._note(packet)
        with contextlib.suppress(OSError):  # UDP: as if the network had lost it
            self.socket.sendto(packet, address)

    def _note(self, packet: bytes) -> None:
        if packet[:1] < b"\4" and len(self.sent) < 100:
            self.sent.append(packet)

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


def address_of(text: str) -> Address:
    """Return the address that HOST:PORT spells; IPv6 hosts stand in brackets."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def key_of(text: str) -> bytes:
    """Return the 32 bytes of a base64 key."""
    key = base64.b64decode(text, validate=True)
    if len(key) != 32:
        raise argparse.ArgumentTypeError("a key has 32 bytes")
    return key


def main() -> int:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tests.interop.wg_endpoint")
    parser.add_argument("--listen", type=address_of, required=True)
    parser.add_argument("--private-key", type=key_of, required=True)
    parser.add_argument("--peer", type=key_of, required=True)
    parser.add_argument("--psk", type=key_of, default=NO_PSK)
    parser.add_argument("--connect", type=address_of)
    chosen = parser.parse_args()
    node = WgNode(
        listen=chosen.listen, private=chosen.private_key, peer=chosen.peer, psk=chosen.psk,
        connect=chosen.connect, persistent_s=25.0 if chosen.connect else 0.0,
    )  # fmt: skip
    public = base64.b64encode(ExchangeKey(chosen.private_key).public).decode()
    print(f"listening on {node.address[0]} port {node.address[1]}, public key {public}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        node.serve()
    node.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
