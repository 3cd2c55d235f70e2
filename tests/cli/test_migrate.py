"""`molia migrate`, `backup` and `restore`, as a user types them."""

import json
from pathlib import Path

from molia.store.disk import write_atomic
from molia.store.frame import crc
from molia.store.os_disk import OsDisk
from molia.store.superblock import STORE_NAME, load_superblock
from tests.cli.conftest import Run


def test_a_store_that_is_up_to_date_says_so(molia: Run) -> None:
    assert molia("init").code == 0
    for words in ((), ("--dry-run",)):
        ran = molia("migrate", *words)
        assert (ran.code, ran.out) == (0, "the store is up to date\n")
    assert molia("migrate", "-q").out == ""
    summary = json.loads(molia("migrate", "--json").out)
    assert (summary["type"], summary["ok"], summary["migrations"]) == ("summary", True, [])


def test_another_number_of_shards_is_told_first_and_then_made(molia: Run, tmp_path: Path) -> None:
    molia("init")
    disk = OsDisk(str(tmp_path / "home" / "data"))
    before = load_superblock(disk).shard_count
    wanted = before + 3
    lines = molia("migrate", "--shards", str(wanted), "--dry-run").out.splitlines()
    assert lines[0] == f"shards  {before} -> {wanted}"
    assert "needed" in lines[1]
    assert lines[1].endswith("fits")
    assert load_superblock(disk).shard_count == before
    ran = molia("migrate", "--shards", str(wanted))
    assert (ran.code, ran.out) == (0, f"shards  {before} -> {wanted}\n")
    assert load_superblock(disk).shard_count == wanted
    assert molia("migrate", "--shards", "65").code == 2
    assert molia("migrate", "--undo", "--dry-run").code == 2


def test_a_newer_store_is_exit_14_and_a_missing_one_10(molia: Run, tmp_path: Path) -> None:
    assert molia("migrate").code == 10
    molia("init")
    disk = OsDisk(str(tmp_path / "home" / "data"))
    line = json.dumps({"log_format": 2}).encode()
    write_atomic(disk, STORE_NAME, [line + b"\n" + f"crc32c {crc(line):08x}\n".encode()])
    ran = molia("migrate")
    assert ran.code == 14
    assert "newer version" in ran.stderr
    assert json.loads(molia("migrate", "--json").out.splitlines()[0])["exit_code"] == 14


def test_a_migration_that_nobody_began_cannot_be_taken_back(molia: Run) -> None:
    molia("init")
    ran = molia("migrate", "--undo")
    assert ran.code == 6
    assert "no migration to take back" in ran.stderr


def test_a_backup_comes_back_elsewhere_and_says_that_shares_need_none(
    molia: Run, tmp_path: Path
) -> None:
    peer = molia("init").out.strip()
    ran = molia("backup", "saved")
    assert ran.code == 0
    assert ran.out == f"saved: 4 files, 0 records, 0 pins of peer {peer}\n"
    assert "shares are not part of a backup" in ran.stderr
    assert molia("backup", "saved").code == 1
    ran = molia("restore", "saved", "--home", str(tmp_path / "other"))
    assert ran.code == 0
    assert f"peer {peer}" in ran.out
    assert "shares are not part of a backup" in ran.stderr
    assert molia("init", "--home", str(tmp_path / "other")).out.strip() == peer
    assert molia("restore", "saved", "--home", str(tmp_path / "other")).code == 1
    assert json.loads(molia("backup", "another", "--json").out)["shares"] == 0
    Path("saved").write_text("not a backup\n")
    assert molia("restore", "saved", "--home", str(tmp_path / "third")).code == 2
    assert molia("restore", "missing", "--home", str(tmp_path / "third")).code == 2
