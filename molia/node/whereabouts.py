"""Who has which blob, as the network says: looked up once for all who read it, and kept a while.

A look-up that is a few seconds old serves at once, and is made again behind it: what a read finds
is added to what is known, so that a holder that moved or came back is found while the read goes on.
Source: docs/reference/gathering.md.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from molia.base.cid import Cid
from molia.base.errors import LookupTimedOut, MoliaError
from molia.base.ids import PeerKey
from molia.base.limits import FINDS_MAX, SHARES_MAX, SOURCES_MAX, TOTAL_SHARES, WHOLE_SHARE
from molia.blobs.manifest import Manifest
from molia.dht import providers
from molia.dht.providers import Kind, Provided, ProviderRecord
from molia.node.asking_blobs import Holder
from molia.wire.addresses import Address

FRESH_S: Final = 10.0
"""For so long a look-up is as good as a new one."""
KEEP_S: Final = 600.0
ALL_SHARES: Final = tuple(range(TOTAL_SHARES))
Provider = tuple[ProviderRecord, Provided]
Heard = Callable[[ProviderRecord, Provided], None]
LookUp = Callable[[Cid, Heard], Awaitable[list[Provider]]]
"""Returns who has a blob, and tells of some of them before."""
OnChange = Callable[[], None]


class Find:
    """One blob, and who has it as far as is known."""

    def __init__(self, cid: Cid) -> None:
        self.cid = cid
        self.manifest: Manifest | None = None
        """Once somebody gave it."""
        self.shares: dict[bytes, tuple[int, ...]] = {}
        """By node."""
        self.places: dict[bytes, tuple[Address, ...]] = {}
        self.hints: dict[Cid, None] = {}
        """Manifests that are said to stand for this content."""
        self.own: tuple[int, ...] = ()
        """The shares that are here."""
        self.is_over = False
        """Whether nobody is looking for more."""
        self.error: MoliaError | None = None
        """Why the last look-up found less than there may be."""
        self.found_s = float("-inf")
        self.listeners: list[OnChange] = []
        self.task: asyncio.Task[None] | None = None

    def holder(self, key: bytes) -> Holder:
        """Return a node and where it was said to be first."""
        return Holder(PeerKey(key), self.places[key][0])

    def take(self, found: list[Provider], *, own: PeerKey) -> None:
        """Take what a look-up gave; who is known with other shares has the new ones."""
        for record, provided in found:
            if record.kind is Kind.BINDING:
                if provided.manifest is not None and len(self.hints) < SOURCES_MAX:
                    self.hints[provided.manifest] = None
                continue
            key = record.signer.key
            is_new = key not in self.shares
            if record.signer == own or not provided.hints:
                continue
            if is_new and len(self.shares) >= SOURCES_MAX:
                continue
            self.shares[key] = _shares_of(self.cid, record, provided)
            self.places[key] = provided.hints

    async def known(self, *, within_s: float) -> None:
        """Return when somebody is known to have it, the look-up is over, or after a while."""
        await self._until(lambda: self.is_over or bool(self.shares), within_s)

    async def over(self, *, within_s: float) -> None:
        """Return when the look-up is over, or after a while."""
        await self._until(lambda: self.is_over, within_s)

    async def _until(self, holds: Callable[[], bool], within_s: float) -> None:
        changed = asyncio.Event()
        self.listeners.append(changed.set)
        try:
            async with asyncio.timeout(within_s):
                while not holds():
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            return
        finally:
            self.listeners.remove(changed.set)

    def tell(self) -> None:
        """Say to all who read that there is news."""
        for listener in list(self.listeners):
            listener()


class Finds:
    """The blobs that were looked for lately."""

    def __init__(self, look_up: LookUp, *, own: PeerKey, now_s: Callable[[], float]) -> None:
        self._look_up, self._own, self._now_s = look_up, own, now_s
        self._known: OrderedDict[Cid, Find] = OrderedDict()

    def get(self, cid: Cid, *, anew: bool = False) -> Find:
        """Return what is known of a blob; a look-up for more is begun where that is old.

        anew: however old it is.
        """
        find, now_s = self._known.get(cid), self._now_s()
        if find is None or (find.is_over and now_s - find.found_s > KEEP_S):
            find = self._known[cid] = Find(cid)
        self._known.move_to_end(cid)
        if find.task is None and (anew or now_s - find.found_s > FRESH_S):
            find.is_over = False
            find.task = asyncio.ensure_future(self._find(find))
        while len(self._known) > FINDS_MAX:
            _, old = self._known.popitem(last=False)
            if old.task is not None and not old.listeners:
                old.task.cancel()
        return find

    def forget(self, cid: Cid) -> None:
        """Look again at the next read: what was known led nowhere."""
        find = self._known.get(cid)
        if find is not None:
            find.found_s = float("-inf")

    def close(self) -> None:
        """End all look-ups."""
        for find in self._known.values():
            if find.task is not None:
                find.task.cancel()

    async def _find(self, find: Find) -> None:
        def heard(record: ProviderRecord, provided: Provided) -> None:
            find.take([(record, provided)], own=self._own)
            find.tell()

        find.error = LookupTimedOut("the search for holders was broken off")
        try:
            find.take(await self._look_up(find.cid, heard), own=self._own)
            find.error = None
        except MoliaError as error:
            find.error = error
        finally:
            find.task, find.is_over = None, True
            if find.shares or find.hints:  # that nobody has it is asked anew each time
                find.found_s = self._now_s()
            find.tell()


def _shares_of(cid: Cid, record: ProviderRecord, provided: Provided) -> tuple[int, ...]:
    if cid.codec is cid.codec.RAW:
        return (WHOLE_SHARE,)
    if record.kind is Kind.SHARE:
        return tuple(share for share in providers.shares_in(provided.shares) if share < SHARES_MAX)
    return ALL_SHARES
