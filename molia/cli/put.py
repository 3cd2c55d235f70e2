"""`molia put`: files into the node, each by itself."""

import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple
from urllib.parse import urlencode

import click

from molia.base.errors import (
    BadAnswer,
    BadInput,
    FileUnusable,
    Interrupted,
    MoliaError,
    NodeNotRunning,
)
from molia.base.limits import NAME_SIZE_MAX, RAW_SIZE_STOP
from molia.cli.client import CHUNK_SIZE, Node, find_node
from molia.cli.following import Progress, follow_job
from molia.cli.output import (
    Bar,
    Output,
    exit_code_of,
    from_os_error,
    plain_path,
    printable,
    size_text,
)
from molia.cli.quantities import BadValue, parse_duration_s
from molia.cli.verb import Session, Verb

STDIN: Final = "-"
PARTIAL_EXIT: Final = 3
DEGRADED_EXIT: Final = 7
_UNIX_FROM_S: Final = 1_000_000_000
"""A bare number this large is a moment, in unix seconds; a smaller one is a span."""


class Source(NamedTuple):
    """One open file to be read from its start."""

    file: BinaryIO
    size: int | None
    """None where only the end will tell."""


class Wish(NamedTuple):
    """How the blobs are to be kept."""

    name: str | None
    wait: str | None
    pin: bool
    expires_unix_s: int | None

    def path(self, fallback_name: str) -> str:
        """Return the request path."""
        name = fallback_name if self.name is None else self.name
        query = {"name": name} if name else {}
        if self.wait:
            query["wait"] = self.wait
        if not self.pin:
            query["pin"] = "false"
        if self.expires_unix_s is not None:
            query["expires"] = str(self.expires_unix_s)
        return f"/blob?{urlencode(query)}" if query else "/blob"


class Tally:
    """What became of the files of one command."""

    def __init__(self, output: Output, *, many: bool) -> None:
        self._output, self._many = output, many
        self.stored, self.size = 0, 0
        self.degraded = False
        self.failures: list[MoliaError] = []

    def stored_one(self, path: str, result: dict[str, object]) -> None:
        """Write the line of a stored file."""
        size = result.get("size")
        self.stored += 1
        self.size += size if isinstance(size, int) else 0
        self.degraded |= result.get("state") not in (None, "healthy")
        cid = str(result.get("cid"))
        if self._output.as_json:
            self._output.json("item", path=path, **result)
        elif self._output.quiet or not (self._many or self._output.is_terminal):
            self._output.line(cid)
        elif self._output.is_terminal:
            self._output.line(f"{cid}  {printable(path)}  {_guarantee(result)}")
        else:
            self._output.line(f"{cid}  {plain_path(path)}")

    def failed_one(self, path: str, error: MoliaError) -> None:
        """Report a file that was not stored; the next one is tried."""
        self.failures.append(error)
        self._output.error(error, path=path)

    def finish(self) -> int:
        """Write the summary and return the exit code."""
        code = self._exit_code()
        if self._output.as_json:
            self._output.json(
                "summary", ok=code == 0, exit_code=code, stored=self.stored,
                failed=len(self.failures), size=self.size,
            )  # fmt: skip
        elif self.degraded:
            self._output.note("stored, but it survives fewer losses than durability.floor asks for")
        return code

    def _exit_code(self) -> int:
        codes = {exit_code_of(error) for error in self.failures}
        if self.failures and (self.stored or len(codes) > 1):
            return PARTIAL_EXIT if self.stored else 1
        if self.failures:
            return codes.pop()
        return DEGRADED_EXIT if self.degraded else 0


@click.command(cls=Verb, lines=True, help="Store files and print their CIDs.")
@click.argument("paths", metavar="PATH…|-", nargs=-1, required=True)
@click.option("-r", "--recursive", is_flag=True, help="Store every file in a directory.")
@click.option("--name", help="File name to remember. [the path's last part]")
@click.option("--wait", type=click.Choice(["local", "placed"]), help="Answer when it is safe here.")
@click.option("--pin/--no-pin", default=True, help="Keep it until it is removed. [pin]")
@click.option("--expires", help="When it goes by itself: 30d from now, or unix seconds.")
@click.option("--only-hash", is_flag=True, help="Print the CID and store nothing; needs no node.")
@click.pass_obj
def put(
    session: Session,
    *,
    paths: tuple[str, ...],
    recursive: bool,
    name: str | None,
    wait: str | None,
    pin: bool,
    expires: str | None,
    only_hash: bool,
) -> int:
    """Store each path by itself; one that fails does not stop the others."""
    wish = Wish(name, wait, pin, _expiry(expires))
    many = recursive or len(paths) > 1
    if many and name is not None:
        raise BadInput("--name names one file, and several are given", hint="put them one by one")
    if name is not None and len(name.encode("utf-8", "replace")) > NAME_SIZE_MAX:
        raise BadInput(f"--name has more than {NAME_SIZE_MAX} bytes")
    node = None if only_hash else find_node(session)
    tally = Tally(session.output, many=many)
    for path, problem in _files(paths, recursive=recursive, output=session.output):
        try:
            if problem is not None:
                raise problem
            tally.stored_one(path, _put_one(session, node, wish, path))
        except (NodeNotRunning, Interrupted):
            raise
        except MoliaError as error:
            tally.failed_one(path, error)
    return tally.finish()


def _put_one(session: Session, node: Node | None, wish: Wish, path: str) -> dict[str, object]:
    with _opened(path) as source, session.output.bar(Path(path).name, source.size) as bar:
        if node is None:
            from molia.cli.only_hash import hash_pieces  # the blob cores, for this option alone

            return hash_pieces(_pieces(source, path), source.size, bar)
        return _upload(session, node, wish, path, source, bar)


def _upload(
    session: Session, node: Node, wish: Wish, path: str, source: Source, bar: Bar
) -> dict[str, object]:
    """Send a file, and watch how it is brought to other nodes where there is a job for that."""
    fallback = "" if path == STDIN else _own_name(path)
    # a blob with shares has a job to watch: its answer need not wait for them
    is_watched = wish.wait != "local" and source.size is not None and source.size >= RAW_SIZE_STOP
    sent_wish = wish._replace(wait="local") if is_watched else wish
    answer = node.upload(
        sent_wish.path(fallback), _pieces(source, path), size=source.size, on_sent=bar.advance
    )
    result = answer.object()
    if not isinstance(result.get("cid"), str):
        raise BadAnswer("the node's answer names no CID", hint="check --node")
    job = answer.headers.get("x-molia-job", "")
    if is_watched and job.isalnum():
        result = {**result, **_placed(session, node, job, bar)}
    return {**result, "created": answer.status == 201}


def _placed(session: Session, node: Node, job: str, bar: Bar) -> dict[str, object]:
    """Return what placing a blob has changed of what the node said of it."""
    size = bar.total or 0

    def on_event(kind: str, data: Progress) -> None:
        placed, total, holders = (data.get(key) for key in ("placed", "total", "holders"))
        if kind == "progress" and isinstance(placed, int) and isinstance(total, int) and total:
            label = f"placed {placed}/{total} shares on {holders} nodes"
            bar.move(size * placed // total, label=label)

    try:
        end = follow_job(node, job, on_event)
    except (NodeNotRunning, Interrupted):
        raise
    except MoliaError as error:
        session.output.note(f"stored on this node, but not placed on others: {error.message}")
        return {"state": "degraded"}
    if end.get("reason"):
        session.output.note(f"placed, but {printable(str(end['reason']))}")
    told = {
        "holders": end.get("holders"),
        "survives": end.get("survives"),
        "state": end.get("blob_state"),
    }
    return {key: value for key, value in told.items() if value is not None}


def _files(
    paths: tuple[str, ...], *, recursive: bool, output: Output
) -> Iterator[tuple[str, MoliaError | None]]:
    """Yield every file to store, or a path and why it cannot be."""
    for path in paths:
        if path == STDIN or not Path(path).is_dir():
            yield path, None
        elif recursive:
            yield from _below(path, output)
        else:
            yield path, FileUnusable("is a directory", hint="add -r to store the files in it")


def _below(top: str, output: Output) -> Iterator[tuple[str, MoliaError | None]]:
    """Yield the files under a directory in a steady order, without following links."""
    waiting = [top]
    while waiting:
        directory = waiting.pop()
        try:
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except OSError as error:
            yield directory, from_os_error(error, "")
            continue
        inner: list[str] = []
        for entry in entries:
            if entry.is_symlink():
                output.note(f"skipped: {entry.path} is a symbolic link")
            elif entry.is_dir(follow_symlinks=False):
                inner.append(entry.path)
            elif entry.is_file(follow_symlinks=False):
                yield entry.path, None
            else:
                output.note(f"skipped: {entry.path} is no plain file")
        waiting.extend(reversed(inner))


@contextmanager
def _opened(path: str) -> Iterator[Source]:
    if path == STDIN:
        if sys.stdin is None:
            raise FileUnusable("stdin is closed")
        os.set_blocking(sys.stdin.fileno(), True)  # else a pause would look like the end
        yield Source(sys.stdin.buffer, None)
        return
    try:
        file = Path(path).open("rb", buffering=0)  # noqa: SIM115 - closed by the with below
    except (OSError, ValueError) as error:
        problem = error if isinstance(error, OSError) else OSError(str(error))
        raise from_os_error(problem, "") from None
    with file:
        status = os.fstat(file.fileno())
        size = status.st_size if stat.S_ISREG(status.st_mode) else None
        yield Source(file, size)


def _pieces(source: Source, path: str) -> Iterator[bytes | memoryview]:
    """Yield the file's bytes. Raises FileUnusable when it turns out shorter than it was."""
    left = source.size
    while left is None or left > 0:
        try:
            piece = _read_some(source.file, CHUNK_SIZE if left is None else min(left, CHUNK_SIZE))
        except OSError as error:
            raise from_os_error(error, "") from None
        if not piece and left is None:
            return
        if not piece:
            raise FileUnusable("became shorter while it was read", hint=f"put {path} again")
        left = None if left is None else left - len(piece)
        yield piece


def _read_some(file: BinaryIO, size: int) -> bytes:
    """Return what is there, at most `size` bytes; a pipe's writer is not waited for to fill it."""
    reader = getattr(file, "read1", file.read)
    piece: bytes | None = reader(size)
    return piece or b""


def _own_name(path: str) -> str:
    """Return the last part of a path as a blob's name: UTF-8 of a bounded size."""
    name = os.fsencode(Path(path).name).decode("utf-8", "replace")
    return name.encode()[:NAME_SIZE_MAX].decode("utf-8", "ignore")


def _expiry(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        number = parse_duration_s(text)
    except BadValue:
        raise BadInput(
            f"--expires: not a time: {printable(text[:40])!r}",
            hint="write 30d, 12h or unix seconds",
        ) from None
    if text.strip().isdigit() and number >= _UNIX_FROM_S:
        return number
    return int(time.time()) + number


def _guarantee(result: dict[str, object]) -> str:
    size = result.get("size")
    text = size_text(size) if isinstance(size, int) else ""
    if "holders" not in result:
        return text
    return f"{text}  kept by {result['holders']} node(s), survives the loss of {result['survives']}"
