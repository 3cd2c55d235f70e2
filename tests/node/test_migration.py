"""A home whose store gets another number of shards, and a home that comes back from a backup."""

import base64
import errno
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from molia.base.cid import Cid, Codec
from molia.base.config import Config, StoreConfig
from molia.base.errors import (
    BadInput,
    FileUnusable,
    HomeLocked,
    NotInitialised,
    StoreInvalid,
    StoreVersion,
    WouldOverwrite,
)
from molia.base.hashing import blake3_digest
from molia.base.views import JobState, PutOptions
from molia.node import backup
from molia.node.app import open_node
from molia.node.home import home_lock, init_home, store_path
from molia.node.migration import migrate_home
from molia.node.offline import verify_home
from molia.store import keys
from molia.store.disk import write_atomic
from molia.store.keys import Kind
from molia.store.os_disk import OsDisk
from molia.store.rows import OwnRecordRow
from molia.store.shard import Put, Shard, ShardOptions, Transaction
from molia.store.superblock import STORE_NAME, load_superblock
from tests.store.shards import NOW

CONFIG = Config(store=StoreConfig(shards=2, reserve_bytes=0, quota_bytes=1 << 30))
SIZES = (0, 1, 500, 70_000, 999_999, 1_000_000, 3_000_000)


def quiet(what: str, done: int, total: int) -> None:
    """Take progress and say nothing."""
    assert 0 <= done <= total, what


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with an empty store of two shards."""
    init_home(tmp_path / "home", CONFIG, "")
    return tmp_path / "home"


def put_all(home: Path) -> dict[Cid, bytes]:
    """Store blobs of all sizes and return them."""

    async def put() -> dict[Cid, bytes]:
        kept = {}
        async with open_node(home, CONFIG) as node:
            for size in SIZES:
                data = os.urandom(size)
                kept[(await node.put_blob(one(data), PutOptions())).cid] = data
        return kept

    async def one(data: bytes) -> AsyncIterator[bytes]:
        yield data

    return anyio.run(put)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_all_blobs_are_sound_with_another_number_of_shards(home: Path, count: int) -> None:
    put_all(home)
    look = migrate_home(home, CONFIG, shards=count, dry_run=True, on_progress=quiet)
    assert (look.old_shard_count, look.shard_count, look.changes) == (2, count, True)
    assert 0 < look.needed_bytes < look.free_bytes
    assert load_superblock(OsDisk(str(home / "data"))).shard_count == 2
    result = migrate_home(home, CONFIG, shards=count, on_progress=quiet)
    assert (result.shard_count, result.damaged, result.changes) == (count, 0, True)
    view = verify_home(home, CONFIG, (), on_event=lambda _: None)
    assert view.state is JobState.DONE
    assert (view.progress["blobs"], view.progress["damaged"]) == (len(SIZES), 0)
    again = migrate_home(home, CONFIG, shards=count, on_progress=quiet)
    assert not again.changes


def test_small_blobs_can_still_be_removed_with_their_bytes(home: Path) -> None:
    kept = put_all(home)
    migrate_home(home, CONFIG, shards=5, on_progress=quiet)

    async def remove() -> None:
        async with open_node(home, CONFIG) as node:
            for cid in kept:
                await node.delete_blob(cid)

    anyio.run(remove)
    disk = OsDisk(str(home / "data"))
    superblock = load_superblock(disk)
    for index in range(5):
        shard, _ = Shard.open(
            disk, index, store_uuid=superblock.uuid, options=ShardOptions(ballast_bytes=0), now=NOW
        )
        assert shard.scan(Kind.BLOCK, b"", now=NOW, limit=10) == []
        shard.close(NOW)


def test_the_start_of_a_node_gives_back_what_a_cut_migration_left(home: Path) -> None:
    """Names of old segments would keep their bytes on the disk for ever."""
    kept = put_all(home)
    disk = OsDisk(str(store_path(home, CONFIG)))
    (segment,) = disk.list_dir("shard-00/seg")[:1]
    disk.make_dir("snapshot/shard-00/seg")
    assert disk.link(f"shard-00/seg/{segment}", f"snapshot/shard-00/seg/{segment}")
    disk.open("shard-01/seg/00000000000000ff.new", create=True).close()

    async def run() -> None:
        async with open_node(home, CONFIG) as node:
            page = await node.list_blobs(cursor=None, limit=100, state=None, pinned=None)
            assert {blob.cid for blob in page.blobs} == set(kept)

    anyio.run(run)
    assert not disk.exists("snapshot")
    assert not [name for name in disk.list_dir("shard-01/seg") if name.endswith(".new")]


def test_a_home_that_is_held_or_not_there_is_left_alone(home: Path, tmp_path: Path) -> None:
    with home_lock(home), pytest.raises(HomeLocked):
        migrate_home(home, CONFIG, on_progress=quiet)
    with pytest.raises(NotInitialised):
        migrate_home(tmp_path / "nowhere", CONFIG, on_progress=quiet)


def test_a_store_of_a_newer_version_is_refused_with_14(home: Path) -> None:
    disk = OsDisk(str(home / "data"))
    text = disk.open(STORE_NAME, writable=False).read(0, 9_999)
    line = text.splitlines()[0].replace(b'"migration":1', b'"migration":999')
    from molia.store.frame import crc

    write_atomic(disk, STORE_NAME, [line + b"\n" + f"crc32c {crc(line):08x}\n".encode()])
    for dry_run in (True, False):
        with pytest.raises(StoreVersion):
            migrate_home(home, CONFIG, dry_run=dry_run, on_progress=quiet)


def test_there_is_nothing_to_take_back_in_a_store_that_is_well(home: Path) -> None:
    with pytest.raises(StoreInvalid):
        migrate_home(home, CONFIG, take_back=True, on_progress=quiet)


# ---------------------------------------------------------------------------- backups


def put_records(home: Path, count: int) -> None:
    """Store records as a node of a network would."""
    for number in range(count):
        key = keys.own_record_key(bytes(8), b"name %d" % number)
        put_row(home, key, OwnRecordRow(number + 1, number, b"value", 9).encode())


def put_row(home: Path, key: bytes, value: bytes) -> None:
    """Store a row that belongs to no blob."""
    disk = OsDisk(str(home / "data"))
    superblock = load_superblock(disk)
    index = keys.shard_of(Kind.META, key, superblock.shard_count)
    shard, _ = Shard.open(
        disk, index, store_uuid=superblock.uuid, options=ShardOptions(ballast_bytes=0), now=NOW
    )
    shard.apply([Transaction((Put(Kind.META, key, value),))], NOW)
    shard.close(NOW)


def saved_lines(home: Path, target: Path) -> list[backup.Line]:
    """Save a home and return the lines."""
    backup.save(home, CONFIG, target)
    return backup.read_backup(target)


def bring_back(home: Path, source: Path) -> backup.BackupResult:
    """Restore with fixed settings."""
    return backup.restore(home, source, lambda _: CONFIG, toml_text="")


def test_a_home_comes_back_with_its_identity_settings_records_and_pins(
    home: Path, tmp_path: Path
) -> None:
    kept = put_all(home)
    put_records(home, 5)
    (home / "molia.toml").write_text("[log]\nlevel = 'debug'\n")
    saved = backup.save(home, CONFIG, tmp_path / "saved")
    assert (saved.records, saved.pins, saved.unreadable) == (5, len(kept), 0)
    assert (tmp_path / "saved").stat().st_mode & 0o777 == 0o600
    result = bring_back(tmp_path / "other", tmp_path / "saved")
    assert (result.peer, result.records, result.pins) == (saved.peer, 5, len(kept))
    for name in ("identity.key", "api.token", "molia.toml", "store.json"):
        assert (tmp_path / "other" / name).read_bytes() == (home / name).read_bytes()
        assert (tmp_path / "other" / name).stat().st_mode & 0o777 == 0o600
    again = backup.save(tmp_path / "other", CONFIG, tmp_path / "saved-again")
    assert again == saved
    first, second = (backup.read_backup(tmp_path / name) for name in ("saved", "saved-again"))
    assert sorted(map(json.dumps, first[1:])) == sorted(map(json.dumps, second[1:]))

    async def runs() -> None:
        async with open_node(tmp_path / "other", CONFIG):
            return

    anyio.run(runs)


def test_a_restore_that_was_cut_off_may_be_run_again(home: Path, tmp_path: Path) -> None:
    put_records(home, 3)
    backup.save(home, CONFIG, tmp_path / "saved")

    def cut(_: Path) -> Config:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        backup.restore(tmp_path / "other", tmp_path / "saved", cut, toml_text="")
    assert bring_back(tmp_path / "other", tmp_path / "saved").records == 3
    with pytest.raises(WouldOverwrite):
        bring_back(tmp_path / "other", tmp_path / "saved")


def test_a_home_whose_restore_was_cut_off_is_neither_run_nor_saved(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its records are not there yet: a node would sign with numbers that were used before."""
    put_records(home, 3)
    backup.save(home, CONFIG, tmp_path / "saved")

    def cut(*_: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(backup, "_put_rows", cut)
        with pytest.raises(InterruptedError):
            bring_back(tmp_path / "other", tmp_path / "saved")

    async def runs() -> None:
        async with open_node(tmp_path / "other", CONFIG):
            return

    with pytest.raises(NotInitialised):
        anyio.run(runs)
    with pytest.raises(NotInitialised):
        backup.save(tmp_path / "other", CONFIG, tmp_path / "half")
    assert bring_back(tmp_path / "other", tmp_path / "saved").records == 3
    anyio.run(runs)


def test_a_record_that_is_newer_than_the_backup_stays(home: Path, tmp_path: Path) -> None:
    """The store may lie elsewhere, on a disk that is well."""
    put_records(home, 3)
    backup.save(home, CONFIG, tmp_path / "saved")
    newer = OwnRecordRow(99, 99, b"newer", 9)
    key = keys.own_record_key(bytes(8), b"name 1")
    put_row(home, key, newer.encode())
    (home / "identity.key").unlink()
    assert bring_back(home, tmp_path / "saved").records == 3
    rows = {
        line["key"]: base64.b64decode(str(line["row"]))
        for line in saved_lines(home, tmp_path / "again")
        if line["type"] == "record"
    }
    assert len(rows) == 3
    assert OwnRecordRow.decode(rows[key[1:].hex()]) == newer


def test_a_backup_that_does_not_fit_leaves_no_key_behind(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        path.write_text(text[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(backup, "write_private", full)
    with pytest.raises(OSError, match="No space"):
        backup.save(home, CONFIG, tmp_path / "saved")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_nothing_is_overwritten_and_a_running_node_is_left_alone(
    home: Path, tmp_path: Path
) -> None:
    backup.save(home, CONFIG, tmp_path / "saved")
    with pytest.raises(WouldOverwrite):
        backup.save(home, CONFIG, tmp_path / "saved")
    with pytest.raises(WouldOverwrite):
        bring_back(home, tmp_path / "saved")
    with home_lock(home), pytest.raises(HomeLocked):
        backup.save(home, CONFIG, tmp_path / "another")
    (tmp_path / "empty").mkdir(mode=0o700)
    with pytest.raises(NotInitialised):
        backup.save(tmp_path / "empty", CONFIG, tmp_path / "another")


def sealed(lines: list[object]) -> str:
    """Return the text of a backup of these lines, with a sound end."""
    text = "".join(json.dumps(line) + "\n" for line in lines)
    end = {"type": "end", "blake3": blake3_digest(text.encode()).hex()}
    return text + json.dumps(end) + "\n"


CID = Cid(Codec.RAW, bytes(32))
HEAD = {"type": "molia-backup", "v": 1, "peer": "p"}
KEY = {"type": "file", "name": "identity.key", "text": "x"}
ROW = base64.b64encode(OwnRecordRow(1, 1, b"value", 9).encode()).decode()
RECORD = {"type": "record", "key": "00" * 9, "row": ROW}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "no json\n",
        "[" * 100_000,
        sealed([]),
        sealed([[]]),
        sealed([KEY]),
        sealed([{**HEAD, "v": 2}, KEY]),
        sealed([{**HEAD, "peer": 5}, KEY]),
        sealed([HEAD]),
        sealed([HEAD, KEY]).replace("identity", "identitx"),
        sealed([HEAD, KEY])[:-30],
        sealed([HEAD, {**KEY, "name": "../../etc/passwd"}, KEY]),
        sealed([HEAD, KEY, {"type": "pin", "cid": "nonsense", "since_unix_s": 1}]),
        sealed([HEAD, KEY, {"type": "pin", "cid": 5, "since_unix_s": 1}]),
        sealed([HEAD, KEY, {**RECORD, "key": "00" * 7}]),
        sealed([HEAD, KEY, {**RECORD, "key": "00" * 80}]),
        sealed([HEAD, KEY, {**RECORD, "key": "zz" * 9}]),
        sealed([HEAD, KEY, {**RECORD, "row": "===="}]),
        sealed([HEAD, KEY, {**RECORD, "row": "AAAA"}]),
        sealed([HEAD, KEY, {"type": "pin", "cid": str(CID), "since_unix_s": -1}]),
        sealed([HEAD, KEY, {"type": "pin", "cid": str(CID), "since_unix_s": True}]),
        sealed([HEAD, KEY, {"type": "else"}]),
    ],
)
def test_a_file_that_is_no_sound_backup_makes_no_home(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad").write_text(text)
    with pytest.raises(BadInput):
        bring_back(tmp_path / "home", tmp_path / "bad")
    assert not (tmp_path / "home" / "identity.key").exists()


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    for name in ("missing", "."):
        with pytest.raises(FileUnusable):
            bring_back(tmp_path / "home", tmp_path / name)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput):
        bring_back(tmp_path / "home", tmp_path / "binary")
