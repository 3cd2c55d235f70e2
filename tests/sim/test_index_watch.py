"""Every commit of an LMDB environment on a simulated disk is a state that a cut may leave."""

from pathlib import Path

import lmdb

from molia.sim.disk import SimDisk
from molia.sim.entropy import SeededEntropy
from molia.sim.index_watch import IndexWatch
from molia.sim.journal import Event, IndexCommit
from molia.sim.platter import IndexFate, Plan, Platter


def commits(root: Path, count: int) -> list[Event]:
    journal: list[Event] = []
    disk = SimDisk(root, SeededEntropy(1), journal=journal)
    watch = IndexWatch(disk)
    disk.make_dir("index")
    disk.sync_dir("")
    with lmdb.open(disk.path_of("index"), map_size=1 << 30, lib_version=0) as env:
        for number in range(count):
            with env.begin(write=True) as transaction:
                transaction.put(b"number", str(number).encode())
                watch.look()
            watch.look()
    return journal


def number_in(directory: str) -> bytes | None:
    with (
        lmdb.open(directory, map_size=1 << 30, lib_version=0) as env,
        env.begin() as transaction,
    ):
        found: bytes | None = transaction.get(b"number")
        return found


def test_each_commit_is_seen_once_and_opens_as_it_was(tmp_path: Path) -> None:
    platter, found = Platter(), []
    for event in commits(tmp_path / "live", 5):
        platter.feed(event)
        if isinstance(event, IndexCommit):
            disk = platter.image(Plan(), tmp_path / "after")
            assert disk.list_dir("index") == ["data.mdb"]
            found.append(number_in(disk.path_of("index")))
    assert found == [None, b"0", b"1", b"2", b"3", b"4"]


def test_a_lost_index_is_gone_empty_or_zeros(tmp_path: Path) -> None:
    platter = Platter()
    for event in commits(tmp_path / "live", 2):
        platter.feed(event)
    seen = {}
    for fate in IndexFate:
        disk = platter.image(Plan(index=fate), tmp_path / "after")
        data_file = tmp_path / "after" / "index" / "data.mdb"
        data = data_file.read_bytes() if disk.exists("index/data.mdb") else None
        seen[fate] = None if data is None else (len(data) > 0, any(data))
    assert seen == {
        IndexFate.INTACT: (True, True),
        IndexFate.FILE_GONE: None,
        IndexFate.EMPTY: (False, False),
        IndexFate.ZEROS: (True, False),
        IndexFate.DIRECTORY_GONE: None,
    }


def test_an_index_removed_with_its_directory_stays_removed(tmp_path: Path) -> None:
    journal: list[Event] = []
    disk = SimDisk(tmp_path / "live", SeededEntropy(1), journal=journal)
    disk.make_dir("index")
    lmdb.open(disk.path_of("index"), map_size=1 << 30, lib_version=0).close()
    IndexWatch(disk).look()
    disk.remove_tree("index")
    assert not (tmp_path / "live" / "index").exists()
    assert disk.list_dir("") == []
