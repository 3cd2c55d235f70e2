"""What the user sees: data on stdout, the rest on stderr; for people, for pipes, as JSON.

On a terminal a result is a table or a sentence, in a pipe one plain line, with `--json` one object.
When stdout carries a blob's bytes, JSON goes to stderr. An error is one line on stderr, or with
`--json` one object of type `error` in place of a result.
"""

import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self

from molia.base.errors import (
    OUTCOMES,
    BadInput,
    FileDenied,
    FileUnusable,
    MoliaError,
    NoSpace,
    outcome_of,
)

if TYPE_CHECKING:
    from rich.progress import Progress

JSON_VERSION: Final = 1
BAR_AFTER_S: Final = 0.4
"""A transfer that ends sooner draws no bar, and so never pays for importing one."""
JSON_PROGRESS_EVERY_S: Final = 1.0
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class StdoutClosed(Exception):
    """Whoever read our output has left, as `| head` does: end quietly."""


class NodeRefused(MoliaError):
    """The node answered with an error: its own words, code and exit code."""

    def __init__(self, message: str, *, hint: str, code: str, status: int, title: str) -> None:
        super().__init__(message, hint=hint)
        self.code, self.status, self.title = code, status, title


class Output:
    """The mouth of one verb."""

    def __init__(self, *, as_json: bool, quiet: bool, progress: bool) -> None:
        self.as_json, self.quiet = as_json, quiet
        self.is_terminal = _is_terminal(sys.stdout) and not as_json
        self.draws_bars = progress and not quiet and not as_json and _is_terminal(sys.stderr)
        self.reports_progress = progress and not quiet and as_json
        self._json_to_stderr = False

    def divert_json(self) -> None:
        """Send JSON to stderr from now on: stdout carries bytes."""
        self._json_to_stderr = True

    def line(self, text: str) -> None:
        """Write one line of data."""
        self._write(text.encode("utf-8", "surrogateescape") + b"\n")

    def data(self, body: bytes | bytearray | memoryview) -> None:
        """Write bytes of a blob. Raises StdoutClosed."""
        _to_stdout(body)

    def json(self, kind: str, **members: object) -> None:
        """Write one object of `--json`."""
        body = {"v": JSON_VERSION, "type": kind, **members}
        self._write(json.dumps(body, separators=(",", ":")).encode() + b"\n")

    def note(self, text: str) -> None:
        """Tell a person something on stderr; silent with -q and --json."""
        if not self.quiet and not self.as_json:
            say(printable(text))

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Draw a table on a terminal; the cells are made printable."""
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in headings:
            right = heading in ("SIZE", "AGE")
            table.add_column(heading, justify="right" if right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(_escaped(cell) for cell in row))
        Console(highlight=False).print(table)

    def error(self, error: MoliaError, **about: object) -> None:
        """Report one failure: a line on stderr, or an object of type `error`."""
        if self.as_json:
            self.json("error", **problem_of(error), **about)
            return
        where = f"{printable(str(about['path']))}: " if "path" in about else ""
        say(f"error: {where}{sentence_of(error)}")

    def bar(self, label: str, total: int | None) -> "Bar":
        """Return the progress of one transfer of `total` bytes (None: unknown)."""
        return Bar(self, label, total)

    def _write(self, body: bytes) -> None:
        if self._json_to_stderr and self.as_json:
            say(body.decode().rstrip("\n"))
        else:
            _to_stdout(body)


class Bar:
    """The progress of one transfer: a drawn bar, JSON lines, or silence."""

    def __init__(self, output: Output, label: str, total: int | None) -> None:
        self._output, self._label, self.total = output, label, total
        self.done = 0
        self._progress: Progress | None = None
        self._task: Any = None
        self._next_s = time.monotonic() + BAR_AFTER_S

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def move(self, done: int, *, total: int | None = None, label: str = "") -> None:
        """Say that `done` bytes are through."""
        self.done = done
        self.total = self.total if total is None else total
        self._label = label or self._label
        if time.monotonic() < self._next_s:
            return
        if self._output.draws_bars:
            self._draw()
        elif self._output.reports_progress:
            self._next_s = time.monotonic() + JSON_PROGRESS_EVERY_S
            members = {"what": self._label, "done": self.done, "total": self.total}
            self._output.json("progress", **members)

    def advance(self, count: int) -> None:
        """Say that `count` more bytes are through."""
        self.move(self.done + count)

    def _draw(self) -> None:
        if self._progress is None:
            self._progress = _new_progress()
            self._task = self._progress.add_task(_escaped(self._label), total=self.total)
            self._progress.start()
        self._progress.update(self._task, completed=self.done, total=self.total)
        self._next_s = time.monotonic() + 0.1


def _new_progress() -> "Progress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=True,
        auto_refresh=False,
    )


# ---------------------------------------------------------------------------- errors


def exit_code_of(error: MoliaError) -> int:
    """Return the exit code of an error, the node's or our own."""
    if isinstance(error, NodeRefused):
        for outcome in OUTCOMES.values():
            if outcome.code == error.code:
                return outcome.exit_code
        for outcome in OUTCOMES.values():
            if outcome.status == error.status:
                return outcome.exit_code
        return 2 if 400 <= error.status < 500 else 1
    return outcome_of(error).exit_code


def problem_of(error: MoliaError) -> dict[str, object]:
    """Return the members of a problem document (RFC 9457) and the exit code."""
    if isinstance(error, NodeRefused):
        code, status, title = error.code, error.status, error.title
    else:
        code, status, _, title = outcome_of(error)
    return {
        "code": code,
        "status": status,
        "title": title,
        "detail": error.message,
        "hint": error.hint,
        "exit_code": exit_code_of(error),
    }


def sentence_of(error: MoliaError) -> str:
    """Return an error and its next action on one line."""
    text = printable(error.message).rstrip(". ")
    return f"{text}. {_capital(printable(error.hint))}" if error.hint else text


def from_os_error(error: OSError, path: object = None) -> MoliaError:
    """Return our error for what the operating system said of a local file."""
    named = path if path is not None else error.filename
    where = f"{os.fsdecode(named)}: " if isinstance(named, str | os.PathLike) and named else ""
    text = f"{where}{error.strerror or error}"
    if error.errno in _FULL:
        return NoSpace(text, hint="free some space there, or name another place")
    if isinstance(error, PermissionError):
        return FileDenied(text, hint="check who may read and write it")
    return FileUnusable(text)


def usage_error(message: str, hint: str = "") -> MoliaError:
    """Return the error of a command line that cannot be understood."""
    return BadInput(message, hint=hint)


# ---------------------------------------------------------------------------- texts


def say(text: str) -> None:
    """Write a line to stderr; that nobody can read it is no reason to fail."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        return


def printable(text: str) -> str:
    """Return `text` on one line, without characters that could drive a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _spelled(c) for c in text)


def plain_path(path: str) -> str:
    """Return a path for one line of output: as it is, but for control characters."""
    return "".join(_spelled(c) if ord(c) < 32 or ord(c) == 127 else c for c in path)


def size_text(size: int) -> str:
    """Return a size as people read it, such as `48.0 MiB`."""
    value, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{size} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def age_text(seconds: float) -> str:
    """Return a span of time in its largest unit, such as `3h`."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{max(0, int(seconds))}s"


def _spelled(character: str) -> str:
    return character.encode("unicode_escape", "replace").decode("ascii", "replace")


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(printable(text))


def _capital(text: str) -> str:
    # a command that a hint begins with keeps its small letter
    return text if text.startswith(("molia ", "chmod ")) else text[:1].upper() + text[1:]


def _is_terminal(stream: Any) -> bool:  # noqa: ANN401 - sys.stdout may be anything, even None
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


def _to_stdout(body: bytes | bytearray | memoryview) -> None:
    stream: BinaryIO | None = getattr(sys.stdout, "buffer", None)
    if stream is None:
        raise FileUnusable("stdout is closed")
    _guarded(lambda: stream.write(body))


def flush_stdout() -> None:
    """Push out what is buffered. Raises StdoutClosed."""
    if sys.stdout is not None:
        _guarded(sys.stdout.flush)


def _guarded(act: Callable[[], object]) -> None:
    try:
        act()
    except BrokenPipeError:
        raise StdoutClosed from None
    except OSError as error:
        raise from_os_error(error, "stdout") from None
