"""The secrets of a home, each a 0600 file of one line: the node's key, the API's token, and in a
private network the secret that its nodes share."""

import os
import stat
from pathlib import Path
from typing import Final

from molia.base.crypto import SEED_SIZE, Identity, new_seed
from molia.base.entropy import Entropy
from molia.base.errors import HomeUnsafe, NotInitialised

IDENTITY_NAME: Final = "identity.key"
NETWORK_KEY_NAME: Final = "network.key"
TOKEN_NAME: Final = "api.token"  # noqa: S105 - the name of a file
_IDENTITY_HEAD: Final = "molia-identity-1"
_NETWORK_HEAD: Final = "molia-network-1"
_SECRET_FILE_MAX: Final = 256


def make_identity(home: Path, entropy: Entropy) -> None:
    """Write a new identity key into `home`; an existing one is left alone."""
    write_secret(home / IDENTITY_NAME, f"{_IDENTITY_HEAD} {new_seed(entropy).hex()}\n")


def make_token(home: Path, entropy: Entropy) -> None:
    """Write a new API token of 256 random bits into `home`; an existing one is left alone."""
    write_secret(home / TOKEN_NAME, entropy.token(32).hex() + "\n")


def make_network_secret(home: Path, entropy: Entropy) -> None:
    """Write the secret of a new private network into `home`; an existing one is left alone."""
    write_secret(home / NETWORK_KEY_NAME, f"{_NETWORK_HEAD} {entropy.token(32).hex()}\n")


def read_network_secret(home: Path) -> bytes:
    """Return the 32 bytes of a private network's secret; b"" in an open one. Raises HomeUnsafe."""
    path = home / NETWORK_KEY_NAME
    if not path.exists():
        return b""
    return _digits_of(path, _NETWORK_HEAD, 32, "a network's secret")


def read_identity(home: Path) -> Identity:
    """Return the home's identity. Raises NotInitialised, HomeUnsafe."""
    return Identity(_digits_of(home / IDENTITY_NAME, _IDENTITY_HEAD, SEED_SIZE, "an identity key"))


def _digits_of(path: Path, expected_head: str, size: int, what: str) -> bytes:
    head, _, digits = read_secret(path).partition(" ")
    try:
        secret = bytes.fromhex(digits)
    except ValueError:
        secret = b""
    if head != expected_head or len(secret) != size:
        raise HomeUnsafe(f"{path} is not {what}", hint="restore it from a backup")
    return secret


def read_token(home: Path) -> str:
    """Return the API token. Raises NotInitialised, HomeUnsafe."""
    return read_secret(home / TOKEN_NAME)


def write_secret(path: Path, text: str) -> None:
    """Make a 0600 file that survives a power cut, unless the name is taken.

    The content is written and synced under another name and then linked, so no reader and no crash
    ever sees half a secret.
    """
    if path.exists():
        return
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    write_private(temporary, text)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass  # another process made the same secret first: its one counts
    finally:
        temporary.unlink()
    sync_directory(path.parent)


def write_private(path: Path, text: str) -> None:
    """Make a new file that only its owner can read, with `text` in it, synced."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123 - an open descriptor
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Return once the names in a directory would survive a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_secret(path: Path) -> str:
    """Return a secret file's one line. Raises NotInitialised, HomeUnsafe."""
    try:
        mode = path.stat().st_mode
        with path.open("rb") as file:
            raw = file.read(_SECRET_FILE_MAX)
    except FileNotFoundError:
        raise NotInitialised(f"{path} is missing", hint="run molia init") from None
    except OSError as error:
        raise HomeUnsafe(f"{path}: {error.strerror}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise HomeUnsafe(f"{path} can be read by others", hint=f"chmod 600 {path}")
    try:
        return raw.decode("ascii").strip()
    except UnicodeDecodeError:
        raise HomeUnsafe(f"{path} is not text", hint="restore it from a backup") from None
