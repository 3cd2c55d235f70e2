"""Records and providers as the network has them: asked through the engine, opened, shown."""

from typing import Final, NamedTuple

from molia.base.cid import Ref
from molia.base.errors import NoProviders, RecordNotFound
from molia.base.ids import PeerKey
from molia.base.views import ProviderView, RecordPut, RecordView
from molia.dht.records import RecordAddress
from molia.node.context import Context
from molia.node.dht import Dht

GET_S: Final = 25.0


class Stored(NamedTuple):
    """What became of a put, in the words of who put."""

    acks: int
    is_mismatch: bool = False
    held_seq: int = 0
    stale_seq: int = 0


class Finder:
    """Asks for what lies in the network."""

    def __init__(self, context: Context, dht: Dht) -> None:
        self._context, self._dht = context, dht

    async def record(self, publisher: PeerKey, salt: bytes, *, consistent: bool) -> RecordView:
        """Return a record. Raises RecordNotFound, LookupTimedOut."""
        raise RecordNotFound(str(RecordAddress(publisher, salt)))

    async def publish(self, encoded: bytes) -> RecordPut:
        """Publish a record that somebody else signed."""
        raise NotImplementedError

    async def providers(self, ref: Ref) -> tuple[ProviderView, ...]:
        """Return who says to have a blob."""
        raise NoProviders(ref)
