"""The composition root of a node without its faces: opens the store, starts every part, stops it.

    async with open_node(home, config) as node:   # node: LocalNode, a NodeService
        ...

Start: lock the home, open the shards side by side (recovery), sweep what a crash left, resume jobs.
Stop: refuse new puts, end the background tasks, write what is queued, checkpoint, unlock.
"""

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
import structlog

from molia.base import limits
from molia.base.config import Config
from molia.base.errors import MoliaError, NotInitialised
from molia.base.ids import PeerKey
from molia.base.now import Now
from molia.node.budget import Budget
from molia.node.catalog import Catalog
from molia.node.context import Context
from molia.node.groups import sole_error
from molia.node.home import OpenDisk, check_private, home_lock, quota_of, store_path
from molia.node.identity import read_identity
from molia.node.leaves import LeafCache
from molia.node.local import LocalNode
from molia.node.metrics import Metrics
from molia.node.objects import Objects
from molia.node.offload import Offload
from molia.node.shards import ShardSet, ShardWriter
from molia.node.system import SystemClock, SystemEntropy, usable_cores
from molia.store.disk import Disk
from molia.store.migrate import check_version
from molia.store.os_disk import OsDisk
from molia.store.recovery import RecoveryReport
from molia.store.shard import Shard, ShardOptions
from molia.store.superblock import Superblock, read_superblock

log = structlog.get_logger(__name__)

STOP_S: Final = 60.0


@asynccontextmanager
async def open_node(
    home: Path,
    config: Config,
    *,
    open_disk: OpenDisk = OsDisk,
    clock: SystemClock | None = None,
    rebuild_index: bool = False,
) -> AsyncIterator[LocalNode]:
    """Yield a running node.

    Raises NotInitialised, HomeUnsafe, HomeLocked, StoreVersion, StoreInvalid.
    """
    clock = clock or SystemClock()
    check_private(home)
    identity = read_identity(home)
    quota_bytes = quota_of(home, config)
    data = store_path(home, config)
    if not data.is_dir():
        raise NotInitialised(f"there is no store at {data}", hint="run molia init")
    with ExitStack() as held:
        held.enter_context(home_lock(home))
        disk = open_disk(str(data))
        superblock = read_superblock(disk)
        check_version(superblock)
        offload = Offload(config.threads or usable_cores() + 2)
        held.callback(offload.close)
        opened = await _open_shards(
            disk, superblock, config, quota_bytes, clock.now(), offload, rebuild_index=rebuild_index
        )
        node = await _build(config, home, identity.peer_key, quota_bytes, clock, offload, opened)
        try:
            async with anyio.create_task_group() as tasks:
                await node.start(tasks)
                try:
                    yield node
                finally:
                    node.stop_taking_work()
                    tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise sole_error(group) from None
        finally:
            with anyio.move_on_after(STOP_S, shield=True):
                await node.context.shards.stop()


async def _open_shards(
    disk: Disk,
    superblock: Superblock,
    config: Config,
    quota_bytes: int,
    now: Now,
    offload: Offload,
    *,
    rebuild_index: bool,
) -> list[tuple[Shard, RecoveryReport]]:
    options = shard_options(config, superblock.shard_count, quota_bytes)
    opened: list[tuple[Shard, RecoveryReport] | None] = [None] * superblock.shard_count
    failures: list[MoliaError] = []

    async def open_one(index: int) -> None:
        try:
            opened[index] = await offload.run(
                Shard.open,
                disk,
                index,
                store_uuid=superblock.uuid,
                options=options,
                now=now,
                rebuild_index=rebuild_index,
            )
        except MoliaError as error:
            failures.append(error)

    async with anyio.create_task_group() as tasks:
        for index in range(superblock.shard_count):
            tasks.start_soon(open_one, index)
    found = [pair for pair in opened if pair is not None]
    if failures:
        for shard, _ in found:
            await offload.run(shard.close, now)
        raise failures[0]
    for index, (_, report) in enumerate(found):
        _log_recovery(index, report)
    return found


def shard_options(config: Config, shard_count: int, quota_bytes: int) -> ShardOptions:
    """Return the sizes of each shard's files for a store of this quota."""
    per_shard = quota_bytes // shard_count
    segment = min(limits.SEGMENT_SIZE_MAX, max(limits.SEGMENT_SIZE_MIN, quota_bytes // 64))
    ballast = min(limits.BALLAST_MAX, max(limits.BALLAST_MIN, per_shard // 100))
    return ShardOptions(
        segment_bytes=segment, ballast_bytes=ballast, reserve_bytes=config.store.reserve_bytes
    )


def _log_recovery(index: int, report: RecoveryReport) -> None:
    if report.damage_count:
        log.error("shard_damage_found", shard_index=index, damaged_count=report.damage_count)
    log.info("shard_opened", shard_index=index, found=report.summary())


async def _build(
    config: Config,
    home: Path,
    peer: PeerKey,
    quota_bytes: int,
    clock: SystemClock,
    offload: Offload,
    opened: list[tuple[Shard, RecoveryReport]],
) -> LocalNode:
    shards = ShardSet([ShardWriter(shard, i, clock) for i, (shard, _) in enumerate(opened)])
    catalog = Catalog(shards, peer)
    epoch = clock.now().unix_ms
    context = Context(
        config=config,
        peer=peer,
        quota_bytes=quota_bytes,
        clock=clock,
        entropy=SystemEntropy(),
        shards=shards,
        catalog=catalog,
        objects=Objects(shards, catalog, offload, clock, epoch),
        offload=offload,
        budget=Budget(limits.BUFFER_BUDGET_BYTES, wait_s=limits.BUFFER_WAIT_S),
        metrics=Metrics(),
        leaves=LeafCache(shards),
    )
    reports = [report for _, report in opened]
    return LocalNode(context, home=home, reports=reports)
