"""What becomes of the shares that are held for others: counted in all, and let go of in time.

Each worker knows what all of them hold together: they tell each other what comes and goes, and each
counts anew with every pass. A pass also ends what no live lease wants.
Source: docs/reference/holding.md.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import structlog

from molia.base import limits
from molia.base.cid import Cid
from molia.base.now import Now
from molia.base.views import Garbage
from molia.blobs.leases import Quotas
from molia.blobs.statements import Statement
from molia.node.context import Context
from molia.node.held import Held, HeldShares, held_lease
from molia.store import keys
from molia.store.ops import Reply, Transaction
from molia.store.rows import LeaseRow

log = structlog.get_logger(__name__)

ChangeOf = Callable[[Mapping[bytes, LeaseRow], Now], Transaction | None]
"""Returns what ends some shares, by the leases that there are now; None: they stay."""


class Change(NamedTuple):
    """What one owner's part of what is held has become more or less by."""

    owner: bytes
    cost: int
    is_new: bool
    """Whether it counts in all as well, and not only for the owner."""


class HeldLife:
    """All that is held for others, from when it is kept until it goes."""

    def __init__(self, context: Context, held: HeldShares, events: Counter[str]) -> None:
        """events: counts what goes."""
        self._context, self._held, self._events = context, held, events
        self.quotas = self._no_quotas()
        self.share_count = 0
        """Shares that are kept, over all workers, as of the last count."""
        self.is_counted = False
        """Whether what was here at the start has been counted."""
        self._walks: list[_Seen] = []
        """Those that are under way."""

    def _no_quotas(self) -> Quotas:
        store = self._context.config.store
        owner_bytes = store.offer_bytes * store.offer_owner_percent // 100
        return Quotas(total_bytes=store.offer_bytes, owner_bytes=owner_bytes)

    def tell(self, cid: Cid, changes: list[Change], *, shares: int) -> None:
        """Count what came, here and in the other workers; one that misses it counts anew later."""
        self.take_changes(cid, changes, shares)
        team = self._context.team
        for index in team.links:
            team.tell(index, "held", [str(cid), [list(change) for change in changes], shares])

    def _tell_gone(self, cid: Cid, owners: Iterable[bytes], cost: int, *, shares: int) -> None:
        """Count what went; in the other workers what had no owner left is counted anew later."""
        changes = [Change(owner, -cost, is_new=not at) for at, owner in enumerate(owners)]
        if not changes:
            self.quotas.used_bytes -= min(cost, self.quotas.used_bytes)
        self.tell(cid, changes, shares=-shares)

    def take_changes(self, cid: Cid, changes: Sequence[Iterable[Any]], shares: int) -> None:
        """Take what is kept from now on of a blob, here or by another worker.

        A walk that has come past the blob has not seen it; one that will come to it is to.
        """
        place = keys.home_shard(cid, self._context.shards.count), keys.held_key(cid)
        for seen in self._walks:
            if place <= seen.place and len(seen.missed) < limits.HELD_PER_PASS_MAX:
                seen.missed.append((changes, shares))
        self._count(changes, shares)

    def _count(self, changes: Iterable[Iterable[Any]], shares: int) -> None:
        self.share_count += shares
        for owner, cost, is_new in changes:
            if int(cost) >= 0:
                self.quotas.add(bytes(owner), int(cost), is_new=bool(is_new))
            else:
                less = min(-int(cost), self.quotas.used_by(bytes(owner)))
                self.quotas.remove(bytes(owner), less, is_gone=bool(is_new))

    # ------------------------------------------------------------------ what goes

    async def let_go(self, held: Held, shares: Collection[int]) -> bool:
        """Stop keeping some shares of a blob; False when what is kept has changed meanwhile.

        At least one stays: with the last one a blob is no longer watched.
        """
        row = held.row
        left = tuple(share for share in row.shares if share not in shares)
        assert left, "a blob is let go of by its leases"
        fewer = replace(row, shares=left)
        gone = [share for share in row.shares if share in shares]
        owners = await self._remove(held, gone, lambda *_: self._held.without(held, fewer))
        if owners is None:
            return False
        self._events["share_let_go"] += len(gone)
        cost = held.cost - Held(held.cid, fewer, b"").cost
        self._tell_gone(held.cid, owners, cost, shares=len(gone))
        self._context.note_blob(held.cid)
        log.info("shares_let_go", blob=held.cid.short, shares=len(gone))
        return True

    async def sweep(self) -> int:
        """Count what is held, and end what no live lease wants; return how many blobs went."""
        return (await self.collect()).held

    async def collect(self, *, dry_run: bool = False) -> Garbage:
        """Make one pass as `sweep` does; return what went, or with `dry_run` what would."""
        now = self._context.now()
        seen = _Seen(self._no_quotas())
        self._walks.append(seen)
        try:
            await self._context.offload.run(self._walk, seen, now)
        finally:
            self._walks.remove(seen)
        if not dry_run:
            self.quotas, self.share_count = seen.quotas, seen.shares
            for changes, shares in seen.missed:
                self._count(changes, shares)
            self.is_counted = True
        if any(writer.shard.clock_doubt(now) for writer in self._context.shards.own):
            return Garbage()
        gone = seen.unwanted
        if not dry_run:
            for held, owner in seen.lapsed:
                await self._lapse(held, owner)
            gone = [held for held in seen.unwanted if await self._end(held)]
        return Garbage(held=len(gone), held_bytes=sum(held.cost for held in gone))

    async def _lapse(self, held: Held, owner: bytes) -> None:
        """Forget a lease that has run out, unless it was renewed meanwhile."""
        async with self._context.objects.alone(held.row.object_id):
            now = self._context.now()
            row = (await self._context.offload.run(self._held.leases, held, now)).get(owner)
            if row is not None and row.expires_unix_s <= now.unix_s:
                await self._context.home_writer(held.cid).write(self._held.lapse(held, owner))

    async def _end(self, held: Held) -> bool:
        """Remove what is kept of a blob, unless it has changed or is wanted again meanwhile."""

        def ended(leases: Mapping[bytes, LeaseRow], now: Now) -> Transaction | None:
            stays = any(is_live(row, now) for row in leases.values())
            return None if stays else self._held.end(held, list(leases))

        owners = await self._remove(held, held.row.shares, ended)
        if owners is None:
            return False
        self._events["held_ended"] += 1
        self._tell_gone(held.cid, owners, held.cost, shares=len(held.row.shares))
        self._context.note_blob(held.cid)
        log.info("held_share_ended", blob=held.cid.short, shares=len(held.row.shares))
        return True

    async def _remove(
        self, held: Held, shares: Iterable[int], change_of: ChangeOf
    ) -> list[bytes] | None:
        """Remove shares whose rows go with a change; return the owners, None if nothing went.

        Of the same object others may be on their way in; theirs is left alone.
        """
        objects, object_id = self._context.objects, held.row.object_id
        gone = [share for share in shares if share != keys.WHOLE_SHARE]  # that goes with its rows
        async with objects.alone(object_id):
            now, run = self._context.now(), self._context.offload.run
            leases = await run(self._held.leases, held, now)
            change = change_of(leases, now)
            if change is None or await run(self._held.find, held.cid, now) != held:
                return None  # one of its shares may have gone, and come in anew
            for share in gone:
                await objects.begin_share(object_id, share)
            is_gone = await self._context.home_writer(held.cid).write(change) is Reply.APPLIED
            for share in gone:
                await (objects.drop_share if is_gone else objects.end_share)(object_id, share)
        if is_gone:
            self._context.leaves.forget(object_id)
        return list(leases) if is_gone else None

    def _walk(self, seen: "_Seen", now: Now) -> None:
        """Look at all that is held, in a thread."""
        seat, count = self._context.team.seat, self._context.shards.count
        min_age_s = self._context.config.leases.min_age_s
        for held in self._held.all(now):
            home = keys.home_shard(held.cid, count)
            seen.place = home, keys.held_key(held.cid)
            leases = self._held.leases(held, now)
            live, first = False, True
            lapsed = []
            for owner, row in leases.items():
                seen.quotas.add(owner, held.cost, is_new=first)
                first = False
                live |= is_live(row, now)
                lapsed += [owner] if row.expires_unix_s <= now.unix_s else []
            seen.shares += len(held.row.shares)
            seen.quotas.used_bytes += held.cost if first else 0
            if not seat.owns(home):
                continue
            if not live and now.unix_s - held.row.created_unix_s >= min_age_s:
                if len(seen.unwanted) < limits.HELD_PER_PASS_MAX:
                    seen.unwanted.append(held)
            elif len(seen.lapsed) < limits.HELD_PER_PASS_MAX:
                seen.lapsed += [(held, owner) for owner in lapsed]
        seen.place = count, b""


def is_wanted(lease: Statement, now: Now) -> bool:
    """Tell whether an owner wants a blob kept; a release may end in a second that is to come."""
    return lease.lives(now.unix_s) and not lease.is_release


def is_live(row: LeaseRow, now: Now) -> bool:
    """Tell whether the lease of a row keeps a blob."""
    signed = held_lease(row)
    return row.expires_unix_s > now.unix_s and (signed is None or is_wanted(signed.lease, now))


class _Seen:
    """What one walk over all that is held has found."""

    def __init__(self, quotas: Quotas) -> None:
        self.quotas, self.shares = quotas, 0
        self.unwanted: list[Held] = []
        self.lapsed: list[tuple[Held, bytes]] = []
        self.place = -1, b""
        """How far it has come: a shard, and the key of a HELD row there."""
        self.missed: list[tuple[Sequence[Iterable[Any]], int]] = []
        """What changed behind it meanwhile; see `HeldLife.take_changes`."""
