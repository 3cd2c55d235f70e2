"""What every `Disk` does; `OsDisk` and `SimDisk` are both held to it."""

import pytest

from molia.store.disk import Disk, write_atomic


def check_disk(disk: Disk) -> None:
    """Run the whole suite on an empty disk."""
    for check in (
        check_files, check_scattered_writes, check_truncation, check_names, check_directories,
        check_locks, check_punching, check_atomic_replacement, check_reading_beside_removal,
        check_links,
        check_disk_bytes,
    ):  # fmt: skip
        check(disk)


def check_files(disk: Disk) -> None:
    """A file gives back what was written."""
    file = disk.open("file", create=True)
    assert file.size() == 0
    assert file.read(0, 10) == b""
    file.write(0, [b"one", bytearray(b"two"), memoryview(b"-three-")[1:6]])
    file.sync()
    assert file.size() == 11
    assert file.read(0, 100) == b"onetwothree"
    assert file.read(3, 3) == b"two"
    assert file.read(11, 5) == b""
    other = disk.open("file", writable=False)
    assert other.read(0, 3) == b"one"
    file.write(0, [b"ONE"])
    assert other.read(0, 3) == b"ONE"
    other.drop_cache()
    assert other.read(0, 3) == b"ONE"
    for handle in (file, other, file):
        handle.close()
    assert disk.open("file").read(0, 6) == b"ONEtwo"


def check_scattered_writes(disk: Disk) -> None:
    """Many small buffers are written in order, and writing behind the end leaves zeros."""
    file = disk.open("scattered", create=True)
    parts = [bytes((number % 251,)) * (number % 7) for number in range(5_000)]
    file.write(5, parts)
    assert file.read(0, 100_000) == bytes(5) + b"".join(parts)
    file.write(0, [])
    file.write(0, [b"", b"x"])
    assert file.read(0, 2) == b"x\0"
    file.close()


def check_truncation(disk: Disk) -> None:
    """A file can be cut and extended."""
    file = disk.open("cut", create=True)
    file.write(0, [b"abcdef"])
    file.truncate(3)
    assert file.read(0, 10) == b"abc"
    file.truncate(5)
    assert file.read(0, 10) == b"abc\0\0"
    file.allocate(8192)
    assert file.size() == 8192
    assert file.read(0, 3) == b"abc"
    file.close()


def check_names(disk: Disk) -> None:
    """Names are made, replaced and removed."""
    assert not disk.exists("name")
    with pytest.raises(FileNotFoundError):
        disk.open("name")
    disk.open("name", create=True).write(0, [b"1"])
    with pytest.raises(FileExistsError):
        disk.open("name", create=True)
    disk.open("name2", create=True).write(0, [b"2"])
    disk.rename("name2", "name")
    assert disk.open("name").read(0, 9) == b"2"
    assert not disk.exists("name2")
    disk.unlink("name")
    with pytest.raises(FileNotFoundError):
        disk.unlink("name")
    disk.sync_dir("")


def check_links(disk: Disk) -> None:
    """A file with two names is there until both are gone."""
    disk.make_dir("links")
    file = disk.open("links/one", create=True)
    file.write(0, [b"bytes"])
    file.sync()
    if disk.link("links/one", "links/two"):
        with pytest.raises(FileExistsError):
            disk.link("links/one", "links/two")
        disk.unlink("links/one")
        assert disk.open("links/two", writable=False).read(0, 9) == b"bytes"
        assert disk.list_dir("links") == ["two"]


def check_directories(disk: Disk) -> None:
    """Directories are made with their parents and removed with what is in them."""
    assert disk.list_dir("top") == []
    disk.make_dir("top/middle/leaf")
    disk.make_dir("top/middle/leaf")
    disk.open("top/middle/b", create=True).close()
    disk.open("top/middle/a", create=True).close()
    assert disk.list_dir("top/middle") == ["a", "b", "leaf"]
    disk.sync_dir("top/middle")
    disk.remove_tree("top/middle")
    disk.remove_tree("top/middle")
    assert disk.list_dir("top") == []
    assert disk.exists("top")
    assert disk.path_of("top").endswith("/top")


def check_locks(disk: Disk) -> None:
    """A lock has one holder."""
    lock = disk.lock("LOCK")
    with pytest.raises(BlockingIOError):
        disk.lock("LOCK")
    lock.release()
    lock.release()
    disk.lock("LOCK").release()


def check_punching(disk: Disk) -> None:
    """Punched pages read as zeros, their neighbours stay, and the length does."""
    file = disk.open("punched", create=True)
    data = bytes(range(256)) * 256
    file.write(0, [data])
    file.sync()
    if file.punch(8192, 16384):
        assert file.read(0, 65536) == data[:8192] + bytes(16384) + data[24576:]
        holes = file.holes()
        assert holes in ([], [(8192, 24576)])
    assert file.size() == 65536
    assert disk.free_bytes() > 0
    file.close()


def check_atomic_replacement(disk: Disk) -> None:
    """A replaced file is the new one, and an old temporary file is in nobody's way."""
    disk.make_dir("atomic")
    disk.open("atomic/file.tmp", create=True).write(0, [b"left over from a cut"])
    for content in (b"first", b"second"):
        write_atomic(disk, "atomic/file", [content[:2], content[2:]])
        assert disk.open("atomic/file").read(0, 99) == content
    assert disk.list_dir("atomic") == ["file"]


def check_reading_beside_removal(disk: Disk) -> None:
    """An open file can be read after its name is gone."""
    file = disk.open("going", create=True)
    file.write(0, [b"still here"])
    disk.unlink("going")
    assert file.read(0, 99) == b"still here"
    file.close()


def check_disk_bytes(disk: Disk) -> None:
    """What files take on the disk is told, holes left out, also of a whole directory."""
    assert disk.disk_bytes("taking/nothing") == 0
    disk.make_dir("taking")
    for number in range(2):
        file = disk.open(f"taking/{number}", create=True)
        file.write(0, [b"x" * 65_536])
        file.sync()
        assert disk.disk_bytes(f"taking/{number}") == 65_536
        if file.punch(0, 32_768):
            file.write(0, [b"x" * 32_768])
            file.punch(32_768, 32_768)
            file.sync()
            assert disk.disk_bytes(f"taking/{number}") == 32_768
        file.close()
    assert disk.disk_bytes("taking") == disk.disk_bytes("taking/0") + disk.disk_bytes("taking/1")
