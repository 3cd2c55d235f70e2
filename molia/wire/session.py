"""One session: two keys, a counter out, a window of counters in.

What every packet of every peer passes through, so a burst is sealed or opened in one loop, and
receiving in order touches two small numbers. The bitmap holds what is *missing* below the highest
counter: it is 0 while nothing is lost.
Source: the WireGuard paper, 5.4.6; RFC 6479 for the window; docs/reference/packets.md, "Data".
"""

from collections.abc import Callable, Sequence
from struct import Struct
from typing import TYPE_CHECKING, Final

from molia.base.crypto import Aead, TagMismatch
from molia.base.limits import MESSAGES_MAX, REPLAY_WINDOW
from molia.wire.noise import TransportKeys
from molia.wire.packet import DATA, DATA_HEAD

if TYPE_CHECKING:
    from molia.wire.peer import Peer

REJECT_AFTER_S: Final = 180.0

_WINDOW_MASK: Final = (1 << REPLAY_WINDOW) - 2
"""Bit i stands for the counter i below the highest; the highest itself has come."""
_pack_head: Final = Struct("<4s4sQ").pack
_pack_nonce: Final = Struct("<4xQ").pack
_counter_at: Final = Struct("<8xQ").unpack_from
_Cipher = Callable[[bytes, bytes, None], bytes]


class Session:
    """The keys of one handshake. `index` is ours, `remote` is the peer's."""

    __slots__ = (
        "_highest", "_keys", "_missing", "_open", "_seal", "created_s", "dead_s", "forged",
        "index", "is_initiator", "peer", "remote", "replayed", "sent",
    )  # fmt: skip

    def __init__(
        self, keys: TransportKeys, *, index: bytes, remote: bytes, is_initiator: bool,
        peer: "Peer", now_s: float,
    ) -> None:  # fmt: skip
        self.index, self.remote, self.peer = index, remote, peer
        self.is_initiator, self.created_s = is_initiator, now_s
        self.dead_s = now_s + REJECT_AFTER_S
        self.sent = self.forged = self.replayed = 0
        self._keys = bytearray(keys.send + keys.receive)
        self._seal: _Cipher | None = None
        self._open: _Cipher | None = None
        self._highest, self._missing = -1, 0

    def __repr__(self) -> str:
        return f"Session({self.index.hex()})"

    def is_alive(self, now_s: float) -> bool:
        """Tell whether the keys may still be used."""
        return now_s < self.dead_s and self.sent < MESSAGES_MAX

    def seal(self, plaintext: bytes) -> bytes:
        """Return the next data packet. The caller asked `is_alive` before."""
        counter = self.sent
        self.sent = counter + 1
        sealed = (self._seal or self._sealer())(_pack_nonce(counter), plaintext, None)
        return _pack_head(DATA, self.remote, counter) + sealed

    def seal_many(self, plaintexts: Sequence[bytes]) -> list[bytes]:
        """Return the next data packets, one per plaintext."""
        seal, remote, first = self._seal or self._sealer(), self.remote, self.sent
        self.sent = first + len(plaintexts)
        return [
            _pack_head(DATA, remote, counter) + seal(_pack_nonce(counter), plaintext, None)
            for counter, plaintext in enumerate(plaintexts, first)
        ]

    def open(self, packet: bytes, now_s: float) -> bytes | None:
        """Return what a data packet of this session holds; None: forged, replayed or too late."""
        if now_s >= self.dead_s:
            return None
        (counter,) = _counter_at(packet)
        try:
            plaintext = (self._open or self._opener())(
                _pack_nonce(counter), packet[DATA_HEAD:], None
            )
        except TagMismatch:
            self.forged += 1
            return None
        if counter == self._highest + 1 and not self._missing and counter < MESSAGES_MAX:
            self._highest = counter
        elif not self._accept(counter):
            return None
        return plaintext

    def open_many(self, packets: Sequence[bytes], now_s: float) -> list[bytes]:
        """Return what the sound packets of a burst hold, in their order."""
        if now_s >= self.dead_s:
            return []
        opening, highest, missing = self._open or self._opener(), self._highest, self._missing
        plaintexts: list[bytes] = []
        keep = plaintexts.append
        for packet in packets:
            (counter,) = _counter_at(packet)
            try:
                plaintext = opening(_pack_nonce(counter), packet[DATA_HEAD:], None)
            except TagMismatch:
                self.forged += 1
                continue
            if counter == highest + 1 and not missing and counter < MESSAGES_MAX:
                highest = counter
            else:
                self._highest, self._missing = highest, missing
                sound = self._accept(counter)
                highest, missing = self._highest, self._missing
                if not sound:
                    continue
            keep(plaintext)
        self._highest, self._missing = highest, missing
        return plaintexts

    def cool(self) -> None:
        """Give back the cipher objects, which weigh more than all the rest; use makes them anew."""
        self._seal = self._open = None

    def wipe(self) -> None:
        """Overwrite the keys; the session is over and opens and seals nothing that is sound."""
        self._keys[:] = bytes(len(self._keys))
        self.cool()
        self.dead_s = float("-inf")
        self.sent = MESSAGES_MAX

    def _sealer(self) -> _Cipher:
        self._seal = Aead(memoryview(self._keys)[:32]).encrypt
        return self._seal

    def _opener(self) -> _Cipher:
        self._open = Aead(memoryview(self._keys)[32:]).decrypt
        return self._open

    def _accept(self, counter: int) -> bool:
        """Note an authentic packet's counter; False when it came before or is too old to tell."""
        ahead = counter - self._highest
        if counter >= MESSAGES_MAX:
            self.replayed += 1
            return False
        if ahead > 0:
            if ahead >= REPLAY_WINDOW:
                self._missing = _WINDOW_MASK
            else:
                skipped = (1 << ahead) - 2
                self._missing = (self._missing << ahead | skipped) & _WINDOW_MASK
            self._highest = counter
            return True
        bit = 1 << -ahead if ahead > -REPLAY_WINDOW else 0
        if not self._missing & bit:
            self.replayed += 1
            return False
        self._missing ^= bit
        return True
