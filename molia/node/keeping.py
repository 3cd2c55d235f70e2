"""Watches over the blobs that this worker's shards hold for others, or that the user here pinned.

Each is looked at in turn, at a pace that leaves a node with 100,000 of them idle: who has its other
shares, whether these nodes answer, and which of them are to be audited by us. How it stands goes to
the queue of repairs.
Source: docs/reference/audit-and-repair.md, "Watching".
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog

from molia.base import limits
from molia.base.cid import Cid, Codec
from molia.base.errors import BadManifest, Damaged, MoliaError, ShardUnavailable
from molia.base.ids import PeerKey
from molia.blobs.audit import Answer, AuditRecord, AuditTask, due_audits
from molia.blobs.elastic import copies_wanted, shares_wanted
from molia.blobs.manifest import Manifest
from molia.blobs.placement import Place
from molia.blobs.standing import Standing
from molia.dht.providers import Kind, shares_in
from molia.node.asking_blobs import Holder, ask_have
from molia.node.auditing import Auditing
from molia.node.catalog import Bound
from molia.node.context import Context
from molia.node.held import Held, HeldShares
from molia.node.network import Network
from molia.node.presence import Presences
from molia.node.standings import Facts, Here, places_of, standing_of
from molia.node.watched import Seen, Watched, WatchedRows
from molia.node.whereabouts import Find, LookUp, Provider
from molia.store.keys import Space
from molia.store.rows import PlacedRow
from molia.wire.addresses import Address
from molia.wire.blob_messages import Held as HeldThere

log = structlog.get_logger(__name__)

PACE_S: Final = 0.1
"""For each look: ten a second, begun together, since waking up costs an idle node the most."""
LOOK_UP_PACE_S: Final = 1.0
"""And between two that look holders up, unless a repair waits for it."""
LOOK_UP_S: Final = 3 * 86_400.0
"""How often the holders of a blob that lacks nothing are looked up."""
HAVE_S: Final = 3.0
IDLE_S: Final = 0.5
RTT_S: Final = 0.5
AGED_UNIX_S: Final = 1
"""In place of when holders were looked up: so long ago that the next look does it again."""
OnStanding = Callable[[Here, Standing], None]
OnFacts = Callable[[Facts, Standing], None]
OnGone = Callable[[Cid], None]
OnUntold = Callable[[Cid], None]
T = TypeVar("T")
_Rows = tuple[Here, Watched]
"""What is here of a blob, and what is known of its other holders."""


@dataclass(frozen=True, slots=True)
class Others:
    """Who else has a blob."""

    shares: Mapping[bytes, tuple[int, ...]]
    """By node, those away included."""
    lost: frozenset[Place]
    away: frozenset[bytes]
    sound_unix_s: Mapping[int, int]
    """When an audit of ours found a share sound, by share."""
    known: frozenset[bytes] | None = None
    """All who are watched; None before the first look."""

    def now(self, noted: Mapping[bytes, tuple[int, ...]]) -> dict[bytes, tuple[int, ...]]:
        """Return who has what now. noted: what was acknowledged when the blob was placed."""
        every = {key: noted[key] for key in noted if self.known is None or key in self.known}
        every |= self.shares
        left = {
            key: tuple(share for share in shares if Place(share, key) not in self.lost)
            for key, shares in every.items() if key not in self.away
        }  # fmt: skip
        return {key: shares for key, shares in left.items() if shares}


class Keeper:
    """The watch of one worker."""

    def __init__(
        self, context: Context, network: Network, look_up: LookUp, *, is_joined: Callable[[], bool]
    ) -> None:
        self._context, self._network, self._look_up = context, network, look_up
        self._is_joined = is_joined
        self._held, self.rows = HeldShares(context.shards), WatchedRows(context)
        config = context.config.repair
        self.presences = Presences(lambda: context.now().mono_s, fresh_s=config.look_s * 0.9)
        self.auditing = Auditing(context, network, self._on_judged)
        self.on_standing: list[OnStanding] = []
        self.on_facts: list[OnFacts] = []
        self.on_gone: list[OnGone] = []
        self.on_untold: list[OnUntold] = []
        """Told of a blob of which the network does not know that it is here: whoever sent it has
        died before it could say so."""
        self._looking: set[asyncio.Task[None]] = set()
        self._gate = asyncio.Semaphore(limits.LOOKS_AT_ONCE)
        self._rows_lock, self._look_up_pace = asyncio.Lock(), asyncio.Lock()
        self.looks = self.look_ups = 0
        self.node_count: Callable[[], int] = lambda: limits.TOTAL_SHARES
        """How many nodes are known: more parity than nodes helps nobody."""
        self.have_s = HAVE_S
        """How long a holder may take to say that it is there."""

    # ------------------------------------------------------------------ the walk

    async def run(self) -> None:
        """Watch for as long as the node lives."""
        try:
            while self._context.config.repair.enabled:
                if not self._is_joined():
                    await asyncio.sleep(IDLE_S)
                    continue
                began_s = self._context.now().mono_s
                try:
                    await self._walk()
                except MoliaError as error:
                    log.warning("watch_broke_off", reason=str(error))
                took_s = self._context.now().mono_s - began_s
                await asyncio.sleep(max(IDLE_S, self._context.config.repair.look_s - took_s))
        finally:
            self.auditing.close()
            for task in list(self._looking):
                task.cancel()

    async def _walk(self) -> None:
        run = self._context.offload.run
        for space in (Space.HELD, Space.PLACED):
            slices = self.rows.slices(space)
            while (blobs := await run(_next, slices, self._rows_of)) is not None:
                for cid, rows in blobs:
                    is_late = self._gate.locked()  # by then what was read may not be true any more
                    await self._gate.acquire()
                    self._spawn_look(cid, None if is_late else rows)
                await asyncio.sleep(PACE_S * len(blobs))
        slices = self.rows.slices(Space.WATCHED)
        while (watched := await run(_next, slices, self._is_gone)) is not None:
            for cid, is_gone in watched:
                if is_gone:
                    await self.rows.drop(cid)
                    self._tell_gone(cid)
            await asyncio.sleep(PACE_S * len(watched))
        if self._looking:
            await asyncio.wait(self._looking)

    def _spawn_look(self, cid: Cid, rows: _Rows | None) -> None:
        async def look() -> None:
            try:
                await self._look_from(cid, rows or await self._read_rows(cid))
            except MoliaError as error:
                log.debug("look_failed", blob=cid.short, reason=str(error))
            finally:
                self._gate.release()

        task = asyncio.ensure_future(look())
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    def _tell_gone(self, cid: Cid) -> None:
        for told in self.on_gone:
            told(cid)

    # ------------------------------------------------------------------ one blob

    def here(self, cid: Cid) -> Here | None:
        """Return what this node has of a blob that it is to watch; None: it is not. For threads."""
        try:
            held, bound, placed = self._kept(cid)
        except (Damaged, ShardUnavailable):
            return None
        if bound is not None and placed is not None and not placed.is_done:
            return None  # its job is at it
        if held is not None:
            row = held.row
            return Here(
                cid, row.size, row.manifest, row.shares, is_whole=bound is not None,
                supplement=row.supplement,
            )  # fmt: skip
        if bound is not None:
            return Here(cid, bound.row.size, bound.row.manifest, (), is_whole=True)
        return None

    def _is_gone(self, cid: Cid) -> bool:
        """Tell whether a blob will not be watched again; not while a job places it. For threads."""
        try:
            held, bound, _ = self._kept(cid)
        except (Damaged, ShardUnavailable):
            return False
        return held is None and bound is None

    def _kept(self, cid: Cid) -> tuple[Held | None, Bound | None, PlacedRow | None]:
        """Return what is kept for others, and what the user here pinned and was to be placed.

        Raises Damaged, ShardUnavailable.
        """
        context, now = self._context, self._context.now()
        held, bound = self._held.find(cid, now), context.catalog.bound(cid, now)
        placed = context.catalog.placed(cid, now)
        if bound is not None and (not bound.pinned or bound.expired(now) or placed is None):
            bound = None
        return held, bound, placed

    def _rows_of(self, cid: Cid) -> _Rows | None:
        """Return what a look begins with; None as of `here`. For threads."""
        here = self.here(cid)
        return None if here is None else (here, self.rows.get(cid, self._context.now()))

    async def _read_rows(self, cid: Cid) -> _Rows | None:
        return await self._context.offload.run(self._rows_of, cid)

    async def look(self, cid: Cid, *, anew: bool = False) -> Standing | None:
        """Return how a blob stands, and begin the audits that are due; None: it is not ours.

        anew: look its holders up, and ask all of them whether they are there.
        """
        found = await self.look_closely(cid, anew=anew)
        return None if found is None else found[1]

    async def look_closely(self, cid: Cid, *, anew: bool = False) -> tuple[Facts, Standing] | None:
        """See `look`; return what it found as well."""
        return await self._look_from(cid, await self._read_rows(cid), anew=anew)

    async def _look_from(
        self, cid: Cid, rows: _Rows | None, *, anew: bool = False
    ) -> tuple[Facts, Standing] | None:
        if rows is None:
            self._tell_gone(cid)
            return None
        self.looks += 1
        here, watched = rows
        now = self._context.now()
        is_long_ago = now.unix_s - watched.looked_unix_s > LOOK_UP_S
        if anew or is_long_ago:
            try:
                await self._look_up_holders(here, watched, anew=anew)
            except MoliaError as error:
                if anew or not watched.looked_unix_s:
                    raise  # nobody is known yet, or it is to be known now
                log.debug("look_failed", blob=cid.short, reason=str(error))  # they are watched on
        facts = await self._facts(here, watched, anew=anew or is_long_ago)
        standing = standing_of(facts, self._context.peer.key)
        is_old = now.unix_s - watched.looked_unix_s >= self._context.config.repair.look_s
        if standing.missing and is_old:  # before anybody is called lost, others may have it by now
            await self._look_up_holders(here, watched, anew=anew)
            facts = await self._facts(here, watched, anew=anew)
            standing = standing_of(facts, self._context.peer.key)
        await self._note_spares(facts)
        self._begin_audits(facts)
        for told in self.on_standing:
            told(here, standing)
        for tell in self.on_facts:
            tell(facts, standing)
        return facts, standing

    async def age(self, cid: Cid) -> None:
        """Have the next look ask the network who has a blob: that has just changed."""
        async with self._rows_lock:
            watched = await self.watched(cid)
            if watched.looked_unix_s > AGED_UNIX_S:
                watched.looked_unix_s = AGED_UNIX_S
                await self.rows.put(cid, watched)

    async def take_placed(
        self, cid: Cid, placed: Mapping[bytes, tuple[tuple[int, ...], Address]]
    ) -> None:
        """Take who was just given shares of a blob, and where they are."""
        async with self._rows_lock:
            watched = await self.watched(cid)
            if watched.looked_unix_s and watched.add(placed, unix_s=self._context.now().unix_s):
                await self.rows.put(cid, watched)

    async def watched(self, cid: Cid) -> Watched:
        """Return what is known of a blob's other holders."""
        return await self._context.offload.run(self.rows.get, cid, self._context.now())

    def addresses(self, cid: Cid) -> dict[bytes, Address]:
        """Return who else has a blob, and where they are; in a thread."""
        watched = self.rows.get(cid, self._context.now())
        return {key: seen.address for key, seen in watched.holders.items()}

    def others(self, cid: Cid) -> Others:
        """Return who has shares now as far as the last looks say; in a thread."""
        watched = self.rows.get(cid, self._context.now())
        shares = {
            key: tuple(share for share in seen.shares if Place(share, key) not in watched.lost)
            for key, seen in watched.holders.items()
            if not seen.is_whole or cid.codec is Codec.RAW
        }
        sound: dict[int, int] = {}
        for place, record in watched.audits.items():
            sound[place.share] = max(sound.get(place.share, 0), record.sound_unix_s)
        away = frozenset(key for key in watched.holders if self.presences.is_away(key))
        known = frozenset(watched.holders) if watched.looked_unix_s else None
        return Others(shares, watched.lost, away, sound, known)

    async def _look_up_holders(self, here: Here, watched: Watched, *, anew: bool) -> None:
        self.look_ups += 1
        if not anew:
            async with self._look_up_pace:
                await asyncio.sleep(LOOK_UP_PACE_S)
        find = Find(here.cid)
        found = await self._look_up(here.cid, lambda *_: None)
        find.take(found, own=self._context.peer)
        if not any(_tells(provider, here, self._context.peer) for provider in found):
            for told in self.on_untold:
                told(here.cid)
        wholes = {record.signer.key for record, _ in found if record.kind is Kind.WHOLE}
        seen = [
            (key, Seen(shares, key in wholes, (find.places[key][0][0], find.places[key][0][1])))
            for key, shares in find.shares.items()
        ]
        async with self._rows_lock:
            latest = await self._context.offload.run(self.rows.get, here.cid, self._context.now())
            watched.holders = latest.holders  # some may have been given shares meanwhile
            watched.audits, watched.spares = latest.audits, latest.spares
            watched.take(seen, unix_s=self._context.now().unix_s)
            await self.rows.put(here.cid, watched)

    async def _facts(self, here: Here, watched: Watched, *, anew: bool) -> Facts:
        facts = Facts(here, watched)
        denied: list[Place] = []

        async def ask(key: bytes, seen: Seen) -> None:
            answers: list[HeldThere] = []
            holder = Holder(PeerKey(key), seen.address)

            async def have() -> None:
                answers[:] = await ask_have(
                    self._network, holder, (here.cid,), timeout_s=self.have_s
                )

            facts.presence[key] = await self.presences.is_here(key, have, anew=anew)
            if answers:
                denied.extend(_denied(here.cid, key, seen, answers[0]))

        unheard: list[tuple[bytes, Seen]] = []
        for key, seen in watched.holders.items():
            is_here = None if anew else self.presences.heard(key)
            if is_here is None:
                unheard.append((key, seen))
            else:
                facts.presence[key] = is_here
        if unheard:
            await asyncio.gather(*(ask(key, seen) for key, seen in unheard))
        facts.denied = frozenset(denied)
        facts.wanted = self._wanted(facts)
        facts.absences_s = {key: self.presences.longest_absence_s(key) for key in watched.holders}
        return facts

    def _wanted(self, facts: Facts) -> int:
        """Return how many shares, or copies, a blob shall have by what its holders are worth."""
        reached, asked = self.presences.counts(facts.watched.holders)
        if facts.here.cid.codec is Codec.RAW:
            copies = copies_wanted(reached=reached, asked=asked, reads_a_day=0.0)
            return min(copies, max(self.node_count(), limits.COPIES_MIN))
        present = facts.added()
        if facts.here.is_whole:  # who holds for others adds parity, and makes it again
            return limits.TOTAL_SHARES
        most = limits.TOTAL_SHARES + limits.ADDED_SHARES_MAX
        wanted = shares_wanted(reached=reached, asked=asked, present=present)
        return max(min(wanted, most, self.node_count()), present)

    def copies(self, cid: Cid) -> int:
        """Return on how many nodes a small blob shall be; in a thread."""
        watched = self.rows.get(cid, self._context.now())
        reached, asked = self.presences.counts(watched.holders)
        copies = copies_wanted(reached=reached, asked=asked, reads_a_day=0.0)
        return min(copies, max(self.node_count(), limits.COPIES_MIN))

    # ------------------------------------------------------------------ audits

    def _begin_audits(self, facts: Facts) -> None:
        here, own, watched = facts.here, self._context.peer.key, facts.watched
        pinners = [key for key, seen in watched.holders.items() if seen.is_whole]
        due = due_audits(
            here.cid.digest, places_of(facts, own), watched.audits, own=own,
            pinners=[*pinners, *([own] if here.is_whole else [])],
            unix_s=self._context.now().unix_s,
        )  # fmt: skip
        if not due and not watched.spares:
            return
        try:
            manifest = Manifest.decode(here.manifest) if here.manifest else None
        except BadManifest:
            return
        if manifest is None and here.cid.codec is Codec.MANIFEST:
            return
        added = here.added_roots
        for place in (*due, *self._spare_audits(facts)):
            if limits.TOTAL_SHARES + len(added) <= place.share != limits.WHOLE_SHARE:
                continue  # only who has such a share knows what it must be
            if facts.presence.get(place.key):  # who is away is not asked, and loses nothing by it
                task = AuditTask(here.cid, place, manifest, RTT_S, added)
                self.auditing.add(task, watched.holders[place.key].address)

    def _spare_audits(self, facts: Facts) -> list[Place]:
        """Return what is here as well and was not yet seen to be sound where else it is."""
        watched, unix_s, found = facts.watched, self._context.now().unix_s, []
        for share, since in watched.spares.items():
            for key in facts.holders_of(share):
                record = watched.audits.get(Place(share, key), AuditRecord())
                was_asked = record.asked_unix_s >= since
                is_old = unix_s - record.asked_unix_s >= self._context.config.repair.takeover_s
                if record.sound_unix_s < since and (not was_asked or is_old):
                    found.append(Place(share, key))
        return found[: limits.SPARE_AUDITS_MAX]

    async def _note_spares(self, facts: Facts) -> None:
        """Note since when shares that are here have been at others as well."""
        here, watched = facts.here, facts.watched
        spares: dict[int, int] = {}
        if len(here.shares) > 1:
            now_s = int(self._context.now().unix_s)
            spares = {
                share: watched.spares.get(share, now_s)
                for share in here.shares if facts.holders_of(share)
            }  # fmt: skip
        if spares == watched.spares:
            return
        watched.spares = spares
        async with self._rows_lock:
            latest = await self.watched(here.cid)
            latest.spares = spares
            await self.rows.put(here.cid, latest)

    async def _on_judged(self, task: AuditTask, answer: Answer) -> None:
        unix_s = self._context.now().unix_s
        await self._change(task.cid, task.place, lambda record: record.after(answer, unix_s))

    async def on_lie(self, cid: Cid, peer: PeerKey, share: int | None) -> None:
        """Take that a node sent wrong bytes of a blob to a reader here: its shares are lost."""
        watched = await self.watched(cid)
        if peer.key not in watched.holders:
            await self.look(cid)  # a reader was here before the watch was
            watched = await self.watched(cid)
        seen = watched.holders.get(peer.key)
        if seen is None or await self._context.offload.run(self.here, cid) is None:
            return
        now_s = int(self._context.now().unix_s)
        lost = AuditRecord(limits.AUDIT_FAILURES_MAX, 0, now_s)
        for each in seen.shares if share is None else (share,):
            await self._change(cid, Place(each, peer.key), lambda _: lost)

    async def _change(
        self, cid: Cid, place: Place, change: Callable[[AuditRecord], AuditRecord]
    ) -> None:
        async with self._rows_lock:
            watched = await self.watched(cid)
            if place.key not in watched.holders:
                return
            before = watched.audits.get(place, AuditRecord())
            after = watched.audits[place] = change(before)
            await self.rows.put(cid, watched)
        if after.is_lost and not before.is_lost:
            log.warning("share_lost", blob=cid.short, share_index=place.share)


def _next(slices: Iterator[list[Cid]], read: Callable[[Cid], T]) -> list[tuple[Cid, T]] | None:
    """Return the next blobs, each with what is read of it: one way to a thread."""
    cids = next(slices, None)
    return None if cids is None else [(cid, read(cid)) for cid in cids]


def _tells(provider: Provider, here: Here, own: PeerKey) -> bool:
    """Tell whether a provider record says of this node what it has of a blob."""
    record, provided = provider
    if record.signer != own:
        return False
    return record.kind is Kind.WHOLE or set(here.shares) <= set(shares_in(provided.shares))


def _denied(cid: Cid, key: bytes, seen: Seen, there: HeldThere) -> list[Place]:
    """Return what a node that answered has no more."""
    if cid.codec is Codec.RAW:
        return [] if there.whole else [Place(limits.WHOLE_SHARE, key)]
    if there.whole:
        return []
    kept = shares_in(there.shares)
    return [Place(share, key) for share in seen.shares if share not in kept]
