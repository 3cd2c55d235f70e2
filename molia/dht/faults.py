"""What is counted when a peer gives bytes that are no record, and what it costs the peer."""

from typing import Final

from molia.base.ids import PeerKey
from molia.dht.effects import Penalise
from molia.dht.hub import Hub
from molia.dht.records import Fault
from molia.wire.addresses import Address
from molia.wire.scores import Offence

_FORGED: Final = frozenset({Fault.SIGNATURE, Fault.KEY})
_MISPLACED: Final = frozenset({Fault.PLACE, Fault.PREFIX})


def note_fault(hub: Hub, fault: Fault, key: PeerKey | None, address: Address) -> None:
    """Count a fault; who passes on what is forged or misplaced loses its standing.

    Nobody is blamed for what has expired, or seems to by our clock.
    """
    counters = hub.counters
    if fault in _FORGED:
        counters.records_forged += 1
    elif fault is Fault.EXPIRED:
        counters.records_expired += 1
    elif fault is Fault.FAR:
        counters.records_far += 1
    else:
        counters.records_malformed += 1
    if key is None:
        return
    if fault in _FORGED:
        hub.emit(Penalise(key, address, Offence.BAD_SIGNATURE))
    elif fault in _MISPLACED:
        hub.emit(Penalise(key, address, Offence.WRONG_ID))
