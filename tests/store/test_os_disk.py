"""`OsDisk`: the conformance suite, and what only a real file system has."""

import os
import stat
from pathlib import Path

import pytest

from molia.sim.disk import SimDisk
from molia.sim.entropy import SeededEntropy
from molia.store.os_disk import OsDisk
from tests.checks.check_disk import check_disk


def test_the_real_disk_does_what_a_disk_does(tmp_path: Path) -> None:
    disk = OsDisk(str(tmp_path / "a" / "root"))
    disk.make_dir("")
    check_disk(disk)


def test_a_system_without_hole_punching_does_too(tmp_path: Path) -> None:
    disk = OsDisk(str(tmp_path), plain=True)
    check_disk(disk)
    assert disk.open("file").punch(0, 4096) is False


def test_the_simulated_disk_does_what_a_disk_does(tmp_path: Path) -> None:
    check_disk(SimDisk(tmp_path, SeededEntropy(1)))


def test_files_and_directories_are_the_owners_alone(tmp_path: Path) -> None:
    disk = OsDisk(str(tmp_path / "root"))
    disk.make_dir("one/two")
    disk.open("one/file", create=True).close()
    disk.lock("one/LOCK").release()
    modes = {
        name: stat.S_IMODE((tmp_path / "root" / name).stat().st_mode)
        for name in ("", "one", "one/two", "one/file", "one/LOCK")
    }
    assert modes == {
        "": 0o700,
        "one": 0o700,
        "one/two": 0o700,
        "one/file": 0o600,
        "one/LOCK": 0o600,
    }


def test_punching_gives_blocks_back(tmp_path: Path) -> None:
    disk = OsDisk(str(tmp_path))
    file = disk.open("file", create=True)
    file.write(0, [os.urandom(1 << 20)])
    file.sync()
    before = (tmp_path / "file").stat().st_blocks
    if not file.punch(4096, (1 << 20) - 8192):
        pytest.skip("this file system cannot punch holes")
    assert (tmp_path / "file").stat().st_blocks <= before // 8
    assert file.holes() == [(4096, (1 << 20) - 4096)]


def test_what_takes_many_calls_is_written_back_to_back(tmp_path: Path) -> None:
    file = OsDisk(str(tmp_path)).open("file", create=True)
    sizes = (0, 7, 300_000, 2_500_000, 1, 800_000, 400_000, *[3] * 3_000, 0)
    buffers = [os.urandom(size) for size in sizes]
    file.write(11, buffers)
    assert file.read(11, sum(sizes) + 1) == b"".join(buffers)
    file.write(0, [])
    assert file.size() == 11 + sum(sizes)


def test_a_file_closes_itself_when_its_last_holder_lets_go(tmp_path: Path) -> None:
    disk = OsDisk(str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    files = [disk.open(f"file{number}", create=True) for number in range(20)]
    assert len(os.listdir("/proc/self/fd")) == before + 20
    files.clear()
    assert len(os.listdir("/proc/self/fd")) == before


def test_descriptors_do_not_pass_to_programs_that_are_started(tmp_path: Path) -> None:
    disk = OsDisk(str(tmp_path))
    file, lock = disk.open("file", create=True), disk.lock("LOCK")
    kept = {
        os.readlink(f"/proc/self/fd/{n}"): int(n)
        for n in os.listdir("/proc/self/fd")
        if _is_open(n)
    }
    for name in ("file", "LOCK"):
        assert not os.get_inheritable(kept[str(tmp_path / name)])
    file.close()
    lock.release()


def _is_open(descriptor: str) -> bool:
    return Path(f"/proc/self/fd/{descriptor}").exists()
