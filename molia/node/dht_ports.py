"""What the DHT's engine is given by the node: the transport as its wire, a gate, its settings."""

from dataclasses import dataclass

from molia.base.config import Config
from molia.base.ids import PeerKey
from molia.base.limits import REQUEST_TRIES_MAX
from molia.base.now import Now
from molia.dht import config as core
from molia.dht.contact import Contact
from molia.dht.ports import Asker
from molia.node.network import Network, socket_address
from molia.wire.addresses import Address
from molia.wire.peer import Peer
from molia.wire.proof import ProofVerdict
from molia.wire.transport import Answer, Transport


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A peer whose packets come from where it has not shown to be, as the engine sees it."""

    identity: PeerKey | None
    address: None = None


class ProofGate:
    """Lets into the table whose identity proof holds for its address.

    A proof comes with a PONG, or came when the peer began the session.
    Source: docs/reference/admission.md, "Identity proof".
    """

    def __init__(self, network: Network) -> None:
        self._network = network

    def own_proof(self) -> bytes:
        """See `Gate.own_proof`."""
        proof = self._network.current_proof()
        return b"" if proof is None else proof.encode()

    def admits(self, contact: Contact, proof: bytes, now: Now) -> bool:
        """See `Gate.admits`."""
        if not proof:
            peer = self._network.transport.endpoint.find(contact.key)
            proof = b"" if peer is None else peer.proof
        verdict = self._network.admission.judge_proof(proof, contact.key, contact.address, now)
        return verdict in (ProofVerdict.VALID, ProofVerdict.NOT_NEEDED)


class TransportWire:
    """The transport as the engine's `Wire`."""

    def __init__(self, transport: Transport) -> None:
        self.has_session = transport.has_session
        self._transport = transport

    def ask_at(
        self, key: PeerKey, address: Address, number: int, body: bytes, now: Now, *,
        timeout_s: float | None = None, tries: int = REQUEST_TRIES_MAX,
    ) -> int | None:  # fmt: skip
        """See `Wire.ask_at`."""
        place = socket_address(address)
        return self._transport.ask_at(
            key, place, number, body, now, timeout_s=timeout_s, tries=tries
        )

    def reply(self, peer: Asker, request_id: int, answer: Answer, now: Now) -> None:
        """See `Wire.reply`."""
        assert isinstance(peer, Peer), "who asks over this transport is one of its peers"
        self._transport.reply(peer, request_id, answer, now)


def core_config(config: Config, *, workers: int) -> core.DhtConfig:
    """Return the settings of one of so many engines as the operator's say for the node.

    Each counts the rows on the shards of its own worker.
    """
    return core.DhtConfig(
        snapshot_s=float(config.dht.snapshot_s),
        rows_max=config.dht.records_max // workers,
        may_serve=config.dht.reachable != "no",
    )
