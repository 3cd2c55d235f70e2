"""`SimDisk`: its records, its faults, and what a cut leaves of it."""

import errno
from pathlib import Path

import pytest

from molia.sim.content import PAGE, Content
from molia.sim.disk import Fault, SimDisk
from molia.sim.entropy import SeededEntropy
from molia.sim.journal import Event
from molia.sim.platter import Fate, Plan, Platter
from tests.checks.check_disk import check_disk


def make(root: Path, *, capacity: int | None = None) -> tuple[SimDisk, list[Event]]:
    journal: list[Event] = []
    return SimDisk(root, SeededEntropy(1), capacity=capacity, journal=journal), journal


def platter_of(journal: list[Event]) -> Platter:
    platter = Platter()
    for event in journal:
        platter.feed(event)
    return platter


def outcome(journal: list[Event], root: Path, fate: Fate, *, names: bool) -> SimDisk:
    platter = platter_of(journal)
    counts = tuple((d, len(all_) if names else 0) for d, all_ in platter.name_changes.items())
    return platter.image(Plan((fate,) * len(platter.pieces), counts), root)


def test_it_passes_the_suite_of_all_disks(tmp_path: Path) -> None:
    check_disk(make(tmp_path)[0])


def test_an_unsynced_name_and_unsynced_bytes_are_lost_apart(tmp_path: Path) -> None:
    disk, journal = make(tmp_path)
    file = disk.open("a", create=True)
    file.write(0, [b"one"])
    file.sync()
    assert not outcome(journal, tmp_path / "x", Fate.KEPT, names=False).exists("a")
    disk.sync_dir("")
    file.write(3, [b"two", b"three"])
    kept = outcome(journal, tmp_path / "x", Fate.KEPT, names=False)
    lost = outcome(journal, tmp_path / "x", Fate.ABSENT, names=False)
    assert kept.open("a").read(0, 99) == b"onetwothree"
    assert lost.open("a").read(0, 99) == b"one"
    zeros = outcome(journal, tmp_path / "x", Fate.ZEROS, names=False)
    assert zeros.open("a").read(0, 99) == b"one" + bytes(8)


def test_an_image_changes_nothing_it_came_from(tmp_path: Path) -> None:
    disk, journal = make(tmp_path)
    file = disk.open("a", create=True)
    file.write(0, [b"one"])
    file.sync()
    disk.sync_dir("")
    platter = platter_of(journal)
    image = platter.image(Plan(), tmp_path / "x")
    image.open("a").write(0, [b"two"])
    image.unlink("a")
    assert platter.image(Plan(), tmp_path / "x").open("a").read(0, 9) == b"one"
    assert file.read(0, 9) == b"one"


def test_unlink_and_rename_may_come_undone_until_the_directory_is_synced(tmp_path: Path) -> None:
    disk, journal = make(tmp_path)
    for name in ("a", "b"):
        file = disk.open(name, create=True)
        file.write(0, [name.encode()])
        file.sync()
    disk.sync_dir("")
    disk.rename("a", "b")
    assert outcome(journal, tmp_path / "x", Fate.KEPT, names=False).list_dir("") == ["a", "b"]
    after = outcome(journal, tmp_path / "x", Fate.KEPT, names=True)
    assert after.list_dir("") == ["b"]
    assert after.open("b").read(0, 9) == b"a"
    disk.unlink("b")
    disk.sync_dir("")
    assert outcome(journal, tmp_path / "x", Fate.KEPT, names=False).list_dir("") == []


def test_a_full_disk_takes_what_fits_and_says_enospc(tmp_path: Path) -> None:
    disk, _ = make(tmp_path, capacity=4 * PAGE)
    file = disk.open("a", create=True)
    file.write(0, [bytes(PAGE)])
    with pytest.raises(OSError, match="No space") as caught:
        file.write(PAGE, [b"x" * (5 * PAGE)])
    assert caught.value.errno == errno.ENOSPC
    assert (file.size(), disk.free_bytes()) == (4 * PAGE, 0)
    file.truncate(PAGE)
    assert disk.free_bytes() == 3 * PAGE
    file.allocate(4 * PAGE)
    file.write(PAGE, [b"y" * (3 * PAGE)])
    disk.unlink("a")
    assert disk.free_bytes() == 4 * PAGE


def test_a_failed_sync_never_makes_earlier_bytes_safe(tmp_path: Path) -> None:
    disk, journal = make(tmp_path)
    file = disk.open("a", create=True)
    disk.sync_dir("")
    disk.faults.append(Fault("sync", 1))
    file.write(0, [b"lost?"])
    with pytest.raises(OSError, match="Input/output"):
        file.sync()
    file.sync()
    assert outcome(journal, tmp_path / "x", Fate.ABSENT, names=False).open("a").size() == 0
    assert file.read(0, 9) == b"lost?"


def test_dropping_the_cache_after_a_failed_sync_shows_the_disk(tmp_path: Path) -> None:
    seen = set()
    for seed in range(20):
        disk = SimDisk(tmp_path, SeededEntropy(seed), journal=[])
        disk.faults.append(Fault("sync", 1))
        file = disk.open("a", create=True)
        file.write(0, [b"n" * PAGE])
        with pytest.raises(OSError, match="Input/output"):
            file.sync()
        file.drop_cache()
        seen.add(file.read(0, PAGE))
    assert seen == {b"", b"n" * PAGE}


def test_a_failed_sync_leaves_holes_as_they_are(tmp_path: Path) -> None:
    for seed in range(20):
        disk = SimDisk(tmp_path, SeededEntropy(seed), journal=[])
        file = disk.open("a", create=True)
        file.write(0, [b"n" * (4 * PAGE)])
        file.punch(PAGE, 2 * PAGE)
        file.sync()
        disk.faults.append(Fault("sync", 1))
        file.write(0, [b"m" * PAGE])
        with pytest.raises(OSError, match="Input/output"):
            file.sync()
        file.drop_cache()
        assert file.holes() == [(PAGE, 3 * PAGE)]


@pytest.mark.parametrize("call", ["write", "sync", "truncate", "punch", "allocate", "change"])
def test_the_nth_call_fails_and_only_that(tmp_path: Path, call: str) -> None:
    disk, _ = make(tmp_path)
    file = disk.open("a", create=True)
    disk.faults.append(Fault(call, 2))
    method = "write" if call == "change" else call
    arguments = {
        "write": (0, [b"x"]), "sync": (), "truncate": (1,), "punch": (0, PAGE), "allocate": (9,),
    }[method]  # fmt: skip
    act = getattr(file, method)
    act(*arguments)
    with pytest.raises(OSError, match="Input/output"):
        act(*arguments)
    act(*arguments)


def test_content_knows_its_holes() -> None:
    content = Content()
    content.write(3 * PAGE, b"x" * 10)
    assert content.holes() == [(0, 3 * PAGE)]
    content.write(0, b"y" * (2 * PAGE))
    assert content.holes() == [(2 * PAGE, 3 * PAGE)]
    content.punch(1, 2 * PAGE)
    assert content.holes() == [(PAGE, 3 * PAGE)]
    assert content.data[:PAGE] == b"y" * PAGE
    content.truncate(3 * PAGE + 5)
    assert (content.used_pages(), len(content.data)) == (2, 3 * PAGE + 5)


def test_what_is_pending_for_a_file_without_a_name_is_forgotten(tmp_path: Path) -> None:
    disk, journal = make(tmp_path)
    for name in ("a", "b"):
        disk.open(name, create=True).write(0, [b"x"])
    disk.sync_dir("")
    disk.unlink("a")
    assert len(platter_of(journal).pieces) == 2
    disk.sync_dir("")
    assert len(platter_of(journal).pieces) == 1


def test_a_fork_goes_its_own_way(tmp_path: Path) -> None:
    disk, journal = make(tmp_path)
    file = disk.open("a", create=True)
    disk.sync_dir("")
    file.write(0, [b"one"])
    platter = platter_of(journal)
    other = platter.fork()
    done = len(journal)
    file.sync()
    for event in journal[done:]:
        other.feed(event)
    assert other.image(Plan(), tmp_path / "x").open("a").read(0, 9) == b"one"
    assert platter.image(Plan((Fate.ABSENT,)), tmp_path / "x").open("a").read(0, 9) == b""
