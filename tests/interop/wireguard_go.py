"""Debian's wireguard-go as a peer: its tunnel in a network namespace, its UDP on loopback.

Names begin with the process id, so several runs do not meet, and what a killed run left behind is
removed by the next. Everything is taken down on leaving the `with`, whatever happened inside.
"""

import base64
import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from molia.base.crypto import ExchangeKey
from molia.wire.cookies import Address
from molia.wire.noise import NO_PSK

TOOLS = ("wireguard-go", "wg", "ip", "ping")
INNER, OURS = ("10.66.0.1", "fd66::1"), ("10.66.0.2", "fd66::2")
PING_S = 20
"""How long answers to pings may be away, beyond what it takes to send these."""
_PREFIX = "mo"
_numbers = iter(range(1000))


def why_not() -> str | None:
    """Return why no tunnel can be made here; None if one can."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if os.geteuid() != 0:
        return "network namespaces and tunnels need root"
    if not Path("/dev/net/tun").exists():
        return "no /dev/net/tun"
    name = f"{_PREFIX}{os.getpid()}x"
    made = _run("ip", "netns", "add", name, check=False)
    _run("ip", "netns", "del", name, check=False)
    return None if made.returncode == 0 else f"no network namespaces: {made.stderr.strip()}"


def _run(*words: str, check: bool = True, wait_s: float = 30.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=wait_s, check=check)


def sweep() -> None:
    """Remove the namespaces of runs that are no more."""
    for line in _run("ip", "netns", "list", check=False).stdout.splitlines():
        found = re.match(rf"{_PREFIX}(\d+)[a-z]", line)
        if found and not Path(f"/proc/{found.group(1)}").exists():
            _run("ip", "netns", "del", line.split()[0], check=False)


@dataclass(frozen=True, slots=True)
class WireguardGo:
    """A running wireguard-go."""

    name: str
    private: bytes
    port: int

    @property
    def public(self) -> bytes:
        """Its X25519 public key."""
        return ExchangeKey(self.private).public

    @property
    def address(self) -> Address:
        """Where its UDP socket listens."""
        return ("127.0.0.1", self.port)

    def ping(self, address: str, *, count: int = 3, interval_s: float = 0.2) -> int:
        """Ping an inner address from its side; return how many of the first `count` were answered.

        Without -w `ping` waits no longer than twice what the first answer took. With it, it goes on
        until so many answers have come.
        """
        within_s = PING_S + ceil(count * interval_s)
        words = (
            "ping",
            "-n",
            "-c",
            str(count),
            "-i",
            str(interval_s),
            "-w",
            str(within_s),
            address,
        )
        done = _run(
            "ip", "netns", "exec", self.name, *words, check=False, wait_s=within_s + 30.0
        )  # fmt: skip
        answered = {int(number) for number in re.findall(r"icmp_seq=(\d+) ttl=", done.stdout)}
        return len(answered & set(range(1, count + 1)))

    def point_at(self, peer: bytes, endpoint: Address) -> None:
        """Tell it where its peer is."""
        where = f"{endpoint[0]}:{endpoint[1]}"
        _run("wg", "set", self.name, "peer", base64.b64encode(peer).decode(), "endpoint", where)

    def show(self, what: str) -> str:
        """Return a column of `wg show`."""
        return _run("wg", "show", self.name, what).stdout.strip()


@contextlib.contextmanager
def wireguard_go(
    *, peer: bytes, private: bytes, psk: bytes = NO_PSK, endpoint: Address | None = None
) -> Iterator[WireguardGo]:
    """Run a wireguard-go that has one peer, at `endpoint` if it shall speak first."""
    sweep()
    name = f"{_PREFIX}{os.getpid()}{chr(97 + next(_numbers) % 26)}"
    environment = {**os.environ, "WG_PROCESS_FOREGROUND": "1", "LOG_LEVEL": "error"}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as undo:
        _run("ip", "netns", "add", name)
        undo.callback(_run, "ip", "netns", "del", name, check=False)
        process = subprocess.Popen(
            ["wireguard-go", name], env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        undo.callback(_end, process, name)
        _await_socket(name, process)
        port = _free_port()
        (Path(folder) / "key").write_text(base64.b64encode(private).decode())
        (Path(folder) / "psk").write_text(base64.b64encode(psk).decode())
        words = ["wg", "set", name, "private-key", f"{folder}/key", "listen-port", str(port)]
        words += ["peer", base64.b64encode(peer).decode()]
        words += ["allowed-ips", f"{OURS[0]}/32,{OURS[1]}/128"]
        if psk != NO_PSK:
            words += ["preshared-key", f"{folder}/psk"]
        if endpoint is not None:
            words += ["endpoint", f"{endpoint[0]}:{endpoint[1]}"]
        _run(*words)
        _run("ip", "link", "set", name, "netns", name)
        _run("ip", "-n", name, "addr", "add", f"{INNER[0]}/24", "dev", name)
        _run("ip", "-n", name, "addr", "add", f"{INNER[1]}/64", "dev", name, "nodad")
        _run("ip", "-n", name, "link", "set", name, "up")
        yield WireguardGo(name, private, port)


def _end(process: subprocess.Popen[bytes], name: str) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)
    (Path("/var/run/wireguard") / f"{name}.sock").unlink(missing_ok=True)


def _await_socket(name: str, process: subprocess.Popen[bytes]) -> None:
    path, until_s = Path("/var/run/wireguard") / f"{name}.sock", time.monotonic() + 20
    while not path.exists():
        if process.poll() is not None or time.monotonic() > until_s:
            raise RuntimeError("wireguard-go did not start")
        time.sleep(0.02)


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
