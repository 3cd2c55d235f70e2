"""A home whose node holds one small share of each of very many blobs, as if it had for long."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from molia.base.config import Config, StoreConfig
from molia.base.crypto import Identity
from molia.base.ids import network_label, new_object_id
from molia.base.limits import GIB
from molia.base.now import Now
from molia.blobs.audit import AuditRecord, auditor_of, epoch_start_s
from molia.blobs.leases import HeldLease, renew
from molia.blobs.placement import Place
from molia.dht.sweep import LATE_MAX_S, ProviderSweep
from molia.node.app import open_node
from molia.node.context import Context
from molia.node.held import HeldShares
from molia.node.home import init_home
from molia.node.system import SystemEntropy
from molia.node.watched import Seen, Watched
from molia.store import keys
from molia.store.keys import Kind
from molia.store.ops import Put, Transaction
from molia.store.rows import AnnounceRow, HeldRow
from molia.wire.addresses import Address
from tests.bench.held_blobs import NETWORK, NETWORK_NAME, SMALL, body, manifest_of
from tests.bench.held_peers import OTHERS

AT_ONCE: Final = 500
YEAR_S: Final = 365 * 86_400
LOOK_UP_S: Final = 3 * 86_400
OLD_S: Final = 8 * 86_400
"""How long the shares have been here."""
CONFIG: Final = Config(
    network=NETWORK_NAME, workers=1, threads=2,
    store=StoreConfig(shards=1, quota_bytes=30 * GIB, offer_bytes=20 * GIB, cache_percent=0),
)  # fmt: skip


class Filler:
    """Writes what a node has of such blobs, through the node's own code."""

    def __init__(self, context: Context, others: Sequence[tuple[bytes, Address]]) -> None:
        """others: key and address of who holds the other shares."""
        self._context, self._held = context, HeldShares(context.shards)
        self._others, self._owner = others, Identity(b"o" * 32)
        self._chance = random.Random(1)

    async def fill(self, count: int) -> None:
        """Hold a share of each of `count` blobs."""
        for first in range(0, count, AT_ONCE):
            numbers = range(first, min(count, first + AT_ONCE))
            await asyncio.gather(*map(self._put, numbers))
        await self._be_in_step()

    async def _be_in_step(self) -> None:
        """Let the announcing stand where it is due now, and not a whole cycle behind."""
        now, context = self._context.now(), self._context
        late = Now(now.mono_s + LATE_MAX_S, now.unix_s)
        schedule = ProviderSweep(lambda *_: (), entropy=context.entropy, now=late).encode(now)
        key = keys.announce_key(bytes.fromhex(network_label(context.network)), 0, 0)
        put = Put(Kind.META, key, AnnounceRow(schedule).encode())
        await context.shards.writer_of(Kind.META, key).write(Transaction((put,)))

    async def _put(self, number: int) -> None:
        now = self._context.now()
        manifest = manifest_of(number)
        encoded, cid = manifest.encode(), manifest.cid
        object_id = new_object_id(SystemEntropy())
        row = HeldRow(object_id, manifest.size, encoded, (SMALL,), int(now.unix_s) - OLD_S)
        lease = renew(
            self._owner, NETWORK, cid.digest, before=None, unix_s=now.unix_s, life_s=YEAR_S
        )
        kept = HeldLease(lease, lease.expires)
        rows = self._held.keep(cid, None, row, kept, share=SMALL, whole=None, now=now)
        blob = body()
        blocks = (
            Put(Kind.BLOCK, keys.block_key(object_id, SMALL, 0), blob.blocks[SMALL, 0]),
            Put(Kind.BLOCK, keys.block_key(object_id, SMALL, keys.LEAVES_STRIPE),
                blob.leaves[SMALL]),
        )  # fmt: skip
        watched = Put(Kind.META, keys.watched_key(cid), self._watched(cid.digest, now).encode())
        whole = Transaction((*blocks, *rows.ops, watched), rows.guard)
        await self._context.home_writer(cid).write(whole)

    def _watched(self, digest: bytes, now: Now) -> Watched:
        """Return what is known of the other holders: all are well, and audited this week."""
        at, own = int(now.unix_s), self._context.peer.key
        holders = {
            key: Seen((share,), False, address, at)
            for share, (key, address) in zip(OTHERS, self._others, strict=True)
        }
        made = Watched(at - self._chance.randrange(LOOK_UP_S), holders)
        every = [(SMALL, own), *((seen.shares[0], key) for key, seen in holders.items())]
        for share, key in every:
            epoch_s = epoch_start_s(digest, share, at)
            candidates = sorted(other for _, other in every if other != key)
            if key != own and auditor_of(digest, share, epoch_s, candidates) == own:
                asked_s = self._chance.randint(epoch_s, at)
                made.audits[Place(share, key)] = AuditRecord(0, asked_s, asked_s)
        return made


def fill_home(home: Path, count: int, others: Sequence[tuple[bytes, Address]]) -> None:
    """Make the home of a node that holds a share of each of `count` blobs."""

    async def fill() -> None:
        async with open_node(home, CONFIG) as node:
            await Filler(node.context, others).fill(count)

    init_home(home, CONFIG, "")
    asyncio.run(fill())
