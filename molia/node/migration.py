"""Bringing the store of a home up to date, and giving it another number of shards.

No node may run: the home's lock is held throughout. What an earlier run left half done is finished
first. Everything here is synchronous.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from molia.base.config import Config
from molia.base.errors import NotInitialised
from molia.node.app import shard_options
from molia.node.home import check_private, home_lock, quota_of, store_path
from molia.node.system import SystemClock, SystemEntropy
from molia.store.disk import Disk
from molia.store.os_disk import OsDisk
from molia.store.reshard import (
    ReshardReport,
    finish_reshard,
    forget_unfinished,
    is_resharding,
    plan_reshard,
    reshard,
)
from molia.store.shard import Shard
from molia.store.superblock import Superblock
from molia.store.upgrade import is_undoing, plan_upgrade, undo, upgrade

OnProgress = Callable[[str, int, int], None]


@dataclass(slots=True)
class MigrateResult:
    """What was done, or with `dry_run` would be."""

    migrations: tuple[str, ...] = ()
    """Those that were applied, by name, in order."""
    shard_count: int = 0
    old_shard_count: int = 0
    needed_bytes: int = 0
    free_bytes: int = 0
    rows: int = 0
    damaged: int = 0
    """Rows and blocks that could not be read and were left out."""
    finished: bool = False
    """Something that was cut off earlier was finished, or with `dry_run` would be."""
    undone: bool = False

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.migrations) or self.finished or self.undone or (
            self.shard_count != self.old_shard_count
        )  # fmt: skip


def migrate_home(
    home: Path,
    config: Config,
    *,
    shards: int = 0,
    dry_run: bool = False,
    take_back: bool = False,
    on_progress: OnProgress,
) -> MigrateResult:
    """Run what migrations are due, then give the store `shards` shards unless that is 0.

    dry_run: change nothing and tell what would be done. take_back: undo a migration that was not
    finished instead. Raises NotInitialised, HomeLocked, HomeUnsafe, StoreVersion, StoreInvalid,
    NoSpace.
    """
    check_private(home)
    data = store_path(home, config)
    if not data.is_dir():
        raise NotInitialised(f"there is no store at {data}", hint="run molia init")
    with home_lock(home):
        work = _Work(OsDisk(str(data)), home, config, on_progress)
        if dry_run:
            return work.look(shards)
        return work.take_back() if take_back else work.run(shards)


class _Work:
    def __init__(self, disk: Disk, home: Path, config: Config, on_progress: OnProgress) -> None:
        self._disk, self._home, self._config = disk, home, config
        self._on_progress = on_progress
        self._clock = SystemClock()

    def look(self, shards: int) -> MigrateResult:
        plan = plan_upgrade(self._disk)
        result = MigrateResult(
            tuple(migration.name for migration in plan.migrations),
            shard_count=shards or plan.superblock.shard_count,
            old_shard_count=plan.superblock.shard_count,
            needed_bytes=plan.needed_bytes,
            free_bytes=plan.free_bytes,
            finished=is_resharding(self._disk) or is_undoing(self._disk),
        )
        if shards:
            needed = plan_reshard(self._disk, shards).needed_bytes
            result.needed_bytes = max(result.needed_bytes, needed)
        return result

    def run(self, shards: int) -> MigrateResult:
        finished = is_resharding(self._disk)
        if finished:
            self._open_all(finish_reshard(self._disk))
        plan = plan_upgrade(self._disk)
        result = MigrateResult(
            tuple(migration.name for migration in plan.migrations),
            needed_bytes=plan.needed_bytes, free_bytes=plan.free_bytes, finished=finished,
        )  # fmt: skip
        superblock = upgrade(self._disk, plan, self._on_progress)
        result.old_shard_count = result.shard_count = superblock.shard_count
        if shards and shards != superblock.shard_count:
            self._reshard(shards, result)
        else:
            forget_unfinished(self._disk)
        return result

    def take_back(self) -> MigrateResult:
        superblock = undo(self._disk, self._on_progress)
        count = superblock.shard_count
        return MigrateResult(shard_count=count, old_shard_count=count, undone=True)

    def _reshard(self, shards: int, result: MigrateResult) -> None:
        plan = plan_reshard(self._disk, shards)
        result.needed_bytes = max(result.needed_bytes, plan.needed_bytes)
        result.free_bytes = plan.free_bytes
        report: ReshardReport = reshard(
            self._disk, plan,
            options=shard_options(self._config, shards, quota_of(self._home, self._config)),
            entropy=SystemEntropy(), now=self._clock.now(), on_progress=self._on_progress,
        )  # fmt: skip
        result.rows, result.damaged, result.shard_count = report.rows, report.damaged, shards
        self._open_all(plan_upgrade(self._disk).superblock)

    def _open_all(self, superblock: Superblock) -> None:
        """Make the indexes, so that the next start of the node need not."""
        count = superblock.shard_count
        options = shard_options(self._config, count, quota_of(self._home, self._config))
        for index in range(count):
            self._on_progress("index", index, count)
            now = self._clock.now()
            shard, _ = Shard.open(
                self._disk, index, store_uuid=superblock.uuid, options=options, now=now
            )
            shard.close(now)
        self._on_progress("index", count, count)
