"""Removes what nobody wants any more: leases that ran out, and the user's own expiry dates.

A pass walks the blobs of this worker's shards and lets `blobs.leases` decide. It never removes
anything while the machine's clock cannot be trusted, and it renews our own leases on pinned blobs.
"""

from typing import Final

import anyio
import structlog

from molia.base.errors import Damaged, MoliaError
from molia.base.ids import ObjectId
from molia.base.now import Now
from molia.base.views import Garbage
from molia.blobs.leases import Claim, Effect, Lapse, Lease, LeaseSweep, Remove, Renew
from molia.node.cache import relieve
from molia.node.catalog import Bound
from molia.node.context import Context
from molia.node.puts import remove_bound
from molia.node.trash import empty_trash
from molia.store import keys
from molia.store.clock import ClockGuard
from molia.store.keys import Kind, Space
from molia.store.rows import LeaseRow
from molia.store.shard import Delete, Guard, Transaction

log = structlog.get_logger(__name__)

PASS_SHARE: Final = 20
"""A pass takes at most one part in this many of the time."""
_LEASES_MAX: Final = 1000
_EFFECTS_MAX: Final = 10_000
"""Removals and renewals of one pass; the next pass does the rest."""


class Sweeper:
    """The background task that ends leases."""

    def __init__(self, context: Context, *, start: Now) -> None:
        self._context = context
        self._clock = ClockGuard(start, last_seen_unix_s=0)

    def notes(self, now: Now) -> tuple[str, ...]:
        """Return what `readyz` should say of the clock."""
        return tuple(filter(None, [self.doubt(now)]))

    def doubt(self, now: Now) -> str:
        """Return why nothing is removed for its age at the moment; empty when it is."""
        own = self._context.shards.own
        doubts = {self._clock.doubt(now), *(writer.shard.clock_doubt(now) for writer in own)}
        return max(doubts, key=len)

    def trust_clock(self, now: Now) -> None:
        """Remove again what has had its time: somebody has looked at the clock."""
        self._clock.accept(now)

    async def run(self) -> None:
        """Make a pass every `leases.sweep_s` seconds, for as long as the node lives."""
        interval_s = float(self._context.config.leases.sweep_s)
        while True:
            await anyio.sleep(interval_s)
            started_s = self._context.now().mono_s
            try:
                await self.sweep()
            except MoliaError as error:
                log.warning("sweep_failed", reason=str(error))
            took_s = self._context.now().mono_s - started_s
            interval_s = max(float(self._context.config.leases.sweep_s), took_s * PASS_SHARE)

    async def sweep(self) -> int:
        """Make one pass now; return how many blobs went."""
        return (await self.collect()).blobs

    async def collect(self, *, dry_run: bool = False) -> Garbage:
        """Make one pass now; return what went, or with `dry_run` what would."""
        now = self._context.now()
        if doubt := self.doubt(now):
            return Garbage(doubt=doubt)
        trashed = await empty_trash(self._context, dry_run=dry_run)
        if not dry_run:
            await relieve(self._context)
        decided = await self._context.offload.run(self._decide, now)
        if dry_run:
            gone = [bound for bound, effect, _ in decided if isinstance(effect, Remove)]
        else:
            gone = [each[0] for each in decided if await self._act(*each, now)]
        return Garbage(
            blobs=len(gone), blob_bytes=sum(bound.row.size for bound in gone),
            trashed=len(trashed), trashed_bytes=sum(each.bind.size for each in trashed),
        )  # fmt: skip

    async def _act(self, bound: Bound, effect: Effect, guard: Guard, now: Now) -> bool:
        """Do what was decided about a blob; True when it went.

        guard: holds as long as nobody has come to want it.
        """
        await self._context.mend(bound)
        match effect:
            case Remove():
                if await remove_bound(self._context, bound, guard):
                    self._context.metrics.leases_ended.inc()
                    self._context.leaves.forget(bound.row.object_id)
                    log.info("blob_expired", blob=bound.cid.short, size_bytes=bound.row.size)
                    return True
            case Renew():
                until = int(now.unix_s) + self._context.config.leases.default_s
                change = self._context.catalog.renew(bound, until)
                await self._context.home_writer(bound.cid).write(change)
            case Lapse(lease=lease):
                await self._end_lease(bound, lease)
        return False

    async def _end_lease(self, bound: Bound, lease: Lease) -> None:
        """Our own row stays as long as its blob: it also says that the object is bound."""
        key = _key_of(lease)
        if key != self._context.catalog.lease_key(lease.object_id):
            delete = Transaction((Delete(Kind.META, key),))
            await self._context.home_writer(bound.cid).write(delete)

    def _decide(self, now: Now) -> list[tuple[Bound, Effect, Guard]]:
        """Walk the blobs in a thread and return what is to be done about which."""
        catalog = self._context.catalog
        sweep = LeaseSweep(now, min_age_s=self._context.config.leases.min_age_s)
        decided: list[tuple[Bound, Effect, Guard]] = []
        for bound in catalog.all_bound(now, own_only=True):
            row = bound.row
            ends = [at for at in (row.expires_unix_s, bound.cached_until) if at is not None]
            sweep.on_claim(
                Claim(
                    row.object_id, row.created_unix_ms // 1000, bound.pinned,
                    min(ends, default=None),
                )
            )  # fmt: skip
            ours = None
            for lease in self._leases(bound, row.object_id, now):
                sweep.on_lease(lease)
                if _key_of(lease) == catalog.lease_key(row.object_id):
                    ours = LeaseRow(lease.expires_unix_s)
            sweep.on_end()
            guard = catalog.unwanted(bound, ours, now)
            decided += [(bound, effect, guard) for effect in sweep.take_effects()]
            if len(decided) >= _EFFECTS_MAX:
                break
        return decided

    def _leases(self, bound: Bound, object_id: ObjectId, now: Now) -> list[Lease]:
        home, prefix = self._context.catalog.home(bound.cid), bytes((Space.LEASE,)) + object_id
        leases = []
        for row in home.scan(Kind.META, prefix, now=now, limit=_LEASES_MAX):
            try:
                value = home.get(Kind.META, row.key, now=now)
                if value is None:
                    continue
                expires = LeaseRow.decode(value).expires_unix_s
            except Damaged:  # until `verify` has written it again nobody knows that it has run out
                expires = int(now.unix_s) + 1
            share = int.from_bytes(row.key[len(prefix) : len(prefix) + 2])
            owner = row.key[len(prefix) + 2 :]
            leases.append(Lease(object_id, share, owner, expires))
        return leases


def _key_of(lease: Lease) -> bytes:
    return keys.lease_key(lease.object_id, lease.share, lease.owner)
