"""Which migrations exist, and whether a store has had them all.

Migrations are the files `NNNN_name.py` of `migrations/` (in an installed wheel
`molia/_migrations`), each with `check(disk, shard_count)`, `apply(disk, shard_count)` and
`verify(disk, shard_count)`. STORE holds the number of the last one applied. A migration may also
have `needed_bytes(disk, shard_count)`, the space that it takes while it runs, and `FORMATS`, the
format numbers of STORE that it raises. It never writes into a file that is there: the snapshot
made before it shares the log's files.
"""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final, Protocol

from molia.base.errors import StoreVersion
from molia.store.disk import Disk

_NAME: Final = re.compile(r"^(\d{4})_[a-z0-9_]+\.py$")


def shard_name(index: int) -> str:
    """Return the name of a shard's directory."""
    return f"shard-{index:02d}"


def known(directory: Path | None = None) -> list[tuple[int, Path]]:
    """Return the migrations that this version ships: number and file, in order.

    directory: where they are; by default where the package has them.
    """
    package = Path(__file__).resolve().parents[1]
    shipped = (package / "_migrations", package.parent / "migrations")
    for place in shipped if directory is None else (directory,):
        found = [(path, _NAME.match(path.name)) for path in place.glob("*.py")]
        numbered = sorted((int(match[1]), path) for path, match in found if match is not None)
        if numbered:
            return numbered
    raise AssertionError("the migrations are shipped with the package")


def latest(directory: Path | None = None) -> int:
    """Return the number of the newest migration that this version ships."""
    return known(directory)[-1][0]


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration, loaded."""

    number: int
    name: str
    """Its file's name without the suffix."""
    title: str
    """The first line of what its file says about itself."""
    module: ModuleType

    def due(self, disk: Disk, shard_count: int) -> bool:
        """Tell whether there is something to do."""
        return bool(self.module.check(disk, shard_count))

    def apply(self, disk: Disk, shard_count: int) -> None:
        """Do it; after a cut it is done again."""
        self.module.apply(disk, shard_count)

    def verify(self, disk: Disk, shard_count: int) -> None:
        """Raise StoreInvalid unless it was done."""
        self.module.verify(disk, shard_count)

    def needed_bytes(self, disk: Disk, shard_count: int) -> int:
        """Return the space that it takes while it runs."""
        needed = getattr(self.module, "needed_bytes", None)
        return int(needed(disk, shard_count)) if needed is not None else 0

    @property
    def formats(self) -> dict[str, int]:
        """The format numbers of STORE that it raises."""
        return dict(getattr(self.module, "FORMATS", {}))


def load_after(number: int, directory: Path | None = None) -> list[Migration]:
    """Return the migrations above a number, in order."""
    found = []
    for own, path in known(directory):
        if own > number:
            module = _load(own, path)
            title = (module.__doc__ or "").partition("\n")[0]
            found.append(Migration(own, path.stem, title, module))
    return found


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
    for migration in load_after(0):
        if migration.due(disk, shard_count):
            migration.apply(disk, shard_count)
        migration.verify(disk, shard_count)


def _load(number: int, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"molia_migration_{number:04d}", path)
    assert spec is not None, "a Python file can be loaded"
    assert spec.loader is not None, "a Python file can be loaded"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
