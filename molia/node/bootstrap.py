"""Where a node begins: the addresses that it was given, and the contacts that it remembers.

Addresses come from `dht.bootstrap` and from the file `bootstrap` in the home, one a line. Contacts
are remembered in `contacts-NN.bin`, one file for each worker, written beside and then renamed.
Source: docs/how-to/join-a-network.md.
"""

import asyncio
import os
import socket
import stat
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import structlog

from molia.base import limits
from molia.base.errors import BadAddress, BadConfig, HomeUnsafe
from molia.base.ids import PeerKey
from molia.node.identity import sync_directory
from molia.wire.addresses import Address, PeerAddress, pack_host

log = structlog.get_logger(__name__)

BOOTSTRAP_NAME: Final = "bootstrap"
RESOLVE_S: Final = 5.0
_COMMENT: Final = "#"
Seed = tuple[PeerKey, Address]


# ---------------------------------------------------------------------------- given addresses


def read_bootstrap(home: Path, given: Sequence[str]) -> tuple[PeerAddress, ...]:
    """Return the addresses of the settings, then those of the home's file, each once.

    Raises BadConfig, which names the line; HomeUnsafe when others may write the file.
    """
    found = [_parse(text, "dht.bootstrap") for text in given]
    path = home / BOOTSTRAP_NAME
    for number, line in enumerate(_lines(path), 1):
        text = line.partition(_COMMENT)[0].strip()
        if text:
            found.append(_parse(text, f"{path}:{number}"))
    unique = tuple(dict.fromkeys(found))
    if len(unique) > limits.BOOTSTRAP_MAX:
        raise BadConfig(str(path), f"at most {limits.BOOTSTRAP_MAX} addresses to begin with")
    return unique


def _lines(path: Path) -> list[str]:
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o022:
            raise HomeUnsafe(f"{path} can be written by others", hint=f"chmod 600 {path}")
        with path.open("rb") as file:
            raw = file.read(limits.BOOTSTRAP_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HomeUnsafe(f"{path}: {error.strerror}") from None
    if len(raw) > limits.BOOTSTRAP_FILE_BYTES_MAX:
        raise BadConfig(str(path), f"at most {limits.BOOTSTRAP_FILE_BYTES_MAX} bytes")
    try:
        return raw.decode().splitlines()
    except UnicodeDecodeError:
        raise BadConfig(str(path), "must be text: an address a line") from None


def _parse(text: str, where: str) -> PeerAddress:
    try:
        return PeerAddress.parse(text)
    except BadAddress as error:
        raise BadConfig(where, error.message, hint=error.hint) from None


async def resolve(
    addresses: Iterable[PeerAddress], *, timeout_s: float = RESOLVE_S
) -> list[tuple[PeerKey, Address]]:
    """Return where the addresses lead, all names asked at once; those that lead nowhere are left
    out and logged."""
    asked = list(addresses)
    found = await asyncio.gather(*(_resolve_one(address, timeout_s) for address in asked))
    seeds: dict[Seed, None] = {}
    for address, places in zip(asked, found, strict=True):
        if not places:
            log.warning("bootstrap_not_resolved", host=address.host)
        for place in places:
            seeds[address.peer_key, place] = None
    return list(seeds)


async def _resolve_one(address: PeerAddress, timeout_s: float) -> list[Address]:
    if pack_host(address.host) is not None:
        return [(address.host, address.port)]
    loop = asyncio.get_running_loop()
    done: asyncio.Future[list[Address]] = loop.create_future()

    def answer(places: list[Address]) -> None:
        if not done.done():
            done.set_result(places)

    def ask() -> None:
        try:
            infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
        except (OSError, UnicodeError):
            infos = []
        places = [(str(info[4][0]), int(info[4][1])) for info in infos]
        if not loop.is_closed():
            loop.call_soon_threadsafe(answer, places[: limits.BOOTSTRAP_PLACES_MAX])

    # a thread that nobody waits for: a name server may take longer than a node takes to stop
    threading.Thread(target=ask, name="molia-resolve", daemon=True).start()
    try:
        async with asyncio.timeout(timeout_s):
            return await done
    except TimeoutError:
        return []


# ---------------------------------------------------------------------------- remembered contacts


class ContactsFile:
    """What one worker remembers of other nodes between two runs. Its calls block."""

    def __init__(self, home: Path, worker: int) -> None:
        self._home = home
        self.path = home / f"contacts-{worker:02d}.bin"

    def read(self) -> bytes:
        """Return what was written last; empty when there is nothing that can be read."""
        try:
            with self.path.open("rb") as file:
                data = file.read(limits.CONTACTS_FILE_BYTES_MAX + 1)
        except FileNotFoundError:
            return b""
        except OSError as error:
            log.warning("contacts_not_read", reason=error.strerror or "unknown")
            return b""
        return data if len(data) <= limits.CONTACTS_FILE_BYTES_MAX else b""

    def write(self, data: bytes) -> None:
        """Replace it as a whole; a failure is logged, since the node works without."""
        if len(data) > limits.CONTACTS_FILE_BYTES_MAX:
            log.warning("contacts_not_kept", reason="too many", size_bytes=len(data))
            return
        temporary = self.path.with_suffix(".tmp")
        try:
            temporary.unlink(missing_ok=True)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(handle, "wb") as file:  # noqa: PTH123 - an open descriptor
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
            sync_directory(self._home)
        except OSError as error:
            log.warning("contacts_not_kept", reason=error.strerror or "unknown")
