"""Migrations run in order and once, again after a cut, and can be taken back; never downwards."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from molia.base.errors import NoSpace, NotInitialised, StoreInvalid, StoreVersion
from molia.base.hashing import blake3_digest
from molia.base.now import Now
from molia.sim.disk import SimDisk
from molia.sim.entropy import SeededEntropy
from molia.sim.journal import Event, Mark
from molia.sim.platter import Platter
from molia.sim.powercut import crash_states
from molia.store.disk import Disk, write_atomic
from molia.store.keys import Kind
from molia.store.os_disk import OsDisk
from molia.store.shard import Put, Shard, Transaction
from molia.store.superblock import (
    STORE_NAME,
    Superblock,
    create_store,
    load_superblock,
    read_superblock,
)
from molia.store.upgrade import (
    SNAPSHOT,
    forget_leftovers,
    has_snapshot,
    plan_upgrade,
    undo,
    upgrade,
)
from tests.store.shards import NOW, TINY, audit_all, contents, disk_at

ROOT = Path(__file__).parents[2]
FIRST = '"""The first layout."""\n\ndef check(disk, count): return False\n'
FIRST += "def apply(disk, count): pass\ndef verify(disk, count): pass\n"
SECOND = '''"""Every log file gets a new one in its place."""

def check(disk, count):
    directories = [f"shard-{index:02d}/seg" for index in range(count)]
    return any(disk.list_dir(name) != ["0000000000000063.log"] for name in directories)

def apply(disk, count):
    for index in range(count):
        directory = f"shard-{index:02d}/seg"
        new = f"{directory}/0000000000000063.new"
        for name in disk.list_dir(directory):
            if name.endswith(".new"):
                disk.unlink(new)
        file = disk.open(new, create=True)
        file.write(0, [b"new format"])
        file.sync()
        file.close()
        disk.rename(new, new.replace(".new", ".log"))
        for name in disk.list_dir(directory):
            if name != "0000000000000063.log":
                disk.unlink(f"{directory}/{name}")
        disk.sync_dir(directory)

def verify(disk, count):
    from molia.base.errors import StoreInvalid
    for index in range(count):
        if disk.list_dir(f"shard-{index:02d}/seg") != ["0000000000000063.log"]:
            raise StoreInvalid("not all were written")
'''
THIRD = '''"""Only the number moves."""

def check(disk, count): return False
def apply(disk, count): raise AssertionError("nothing is due")
def verify(disk, count): pass
def needed_bytes(disk, count): return 5 << 20
'''


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """A directory of three migrations, of which the second rewrites the log."""
    found = tmp_path / "migrations"
    found.mkdir()
    for number, name, text in (
        (1, "first", FIRST), (2, "rewrite", SECOND), (3, "number", THIRD),
    ):  # fmt: skip
        (found / f"{number:04d}_{name}.py").write_text(text)
    return found


def quiet(what: str, done: int, total: int) -> None:
    """Take progress and say nothing."""
    assert 0 <= done <= total, what


def make_store(disk: Disk, count: int = 2) -> Superblock:
    """Make a store with a few values on each shard."""
    superblock = create_store(disk, count, SeededEntropy(3), NOW)
    for index in range(count):
        shard, _ = Shard.open(disk, index, store_uuid=superblock.uuid, options=TINY, now=NOW)
        shard.apply([Transaction((Put(Kind.META, b"key%d" % index, b"value"),))], NOW)
        shard.close(NOW)
    return superblock


def all_contents(disk: Disk, superblock: Superblock) -> list[dict[tuple[Kind, bytes], bytes]]:
    """Return what each shard holds."""
    found = []
    for index in range(superblock.shard_count):
        shard, report = Shard.open(disk, index, store_uuid=superblock.uuid, options=TINY, now=NOW)
        assert not report.damage_count
        found.append(contents(shard))
        shard._release()
    return found


def test_migrations_run_in_order_and_only_once(tmp_path: Path, scripts: Path) -> None:
    disk = disk_at(tmp_path / "store")
    before = make_store(disk)
    plan = plan_upgrade(disk, scripts)
    assert [migration.number for migration in plan.migrations] == [2, 3]
    assert plan.migrations[0].title == "Every log file gets a new one in its place."
    assert plan.fits
    assert plan.needed_bytes > 5 << 20
    assert load_superblock(disk) == before, "a plan changes nothing"
    seen: list[tuple[str, int, int]] = []
    after = upgrade(disk, plan, lambda *progress: seen.append(progress))
    assert after == replace(before, migration=3) == load_superblock(disk)
    assert [what for what, _, _ in seen] == [
        "snapshot", "snapshot", "0002_rewrite", "0003_number", "done",
    ]  # fmt: skip
    assert disk.list_dir("shard-01/seg") == ["0000000000000063.log"]
    assert not disk.exists(SNAPSHOT)
    assert plan_upgrade(disk, scripts).migrations == ()


def test_a_store_of_today_has_nothing_due(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    superblock = make_store(disk)
    plan = plan_upgrade(disk)
    assert (plan.migrations, plan.needed_bytes) == ((), 0)
    assert upgrade(disk, plan, quiet) == superblock


def test_a_newer_store_is_refused(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    superblock = make_store(disk)
    write_atomic(disk, STORE_NAME, [replace(superblock, migration=77).encode()])
    for refuse in (plan_upgrade, read_superblock):
        with pytest.raises(StoreVersion, match="0077"):
            refuse(disk)
    newer = replace(superblock, log_format=2)
    write_atomic(disk, STORE_NAME, [newer.encode()])
    with pytest.raises(StoreVersion, match="log_format is 2"):
        plan_upgrade(disk)


def test_without_a_store_there_is_nothing_to_migrate(tmp_path: Path) -> None:
    with pytest.raises(NotInitialised):
        plan_upgrade(disk_at(tmp_path))


def test_a_disk_that_is_too_full_refuses_before_anything_changes(
    tmp_path: Path, scripts: Path
) -> None:
    disk = disk_at(tmp_path / "store")
    make_store(disk)
    plan = replace(plan_upgrade(disk, scripts), free_bytes=1 << 20)
    assert not plan.fits
    with pytest.raises(NoSpace, match="are needed"):
        upgrade(disk, plan, quiet)
    assert not disk.exists(SNAPSHOT)


def test_a_migration_that_fails_its_check_can_be_taken_back(tmp_path: Path, scripts: Path) -> None:
    disk = disk_at(tmp_path / "store")
    before = make_store(disk)
    expected = all_contents(disk, before)
    path = scripts / "0003_number.py"
    path.write_text(path.read_text().replace(
        "def verify(disk, count): pass",
        "def verify(disk, count):\n"
        "    from molia.base.errors import StoreInvalid\n    raise StoreInvalid('no')",
    ))  # fmt: skip
    with pytest.raises(StoreInvalid, match="0003_number failed: no") as error:
        upgrade(disk, plan_upgrade(disk, scripts), quiet)
    assert "--undo" in error.value.hint
    assert has_snapshot(disk)
    with pytest.raises(StoreVersion, match="cut off"):
        read_superblock(disk)
    assert undo(disk, quiet) == before
    assert read_superblock(disk) == before
    assert all_contents(disk, before) == expected
    assert not disk.exists(SNAPSHOT)
    with pytest.raises(StoreInvalid, match="no migration to take back"):
        undo(disk, quiet)


def test_where_a_file_has_one_name_only_the_snapshot_is_a_copy_and_is_counted(
    tmp_path: Path, scripts: Path
) -> None:
    before = make_store(disk_at(tmp_path / "store"))
    expected = all_contents(disk_at(tmp_path / "store"), before)
    linked = plan_upgrade(disk_at(tmp_path / "store"), scripts)
    disk = OsDisk(str(tmp_path / "store"), plain=True)
    plan = plan_upgrade(disk, scripts)
    assert plan.needed_bytes > linked.needed_bytes
    (scripts / "0002_rewrite.py").write_text(SECOND.replace("def verify", "def other"))
    with pytest.raises(AttributeError):
        upgrade(disk, plan_upgrade(disk, scripts), quiet)
    undo(disk, quiet)
    assert all_contents(disk, before) == expected


# ---------------------------------------------------------------------------- cuts


def steps(disk: Disk, scripts: Path, *, back: bool) -> None:
    """Do what a run of `molia migrate` does, and take it back if asked."""
    if back and has_snapshot(disk):
        undo(disk, quiet)
        return
    upgrade(disk, plan_upgrade(disk, scripts), quiet)


def test_a_cut_at_any_point_leaves_a_store_that_the_next_run_finishes(
    tmp_path: Path, scripts: Path
) -> None:
    journal: list[Event] = [Mark("made")]
    disk = SimDisk(tmp_path / "sim", SeededEntropy(5))
    before = make_small(disk)
    start = Platter.of(disk)
    disk.journal = journal
    upgrade(disk, plan_upgrade(disk, scripts), quiet)
    journal.append(Mark("migrated", cut=True))
    count = cleared = 0
    for state in crash_states(journal, seed="upgrade", start=start, per_cut=6):
        count += 1
        found = state.build(tmp_path / "state")
        number = load_superblock(found).migration
        assert number in (1, 2, 3)
        if state.mark == "migrated":
            assert number == 3
        if not has_snapshot(found) and count % 3 == 0:  # a node may be run: its start clears up
            data = data_of(found)
            forget_leftovers(found)
            assert not found.exists(SNAPSHOT)
            assert data_of(found) == data
            cleared += data == b"new format"
        if number == 1 and has_snapshot(found) and count % 2:
            undo(found, quiet)
            assert read_superblock(found) == before
            assert data_of(found) == b"old format"
        else:
            upgrade(found, plan_upgrade(found, scripts), quiet)
            assert load_superblock(found).migration == 3
            assert data_of(found) == b"new format"
        assert not found.exists(SNAPSHOT)
    assert count > 100
    assert cleared > 3


def test_a_cut_while_a_migration_is_taken_back_is_finished_by_the_next_try(
    tmp_path: Path, scripts: Path
) -> None:
    disk = SimDisk(tmp_path / "sim", SeededEntropy(5))
    before = make_small(disk)
    (scripts / "0003_number.py").write_text(THIRD.replace(
        "def verify(disk, count): pass", "def verify(disk, count): raise OSError(5, 'no')"
    ))  # fmt: skip
    with pytest.raises(OSError, match="no"):
        upgrade(disk, plan_upgrade(disk, scripts), quiet)
    start, journal = Platter.of(disk), [Mark("failed")]
    events: list[Event] = [*journal]
    disk.journal = events
    undo(disk, quiet)
    for state in crash_states(events, seed="undo", start=start, per_cut=6):
        found = state.build(tmp_path / "state")
        if has_snapshot(found):
            undo(found, quiet)
        elif found.exists(SNAPSHOT):
            upgrade(found, replace(plan_upgrade(found, scripts), migrations=()), quiet)
        assert read_superblock(found) == before
        assert data_of(found) == b"old format"


def make_small(disk: Disk) -> Superblock:
    """Make a store of one shard whose log is one small file."""
    superblock = create_store(disk, 1, SeededEntropy(3), NOW)
    file = disk.open("shard-00/seg/0000000000000001.log", create=True)
    file.write(0, [b"old format"])
    file.sync()
    disk.sync_dir("shard-00/seg")
    return superblock


def data_of(disk: Disk) -> bytes:
    """Return what the one file of the log holds."""
    (name,) = disk.list_dir("shard-00/seg")
    return disk.open(f"shard-00/seg/{name}", writable=False).read(0, 99)


KILLED = """
import os, sys
from pathlib import Path
from molia.store.os_disk import OsDisk
from molia.store.upgrade import plan_upgrade, upgrade
disk, left = OsDisk(sys.argv[1]), [int(sys.argv[3])]

def counted(name):
    act = getattr(OsDisk, name)
    def do(*arguments, **options):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), 9)
        return act(*arguments, **options)
    setattr(OsDisk, name, do)

for name in ("open", "rename", "unlink", "link", "sync_dir", "make_dir", "remove_tree"):
    counted(name)
upgrade(disk, plan_upgrade(disk, Path(sys.argv[2])), lambda *progress: None)
"""


def test_a_run_that_is_killed_is_resumed_by_the_next_one(tmp_path: Path, scripts: Path) -> None:
    disk = disk_at(tmp_path / "store")
    before = make_store(disk)
    kills = 0
    for calls in (3, 12, 20, 35, 45, 55, 70, 1_000_000):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "store"), str(scripts), str(calls)]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ}, timeout=60)
        kills += done.returncode == -9
        assert done.returncode in (0, -9)
    assert kills >= 3
    assert load_superblock(disk) == replace(before, migration=3)
    assert not disk.exists(SNAPSHOT)


# ---------------------------------------------------------------------------- past formats


def formats() -> list[Path]:
    """Return the stores that past versions made, by the number of their last migration."""
    return sorted((ROOT / "tests" / "formats").glob("[0-9]*"))


def test_there_is_a_store_of_every_format() -> None:
    shipped = {path.name[:4] for path in (ROOT / "migrations").glob("[0-9]*.py")}
    assert {path.name for path in formats()} == shipped


@pytest.mark.parametrize("path", formats(), ids=lambda path: path.name)
@pytest.mark.parametrize("rebuild", [False, True])
def test_a_store_of_every_past_format_is_migrated_and_read(
    tmp_path: Path, path: Path, rebuild: bool
) -> None:
    shutil.copytree(path, tmp_path / "store")
    disk = disk_at(tmp_path / "store")
    before = load_superblock(disk)
    assert before.migration == int(path.name)
    upgrade(disk, plan_upgrade(disk), quiet)
    superblock = read_superblock(disk)
    expected = json.loads((path / "expected.json").read_text())
    found: dict[str, str] = {}
    now = Now(0.0, before.created_unix_s + 60.0)
    for index in range(superblock.shard_count):
        shard, report = Shard.open(
            disk, index, store_uuid=superblock.uuid, options=TINY, now=now, rebuild_index=rebuild
        )  # fmt: skip
        assert not report.damage_count
        assert rebuild or not report.index_rebuilt, "its index is read as it is"
        assert audit_all(shard, now) == (0, set())
        for (kind, key), value in contents(shard, now).items():
            found[f"{index} {kind.name} {key.hex()}"] = blake3_digest(value).hex()
        shard._release()
    assert found == expected
