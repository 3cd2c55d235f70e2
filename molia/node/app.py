"""The composition root of a node without its faces: opens the store, starts every part, stops it.

    async with open_node(home, config) as node:   # node: LocalNode, a NodeService
        ...

Start: lock the home, open the shards side by side (recovery), sweep what a crash left, resume jobs.
Stop: refuse new puts, end the background tasks, write what is queued, checkpoint, unlock.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from socket import socket
from typing import Final

import anyio
import structlog

from molia.base import limits
from molia.base.config import Config
from molia.base.errors import MoliaError, NotInitialised, ShardUnavailable
from molia.base.ids import PeerKey, network_id
from molia.base.now import Now
from molia.node.budget import Budget
from molia.node.bus import Server
from molia.node.catalog import Catalog
from molia.node.context import Context
from molia.node.groups import sole_error
from molia.node.home import (
    LOCKS_NAME,
    OpenDisk,
    check_private,
    check_restored,
    home_lock,
    quota_of,
    store_path,
)
from molia.node.identity import read_identity, read_network_secret
from molia.node.leaves import LeafCache
from molia.node.local import LocalNode
from molia.node.member import Member
from molia.node.metrics import Metrics
from molia.node.network import Network, NetworkSettings
from molia.node.objects import Objects
from molia.node.offload import Offload
from molia.node.range_locks import RangeLocks
from molia.node.remote import RemoteWriter
from molia.node.shards import AnyWriter, ShardSet, ShardWriter
from molia.node.system import SystemClock, SystemEntropy, collector_paused, usable_cores
from molia.node.team import Seat, Team
from molia.store.disk import Disk
from molia.store.migrate import check_version
from molia.store.os_disk import OsDisk
from molia.store.recovery import RecoveryReport
from molia.store.shard import Shard, ShardOptions
from molia.store.shared import SharedShard
from molia.store.superblock import Superblock, read_superblock
from molia.store.upgrade import forget_leftovers

log = structlog.get_logger(__name__)

STOP_S: Final = 60.0
THREADS_MIN: Final = 3
OTHERS_WAIT_S: Final = 60.0
OTHERS_RETRY_S: Final = 0.02


@asynccontextmanager
async def open_node(
    home: Path,
    config: Config,
    *,
    open_disk: OpenDisk = OsDisk,
    clock: SystemClock | None = None,
    rebuild_index: bool = False,
    seat: Seat | None = None,
    bus: socket | None = None,
) -> AsyncIterator[LocalNode]:
    """Yield a running node, or one worker of it.

    seat: which worker of several this is; None for the only one. Of several, the parent holds the
    home's lock. bus: where the others ask this one.
    Raises NotInitialised, HomeUnsafe, HomeLocked, StoreVersion, StoreInvalid.
    """
    clock = clock or SystemClock()
    check_private(home)
    check_restored(home)
    identity = read_identity(home)
    quota_bytes = quota_of(home, config)
    data = store_path(home, config)
    if not data.is_dir():
        raise NotInitialised(f"there is no store at {data}", hint="run molia init")
    with ExitStack() as held:
        if seat is None:
            held.enter_context(home_lock(home))
            seat = Seat(node_unix_ms=clock.now().unix_ms)
        disk = open_disk(str(data))
        superblock = read_superblock(disk)
        check_version(superblock)
        _forget_leftovers(disk, seat)
        offload = Offload(config.threads or max(THREADS_MIN, usable_cores() // seat.count + 2))
        held.callback(offload.close)
        count = superblock.shard_count
        options = shard_options(config, count, quota_bytes, shared=seat.count > 1)
        with collector_paused():
            opened = await _open_shards(
                disk, superblock, seat, options, clock.now(), offload, rebuild_index=rebuild_index
            )
        team = Team(seat)
        writers: list[AnyWriter] = []
        for index in range(count):
            if seat.owns(index):
                writers.append(ShardWriter(opened[index][0], index, clock))
            else:
                there = SharedShard(disk, index, store_uuid=superblock.uuid, options=options)
                writers.append(RemoteWriter(there, index, team.links[team.owner(index)]))
        locks = None
        if seat.count > 1:
            locks = RangeLocks(home / LOCKS_NAME)
            held.callback(locks.close)
        network = network_id(config.network, read_network_secret(home), bind_ids=config.bind_ids)
        context = _context(
            config, identity.peer_key, network, quota_bytes, clock, offload, ShardSet(writers),
            team, locks,
        )  # fmt: skip
        reports = {index: report for index, (_, report) in opened.items()}
        async with _running(LocalNode(context, home=home, reports=reports), bus) as node:
            yield node


@asynccontextmanager
async def on_network(node: LocalNode, home: Path, sockets: Sequence[socket]) -> AsyncIterator[None]:
    """Talk to other nodes over this worker's UDP sockets while the block runs.

    Raises BadConfig, HomeUnsafe.
    """
    context = node.context
    seat, config = context.team.seat, context.config
    settings = NetworkSettings(
        identity=read_identity(home),
        name=config.network,
        secret=read_network_secret(home),
        bind_ids=config.bind_ids,
        worker=seat.index,
        worker_count=seat.count,
        admission=config.admission,
        external=config.udp.external_address,
    )
    network = Network(settings, context.offload, clock=context.clock)
    bound = [sock.getsockname()[:2] for sock in sockets]
    member = Member.create(context, network, home, bound=bound)
    node.join(member)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(network.run, sockets)
        tasks.start_soon(member.run)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def _running(node: LocalNode, bus: socket | None) -> AsyncIterator[LocalNode]:
    """Yield the node, doing everything that it does by itself until the block ends."""
    shards, team = node.context.shards, node.context.team
    server = Server(bus, node.answer) if bus is not None else None
    try:
        async with anyio.create_task_group() as tasks:
            await node.count_blobs()
            if server is not None:
                await server.start()
                tasks.start_soon(team.run)
                await _wait_for_others(node)
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
            if server is not None:
                await server.close()
            await shards.stop()


async def _wait_for_others(node: LocalNode) -> None:
    """Return when all shards can be read; after a while without those that cannot."""
    run = node.context.offload.run
    with anyio.move_on_after(OTHERS_WAIT_S):
        for writer in node.context.shards.writers:
            while isinstance(writer, RemoteWriter):
                try:
                    await run(writer.shard.open)
                    break
                except ShardUnavailable:
                    await anyio.sleep(OTHERS_RETRY_S)


def _forget_leftovers(disk: Disk, seat: Seat) -> None:
    """Give back what a cut `molia migrate` left; a disk that does not let go hinders nobody."""
    if seat.index != 0:
        return
    try:
        forget_leftovers(disk)
    except OSError as error:
        log.warning("leftovers_stay", reason=error.strerror or str(error))


async def _open_shards(
    disk: Disk,
    superblock: Superblock,
    seat: Seat,
    options: ShardOptions,
    now: Now,
    offload: Offload,
    *,
    rebuild_index: bool,
) -> dict[int, tuple[Shard, RecoveryReport]]:
    """Open the shards that this worker writes, side by side."""
    opened: dict[int, tuple[Shard, RecoveryReport]] = {}
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
            if seat.owns(index):
                tasks.start_soon(open_one, index)
    if failures:
        for shard, _ in opened.values():
            await offload.run(shard.close, now)
        raise failures[0]
    for index, (_, report) in sorted(opened.items()):
        _log_recovery(index, report)
    return opened


def shard_options(
    config: Config, shard_count: int, quota_bytes: int, *, shared: bool = False
) -> ShardOptions:
    """Return the sizes of each shard's files for a store of this quota.

    shared: other processes read them.
    """
    per_shard = quota_bytes // shard_count
    segment = min(limits.SEGMENT_SIZE_MAX, max(limits.SEGMENT_SIZE_MIN, quota_bytes // 64))
    ballast = min(limits.BALLAST_MAX, max(limits.BALLAST_MIN, per_shard // 100))
    return ShardOptions(
        segment_bytes=segment,
        ballast_bytes=ballast,
        reserve_bytes=config.store.reserve_bytes,
        sweep_s=limits.EXPIRY_ROUND_S,
        scrub_s=limits.SCRUB_EVERY_S,
        shared=shared,
        compact=True,
    )


def _log_recovery(index: int, report: RecoveryReport) -> None:
    if report.damage_count:
        log.error("shard_damage_found", shard_index=index, damaged_count=report.damage_count)
    log.info("shard_opened", shard_index=index, found=report.summary())


def _context(
    config: Config,
    peer: PeerKey,
    network: bytes,
    quota_bytes: int,
    clock: SystemClock,
    offload: Offload,
    shards: ShardSet,
    team: Team,
    locks: RangeLocks | None,
) -> Context:
    catalog = Catalog(shards, peer)
    budget_bytes = max(
        limits.BUFFER_BUDGET_BYTES // team.seat.count, limits.BUFFER_WORKER_MIN_BYTES
    )
    return Context(
        config=config,
        peer=peer,
        network=network,
        quota_bytes=quota_bytes,
        clock=clock,
        entropy=SystemEntropy(),
        shards=shards,
        catalog=catalog,
        objects=Objects(shards, catalog, offload, clock, team.seat, locks),
        offload=offload,
        budget=Budget(budget_bytes, wait_s=limits.BUFFER_WAIT_S),
        metrics=Metrics(),
        leaves=LeafCache(shards),
        team=team,
    )
