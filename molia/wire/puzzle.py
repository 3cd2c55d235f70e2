"""The request puzzle: what a handshake costs its sender while the node is under load.

The sender looks for a nonce such that BLAKE2b over (responder key, epoch, this message's ephemeral,
source tag, nonce) starts with so many zero bits; one hash tells whether it has found one, before
any Diffie-Hellman. It sheds load: who owns many machines or a GPU pays less, and nothing here
changes that.
Source: docs/reference/admission.md, "Request puzzle"; Juels and Brainard, "Client puzzles", 1999.
"""

import struct
from typing import Final, NamedTuple

from molia.base.entropy import Entropy
from molia.base.hashing import blake2b_digest, blake2b_search
from molia.base.limits import PUZZLE_BITS_MAX, SPENT_FILTER_BITS

PUZZLE_NONE: Final = 0
PUZZLE_BLAKE2B: Final = 1
EPOCH_S: Final = 600
NONCE_SIZE: Final = 8
DIGEST_SIZE: Final = 8
_TRAILER: Final = struct.Struct("<BBI8s")
TRAILER_SIZE: Final = _TRAILER.size
_EFFORT: Final = struct.Struct("<BI3s")
_FILTER_PARTS: Final = struct.Struct("<4I")


class Effort(NamedTuple):
    """What a node asks of a sender: it stands in cookie replies and in responses."""

    bits: int
    """0: nothing is asked."""
    epoch: int
    tag: bytes
    """3 bytes: the sender's source as the node sees it, which one behind NAT cannot know."""

    def encode(self) -> bytes:
        """Return 8 bytes."""
        return _EFFORT.pack(*self)

    @classmethod
    def parse(cls, data: bytes) -> "Effort | None":
        """Return what 8 bytes ask; None for another length, or more than anyone may ask."""
        if len(data) != _EFFORT.size or data[0] > PUZZLE_BITS_MAX:
            return None
        return cls(*_EFFORT.unpack(data))


NO_EFFORT: Final = Effort(0, 0, bytes(3))


class PuzzleTrailer(NamedTuple):
    """What the sender claims: so many bits, in this epoch, by this nonce."""

    puzzle: int = PUZZLE_NONE
    """Which puzzle: 0 is none, 1 is BLAKE2b."""
    bits: int = 0
    epoch: int = 0
    nonce: bytes = bytes(NONCE_SIZE)

    def encode(self) -> bytes:
        """Return the 14 bytes of the clear trailer of an initiation."""
        return _TRAILER.pack(*self)

    @classmethod
    def parse(cls, data: bytes) -> "PuzzleTrailer | None":
        """Return what 14 bytes claim, believed or not; None for another length."""
        return cls(*_TRAILER.unpack(data)) if len(data) == TRAILER_SIZE else None


NO_PUZZLE: Final = PuzzleTrailer()


def epoch_of(unix_s: float) -> int:
    """Return the 10-minute epoch of a time."""
    return int(unix_s // EPOCH_S) & 0xFFFF_FFFF


def challenge(*, responder_key: bytes, epoch: int, ephemeral: bytes, tag: bytes) -> bytes:
    """Return what the nonce is appended to: 32 + 4 + 32 + 3 bytes.

    tag: `addresses.source_tag` of the sender as the responder sees it.
    """
    return responder_key + epoch.to_bytes(4, "little") + ephemeral + tag


def target_of(bits: int) -> bytes:
    """Return the 8 bytes that a digest with `bits` leading zero bits is below."""
    return (1 << (8 * DIGEST_SIZE - bits)).to_bytes(DIGEST_SIZE, "big") if bits else b"\xff" * 9


def is_solved(prefix: bytes, *, nonce: bytes, bits: int) -> bool:
    """Tell whether the nonce solves the challenge for so many bits; one hash."""
    return blake2b_digest(prefix + nonce, size=DIGEST_SIZE) < target_of(bits)


class PuzzleSolver:
    """Looks for a nonce in slices, so that a shell can run it beside other work or give up."""

    __slots__ = ("_at", "_prefix", "_target", "bits", "epoch", "tries")

    def __init__(
        self, *, responder_key: bytes, ephemeral: bytes, effort: Effort, entropy: Entropy
    ) -> None:
        bits, epoch, tag = effort
        assert 0 < bits <= PUZZLE_BITS_MAX, "nobody is worth more than the dearest puzzle"
        self._prefix = challenge(
            responder_key=responder_key, epoch=epoch, ephemeral=ephemeral, tag=tag
        )
        self._target = target_of(bits)
        self._at = int.from_bytes(entropy.token(NONCE_SIZE), "little")
        self.bits, self.epoch, self.tries = bits, epoch, 0

    def solve(self, budget: int) -> PuzzleTrailer | None:
        """Try `budget` nonces, about 0.6 us each; None when none of them was it."""
        found = blake2b_search(self._prefix, start=self._at, count=budget, below=self._target)
        self._at += budget
        self.tries += budget
        if found is None:
            return None
        return PuzzleTrailer(
            PUZZLE_BLAKE2B, self.bits, self.epoch, found.to_bytes(NONCE_SIZE, "little")
        )


class SpentFilter:
    """Which ephemerals have already bought a handshake, in this epoch and the last.

    A Bloom filter of fixed size per epoch: it never forgets within an epoch, and sometimes takes
    an unspent ephemeral for a spent one; its owner tries again with another. The parts of the
    ephemeral are the hashes: an honest one is random, and who chooses bits sets no more of them.
    """

    __slots__ = ("_filters",)

    def __init__(self) -> None:
        self._filters: dict[int, bytearray] = {}

    @property
    def size_bytes(self) -> int:
        """Bytes that the filters take."""
        return sum(map(len, self._filters.values()))

    def spend(self, ephemeral: bytes, *, epoch: int, now_epoch: int) -> bool:
        """Remember the ephemeral; False when it was there. Filters of old epochs are dropped."""
        bits = self._filters.get(epoch)
        if bits is None:
            kept = (now_epoch, now_epoch - 1)
            self._filters = {known: it for known, it in self._filters.items() if known in kept}
            bits = self._filters[epoch] = bytearray(SPENT_FILTER_BITS // 8)
        fresh = False
        for part in _FILTER_PARTS.unpack_from(ephemeral):
            at, bit = part % SPENT_FILTER_BITS >> 3, 1 << (part & 7)
            if not bits[at] & bit:
                bits[at] |= bit
                fresh = True
        return fresh


def acceptable_epochs(unix_s: float) -> tuple[int, int]:
    """Return this epoch and the last, whose solutions may still be on their way."""
    now = epoch_of(unix_s)
    return now, now - 1
