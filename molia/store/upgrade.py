"""Bringing a store up to this version: what is due, a snapshot, one migration after another.

STORE's number moves after each migration that was verified, so one that was cut off is done again.
The snapshot gives the log's files a second name below `snapshot/`: it costs no space, and with it
`undo` takes back what a migration did to the log. The index is not part of it: it is made anew.
Nobody else may use the store meanwhile. Source: docs/reference/store-format.md, "Migrations".
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from molia.base.errors import NoSpace, StoreInvalid, StoreVersion
from molia.base.limits import MIB
from molia.store import migrate
from molia.store.disk import Disk, write_atomic
from molia.store.migrate import Migration, shard_name
from molia.store.reshard import forget_unfinished
from molia.store.segment import segment_id_of
from molia.store.superblock import STORE_NAME, Superblock, load_superblock

SNAPSHOT: Final = "snapshot"
_UNDO: Final = f"{SNAPSHOT}/UNDO"
_COPY_SIZE: Final = 1 * MIB
_SPARE_BYTES: Final = 16 * MIB
"""Left free beside what the migrations say that they take."""
OnProgress = Callable[[str, int, int], None]
"""What is done, how much of it, of how much."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What bringing a store up to date would do."""

    superblock: Superblock
    migrations: tuple[Migration, ...]
    needed_bytes: int
    free_bytes: int

    @property
    def fits(self) -> bool:
        """Whether the disk has the space for it."""
        return self.needed_bytes <= self.free_bytes


def plan_upgrade(disk: Disk, directory: Path | None = None) -> Plan:
    """Return which migrations are due, and the space that they take.

    directory: where migrations are; by default where the package has them. Raises NotInitialised,
    StoreInvalid, and StoreVersion when a newer version wrote the store.
    """
    superblock = load_superblock(disk)
    newest = migrate.latest(directory)
    if superblock.migration > newest:
        raise StoreVersion(
            f"the store has had migration {superblock.migration:04d}; this version knows "
            f"{newest:04d}",
            hint="use the newer version of molia that wrote it",
        )
    due = tuple(migrate.load_after(superblock.migration, directory))
    takes = [migration.needed_bytes(disk, superblock.shard_count) for migration in due]
    needed = max(takes, default=0) + _SPARE_BYTES if due else 0
    if due and not _can_link(disk):
        needed += sum(_size_of(disk, name) for name in _log_names(disk, superblock.shard_count))
    return Plan(superblock, due, needed, disk.free_bytes())


def upgrade(disk: Disk, plan: Plan, on_progress: OnProgress) -> Superblock:
    """Run the migrations of a plan and return what the store is then.

    After a cut, plan and run again. Raises NoSpace before anything is changed; StoreInvalid when a
    migration did not do what it should have: `undo` takes it back.
    """
    superblock = plan.superblock
    if is_undoing(disk):
        raise StoreInvalid(
            "taking a migration back was cut off", hint="molia migrate --undo finishes it"
        )
    if not plan.migrations:
        _drop_snapshot(disk)
        return superblock
    if not plan.fits:
        raise NoSpace(
            f"{plan.needed_bytes} bytes are needed, {plan.free_bytes} are free",
            hint="free space on the disk, then run molia migrate again",
        )
    _take_snapshot(disk, superblock, on_progress)
    for position, migration in enumerate(plan.migrations):
        on_progress(migration.name, position, len(plan.migrations))
        _run(disk, migration, superblock.shard_count)
        superblock = replace(superblock, migration=migration.number, **migration.formats)  # type: ignore[arg-type]
        write_atomic(disk, STORE_NAME, [superblock.encode()])
    on_progress("done", len(plan.migrations), len(plan.migrations))
    _drop_snapshot(disk)
    return superblock


def _run(disk: Disk, migration: Migration, shard_count: int) -> None:
    try:
        if migration.due(disk, shard_count):
            migration.apply(disk, shard_count)
        migration.verify(disk, shard_count)
    except StoreInvalid as error:
        raise StoreInvalid(
            f"migration {migration.name} failed: {error}",
            hint="molia migrate --undo brings back what was there before",
        ) from None


# ---------------------------------------------------------------------------- the snapshot


def has_snapshot(disk: Disk) -> bool:
    """Tell whether a migration that was begun can be taken back."""
    return disk.exists(f"{SNAPSHOT}/{STORE_NAME}")


def is_undoing(disk: Disk) -> bool:
    """Tell whether taking a migration back was cut off: `undo` must be run again."""
    return disk.exists(_UNDO)


def undo(disk: Disk, on_progress: OnProgress) -> Superblock:
    """Bring back log and STORE as they were before the migration; the index will be made anew.

    After a cut, run it again. Raises StoreInvalid when there is nothing to take back.
    """
    if not has_snapshot(disk):
        raise StoreInvalid("there is no migration to take back")
    before = load_superblock(disk, f"{SNAPSHOT}/{STORE_NAME}")
    if not is_undoing(disk):
        write_atomic(disk, _UNDO, [b"1\n"])
    for index in range(before.shard_count):
        on_progress(shard_name(index), index, before.shard_count)
        _bring_back(disk, shard_name(index))
    write_atomic(disk, STORE_NAME, [before.encode()])
    _drop_snapshot(disk)
    return before


def _bring_back(disk: Disk, shard: str) -> None:
    disk.make_dir(f"{shard}/seg")
    for name in disk.list_dir(shard):
        if name.startswith(("index-", "delta-")):
            disk.remove_tree(f"{shard}/{name}")
    for name in disk.list_dir(f"{shard}/seg"):
        disk.unlink(f"{shard}/seg/{name}")
    for name in disk.list_dir(f"{SNAPSHOT}/{shard}/seg"):
        _twin(disk, f"{SNAPSHOT}/{shard}/seg/{name}", f"{shard}/seg/{name}")
    disk.sync_dir(f"{shard}/seg")
    disk.sync_dir(shard)


def _take_snapshot(disk: Disk, superblock: Superblock, on_progress: OnProgress) -> None:
    """Give the log's files their second names; STORE comes last and makes it whole."""
    if has_snapshot(disk):
        return  # of a run that was cut off: what is there now is half migrated
    disk.remove_tree(SNAPSHOT)
    count = superblock.shard_count
    for index in range(count):
        on_progress("snapshot", index, count)
        disk.make_dir(f"{SNAPSHOT}/{shard_name(index)}/seg")
    for name in _log_names(disk, count):
        _twin(disk, name, f"{SNAPSHOT}/{name}")
    for index in range(count):
        disk.sync_dir(f"{SNAPSHOT}/{shard_name(index)}/seg")
        disk.sync_dir(f"{SNAPSHOT}/{shard_name(index)}")
    write_atomic(disk, f"{SNAPSHOT}/{STORE_NAME}", [superblock.encode()])
    disk.sync_dir("")


def forget_leftovers(disk: Disk) -> None:
    """Remove what a migration or a change of shards left that was cut off, if it counts no more.

    Half of a snapshot keeps each segment it names on the disk. For a store that may be opened.
    """
    assert not has_snapshot(disk), "what is to be finished is no leftover"
    _drop_snapshot(disk)
    forget_unfinished(disk)


def _drop_snapshot(disk: Disk) -> None:
    """Let the snapshot go; STORE before the rest, so that half of one is never taken for whole."""
    if not disk.exists(SNAPSHOT):
        return
    for name in (_UNDO, f"{SNAPSHOT}/{STORE_NAME}"):
        if disk.exists(name):
            disk.unlink(name)
            disk.sync_dir(SNAPSHOT)
    disk.remove_tree(SNAPSHOT)
    disk.sync_dir("")


def _log_names(disk: Disk, shard_count: int) -> Iterator[str]:
    for index in range(shard_count):
        directory = f"{shard_name(index)}/seg"
        for name in disk.list_dir(directory):
            if segment_id_of(name) is not None:
                yield f"{directory}/{name}"


def _twin(disk: Disk, name: str, twin: str) -> None:
    """Give a file a second name, or copy it where the system has no such thing."""
    if disk.link(name, twin):
        return
    source, target = disk.open(name, writable=False), disk.open(twin, create=True)
    try:
        size = source.size()
        for offset in range(0, size, _COPY_SIZE):
            target.write(offset, [source.read(offset, _COPY_SIZE)])
        target.truncate(size)
        target.sync()
    finally:
        source.close()
        target.close()


def _can_link(disk: Disk) -> bool:
    trial = f"{STORE_NAME}.link"
    if disk.exists(trial):
        disk.unlink(trial)
    if not disk.link(STORE_NAME, trial):
        return False
    disk.unlink(trial)
    return True


def _size_of(disk: Disk, name: str) -> int:
    file = disk.open(name, writable=False)
    try:
        return file.size()
    finally:
        file.close()
