"""The two secrets of a home: the node's key and the API's token, each a 0600 file of one line."""

import os
import stat
from pathlib import Path
from typing import Final

from molia.base.crypto import SEED_SIZE, Identity, new_seed
from molia.base.entropy import Entropy
from molia.base.errors import HomeUnsafe, NotInitialised

IDENTITY_NAME: Final = "identity.key"
TOKEN_NAME: Final = "api.token"  # noqa: S105 - the name of a file
_IDENTITY_HEAD: Final = "molia-identity-1"
_SECRET_FILE_MAX: Final = 256


def make_identity(home: Path, entropy: Entropy) -> None:
    """Write a new identity key into `home`; an existing one is left alone."""
    write_secret(home / IDENTITY_NAME, f"{_IDENTITY_HEAD} {new_seed(entropy).hex()}\n")


def make_token(home: Path, entropy: Entropy) -> None:
    """Write a new API token of 256 random bits into `home`; an existing one is left alone."""
    write_secret(home / TOKEN_NAME, entropy.token(32).hex() + "\n")


def read_identity(home: Path) -> Identity:
    """Return the home's identity. Raises NotInitialised, HomeUnsafe."""
    head, _, digits = read_secret(home / IDENTITY_NAME).partition(" ")
    try:
        seed = bytes.fromhex(digits)
    except ValueError:
        seed = b""
    if head != _IDENTITY_HEAD or len(seed) != SEED_SIZE:
        raise HomeUnsafe(
            f"{home / IDENTITY_NAME} is not an identity key", hint="restore it from a backup"
        )
    return Identity(seed)


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
