"""A fake node and a way to run the command, in this process or in one of its own."""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from molia.cli.main import main
from tests.cli.fake_node import FakeNode, running


class Ran(NamedTuple):
    """What a command did."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def out(self) -> str:
        return self.stdout.decode()


Run = Callable[..., Ran]


@pytest.fixture(autouse=True)
def _bare_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty directory, without the caller's settings."""
    for name in [name for name in os.environ if name.startswith(("MOLIA_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MOLIA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    """A fake node in MOLIA_HOME, over a Unix socket and TCP."""
    with running(tmp_path / "home") as fake:
        yield fake


@pytest.fixture
def molia(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in this process; output and exit code as a process would give them."""

    def run(*arguments: str, stdin: bytes = b"") -> Ran:
        out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            patch.setattr(sys, "stdin", io.TextIOWrapper(_Stdin(stdin)))
            code = main(list(arguments))
        out.flush()
        err.flush()
        return Ran(code, _bytes_of(out), _bytes_of(err).decode())

    return run


class _Stdin(io.BytesIO):
    def fileno(self) -> int:
        return 0


def _bytes_of(stream: io.TextIOWrapper) -> bytes:
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue()


def command(*arguments: str) -> list[str]:
    """Return the command line of a process of its own."""
    return [sys.executable, "-m", "molia", *arguments]


def spawn(*arguments: str, **options: object) -> "subprocess.Popen[bytes]":
    """Start the command as a process, with pipes."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(command(*arguments), env=environment, **{**pipes, **options})  # type: ignore[call-overload,no-any-return]
