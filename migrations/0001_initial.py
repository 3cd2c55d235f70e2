"""The first layout: one directory per shard, each with its segments."""

from molia.base.errors import StoreInvalid
from molia.store.disk import Disk
from molia.store.migrate import shard_name


def check(disk: Disk, shard_count: int) -> bool:
    """Tell whether there is something to do."""
    return not all(disk.exists(f"{shard_name(index)}/seg") for index in range(shard_count))


def apply(disk: Disk, shard_count: int) -> None:
    """Make the directories; running it again is fine."""
    for index in range(shard_count):
        disk.make_dir(f"{shard_name(index)}/seg")
        disk.sync_dir(f"{shard_name(index)}/seg")
        disk.sync_dir(shard_name(index))
    disk.sync_dir("")


def verify(disk: Disk, shard_count: int) -> None:
    """Raise StoreInvalid unless the directories are there."""
    if check(disk, shard_count):
        raise StoreInvalid("the directories of the shards could not be made")
