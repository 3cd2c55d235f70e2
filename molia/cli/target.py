"""Where the node is: as the user names it, or as the node wrote it down.

Nothing is read but `node.json` in the home, which the running node writes, and the token. The Unix
socket named there goes before the URLs.
"""

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from molia.base.errors import BadInput, HomeUnsafe, NodeNotRunning
from molia.cli.environment import environment, home_path
from molia.cli.output import printable
from molia.cli.verb import Common

NODE_FILE_NAME: Final = "node.json"
NODE_FILE_SIZE_MAX: Final = 64 * 1024
TOKEN_SIZE_MAX: Final = 4096
START_HINT: Final = "molia run starts it"
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


class Target(NamedTuple):
    """One way to a node: a Unix socket, or else a host and port."""

    socket_path: str
    host: str = ""
    port: int = 0
    token: str = ""

    @property
    def label(self) -> str:
        """How people write it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"unix:{self.socket_path}" if self.socket_path else f"http://{host}:{self.port}"


def find_targets(options: Common) -> list[Target]:
    """Return the ways to the node, the best first. Raises NodeNotRunning, HomeUnsafe, BadInput."""
    environ = environment()
    home = home_path(str(options.home) if options.home else None, environ)
    named = options.node or environ.get("MOLIA_NODE", "")
    token = _clean_token(environ.get("MOLIA_TOKEN", ""))
    return [_named_target(named, token, home)] if named else _targets_of(home, token)


def _named_target(named: str, token: str, home: Path) -> Target:
    if named.startswith("unix:"):
        path = named.removeprefix("unix:")
        return Target("/" + path.lstrip("/") if path.startswith("//") else path, token=token)
    target = _parse_url(named if "://" in named else f"http://{named}")
    # the home's token is for the home's node: it is not shown to whoever a stranger's URL names
    if not token and (target.host in _LOOPBACK or target in _urls_of(_read_node_file(home))):
        token = _read_token(home / "api.token")
    return target._replace(token=token)


def _targets_of(home: Path, token: str) -> list[Target]:
    known = _read_node_file(home)
    if not known:
        raise NodeNotRunning(f"no node runs in {home}", hint=START_HINT)
    found = known.get("socket")
    targets = [Target(found)] if isinstance(found, str) and found else []
    if _is_alive(known.get("pid")):  # else its ports may be another program's by now
        token_file = known.get("token_file")
        if not token and isinstance(token_file, str):
            token = _read_token(Path(token_file))
        targets += [target._replace(token=token) for target in _urls_of(known)]
    if not targets:
        raise NodeNotRunning(f"the node of {home} has gone", hint=START_HINT)
    return targets


def _read_node_file(home: Path) -> dict[str, object]:
    """Return what node.json says; empty when it is not there. Raises HomeUnsafe."""
    path = home / NODE_FILE_NAME
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            body = file.read(NODE_FILE_SIZE_MAX)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise HomeUnsafe(f"{path}: {error.strerror}", hint="is the home yours?") from None
    foreign = status.st_uid not in (os.geteuid(), 0) and os.geteuid() != 0
    if foreign or stat.S_IMODE(status.st_mode) & 0o022:
        raise HomeUnsafe(f"{path} can be written by others", hint=f"chmod 700 {home}")
    try:
        known = json.loads(body)
    except (ValueError, RecursionError):
        known = None
    return known if isinstance(known, dict) else {}


def _urls_of(known: Mapping[str, object]) -> list[Target]:
    urls = known.get("urls")
    found: list[Target] = []
    for url in urls if isinstance(urls, list) else []:
        try:
            found.append(_parse_url(str(url)))
        except BadInput:
            continue
    return found


def _parse_url(url: str) -> Target:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 7070
    except ValueError:
        host, port, parts = "", 0, urlsplit("")
    plain = parts.path in ("", "/") and not parts.query and parts.username is None
    if parts.scheme != "http" or not host.isascii() or not host or not plain:
        raise BadInput(
            f"not a node's address: {printable(url[:200])}",
            hint="write http://HOST:PORT or unix:PATH",
        )
    return Target("", host, port)


def _is_alive(pid: object) -> bool:
    if not isinstance(pid, int) or not 0 < pid < 2**31:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _read_token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return _clean_token(file.read(TOKEN_SIZE_MAX).decode("ascii", "replace"))
    except (OSError, ValueError):
        return ""


def _clean_token(text: str) -> str:
    token = text.strip()
    return token if token.isascii() and token.isprintable() else ""
