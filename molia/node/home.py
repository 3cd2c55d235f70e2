"""The home of a node: who may enter it, what lies in it, and who holds it.

`molia.toml`, `identity.key`, `api.token`, `store.json` (what init decided), `LOCK`, `node.json`
(where the running node answers), `api.sock`, and the store in `data/`.
"""

import contextlib
import fcntl
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from molia.base import limits
from molia.base.config import Config
from molia.base.errors import HomeLocked, HomeUnsafe, NotInitialised
from molia.node.identity import (
    IDENTITY_NAME,
    TOKEN_NAME,
    make_identity,
    make_network_secret,
    make_token,
    read_identity,
    sync_directory,
    write_private,
)
from molia.node.system import SystemClock, SystemEntropy, physical_cores
from molia.store.disk import Disk, is_full
from molia.store.os_disk import OsDisk
from molia.store.superblock import STORE_NAME, create_store

CONFIG_NAME: Final = "molia.toml"
NODE_FILE_NAME: Final = "node.json"
SPARE_NAME: Final = "node.json.old"
"""Of an earlier run; what it takes on the disk serves a start when there is nothing else left."""
STORE_FILE_NAME: Final = "store.json"
RESTORING_NAME: Final = "restoring"
"""There while a restore is under way: what it brings back is not all there yet."""
LOCK_NAME: Final = "LOCK"
LOCK_TRIES: Final = 30
LOCK_PAUSE_S: Final = 0.02
LOCKS_NAME: Final = "objects.lock"
"""Which worker works on which object; nothing is written to it."""
_STORE_FILE_MAX: Final = 4096

OpenDisk = Callable[[str], Disk]


@dataclass(frozen=True, slots=True)
class InitResult:
    """What init found or made."""

    created: bool
    peer: str


def init_home(
    path: Path,
    config: Config,
    toml_text: str,
    *,
    private: bool = False,
    open_disk: OpenDisk = OsDisk,
) -> InitResult:
    """Make what is missing of the home: directory, settings file, key, token, store.

    toml_text: written as `molia.toml` unless there is one. private: make the secret of a private
    network too. Running it again changes nothing.
    Raises HomeUnsafe, HomeLocked, NoSpace.
    """
    clock, entropy = SystemClock(), SystemEntropy()
    _make_directory(path)
    check_private(path)
    created = not (path / IDENTITY_NAME).exists()
    if not (path / CONFIG_NAME).exists():
        write_private(path / CONFIG_NAME, toml_text)
    make_identity(path, entropy)
    make_token(path, entropy)
    if private:
        make_network_secret(path, entropy)
    with home_lock(path):
        data = store_path(path, config)
        _make_directory(data)
        disk = open_disk(str(data))
        if not disk.exists(STORE_NAME):
            create_store(disk, shard_count=_shard_count(config), entropy=entropy, now=clock.now())
        if not (path / STORE_FILE_NAME).exists():
            quota = config.store.quota_bytes or shutil.disk_usage(data).free // 2
            write_private(path / STORE_FILE_NAME, json.dumps({"v": 1, "quota_bytes": quota}) + "\n")
    sync_directory(path)
    return InitResult(created, str(read_identity(path).peer_key))


def check_private(path: Path) -> None:
    """Raise HomeUnsafe unless the home is a directory of ours that nobody else can enter."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise NotInitialised(f"there is no home at {path}", hint="run molia init") from None
    except OSError as error:
        raise HomeUnsafe(f"{path}: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise HomeUnsafe(f"{path} is not a directory")
    if status.st_uid != os.geteuid():
        raise HomeUnsafe(f"{path} belongs to another user", hint="name a home of yours by --home")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise HomeUnsafe(f"{path} is open to other users", hint=f"chmod 700 {path}")


def check_restored(path: Path) -> None:
    """Raise NotInitialised when a restore was cut off: rows that it brings back may be missing."""
    if (path / RESTORING_NAME).exists():
        raise NotInitialised(
            f"a restore of {path} was cut off", hint="run molia restore again, with the same file"
        )


@contextmanager
def home_lock(path: Path) -> Iterator[int]:
    """Hold the home alone until the block ends, and give the lock's descriptor.

    A process that inherits the descriptor holds the home too, as long as it lives. Raises
    HomeLocked, after a moment: the workers of a node that was killed need that to end.
    """
    handle = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        for left in reversed(range(LOCK_TRIES)):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not left:
                    raise HomeLocked(
                        f"another process holds {path}",
                        hint="stop that node, or name another --home",
                    ) from None
            time.sleep(LOCK_PAUSE_S)
        yield handle
    finally:
        os.close(handle)


def store_path(home: Path, config: Config) -> Path:
    """Return the directory of the store."""
    return Path(config.store.path) if config.store.path else home / "data"


def quota_of(home: Path, config: Config) -> int:
    """Return the disk bytes that the store may use: the setting, or what init recorded."""
    if config.store.quota_bytes:
        return config.store.quota_bytes
    try:
        with (home / STORE_FILE_NAME).open("rb") as file:
            recorded = json.loads(file.read(_STORE_FILE_MAX))["quota_bytes"]
    except FileNotFoundError:
        missing = home / STORE_FILE_NAME
        raise NotInitialised(f"{missing} is missing", hint="run molia init") from None
    except (OSError, ValueError, KeyError, TypeError):
        recorded = None
    if not isinstance(recorded, int) or recorded < 0:
        raise HomeUnsafe(
            f"{home / STORE_FILE_NAME} is damaged", hint="delete it and run molia init"
        )
    return recorded


def write_node_file(home: Path, *, socket: str, urls: list[str], peer: str) -> None:
    """Tell the CLI where this node answers."""
    body = {
        "v": 1,
        "pid": os.getpid(),
        "socket": socket,
        "urls": urls,
        "token_file": str(home / TOKEN_NAME),
        "peer": peer,
    }
    temporary = home / (NODE_FILE_NAME + ".tmp")
    temporary.unlink(missing_ok=True)
    text = json.dumps(body) + "\n"
    try:
        write_private(temporary, text)
        if not (home / SPARE_NAME).exists():
            write_private(home / SPARE_NAME, text)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if not is_full(error):
            raise
        _write_in_place(home, temporary, text, error)
    temporary.replace(home / NODE_FILE_NAME)


def remove_node_file(home: Path) -> None:
    """Tell the CLI that this node has gone."""
    with contextlib.suppress(FileNotFoundError):
        (home / NODE_FILE_NAME).replace(home / SPARE_NAME)


def _write_in_place(home: Path, temporary: Path, text: str, error: OSError) -> None:
    """Write where an earlier run has written: a node must start on a full disk to be emptied."""
    for name in (SPARE_NAME, NODE_FILE_NAME):
        with contextlib.suppress(FileNotFoundError):
            (home / name).replace(temporary)
            with temporary.open("r+", encoding="utf-8") as file:
                file.write(text)
                file.truncate()
            return
    raise error


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise HomeUnsafe(f"cannot make {path}: {error.strerror}") from None


def _shard_count(config: Config) -> int:
    if config.store.shards:
        return config.store.shards
    return min(limits.SHARDS_MAX, 1 << (physical_cores().bit_length() - 1))
