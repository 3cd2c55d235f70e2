"""Where peers are: they are followed when they move, and sent little until the place is proved.

An authentic packet shows who made it, not that its sender is where it says. So in the molia profile
a new address gets no more bytes than came from it, until a question sent there is answered from
there: nobody can have a stream sent to a victim. WireGuard follows without a question.
Source: docs/reference/packets.md, "Unproved addresses".
"""

from typing import Final

from molia.base.entropy import Entropy
from molia.base.now import Now
from molia.wire.addresses import is_sendable
from molia.wire.cookies import Address
from molia.wire.effects import Outbox, Roamed, Send
from molia.wire.frames import HEAD, PATH_ANSWER, PATH_ASK, PATH_SIZE, encode_frame
from molia.wire.gate import Counters
from molia.wire.packet import DATA_SIZE_MIN
from molia.wire.peer import NEVER, Peer

ASK_GAP_S: Final = 0.25
"""Between two questions to one address."""
_PACKET: Final = DATA_SIZE_MIN + PATH_SIZE


class Paths:
    """The addresses of an endpoint's peers."""

    def __init__(
        self, counters: Counters, entropy: Entropy, outbox: Outbox, *, is_molia: bool
    ) -> None:
        self._counters, self._entropy, self._outbox = counters, entropy, outbox
        self._is_molia = is_molia

    def move(self, peer: Peer, address: Address) -> None:
        """Follow a peer to where its last packet came from, if packets can be sent there."""
        if not is_sendable(address[0], address[1]):
            return
        old, peer.address = peer.address, address
        self._counters.roamed += 1
        if self._is_molia:
            peer.proved, peer.credit = False, 0
            peer.challenge, peer.challenged_s = self._entropy.token(8), -NEVER
        self._outbox.put(Roamed(peer, old))

    def ask(self, peer: Peer, size: int, now: Now) -> None:
        """Give an unproved address credit for what came from it, and ask it to prove itself."""
        peer.credit += size
        session = peer.usable(now.mono_s)
        if now.mono_s - peer.challenged_s < ASK_GAP_S or session is None or peer.address is None:
            return
        if peer.credit >= _PACKET:
            peer.credit -= _PACKET
            peer.challenged_s = now.mono_s
            peer.challenge = peer.challenge or self._entropy.token(8)
            packet = session.seal(encode_frame(PATH_ASK, peer.challenge))
            self._outbox.put(Send(peer.address, (packet,)))

    def take(self, peer: Peer, plaintext: bytes, now: Now) -> bytes | None:
        """Answer a question about our address, or take the answer to ours."""
        kind, size = HEAD.unpack_from(plaintext)
        token = plaintext[HEAD.size :]
        if size != len(token):
            return None
        if kind == PATH_ASK:
            session = peer.usable(now.mono_s)
            if session is None or not (peer.proved or self.spend(peer, _PACKET)):
                return None
            return session.seal(encode_frame(PATH_ANSWER, token))
        if (
            peer.challenge and token == peer.challenge
        ):  # from elsewhere: `move` changed the question
            peer.proved, peer.challenge = True, b""
        return None

    def spend(self, peer: Peer, size: int) -> bool:
        """Take bytes from the credit of an unproved address; False, counted: it has too few."""
        if size > peer.credit:
            self._counters.unproved += 1
            return False
        peer.credit -= size
        return True
