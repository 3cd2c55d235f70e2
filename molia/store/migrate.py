"""Which migrations exist, and whether a store has had them all.

Migrations are the files `NNNN_name.py` of `migrations/` (in an installed wheel
`molia/_migrations`), each with `check(disk, shard_count)`, `apply(disk, shard_count)` and
`verify(disk, shard_count)`. STORE holds the number of the last one applied.
"""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Final, Protocol

from molia.base.errors import StoreVersion
from molia.store.disk import Disk

_NAME: Final = re.compile(r"^(\d{4})_[a-z0-9_]+\.py$")


def shard_name(index: int) -> str:
    """Return the name of a shard's directory."""
    return f"shard-{index:02d}"


def known() -> list[tuple[int, Path]]:
    """Return the migrations that this version ships: number and file, in order."""
    package = Path(__file__).resolve().parents[1]
    directories = (package / "_migrations", package.parent / "migrations")
    for directory in directories:
        found = [(path, _NAME.match(path.name)) for path in directory.glob("*.py")]
        numbered = sorted((int(match[1]), path) for path, match in found if match is not None)
        if numbered:
            return numbered
    raise AssertionError("the migrations are shipped with the package")


def latest() -> int:
    """Return the number of the newest migration that this version ships."""
    return known()[-1][0]


class Migrated(Protocol):
    """What knows how far a store was migrated: its superblock."""

    @property
    def migration(self) -> int:
        """Number of the last migration applied."""
        ...


def check_version(superblock: Migrated) -> None:
    """Raise StoreVersion unless exactly the shipped migrations were applied."""
    applied, newest = superblock.migration, latest()
    if applied > newest:
        raise StoreVersion(
            f"the store has had migration {applied:04d}; this version knows {newest:04d}",
            hint="use the newer version of molia that wrote it",
        )
    if applied < newest:
        raise StoreVersion(
            f"the store has had migration {applied:04d}; this version needs {newest:04d}",
            hint="stop the node and run molia migrate",
        )


def apply_all(disk: Disk, shard_count: int) -> None:
    """Run every migration on a store that is being made. Each may be run again after a cut."""
    for number, path in known():
        module = _load(number, path)
        if module.check(disk, shard_count):
            module.apply(disk, shard_count)
        module.verify(disk, shard_count)


def _load(number: int, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"molia_migration_{number:04d}", path)
    assert spec is not None, "a Python file can be loaded"
    assert spec.loader is not None, "a Python file can be loaded"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
