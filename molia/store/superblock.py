"""STORE: the file that says what a store is and who may read it.

One line of JSON, one line with its CRC32C; always replaced as a whole.
Source: docs/reference/store-format.md, "STORE".
"""

import json
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from molia.base.entropy import Entropy
from molia.base.errors import NotInitialised, StoreInvalid, StoreVersion
from molia.base.limits import KIB, SHARDS_MAX
from molia.base.now import Now
from molia.store import migrate
from molia.store.disk import Disk, write_atomic
from molia.store.frame import crc

STORE_NAME: Final = "STORE"
LOG_FORMAT: Final = 1
INDEX_FORMAT: Final = 1
READER: Final = 1
"""This code reads stores whose `min_reader` is at most this."""
WRITER: Final = 1
UNFINISHED: Final = {
    "RESHARD": "a change of the number of shards",
    "snapshot/UNDO": "taking a migration back",
    "snapshot/STORE": "a migration",
}
"""Files that are there only while something is under way that must be finished first."""
_SIZE_MAX: Final = 64 * KIB
UUID_SIZE: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """What a store is."""

    uuid: bytes
    """16 random bytes; they seed the CRCs of the log."""
    shard_count: int
    log_format: int = LOG_FORMAT
    index_format: int = INDEX_FORMAT
    min_reader: int = READER
    min_writer: int = WRITER
    created_unix_s: int
    migration: int
    """Number of the last migration applied."""

    def encode(self) -> bytes:
        """Return the bytes of STORE."""
        fields = asdict(self) | {"uuid": self.uuid.hex()}
        line = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
        return line + b"\n" + f"crc32c {crc(line):08x}\n".encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the superblock in the bytes of STORE.

        Raises StoreInvalid, and StoreVersion when the bytes are sound but of another version.
        """
        line, _, rest = data.partition(b"\n")
        if rest != f"crc32c {crc(line):08x}\n".encode():
            raise StoreInvalid("STORE does not match its checksum")
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            raise StoreInvalid("STORE is not JSON") from None
        if not isinstance(fields, dict):
            raise StoreInvalid("STORE is not a JSON object")
        _check_version(fields)
        return cls(
            uuid=_uuid(fields),
            shard_count=_number(fields, "shard_count", 1, SHARDS_MAX),
            log_format=_number(fields, "log_format", 1, LOG_FORMAT),
            index_format=_number(fields, "index_format", 1, INDEX_FORMAT),
            min_reader=_number(fields, "min_reader", 1, READER),
            min_writer=_number(fields, "min_writer", 1, WRITER),
            created_unix_s=_number(fields, "created_unix_s", 0, 2**63),
            migration=_number(fields, "migration", 1, 9999),
        )


def create_store(disk: Disk, shard_count: int, entropy: Entropy, now: Now) -> Superblock:
    """Make an empty store and return its superblock. Raises StoreInvalid if there is one.

    STORE is written last: a store that was cut off while being made is made again.
    """
    assert 1 <= shard_count <= SHARDS_MAX, "the number of shards is within its bound"
    if disk.exists(STORE_NAME):
        raise StoreInvalid("there is a store here already")
    disk.make_dir("")
    superblock = Superblock(
        uuid=entropy.token(UUID_SIZE),
        shard_count=shard_count,
        created_unix_s=int(now.unix_s),
        migration=migrate.latest(),
    )
    migrate.apply_all(disk, shard_count)
    write_atomic(disk, STORE_NAME, [superblock.encode()])
    return superblock


def read_superblock(disk: Disk) -> Superblock:
    """Return what the store is.

    Raises NotInitialised (no store here), StoreInvalid (unreadable, or a shard's directory is
    gone), StoreVersion (made by another version, or a migration is due).
    """
    superblock = load_superblock(disk)
    for name, what in UNFINISHED.items():
        if disk.exists(name):
            raise StoreVersion(f"{what} was cut off", hint="stop the node and run molia migrate")
    migrate.check_version(superblock)
    for index in range(superblock.shard_count):
        if not disk.exists(shard_name(index)):
            raise StoreInvalid(f"the directory {shard_name(index)} is gone")
    return superblock


def load_superblock(disk: Disk, name: str = STORE_NAME) -> Superblock:
    """Return what the store is, whatever migrations it has had.

    Raises NotInitialised, StoreInvalid, and StoreVersion for formats newer than this version's.
    """
    if not disk.exists(name):
        raise NotInitialised("there is no store here", hint="molia init makes one")
    file = disk.open(name, writable=False)
    try:
        encoded = file.read(0, _SIZE_MAX)
    except OSError as error:
        raise StoreInvalid(f"STORE cannot be read: {error.strerror or error}") from None
    finally:
        file.close()
    return Superblock.decode(encoded)


def shard_name(index: int) -> str:
    """Return the name of a shard's directory."""
    return migrate.shard_name(index)


def _check_version(fields: dict[str, Any]) -> None:
    bounds = {
        "log_format": LOG_FORMAT, "index_format": INDEX_FORMAT,
        "min_reader": READER, "min_writer": WRITER,
    }  # fmt: skip
    for name, known in bounds.items():
        value = fields.get(name)
        if type(value) is int and value > known:
            raise StoreVersion(
                f"the store's {name} is {value}; this version knows {known}",
                hint="use the newer version of molia that wrote it",
            )


def _number(fields: dict[str, Any], name: str, low: int, high: int) -> int:
    value = fields.get(name)
    if type(value) is not int or not low <= value <= high:
        raise StoreInvalid(f"STORE: {name} is missing or wrong")
    return value


def _uuid(fields: dict[str, Any]) -> bytes:
    value = fields.get("uuid")
    try:
        uuid = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        uuid = b""
    if len(uuid) != UUID_SIZE:
        raise StoreInvalid("STORE: uuid is missing or wrong")
    return uuid
