"""What an endpoint asks before it spends a Diffie-Hellman on a stranger, and what it counts.

`Admission` is the door: rate limits, puzzles and scores stand behind it. `OpenAdmission` lets all
in, for tests and for the wireguard profile, whose peers are configured.
"""

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Protocol

from molia.base.ids import PeerKey
from molia.base.now import Now
from molia.wire.cookies import Address
from molia.wire.puzzle import NO_EFFORT, Effort, PuzzleTrailer
from molia.wire.scores import Offence, Standing


class Verdict(Enum):
    """What becomes of an initiation whose MACs hold."""

    ADMIT = "admit"
    RATE = "rate"
    """Too many from there: dropped in silence."""
    PUZZLE = "puzzle"
    """The puzzle is not answered: the sender is told what is asked, with a cookie reply."""


class Admission(Protocol):
    """The door. Everything here is called in this order, and only after mac1 held."""

    def under_load(self, now_s: float) -> bool:
        """Tell whether senders have to prove their address first."""
        ...

    def admit(
        self, address: Address, ephemeral: bytes, trailer: PuzzleTrailer | None,
        responder_key: bytes, now: Now,
    ) -> Verdict:  # fmt: skip
        """Judge an initiation before any Diffie-Hellman.

        responder_key: our X25519 public key. trailer: None in the wireguard profile.
        """
        ...

    def allows(self, identity: PeerKey, address: Address, now: Now) -> bool:
        """Tell whether a peer that has shown its key may have a session (molia profile)."""
        ...

    def on_handshake(self, now: Now) -> None:
        """Take note that a Diffie-Hellman was spent."""
        ...

    def penalise(
        self, identity: PeerKey | None, address: Address, offence: Offence, now_s: float
    ) -> None:
        """Take note of an offence; identity: None while the packet may be anybody's."""
        ...

    def standing(self, identity: PeerKey, now_s: float) -> Standing:
        """Return how an identity is treated."""
        ...

    def effort(self, now: Now, address: Address) -> Effort:
        """Return the puzzle that a sender at this address is asked now; 0 bits for none."""
        ...


class OpenAdmission:
    """Lets everyone in. `loaded` pretends a load, for tests."""

    def __init__(self, *, loaded: bool = False) -> None:
        self.loaded = loaded

    def under_load(self, *_: object) -> bool:
        """Return what was set."""
        return self.loaded

    def admit(self, *_: object) -> Verdict:
        """Admit."""
        return Verdict.ADMIT

    def allows(self, *_: object) -> bool:
        """Allow."""
        return True

    def on_handshake(self, *_: object) -> None:
        """Take no note."""

    def penalise(self, *_: object) -> None:
        """Forgive."""

    def standing(self, *_: object) -> Standing:
        """Think well of all."""
        return Standing.GOOD

    def effort(self, *_: object) -> Effort:
        """Ask nothing."""
        return NO_EFFORT


@dataclass(slots=True)
class Counters:
    """What happened, and every reason for which a packet was dropped."""

    packets_in: int = 0
    handshakes_in: int = 0
    """Initiations that were answered with a response."""
    handshakes_out: int = 0
    """Responses that completed a handshake of ours."""
    initiations_out: int = 0
    cookies_out: int = 0
    cookies_in: int = 0
    roamed: int = 0
    evicted: int = 0
    """Peers that had to make room."""
    bad_type: int = 0
    bad_size: int = 0
    bad_mac1: int = 0
    refused_rate: int = 0
    refused_puzzle: int = 0
    reflected: int = 0
    bad_initiation: int = 0
    """Not made for us, or by someone without the key that it names."""
    unknown_peer: int = 0
    stale_timestamp: int = 0
    too_frequent: int = 0
    bad_hello: int = 0
    wrong_identity: int = 0
    unknown_feature: int = 0
    no_common_version: int = 0
    refused_identity: int = 0
    bad_response: int = 0
    bad_cookie: int = 0
    unknown_index: int = 0
    forged: int = 0
    replayed: int = 0
    """Came before, or fell behind the replay window."""
    expired: int = 0
    unproved: int = 0
    """Not sent: the peer's address had not earned that many bytes."""
    waiting_full: int = 0
    unanswered: int = 0
    """Plaintexts that waited for a handshake that never came."""
    effects_full: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return all counters by name."""
        return asdict(self)
