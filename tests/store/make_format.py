"""Makes `tests/formats/NNNN`: a tiny store as this version makes it, and what it holds.

`python -m tests.store.make_format`, once for each migration that is added, before its release.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from molia.base.hashing import blake3_digest
from molia.sim.entropy import SeededEntropy
from molia.store.keys import Kind
from molia.store.migrate import latest
from molia.store.shard import Delete, Put, Shard, Transaction
from molia.store.superblock import create_store
from tests.store.shards import NOW, TINY, contents, disk_at

ROOT = Path(__file__).parents[2]
OPTIONS = replace(TINY, segment_bytes=8 * 1024, map_bytes=1 << 20)


def main() -> None:
    """Make the store of the newest format; there must be none yet."""
    target = ROOT / "tests" / "formats" / f"{latest():04d}"
    disk = disk_at(target)
    superblock = create_store(disk, 2, SeededEntropy(latest()), NOW)
    expected: dict[str, str] = {}
    for index in range(2):
        shard, _ = Shard.open(disk, index, store_uuid=superblock.uuid, options=OPTIONS, now=NOW)
        fill(shard)
        for (kind, key), value in contents(shard).items():
            expected[f"{index} {kind.name} {key.hex()}"] = blake3_digest(value).hex()
        shard.close(NOW)
    (target / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")
    for junk in target.glob("shard-*/*/lock.mdb"):
        junk.unlink()
    for junk in target.glob("shard-*/delta-*"):
        shutil.rmtree(junk)


def fill(shard: Shard) -> None:
    """Store every kind, overwrite, delete, leave an expiry, over a few segments."""
    for number in range(24):
        kind = (Kind.BLOCK, Kind.RECORD, Kind.PROVIDER, Kind.META)[number % 4]
        key = bytes([number]) * (22 + number)
        value = bytes([number, 255 - number]) * (number * 40)
        expiry = int(NOW.unix_s) + 86_400 if number % 6 == 5 else 0
        shard.apply([Transaction((Put(kind, key, value, expiry),))], NOW)
        if number % 7 == 6:
            shard.apply([Transaction((Delete(kind, key),))], NOW)
        if number % 5 == 4:
            shard.apply([Transaction((Put(kind, key, b"newer", 0, overwrite=True),))], NOW)
    large = bytes(range(256)) * 300
    shard.apply([Transaction((Put(Kind.BLOCK, b"large" * 4, large),))], NOW)


if __name__ == "__main__":
    main()
