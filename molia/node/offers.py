"""Finding nodes that offer space for a blob: whom this node knows, and whom random look-ups meet.

Never those near the blob's location: that would hand a blob to whoever makes ids beside it. A node
that said it offers nothing is left alone for a while.
Source: docs/reference/placement.md, "Candidates".
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Final

from molia.base import limits
from molia.base.cid import Cid
from molia.base.errors import MoliaError
from molia.base.ids import PeerKey
from molia.blobs.placement import Candidate
from molia.dht.contact import Contact
from molia.dht.outcome import LookupResult
from molia.node.asking_blobs import Holder
from molia.node.context import Context
from molia.node.dht import Dht
from molia.node.network import Network
from molia.wire.addresses import Address
from molia.wire.blob_messages import Offer, OfferCode, Offered

OFFER_S: Final = 3.0
"""How long a node may take to say what room it has."""
FIND_S: Final = 8.0
"""And how long all of them together."""
LOOKUP_S: Final = 4.0
RANDOM_FINDS: Final = 3
NO_OFFER_S: Final = 300.0
_ID_SIZE: Final = 32


class Wanted:
    """What a job looks for holders for."""

    def __init__(self, cid: Cid, size: int, shares: tuple[int, ...], owner: PeerKey) -> None:
        self.offer = Offer(cid=cid, size=size, shares=shares, owner=owner.key)


class Scout:
    """Finds holders for one worker."""

    def __init__(self, context: Context, network: Network, dht: Dht) -> None:
        self._context, self._network, self._dht = context, network, dht
        self._no_offer: OrderedDict[bytes, float] = OrderedDict()
        """Until when those that offer nothing are not asked again."""
        self._places: OrderedDict[bytes, Holder] = OrderedDict()
        """Where candidates are, those found last."""

    async def find(
        self, wanted: Wanted, *, count: int, known: Sequence[bytes], own: Candidate
    ) -> list[Candidate]:
        """Return our own node, those known that answer, and others that offer, up to `count`."""
        found: dict[bytes, Candidate] = {own.key: own}
        must = [contact for key in known if (contact := self._contact(key)) is not None]
        try:
            async with asyncio.timeout(FIND_S):
                await self._ask_all(must, wanted, found, count=len(must) + count)
                await self._ask_all(self._verified(), wanted, found, count=count)
                if len(found) < count and self._is_large:
                    await self._ask_all(await self._met(), wanted, found, count=count)
        except TimeoutError:
            pass  # what was found by now has to do
        return list(found.values())

    def note(self, holder: Holder) -> None:
        """Remember where a node is said to be; it may have moved since that was said last."""
        self._places[holder.key.key] = holder
        self._places.move_to_end(holder.key.key)
        while len(self._places) > limits.NO_OFFER_MAX:
            self._places.popitem(last=False)

    def holder(self, key: bytes) -> Holder | None:
        """Return where a node is by our own experience, else where it was found or said to be."""
        peer = PeerKey(key)
        at = self._experienced(peer)
        return self._places.get(key) if at is None else Holder(peer, at)

    def _experienced(self, peer: PeerKey) -> Address | None:
        """Return where a node answered, or has a session from."""
        contact = self._dht.engine.find_contact(peer)
        return self._dht.address_of_session(peer) if contact is None else contact.address

    # ------------------------------------------------------------------ whom to ask

    @property
    def _is_large(self) -> bool:
        """Whether there are more nodes than this one knows."""
        return self._dht.engine.size_estimate > len(self._dht.engine.contacts()) + 1

    def _contact(self, key: bytes) -> Contact | None:
        holder = self.holder(key)
        return None if holder is None else self._dht.space.contact(key, holder.address)

    def _verified(self) -> list[Contact]:
        """Return the contacts of the table, shuffled: no part of the space has more of a blob."""
        return self._shuffled(self._dht.engine.contacts())

    async def _met(self) -> list[Contact]:
        """Return nodes that answer around random targets."""
        results = await asyncio.gather(*(self._find_random() for _ in range(RANDOM_FINDS)))
        return self._shuffled([contact for some in results for contact in some])

    async def _find_random(self) -> Sequence[Contact]:
        target = self._context.entropy.token(_ID_SIZE)
        try:
            result = await self._dht.run_operation(
                "lookup", lambda now: self._dht.engine.find(target, now), timeout_s=LOOKUP_S
            )
        except MoliaError:
            return ()
        return result.closest if isinstance(result, LookupResult) else ()

    def _shuffled(self, contacts: Sequence[Contact]) -> list[Contact]:
        token = self._context.entropy.token
        drawn = {contact: token(8) for contact in contacts}
        return sorted(drawn, key=lambda contact: drawn[contact])

    # ------------------------------------------------------------------ asking

    async def _ask_all(
        self, contacts: Sequence[Contact], wanted: Wanted, found: dict[bytes, Candidate], *,
        count: int,
    ) -> None:  # fmt: skip
        """Ask one after the other, some at once, until there are enough."""
        now_s = self._context.now().mono_s
        waiting = deque(
            contact for contact in contacts
            if contact.key.key not in found and self._no_offer.get(contact.key.key, 0.0) < now_s
        )  # fmt: skip

        async def ask_some() -> None:
            while waiting and len(found) < count:
                contact = waiting.popleft()
                candidate = await self._ask(contact, wanted)
                if candidate is not None:
                    found[candidate.key] = candidate

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(limits.OFFERS_AT_ONCE, len(waiting))):
                tasks.create_task(ask_some())

    async def offer(self, key: bytes, wanted: Wanted) -> Offered | None:
        """Return what a node that was found says to an offer; None when it says nothing."""
        to = self.holder(key)
        if to is None:
            return None
        try:
            answer = await self._network.ask(to.key, to.address, wanted.offer, timeout_s=OFFER_S)
        except MoliaError:
            return None
        return answer if isinstance(answer, Offered) else None

    async def _ask(self, contact: Contact, wanted: Wanted) -> Candidate | None:
        """Return a node with its room; None for one that has none to give and holds nothing."""
        key = contact.key.key
        try:
            answer = await self._network.ask(
                contact.key, contact.address, wanted.offer, timeout_s=OFFER_S
            )
        except MoliaError:
            return None
        if not isinstance(answer, Offered):
            return None
        kept = tuple(share for share in answer.kept if share in wanted.offer.shares)
        if not kept and answer.code != OfferCode.YES:
            if answer.code in (OfferCode.NOT_OFFERING, OfferCode.REFUSED):
                self._leave_alone(key)
            return None
        self.note(Holder(contact.key, contact.address))
        room = answer.room if answer.code == OfferCode.YES else 0
        return Candidate(
            key=key, room_bytes=room, group=contact.group, asn=self._asn(contact), held=kept
        )

    def _leave_alone(self, key: bytes) -> None:
        self._no_offer[key] = self._context.now().mono_s + NO_OFFER_S
        self._no_offer.move_to_end(key)
        while len(self._no_offer) > limits.NO_OFFER_MAX:
            self._no_offer.popitem(last=False)

    def _asn(self, contact: Contact) -> int:
        return self._network.asn_of(contact.address[0])
