"""What cannot be had again from the network: who a node is, its settings, its records, its pins.

A backup is one text file, readable by its owner alone: a line of JSON for each thing, and a last
line with the BLAKE3 of all lines before it. It holds no blocks: the shares that a node keeps for
others, and the blobs that it pins, are on other nodes as well and come back from there.
Source: docs/reference/store-format.md, "Backups".
"""

import base64
import binascii
import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from molia.base import limits
from molia.base.cid import Cid, Codec
from molia.base.config import Config
from molia.base.errors import (
    BadInput,
    Damaged,
    FileUnusable,
    NotInitialised,
    WouldOverwrite,
)
from molia.base.hashing import blake3_digest
from molia.base.now import Now
from molia.node.app import shard_options
from molia.node.home import (
    CONFIG_NAME,
    RESTORING_NAME,
    STORE_FILE_NAME,
    check_private,
    check_restored,
    home_lock,
    init_home,
    quota_of,
    store_path,
)
from molia.node.identity import (
    IDENTITY_NAME,
    NETWORK_KEY_NAME,
    TOKEN_NAME,
    read_identity,
    sync_directory,
    write_private,
)
from molia.node.shards import keys_of
from molia.node.system import SystemClock
from molia.store import keys
from molia.store.keys import Kind, Space
from molia.store.os_disk import OsDisk
from molia.store.rows import OwnRecordRow, PinRow
from molia.store.shard import Put, Shard, Transaction
from molia.store.superblock import read_superblock

VERSION: Final = 1
SAVED_FILES: Final = (IDENTITY_NAME, NETWORK_KEY_NAME, TOKEN_NAME, CONFIG_NAME, STORE_FILE_NAME)
_BATCH: Final = 256
Line = dict[str, object]


@dataclass(slots=True)
class BackupResult:
    """What was saved, or brought back."""

    peer: str = ""
    files: int = 0
    records: int = 0
    pins: int = 0
    unreadable: int = 0
    """Rows that are damaged and so are not in the backup."""


# ---------------------------------------------------------------------------- saving


def save(home: Path, config: Config, target: Path) -> BackupResult:
    """Write a backup of a home to a new file, 0600.

    Raises NotInitialised, HomeLocked while a node runs, HomeUnsafe, WouldOverwrite, StoreVersion.
    """
    check_private(home)
    data = store_path(home, config)
    if not (home / IDENTITY_NAME).exists() or not data.is_dir():
        raise NotInitialised(f"there is no node in {home}", hint="run molia init")
    check_restored(home)
    if target.exists():
        raise WouldOverwrite(f"{target} is there already", hint="name another file")
    with home_lock(home):
        result = BackupResult(peer=str(read_identity(home).peer_key))
        lines = [_head(result, config)]
        lines += _file_lines(home, result)
        for line in _store_lines(home, config, result):
            lines.append(line)
            if len(lines) > limits.BACKUP_LINES_MAX:
                raise BadInput(f"there are more than {limits.BACKUP_LINES_MAX} records and pins")
        _write(target, lines)
    return result


def _head(result: BackupResult, config: Config) -> Line:
    made = int(SystemClock().now().unix_s)
    return {
        "type": "molia-backup", "v": VERSION, "peer": result.peer, "network": config.network,
        "made_unix_s": made,
    }  # fmt: skip


def _file_lines(home: Path, result: BackupResult) -> Iterator[Line]:
    for name in SAVED_FILES:
        with contextlib.suppress(FileNotFoundError):
            text = (home / name).read_text("utf-8")
            result.files += 1
            yield {"type": "file", "name": name, "text": text}


def _store_lines(home: Path, config: Config, result: BackupResult) -> Iterator[Line]:
    for shard, now in _shards(home, config):
        for key, value in _rows(shard, bytes((Space.PIN,)), now, result):
            with contextlib.suppress(ValueError, Damaged):
                cid, since = Cid(Codec(key[1]), key[2:]), PinRow.decode(value).since_unix_s
                result.pins += 1
                yield {"type": "pin", "cid": str(cid), "since_unix_s": since}
        for key, value in _rows(shard, bytes((Space.OWN_RECORD,)), now, result):
            result.records += 1
            yield {"type": "record", "key": key[1:].hex(), "row": base64.b64encode(value).decode()}


def _rows(
    shard: Shard, prefix: bytes, now: Now, result: BackupResult
) -> Iterator[tuple[bytes, bytes]]:
    for key in keys_of(shard, Kind.META, prefix, now):
        try:
            value = shard.get(Kind.META, key, now=now)
        except Damaged:
            result.unreadable += 1
            continue
        if value is not None:
            yield key, value


def _shards(home: Path, config: Config) -> Iterator[tuple[Shard, Now]]:
    """Open one shard after another; the home must be held."""
    disk, clock = OsDisk(str(store_path(home, config))), SystemClock()
    superblock = read_superblock(disk)
    options = shard_options(config, superblock.shard_count, quota_of(home, config))
    for index in range(superblock.shard_count):
        now = clock.now()
        shard, _ = Shard.open(disk, index, store_uuid=superblock.uuid, options=options, now=now)
        try:
            yield shard, now
        finally:
            shard.close(clock.now())


def _write(target: Path, lines: list[Line]) -> None:
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    end = {"type": "end", "lines": len(lines), "blake3": blake3_digest(text.encode()).hex()}
    temporary = target.with_name(target.name + ".tmp")
    temporary.unlink(missing_ok=True)
    try:
        write_private(temporary, text + json.dumps(end, separators=(",", ":")) + "\n")
        temporary.rename(target)
    except BaseException:
        temporary.unlink(missing_ok=True)  # the identity is in it
        raise
    sync_directory(target.parent)


# ---------------------------------------------------------------------------- bringing back


def restore(
    home: Path, source: Path, load_config: Callable[[Path], Config], *, toml_text: str
) -> BackupResult:
    """Make a home from a backup: keys and settings, an empty store, the records and the pins.

    load_config: reads the settings of the home, once they are there; where they name a store that
    is there already, its newer records stay. Raises FileUnusable, BadInput
    for a file that is no sound backup, WouldOverwrite when the home has an identity already.
    """
    lines = read_backup(source)
    unfinished = home / RESTORING_NAME
    if (home / IDENTITY_NAME).exists() and not unfinished.exists():
        raise WouldOverwrite(f"{home} is a node already", hint="name another --home")
    result = BackupResult(peer=str(lines[0].get("peer")))
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_private(home)
    files = {str(line["name"]): str(line["text"]) for line in lines if line["type"] == "file"}
    if set(files) - set(SAVED_FILES) or IDENTITY_NAME not in files:
        raise BadInput(f"{source} names files that no backup holds, or no {IDENTITY_NAME}")
    # while this is there, the same command may be run again
    _put_file(unfinished, "a restore is under way\n")
    sync_directory(home)
    for name in files:
        _put_file(home / name, files[name])
    result.files = len(files)
    config = load_config(home)
    init_home(home, config, toml_text)
    with home_lock(home):
        _put_rows(home, config, lines, result)
    unfinished.unlink()
    sync_directory(home)
    return result


def _put_file(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    write_private(temporary, text)
    temporary.rename(path)


def _put_rows(home: Path, config: Config, lines: list[Line], result: BackupResult) -> None:
    disk = OsDisk(str(store_path(home, config)))
    count = read_superblock(disk).shard_count
    puts: dict[int, list[Put]] = {}
    for line in lines:
        match line["type"]:
            case "pin":
                cid = Cid.parse(str(line["cid"]))
                row = PinRow(_number(line, "since_unix_s"))
                put = Put(Kind.META, keys.pin_key(cid), row.encode())
                puts.setdefault(keys.home_shard(cid, count), []).append(put)
                result.pins += 1
            case "record":
                put = _record(line)
                puts.setdefault(keys.shard_of(put.kind, put.key, count), []).append(put)
                result.records += 1
    for shard, now in _shards(home, config):
        own = [put for put in puts.get(shard.index, []) if not _is_older(put, shard, now)]
        for first in range(0, len(own), _BATCH):
            shard.apply([Transaction((put,)) for put in own[first : first + _BATCH]], now)


def _is_older(put: Put, shard: Shard, now: Now) -> bool:
    """Tell whether the store has a newer row of a record: its numbers must not be used again."""
    if put.key[0] != Space.OWN_RECORD:
        return False
    with contextlib.suppress(Damaged):
        there = shard.get(put.kind, put.key, now=now)
        if there is not None:
            used = OwnRecordRow.decode(there).used_seq
            return used > OwnRecordRow.decode(bytes(put.value)).used_seq
    return False


def read_backup(source: Path) -> list[Line]:
    """Return the lines of a sound backup, its last one left out. Raises FileUnusable, BadInput."""
    try:
        status = os.stat(source)  # noqa: PTH116 - one call, and its error says what is wrong
        if not stat.S_ISREG(status.st_mode) or status.st_size > limits.BACKUP_SIZE_MAX:
            raise FileUnusable(f"{source} is no file of a backup's size")
        text = source.read_text("utf-8")
    except OSError as error:
        raise FileUnusable(f"{source}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{source} is no backup") from None
    body, _, last = text.removesuffix("\n").rpartition("\n")
    body += "\n"
    end = _parsed(last, source)
    if end.get("blake3") != blake3_digest(body.encode()).hex():
        raise BadInput(f"{source} is cut off or damaged", hint="use another copy of it")
    lines = [_parsed(line, source) for line in body.splitlines()]
    if lines[0].get("type") != "molia-backup":
        raise BadInput(f"{source} is no backup")
    if lines[0].get("v") != VERSION:
        raise BadInput(f"{source} was made by another version", hint="use a newer molia")
    for line in lines:
        _check(line, source)
    return lines


def _parsed(text: str, source: Path) -> Line:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        line = None
    if not isinstance(line, dict):
        raise BadInput(f"{source} is no backup")
    return line


def _check(line: Line, source: Path) -> None:
    """Raise BadInput unless a line holds what its type needs."""
    match line.get("type"):
        case "molia-backup":
            sound = isinstance(line.get("peer"), str)
        case "file":
            sound = isinstance(line.get("name"), str) and isinstance(line.get("text"), str)
        case "pin":
            sound = isinstance(line.get("cid"), str) and _number(line, "since_unix_s") >= 0
            Cid.parse(str(line.get("cid")))
        case "record":
            sound = len(_record(line).key) > keys.NETWORK_LABEL_SIZE
        case _:
            sound = False
    if not sound:
        raise BadInput(f"{source} holds a line that no backup has")


def _record(line: Line) -> Put:
    try:
        key = bytes((Space.OWN_RECORD,)) + bytes.fromhex(str(line.get("key")))
        row = base64.b64decode(str(line.get("row")), validate=True)
        OwnRecordRow.decode(row)
    except (ValueError, binascii.Error, Damaged):
        raise BadInput("a record of the backup is damaged") from None
    if len(key) > limits.KEY_SIZE_MAX:
        raise BadInput("a record of the backup has too long a name")
    return Put(Kind.META, key, row)


def _number(line: Line, name: str) -> int:
    value = line.get(name)
    if type(value) is not int or not 0 <= value < 2**32:
        raise BadInput(f"a line of the backup: {name} is missing or wrong")
    return value
