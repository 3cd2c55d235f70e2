"""The API's listening sockets: what a parent of several workers opens without loading the API.

We bind ourselves: uvicorn gives a Unix socket the mode 0666, ours has 0600. TCP addresses that
are not loopback are refused without `api.auth = "required"`.
"""

import contextlib
import errno
import ipaddress
import os
import re
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from molia.base import limits
from molia.base.config import ApiConfig
from molia.base.errors import BadConfig, CannotListen

log = structlog.get_logger(__name__)

_ADDRESS: Final = re.compile(r"^(\[[0-9a-fA-F:.]+\]|[0-9.]+|localhost):([0-9]{1,5})$")
BACKLOG: Final = 1024
_PROBE_S: Final = 1.0
_NO_FAMILY: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@dataclass(frozen=True, slots=True)
class Listeners:
    """Bound sockets, listening since they were bound."""

    sockets: tuple[socket.socket, ...]
    urls: tuple[str, ...]
    """`http://HOST:PORT` of each TCP socket, with the port that was really taken."""
    socket_path: Path | None
    shared: bool = False
    """Other processes accept from the same sockets."""

    def close(self) -> None:
        """Stop listening and remove the Unix socket's file."""
        for sock in self.sockets:
            sock.close()
        if self.socket_path is not None:
            self.socket_path.unlink(missing_ok=True)


def bind(config: ApiConfig, socket_path: Path | None) -> Listeners:
    """Return sockets for `config.listen` and the Unix socket (None: without one).

    Raises BadConfig for an address that may not be, or a socket path over SOCKET_PATH_MAX bytes;
    CannotListen for one that is taken.
    """
    addresses = [_checked_address(text, config) for text in config.listen]
    sockets: list[socket.socket] = []
    try:
        for host, port in addresses:
            sock = _bind_tcp(host, port, is_only=len(addresses) == 1)
            if sock is not None:
                sockets.append(sock)
        urls = tuple(_url(sock) for sock in sockets)
        if socket_path is not None:
            sockets.append(_bind_unix(socket_path))
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return Listeners(tuple(sockets), urls, socket_path)


def _checked_address(text: str, config: ApiConfig) -> tuple[str, int]:
    match = _ADDRESS.match(text)
    host = match.group(1).strip("[]").replace("localhost", "127.0.0.1") if match else ""
    port = int(match.group(2)) if match else 0
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is None or port > 65_535:
        raise BadConfig("api.listen", f"{text!r} is no address like 127.0.0.1:7070 or [::1]:7070")
    if not address.is_loopback and config.auth != "required":
        raise BadConfig(
            "api.listen",
            f'{text} is reachable from other machines and needs api.auth = "required"',
        )
    return host, port


def _bind_tcp(host: str, port: int, *, is_only: bool) -> socket.socket | None:
    """Return a listening socket; None where the default ::1 does not exist on this machine."""
    is_v6 = ":" in host
    try:
        sock = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        _allow_absent(host, port, error, is_only=is_only)
        return None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_v6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        _allow_absent(host, port, error, is_only=is_only)
        return None
    sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return sock


def _allow_absent(host: str, port: int, error: OSError, *, is_only: bool) -> None:
    if host == "::1" and error.errno in _NO_FAMILY and not is_only:
        log.info("ipv6_loopback_absent")
        return
    raise CannotListen(
        f"cannot listen on {host} port {port}: {error.strerror}",
        hint="stop the other program or choose another address with --api",
    ) from None


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bind_unix(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > limits.SOCKET_PATH_MAX:
        raise BadConfig("api.socket", f"a path of at most {limits.SOCKET_PATH_MAX} bytes")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old_mask = os.umask(0o177)
    try:
        sock.bind(str(path))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise CannotListen(f"cannot listen on {path}: {error.strerror}") from None
    finally:
        os.umask(old_mask)
    sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return sock


def _remove_stale(path: Path) -> None:
    """Remove a socket file that nobody answers. Raises CannotListen when somebody does."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise CannotListen(f"{path} exists and is no socket", hint="move it away")
    except FileNotFoundError:
        return
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise CannotListen(f"cannot tell who listens on {path}: {error.strerror}") from None
    raise CannotListen(f"another program listens on {path}", hint="stop it first")
