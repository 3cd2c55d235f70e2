"""Blobs from the network: found, gathered from those who hold them, checked, given to a reader.

    reader = await fetcher.open_ref(ref)        # who has it, and what it is
    async for chunk in reader.read(0, size):    # from the fastest, each block checked

Source: docs/reference/gathering.md.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final, Protocol

import structlog

from molia.base import limits
from molia.base.cid import Cid, Codec, Ref
from molia.base.errors import (
    BadManifest,
    Busy,
    LookupTimedOut,
    MoliaError,
    NoHolders,
    NotJoined,
    SharesOutOfReach,
    TimedOut,
    outcome_of,
)
from molia.base.hashing import blake3_digest
from molia.base.ids import PeerKey
from molia.base.limits import TOTAL_SHARES
from molia.blobs.elastic import Supplement
from molia.blobs.gather import Gather
from molia.blobs.gather_whole import GatherWhole, Whole
from molia.blobs.manifest import Manifest
from molia.blobs.one_read import Failed, GatherConfig
from molia.blobs.sources import Source
from molia.dht.blinding import content_cid
from molia.node.asking_blobs import ask_supplement
from molia.node.caching import Cache
from molia.node.catalog import Bound
from molia.node.context import Context
from molia.node.gathering import Gathering
from molia.node.network import Network
from molia.node.network_readers import HintedReader, NetworkReader, WholeReader
from molia.node.peer_pace import PeerPace
from molia.node.stored import shares_here
from molia.node.whereabouts import Find, Finds, LookUp
from molia.wire.scores import Offence

log = structlog.get_logger(__name__)

JOIN_WAIT_S: Final = 3.0
JOIN_LOOK_S: Final = 0.1
HINTS_MAX: Final = 4
"""Manifests that are tried for one content hash: each is a hint of a stranger."""
OnLie = Callable[[Cid, PeerKey, int | None], None]
FetchedReader = WholeReader | NetworkReader | HintedReader


class Joins(Protocol):
    """How this worker stands among the others."""

    @property
    def is_joined(self) -> bool:
        """Whether there is somebody to ask."""
        ...

    @property
    def may_join(self) -> bool:
        """Whether it was told of anybody."""
        ...


class Fetcher:
    """Reads through the network, of one worker."""

    def __init__(self, context: Context, network: Network, look_up: LookUp, joins: Joins) -> None:
        self.context, self.network, self._joins = context, network, joins
        self.finds = Finds(look_up, own=context.peer, now_s=lambda: context.now().mono_s)
        self._pace = PeerPace(network, lambda: context.now().mono_s)
        self._checked: OrderedDict[tuple[bytes, Cid], None] = OrderedDict()
        """Content hashes and the manifests that were found to be theirs."""
        self._untrue: OrderedDict[tuple[Cid, bytes], None] = OrderedDict()
        """Supplements that were found to be wrong, by digest, and who gave them, by key."""
        self._running: set[Gathering] = set()
        self.patience, self.join_wait_s = GatherConfig(), JOIN_WAIT_S
        self.cache: Cache | None = None
        """Where what was read is kept."""
        self.on_lie: list[OnLie] = []
        """Told of a node that sent what is not the blob's: its share counts as lost."""

    @property
    def is_joined(self) -> bool:
        """Whether there is somebody to ask."""
        return self._joins.is_joined

    # ------------------------------------------------------------------ opening

    async def open_ref(self, ref: Ref, not_here: MoliaError) -> FetchedReader:
        """Return a reader of a blob of which nothing is here; on a node alone `not_here` is raised.

        Raises as `open`, and NotJoined.
        """
        await self._join(not_here)
        named = content_cid(ref)
        if named.codec is Codec.MANIFEST:
            return await self.open(named)
        find = self.finds.get(named)
        await find.known(within_s=self.patience.lookup_s)
        if find.shares or not find.hints:
            try:
                return await self.open(named)
            except (NoHolders, SharesOutOfReach):
                if not find.hints:
                    raise
        return await self._open_hinted(find)

    async def open(self, cid: Cid, here: Sequence[Bound] = ()) -> WholeReader | NetworkReader:
        """Return a reader of a blob. here: what is here of it.

        Raises NoHolders, SharesOutOfReach, LookupTimedOut, TimedOut, BadManifest, Busy.
        """
        find = self.finds.get(cid)
        if cid.codec is Codec.RAW:
            return WholeReader(cid, await self._whole(find))
        find.own = await self.context.offload.run(self._own_shares, here) if here else ()
        if here:
            find.manifest = Manifest.decode(here[0].row.manifest)
        if find.manifest is None:
            find.manifest = await self._manifest(find)
        return NetworkReader(self, find, find.manifest, tuple(here))

    async def _open_hinted(self, find: Find) -> HintedReader:
        """Return a reader through one of the manifests that are named for a content hash."""
        failure: MoliaError = NoHolders(find.cid, waited_s=0.0)
        for cid in list(find.hints)[:HINTS_MAX]:
            try:
                reader = await self.open(cid)
            except (NoHolders, SharesOutOfReach, TimedOut, BadManifest) as error:
                failure = error
                continue
            assert isinstance(reader, NetworkReader), "a binding names a manifest"
            if reader.manifest.content == find.cid.digest:
                return HintedReader(self, reader, find.cid.digest)
        raise failure

    async def _join(self, not_here: MoliaError) -> None:
        """Return when there is somebody to ask; a node that has just begun is given a moment.

        Raises NotJoined, or `not_here` when nobody is to be expected.
        """
        until_s = self._now_s + self.join_wait_s
        while not self._joins.is_joined:
            if not self._joins.may_join:
                raise not_here
            if self._now_s >= until_s:
                raise NotJoined
            await asyncio.sleep(JOIN_LOOK_S)

    def close(self) -> None:
        """End the searches; readers end what they read themselves."""
        self.finds.close()

    def _own_shares(self, here: Sequence[Bound]) -> tuple[int, ...]:
        found = (share for bound in here for share in shares_here(self.context, bound))
        return tuple(dict.fromkeys(found))

    async def _manifest(self, find: Find) -> Manifest:
        core = Gather(find.cid, start=0, stop=0, now_s=self._now_s, config=self.patience)
        running = self.begin(core, find)
        try:
            match await running.next():
                case Failed(error=error):
                    raise self.explain(error, find)
            assert core.manifest is not None, "a read of nothing ends with the manifest"
            return core.manifest
        finally:
            running.close()

    async def _whole(self, find: Find) -> bytes:
        cost = await self.context.budget.draw(limits.RAW_SIZE_STOP)
        try:
            running = self.begin(
                GatherWhole(find.cid, now_s=self._now_s, config=self.patience), find
            )
            try:
                match await running.next():
                    case Whole(data=data):
                        if self.cache is not None:
                            self.cache.keep_whole(find.cid, data)
                        return data
                    case Failed(error=error):
                        raise self.explain(error, find)
                raise AssertionError("a small blob comes in one piece")
            finally:
                running.close()
                self.note_read(running.core)
        finally:
            self.context.budget.release(cost)

    # ------------------------------------------------------------------ for readers

    def begin(
        self, core: Gather | GatherWhole, find: Find, here: Sequence[Bound] = ()
    ) -> Gathering:
        """Begin to carry out a core's effects. Raises Busy."""
        if len(self._running) >= limits.READS_MAX:
            raise Busy("too many reads through the network are under way")
        running = Gathering(
            self.context, self.network, core, find, sources_of=self._sources,
            on_liar=self._on_liar, on_close=self._running.discard, here=here,
        )  # fmt: skip
        self._running.add(running)
        return running

    async def supplements(
        self, find: Find, here: Sequence[Bound] = ()
    ) -> AsyncGenerator[Supplement, None]:
        """Yield what is said of the roots of shares that were added, each once.

        Each is a hint, which nobody signs: what is read by it has to hash to the content. Who
        said what was not true is asked last.
        """
        known = [Supplement.decode(bound.supplement) for bound in here]
        said = {
            found.roots: found for found in known if found is not None and found.cid == find.cid
        }
        for found in list(said.values()):
            if not self._is_untrue(find.cid, found):
                yield found
        having = {key: max(shares, default=0) for key, shares in find.shares.items()}
        names = [key for key in having if TOTAL_SHARES <= having[key] < limits.SHARES_MAX]
        names.sort(key=lambda key: ((find.cid, key) in self._untrue, -having[key]))
        for key in names[:HINTS_MAX]:
            try:
                told = await ask_supplement(self.network, find.holder(key), find.cid)
            except MoliaError:
                continue
            if told is None or told.roots in said:
                continue
            said[told.roots] = told
            if self._is_untrue(find.cid, told):
                self._note_untrue(find.cid, key)
                continue
            yield told
            if self._is_untrue(find.cid, told):
                self._note_untrue(find.cid, key)

    def note_untrue(self, added: Supplement) -> None:
        """Take that a blob that was read by a supplement was another."""
        self._note_untrue(added.cid, _digest_of(added))

    def _is_untrue(self, cid: Cid, added: Supplement) -> bool:
        return (cid, _digest_of(added)) in self._untrue

    def _note_untrue(self, cid: Cid, what: bytes) -> None:
        self._untrue[cid, what] = None
        while len(self._untrue) > limits.FINDS_MAX:
            self._untrue.popitem(last=False)

    def explain(self, error: MoliaError, find: Find) -> MoliaError:
        """Return why a read failed, and count it: nobody found is no answer without a search."""
        self.finds.forget(find.cid)
        if isinstance(error, NoHolders) and (not find.is_over or find.error is not None):
            error = find.error or LookupTimedOut(f"who has {find.cid} was not found in time")
        code = outcome_of(error).code
        self.context.metrics.reads_failed.labels(code).inc()
        log.info("fetch_failed", blob=find.cid.short, reason=code)
        return error

    def is_checked(self, content: bytes, cid: Cid) -> bool:
        """Tell whether a manifest was found to be of the content that it claims."""
        return (content, cid) in self._checked

    def note_checked(self, content: bytes, cid: Cid) -> None:
        """Remember that."""
        self._checked[content, cid] = None
        if len(self._checked) > limits.FINDS_MAX:
            self._checked.popitem(last=False)

    def note_read(self, core: Gather | GatherWhole) -> None:
        """Remember how the nodes of a read were, for the next one."""
        if isinstance(core, Gather):
            self.context.metrics.fetches.labels("hedged").inc(core.hedged)
        self._pace.note_read(core.sources)

    # ------------------------------------------------------------------ what nodes are worth

    @property
    def _now_s(self) -> float:
        return self.context.now().mono_s

    def _sources(self, find: Find) -> list[Source]:
        own = [Source(self.context.peer.key, find.own, 0.0)] if find.own else []
        theirs = find.shares.items()
        return own + [Source(key, shares, self._pace.rtt_s(key)) for key, shares in theirs]

    def _on_liar(self, cid: Cid, key: bytes, share: int | None) -> None:
        peer = PeerKey(key)
        if peer == self.context.peer:
            return
        if share is not None and TOTAL_SHARES <= share < limits.SHARES_MAX:
            return  # what it must be is a stranger's word: the supplement may be what is wrong
        self.context.metrics.fetches.labels("lies").inc()
        log.warning("holder_lied", blob=cid.short, peer=peer.short, share_index=share)
        known = self.network.transport.endpoint.find(peer)
        if known is not None and known.address is not None:
            place = known.address[0], known.address[1]
            self.network.admission.penalise(peer, place, Offence.WRONG_BYTES, self._now_s)
        self._pace.note_lie(key)
        for told in self.on_lie:
            told(cid, peer, share)


def _digest_of(added: Supplement) -> bytes:
    return blake3_digest(added.encode())
