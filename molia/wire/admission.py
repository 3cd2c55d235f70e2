"""The door: whether a stranger's initiation is worth a Diffie-Hellman.

The endpoint checks length and mac1, asks `under_load` and, if so, for mac2, and then `admit`, which
looks at rates, the puzzle and the operator's share, in this order; `allows` follows when the
peer has shown its key. Before the address is proved nothing here is touched under load.
Source: docs/reference/admission.md.
"""

from typing import Final, TypeAlias

from molia.base.config import AdmissionConfig
from molia.base.ids import PeerKey
from molia.base.limits import PUZZLE_BITS_MAX
from molia.base.now import Now
from molia.wire.addresses import is_loopback, is_sendable, network_key, pack_host, source_tag
from molia.wire.gate import Verdict
from molia.wire.limiter import AsnOf, SourceLimiter
from molia.wire.load import HandshakeQueue, LoadMeter, PuzzleLevel
from molia.wire.proof import Proof, ProofGate, ProofVerdict
from molia.wire.puzzle import (
    PUZZLE_BLAKE2B,
    Effort,
    PuzzleTrailer,
    SpentFilter,
    acceptable_epochs,
    challenge,
    epoch_of,
    is_solved,
)
from molia.wire.scores import Offence, Reputation, Standing

SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]

REASONS: Final = (
    "admitted", "bad_address", "rate", "no_puzzle", "few_bits", "old_epoch", "wrong_puzzle",
    "spent", "operator", "blocked",
)  # fmt: skip


class Admission:
    """Rates, puzzles, proofs and scores of one worker, behind one door."""

    __slots__ = ("_level", "_limiter", "_meter", "_proofs", "_reputation", "_spent", "counts",
                 "queue")  # fmt: skip

    def __init__(
        self, config: AdmissionConfig, *, network: bytes, private_network: bool,
        asn_of: AsnOf | None = None,
    ) -> None:  # fmt: skip
        self._limiter = SourceLimiter(asn_of=asn_of)
        self._meter = LoadMeter(share=config.handshake_percent / 100)
        self._level = PuzzleLevel()
        self._spent = SpentFilter()
        self._reputation = Reputation()
        self._proofs = ProofGate(network=network, private_network=private_network)
        self.queue: HandshakeQueue[object] = HandshakeQueue()
        """Admitted initiations that wait, for an endpoint that lets them wait: see `enqueue`."""
        self.counts = dict.fromkeys(REASONS, 0)

    @property
    def table_entries(self) -> int:
        """Entries of all tables that grow with what strangers send."""
        return self._limiter.entries + self._reputation.entries + len(self.queue)

    # -- before Diffie-Hellman

    def under_load(self, now_s: float) -> bool:
        """Tell whether senders have to prove their address first.

        So they do while the worker is under load, and on while a puzzle is asked: one cookie reply
        tells of both, and whoever sends in other names never gets as far as the rates.
        """
        if self._is_loaded(now_s):
            return True
        return self._level.bits > 0 and self.advertised_bits(now_s) > 0

    def _is_loaded(self, now_s: float) -> bool:
        return self._meter.under_load(len(self.queue), now_s)

    def admit(
        self, address: SocketAddress, ephemeral: bytes, trailer: PuzzleTrailer | None,
        responder_key: bytes, now: Now,
    ) -> Verdict:  # fmt: skip
        """Judge an initiation whose mac1 holds and, under load, whose mac2 does.

        responder_key: our X25519 public key. trailer: None in the wireguard profile, whose peers
        solve no puzzles.
        """
        packed = pack_host(address[0])
        if packed is None or not is_sendable(address[0], address[1]):
            return self._counted("bad_address", Verdict.RATE)
        network, now_s = network_key(packed), now.mono_s
        if not is_loopback(packed):  # many nodes may run on one machine
            slowness = self._reputation.slowness(network, now_s)
            if not self._limiter.take(packed, now_s, slowness=slowness):
                return self._counted("rate", Verdict.RATE)
        self._level.offered += 1
        bits = self._bits(network, now_s)
        if bits and trailer is not None:
            fault = self._fault(trailer, bits, responder_key, ephemeral, packed, now.unix_s)
            if fault:
                return self._counted(fault, Verdict.PUZZLE)
        if self._is_loaded(now_s) and not self._limiter.take_operator(
            packed, now_s, capacity_per_s=self._meter.capacity_per_s
        ):
            return self._counted("operator", Verdict.RATE)
        return self._counted("admitted", Verdict.ADMIT)

    def enqueue(self, item: object, trailer: PuzzleTrailer | None, now: Now) -> bool:
        """Let an initiation that was just admitted wait in `queue`; False when there is no room.

        Its effort counts only while a puzzle is asked: otherwise nobody has verified it.
        """
        asked = trailer is not None and self.advertised_bits(now.mono_s) > 0
        effort = min(trailer.bits, PUZZLE_BITS_MAX) if asked and trailer is not None else 0
        return self.queue.push(item, effort=effort, now_s=now.mono_s)

    def on_handshake(self, now: Now, *, cost_s: float | None = None) -> None:
        """Take note that a Diffie-Hellman was spent, and what it cost where that was measured."""
        self._meter.on_handshake(now.mono_s, cost_s=cost_s)

    def effort(self, now: Now, address: SocketAddress) -> Effort:
        """Return the puzzle that a sender at this address is asked now; 0 bits for none."""
        packed = pack_host(address[0])
        if packed is None:
            return Effort(0, epoch_of(now.unix_s), bytes(3))
        bits = self._bits(network_key(packed), now.mono_s)
        return Effort(bits, epoch_of(now.unix_s), source_tag(packed))

    def advertised_bits(self, now_s: float) -> int:
        """Return the bits that hold for everyone, as BUSY says them."""
        return self._level.update(
            now_s, under_load=self._is_loaded(now_s), capacity_per_s=self._meter.capacity_per_s
        )

    # -- once the peer has shown its key

    def allows(self, identity: PeerKey, address: SocketAddress, now: Now) -> bool:  # noqa: ARG002
        """Tell whether a peer may have a session at all."""
        if self.standing(identity, now.mono_s) is not Standing.BLOCKED:
            return True
        self.counts["blocked"] += 1
        return False

    def standing(self, identity: PeerKey, now_s: float) -> Standing:
        """Return how a peer is treated; the requests of an ignored one are not answered."""
        return self._reputation.standing(identity.key, now_s)

    def penalise(
        self, identity: PeerKey | None, address: SocketAddress, offence: Offence, now_s: float
    ) -> None:
        """Count an offence; identity: None while the packet may be anybody's."""
        packed = pack_host(address[0])
        if packed is not None:
            self._reputation.penalise(
                peer_key=None if identity is None else identity.key,
                network=network_key(packed), offence=offence, now_s=now_s,
            )  # fmt: skip

    def judge_proof(
        self, proof: bytes, identity: PeerKey, address: SocketAddress, now: Now
    ) -> ProofVerdict:
        """Return what the identity proof of a peer with a session at this address is worth.

        Takes 0.5 ms when it is worth looking at; ask once for each place in a table.
        """
        packed = pack_host(address[0])
        if packed is None:
            return ProofVerdict.MISSING
        return self._proofs.verify(
            Proof.parse(proof), peer_key=identity.key, packed=packed, mono_s=now.mono_s,
            unix_s=now.unix_s,
        )  # fmt: skip

    # -- inside

    def _bits(self, network: bytes, now_s: float) -> int:
        """Return the bits for one network: what all pay, and what its score adds."""
        bits = self.advertised_bits(now_s)
        if not bits:
            return 0
        return min(PUZZLE_BITS_MAX, bits + self._reputation.extra_bits(network, now_s))

    def _fault(
        self, trailer: PuzzleTrailer, bits: int, responder_key: bytes, ephemeral: bytes,
        packed: bytes, unix_s: float,
    ) -> str:  # fmt: skip
        """Return what is wrong with a solution, the cheapest first; "" for nothing."""
        if trailer.puzzle != PUZZLE_BLAKE2B:
            return "no_puzzle"
        if trailer.bits < bits:
            return "few_bits"
        epochs = acceptable_epochs(unix_s)
        if trailer.epoch not in epochs:
            return "old_epoch"
        text = challenge(
            responder_key=responder_key, epoch=trailer.epoch, ephemeral=ephemeral,
            tag=source_tag(packed),
        )  # fmt: skip
        claimed = min(trailer.bits, PUZZLE_BITS_MAX)
        if not is_solved(text, nonce=trailer.nonce, bits=claimed):
            return "wrong_puzzle"
        fresh = self._spent.spend(ephemeral, epoch=trailer.epoch, now_epoch=epochs[0])
        return "" if fresh else "spent"

    def _counted(self, reason: str, verdict: Verdict) -> Verdict:
        self.counts[reason] += 1
        return verdict
