"""Another number of shards: every row where it belongs, whatever moment the power goes."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from molia.base.cid import Cid, Codec
from molia.base.errors import NoSpace, StoreInvalid, StoreVersion
from molia.base.ids import ObjectId
from molia.sim.disk import SimDisk
from molia.sim.entropy import SeededEntropy
from molia.sim.journal import Event, Mark
from molia.sim.platter import IndexFate, Platter
from molia.sim.powercut import crash_states
from molia.store import keys
from molia.store.disk import Disk
from molia.store.index import ENTRY, TAGS, Slice
from molia.store.keys import WHOLE_SHARE, Kind, Space
from molia.store.os_disk import OsDisk
from molia.store.reshard import (
    ReshardReport,
    finish_reshard,
    forget_unfinished,
    is_resharding,
    plan_reshard,
    reshard,
)
from molia.store.rows import AliasRow, BindRow, HeldRow, LeaseRow, PinRow, ShareRow, UploadRow
from molia.store.shard import Put, Shard, Transaction
from molia.store.superblock import Superblock, create_store, load_superblock, read_superblock
from tests.store.shards import NOW, TINY, audit_all, contents, disk_at

ROOT = Path(__file__).parents[2]
OWNER = b"o" * 16
KEPT = (Space.HELD, Space.FETCHED)
OWNERS = (Space.BIND, Space.LISTING, *KEPT)
Rows = dict[tuple[Kind, bytes], bytes]


def quiet(what: str, done: int, total: int) -> None:
    """Take progress and say nothing."""
    assert 0 <= done <= total, what


def make_store(disk: Disk, count: int, *, blobs: int = 12, block_size: int = 300) -> Superblock:
    """Make a store with small and large blobs, records and unowned rows."""
    entropy = SeededEntropy(7)
    superblock = create_store(disk, count, entropy, NOW)
    rows: list[tuple[int, Put]] = []

    def add(kind: Kind, key: bytes, value: bytes, home: int | None = None, expiry: int = 0) -> None:
        shard = keys.shard_of(kind, key, count) if home is None else home
        rows.append((shard, Put(kind, key, value, expiry)))

    for number in range(blobs):
        codec = Codec.RAW if number % 2 else Codec.MANIFEST
        cid = Cid(codec, bytes([number]) * 32)
        home = keys.home_shard(cid, count)
        object_id = (
            keys.small_object_id(cid, count, entropy)
            if codec is Codec.RAW
            else ObjectId(bytes([99, number]) * 8)
        )
        row = BindRow(object_id, number, bytes([number]) * 32, b"", 1_000 + number, "name", None)
        add(Kind.META, keys.bind_key(cid), row.encode(), home)
        add(Kind.META, keys.listing_key(row.created_unix_ms, cid), row.encode(), home)
        add(Kind.META, keys.lease_key(object_id, WHOLE_SHARE, OWNER), LeaseRow(9).encode(), home)
        add(Kind.META, keys.pin_key(cid), PinRow(5).encode(), home)
        if codec is Codec.RAW:
            block = keys.block_key(object_id, WHOLE_SHARE, 0)
            add(Kind.BLOCK, block, bytes([number]) * block_size)
            add(Kind.META, keys.share_key(object_id, WHOLE_SHARE), ShareRow(1, 0).encode(), home)
        else:
            add(Kind.META, keys.alias_key(row.content), AliasRow(cid).encode(), home)
            for share in range(4):
                key = keys.block_key(object_id, share, 0)
                add(Kind.BLOCK, key, bytes([number, share]) * block_size)
        for space in KEPT if number < 4 else ():
            kept = (
                keys.small_object_id(cid, count, entropy)
                if codec is Codec.RAW
                else ObjectId(bytes([space, number]) * 8)
            )
            share = WHOLE_SHARE if codec is Codec.RAW else 3
            held = HeldRow(kept, number, b"", (share,), 7)
            add(Kind.META, bytes((space,)) + keys.bind_key(cid)[1:], held.encode(), home)
            add(Kind.META, keys.lease_key(kept, WHOLE_SHARE, OWNER), LeaseRow(9).encode(), home)
            add(Kind.BLOCK, keys.block_key(kept, share, 0), bytes([number, space]) * block_size)
    for number in range(6):
        add(Kind.RECORD, bytes([number]) * 64, b"record", expiry=int(NOW.unix_s) + number * 50)
        add(Kind.PROVIDER, bytes([number]) * 64, b"provider")
        add(Kind.META, keys.upload_key(ObjectId(bytes([number]) * 16)), UploadRow(3).encode())
    for index in range(count):
        shard = open_one(disk, superblock, index)
        for at, put in rows:
            if at == index:
                shard.apply([Transaction((put,))], NOW)
        shard.close(NOW)
    return superblock


def open_one(disk: Disk, superblock: Superblock, index: int) -> Shard:
    shard, report = Shard.open(disk, index, store_uuid=superblock.uuid, options=TINY, now=NOW)
    assert not report.damage_count, report
    return shard


def owner_of(kind: Kind, key: bytes, value: bytes) -> tuple[Cid, bytes] | None:
    """Return the blob and the object that a row joins."""
    if kind != Kind.META or key[0] not in OWNERS:
        return None
    is_listed = key[0] == Space.LISTING
    cid = keys.split_listing_key(key)[1] if is_listed else keys.split_blob_key(key)
    row = HeldRow.decode(value) if key[0] in KEPT else BindRow.decode(value)
    return cid, bytes(row.object_id)


def all_rows(disk: Disk, *, audit: bool = True) -> Rows:
    """Return all rows of a store, and check that each lies where it belongs."""
    superblock = read_superblock(disk)
    count = superblock.shard_count
    found: Rows = {}
    homes: dict[bytes, int] = {}
    whole: dict[bytes, Cid] = {}
    for index in range(count):
        shard = open_one(disk, superblock, index)
        own = contents(shard)
        if audit:
            assert audit_all(shard) == (0, set())
        shard._release()
        assert not set(own) & set(found)
        for (kind, key), value in own.items():
            owner = owner_of(kind, key, value)
            if owner is not None:
                cid, object_id = owner
                assert keys.home_shard(cid, count) == index
                homes[object_id] = index
                if cid.codec is Codec.RAW:
                    whole[object_id] = cid
        for (kind, key), value in own.items():
            found[kind, key] = value
            if kind == Kind.META and key[0] in (Space.LEASE, Space.SHARE):
                assert homes[key[1:17]] == index
            elif kind != Kind.META or key[0] not in (*OWNERS, Space.PIN, Space.ALIAS):
                assert keys.shard_of(kind, key, count) == index
    for object_id, cid in whole.items():
        block = keys.block_key(ObjectId(object_id), WHOLE_SHARE, 0)
        assert keys.shard_of(Kind.BLOCK, block, count) == keys.home_shard(cid, count)
        assert (Kind.BLOCK, block) in found
    return found


def plain(rows: Rows) -> dict[tuple[Kind, bytes], bytes]:
    """Return rows with the ids of small blobs' objects replaced by their CIDs'."""
    names = {}
    for (kind, key), value in rows.items():
        owner = owner_of(kind, key, value)
        if owner is not None and owner[0].codec is Codec.RAW and key[0] != Space.LISTING:
            names[owner[1]] = key[:1] + key[3:18]
    same: Rows = {}
    for (kind, key), value in rows.items():
        name, text = key, value
        for object_id, cid in names.items():
            name, text = name.replace(object_id, cid), text.replace(object_id, cid)
        same[kind, name] = text
    return same


def change(disk: Disk, count: int) -> ReshardReport:
    """Do what `molia migrate --shards` does."""
    return reshard(
        disk, plan_reshard(disk, count), options=TINY, entropy=SeededEntropy(90 + count), now=NOW,
        on_progress=quiet,
    )  # fmt: skip


@pytest.mark.parametrize(("old", "new"), [(1, 4), (4, 1), (2, 3), (8, 2), (3, 8)])
def test_every_row_is_there_and_where_it_belongs(tmp_path: Path, old: int, new: int) -> None:
    disk = disk_at(tmp_path)
    superblock = make_store(disk, old)
    before = all_rows(disk)
    plan = plan_reshard(disk, new)
    assert (plan.shard_count, plan.superblock.shard_count, plan.fits) == (new, old, True)
    report = change(disk, new)
    assert report.damaged == 0
    assert report.rows == len(before) + 1, "the expired record went along"
    assert read_superblock(disk) == replace(superblock, shard_count=new)
    assert plain(all_rows(disk)) == plain(before)
    dirs = [name for name in disk.list_dir("") if name.startswith("shard-")]
    assert dirs == [f"shard-{index:02d}" for index in range(new)]
    names = [name for index in range(new) for name in disk.list_dir(f"shard-{index:02d}/seg")]
    assert not [name for name in names if not name.endswith(".log")]


def test_there_and_back_again_keeps_everything(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    make_store(disk, 2)
    before = plain(all_rows(disk))
    for count in (5, 1, 2, 2):
        change(disk, count)
    assert plain(all_rows(disk)) == before


def test_a_plan_changes_nothing_and_a_full_disk_refuses(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    make_store(disk, 2)
    before = all_rows(disk)
    plan = plan_reshard(disk, 4)
    assert plan.needed_bytes > plan.log_bytes > 0
    full = replace(plan, free_bytes=plan.needed_bytes - 1)
    with pytest.raises(NoSpace, match="are needed"):
        reshard(disk, full, options=TINY, entropy=SeededEntropy(9), now=NOW, on_progress=quiet)
    for wrong in (0, 65):
        with pytest.raises(StoreInvalid, match="1 to 64"):
            plan_reshard(disk, wrong)
    assert all_rows(disk) == before


def test_a_damaged_block_is_left_out_and_told_and_rows_are_put_right(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    superblock = make_store(disk, 1)
    shard = open_one(disk, superblock, 0)
    cid = Cid(Codec.MANIFEST, bytes([2]) * 32)
    block = keys.block_key(ObjectId(bytes([99, 2]) * 8), 1, 0)
    bind, pin = keys.bind_key(cid), keys.pin_key(cid)
    shard.checkpoint(NOW)
    for kind, key in ((Kind.BLOCK, block), (Kind.META, bind), (Kind.META, pin)):
        packed = shard._index.get(TAGS[kind] + key)
        assert packed is not None
        segment, offset, vlen, expiry, flags = ENTRY.unpack(packed)
        wrong = (TAGS[kind] + key, ENTRY.pack(segment, offset + 1, vlen, expiry, flags))
        shard._index.write_slice(Slice([wrong], shard._rows, force=True))
    shard._release()
    report = change(disk, 2)
    assert report.damaged_keys == [(Kind.BLOCK, block), (Kind.META, bind)]
    rows = all_rows(disk)
    assert (Kind.BLOCK, block) not in rows
    assert PinRow.decode(rows[Kind.META, pin]).since_unix_s == int(NOW.unix_s)
    assert BindRow.decode(rows[Kind.META, bind]).size == 2, "the listing had it too"


def test_what_a_broken_try_left_is_in_nobodys_way(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    make_store(disk, 2)
    before = all_rows(disk)
    disk.open("shard-00/seg/00000000000000ff.new", create=True).close()
    assert all_rows(disk) == before
    change(disk, 3)
    assert plain(all_rows(disk)) == plain(before)
    disk.open("shard-00/seg/00000000000000ff.new", create=True).close()
    forget_unfinished(disk)
    assert not [name for name in disk.list_dir("shard-00/seg") if name.endswith(".new")]


# ---------------------------------------------------------------------------- cuts


@pytest.mark.parametrize(("old", "new"), [(1, 2), (2, 1)])
def test_a_cut_at_any_point_leaves_the_old_store_or_is_finished(
    tmp_path: Path, old: int, new: int
) -> None:
    disk = SimDisk(tmp_path / "sim", SeededEntropy(5))
    make_store(disk, old, blobs=3, block_size=2_000)
    before = plain(all_rows(disk, audit=False))
    disk.release_locks()
    start = Platter.of(disk)
    journal: list[Event] = [Mark("begun")]
    disk.journal = journal
    change(disk, new)
    journal.append(Mark("changed", cut=True))
    tried = {False: 0, True: 0}
    states = crash_states(journal, seed=f"{old}{new}", start=start, per_cut=16, lost_share=0.0)
    for state in states:
        assert state.plan.index is IndexFate.INTACT
        found = state.build(tmp_path / "state")
        unfinished = is_resharding(found)
        if unfinished:
            with pytest.raises(StoreVersion, match="cut off"):
                read_superblock(found)
            finish_reshard(found)
        else:
            forget_unfinished(found)
        count = read_superblock(found).shard_count
        assert count == new if unfinished or state.mark == "changed" else count in (old, new)
        tried[unfinished] += 1
        if state.number % 3 == 0:
            assert plain(all_rows(found, audit=False)) == before
    assert min(tried.values()) > 30


KILLED = """
import os, sys
from molia.sim.entropy import SeededEntropy
from molia.store.os_disk import OsDisk
from molia.store.reshard import *
from tests.store.test_reshard import change
disk, left = OsDisk(sys.argv[1]), [int(sys.argv[2])]

def counted(name):
    act = getattr(OsDisk, name)
    def do(*arguments, **options):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), 9)
        return act(*arguments, **options)
    setattr(OsDisk, name, do)

for name in ("open", "rename", "unlink", "sync_dir", "remove_tree"):
    counted(name)
if is_resharding(disk):
    finish_reshard(disk)
change(disk, 4)
"""


def test_a_run_that_is_killed_is_finished_by_the_next_one(tmp_path: Path) -> None:
    disk = OsDisk(str(tmp_path / "store"))
    make_store(disk, 2)
    before = plain(all_rows(disk))
    kills = 0
    for calls in (5, 60, 110, 135, 8, 4, 6, 1_000_000):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "store"), str(calls)]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ}, timeout=60)
        assert done.returncode in (0, -9)
        kills += done.returncode == -9
    assert kills >= 3
    assert load_superblock(disk).shard_count == 4
    assert plain(all_rows(disk)) == before
