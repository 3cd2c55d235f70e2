"""Our own identity proof: which one to compute, when, and which one to show.

A core: a shell asks `work` for a solver, runs its slices in a thread, and hands in what it finds.
Source: docs/reference/admission.md, "Identity proof".
"""

from molia.base.entropy import Entropy
from molia.wire.addresses import address_prefix
from molia.wire.proof import (
    PROOF_EPOCH_S,
    RENEW_EARLY_S,
    Proof,
    ProofSolver,
    epoch_to_prove,
    needs_proof,
    proof_epoch,
    proof_holds,
)


class OwnProof:
    """The proofs of one identity at the address that others have confirmed."""

    __slots__ = ("_entropy", "_key", "_network", "_packed", "_private", "_proofs", "_solver")

    def __init__(
        self, *, peer_key: bytes, network: bytes, private_network: bool, entropy: Entropy
    ) -> None:
        self._key, self._network, self._private = peer_key, network, private_network
        self._entropy = entropy
        self._packed: bytes | None = None
        self._proofs: dict[int, Proof] = {}
        self._solver: ProofSolver | None = None

    def on_address(self, packed: bytes) -> None:
        """Take note of our external address; in another network all proofs are void."""
        old = self._packed
        self._packed = packed
        if old is None or address_prefix(old) != address_prefix(packed):
            self._proofs, self._solver = {}, None

    def restore(self, proof: Proof) -> bool:
        """Take a proof that an earlier run found; False when it is not good at our address."""
        good = self._packed is not None and proof_holds(
            proof, peer_key=self._key, network=self._network, packed=self._packed
        )
        if good:
            self._proofs[proof.epoch] = proof
        return good

    def work(self, unix_s: float) -> ProofSolver | None:
        """Return the solver whose slices should run now; None when there is nothing to prove.

        It is the same one until its proof is handed in, the epoch passes or the address changes.
        """
        if self._packed is None or not needs_proof(self._packed, private_network=self._private):
            return None
        epoch = epoch_to_prove(unix_s)
        if epoch in self._proofs:
            return None
        if self._solver is None or self._solver.epoch != epoch:
            self._solver = ProofSolver(
                peer_key=self._key, network=self._network, packed=self._packed, epoch=epoch,
                entropy=self._entropy,
            )  # fmt: skip
        return self._solver

    def on_solved(self, solver: ProofSolver, proof: Proof) -> None:
        """Take what a solver of `work` found; of one that is no longer wanted it is dropped."""
        if solver is not self._solver:
            return
        self._solver = None
        kept = (proof.epoch - 1, proof.epoch)
        self._proofs = {epoch: it for epoch, it in self._proofs.items() if epoch in kept}
        self._proofs[proof.epoch] = proof

    def current(self, unix_s: float) -> Proof | None:
        """Return the proof to show: of this epoch, or the last while it is not there yet.

        The next epoch's serves as well on the last day, when a node may have no other.
        """
        now = proof_epoch(unix_s)
        for epoch in (now, now - 1, epoch_to_prove(unix_s)):
            if epoch in self._proofs:
                return self._proofs[epoch]
        return None

    def next_renewal_s(self, unix_s: float) -> float:
        """Return the unix time from which on `work` will want the next epoch's proof."""
        return float((epoch_to_prove(unix_s) + 1) * PROOF_EPOCH_S - RENEW_EARLY_S)
