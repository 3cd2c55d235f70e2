"""`molia get` and `molia cat`: a blob's bytes into a file or a pipe."""

from pathlib import Path
from typing import Final

import click

from molia.base.cid import parse_ref
from molia.base.errors import (
    BadInput,
    ConnectionLost,
    IntegrityFailure,
    Interrupted,
    MoliaError,
    RangeNotSatisfiable,
    TimedOut,
)
from molia.base.hashing import ContentHasher
from molia.cli.client import Node, find_node
from molia.cli.fetch import Found, find_blob, safe_name, stream
from molia.cli.output import NodeRefused, from_os_error, printable, size_text
from molia.cli.partfile import PartFile, opened_part, would_overwrite
from molia.cli.verb import Session, Verb

STDOUT: Final = "-"


@click.command(cls=Verb, help="Write a blob to a file; one that was cut off goes on.")
@click.argument("cid")
@click.option("-o", "--output", "target", metavar="PATH|-", help="Where to. [its name, here]")
@click.option("--force", is_flag=True, help="Replace a file that exists.")
@click.pass_obj
def get(session: Session, *, cid: str, target: str | None, force: bool) -> None:
    """Write a blob to a file, checked against its hash before it gets its name."""
    if target == STDOUT:
        session.output.divert_json()
    if target == "":
        raise BadInput("-o names no file")
    ref = parse_ref(cid)
    node = find_node(session)
    if target not in (None, STDOUT) and not force:
        _refuse_existing(Path(str(target)))
    found = find_blob(node, ref)
    path = _target_path(target, found)
    if target == STDOUT:
        _pour(session, node, found, None)
    elif path.exists() and not path.is_file() and not path.is_dir():
        _pour(session, node, found, path)  # a device or a pipe: there is nothing to rename
    else:
        if not force:
            _refuse_existing(path)
        _download(session, node, found, path, force=force)
    _report(session, found, None if target == STDOUT else path)


@click.command(cls=Verb, gives_bytes=True, help="Write a blob, or a part of it, to stdout.")
@click.argument("cid")
@click.option("--offset", type=click.IntRange(min=0), default=0, help="First byte. [0]")
@click.option("--length", type=click.IntRange(min=0), help="How many bytes. [to the end]")
@click.pass_obj
def cat(session: Session, *, cid: str, offset: int, length: int | None) -> None:
    """Write the bytes of a blob to stdout."""
    session.output.divert_json()
    ref = parse_ref(cid)
    node = find_node(session)
    found = find_blob(node, ref)
    stop = found.size if length is None else min(found.size, offset + length)
    if offset > found.size:
        raise RangeNotSatisfiable(found.size)
    if (offset, stop) == (0, found.size):
        _pour(session, node, found, None)
    else:
        for chunk in stream(node, found, offset, stop):
            session.output.data(chunk)
    if session.output.as_json:
        session.output.json("blob", cid=str(found.cid), offset=offset, size=max(0, stop - offset))


def _target_path(target: str | None, found: Found) -> Path:
    if target is None or target == STDOUT:
        return Path(found.name)
    path = Path(target)
    if path.is_dir() or target.endswith("/"):
        return path / found.name
    if not safe_name(path.name):
        raise BadInput(f"not a file name: {printable(target)!r}")
    return path


def _refuse_existing(path: Path) -> None:
    """Raise WouldOverwrite when a plain file, or a link that leads nowhere, has this name."""
    if path.is_file() or (path.is_symlink() and not path.exists()):
        raise would_overwrite(path)


def _pour(session: Session, node: Node, found: Found, path: Path | None) -> None:
    """Stream the whole blob; a wrong digest is told only when the bytes are out."""
    hasher = ContentHasher()
    file = path.open("wb", buffering=0) if path else None
    try:
        with session.output.bar(found.name, found.size) as bar:
            for chunk in stream(node, found, 0, found.size):
                hasher.update(chunk)
                if file is None:
                    session.output.data(chunk)
                else:
                    file.write(chunk)
                bar.advance(len(chunk))
    finally:
        if file is not None:
            file.close()
    if hasher.digest() != found.content:
        raise _wrong_bytes(found, "throw away what was written")


def _download(session: Session, node: Node, found: Found, path: Path, *, force: bool) -> None:
    if path.is_dir():
        raise BadInput(f"{path} is a directory", hint="name a file with -o")
    with opened_part(found, path) as part:
        try:
            _fill(session, node, found, part)
        except (ConnectionLost, TimedOut, NodeRefused) as error:
            raise _with_hint(error, part) from None
        except KeyboardInterrupt:
            raise Interrupted("interrupted", hint=_kept(part)) from None
        except OSError as error:
            raise from_os_error(error, part.path) from None
        part.finish(path, force=force)


def _fill(session: Session, node: Node, found: Found, part: PartFile) -> None:
    """Bring the part to its end, checked. Raises IntegrityFailure."""
    resumed = part.resume(found.size)
    if resumed:
        session.output.note(f"going on after {size_text(resumed)} of {size_text(found.size)}")
    _append_rest(session, node, found, part)
    if part.digest() != found.content and resumed:
        # what an earlier run left may have been damaged since, by a power cut, say
        session.output.note("what was there before is damaged: starting again")
        part.restart()
        _append_rest(session, node, found, part)
    if part.digest() != found.content:
        part.drop()
        raise _wrong_bytes(found, "nothing was kept")


def _append_rest(session: Session, node: Node, found: Found, part: PartFile) -> None:
    with session.output.bar(found.name, found.size) as bar:
        bar.move(part.size)
        for chunk in stream(node, found, part.size, found.size):
            part.append(chunk)
            bar.advance(len(chunk))


def _wrong_bytes(found: Found, then: str) -> IntegrityFailure:
    return IntegrityFailure(
        f"the bytes that came do not hash to {found.content.hex()}: {then}",
        hint="molia verify tells whether the node's copy is sound",
    )


def _with_hint(error: MoliaError, part: PartFile) -> MoliaError:
    """Say what is kept, or keep nothing when nothing came."""
    if part.size == 0:
        part.drop()
    elif not error.hint or isinstance(error, ConnectionLost | TimedOut):
        error.hint = _kept(part)
    return error


def _kept(part: PartFile) -> str:
    return f"{part.path} keeps {size_text(part.size)}: the same command goes on from there"


def _report(session: Session, found: Found, path: Path | None) -> None:
    output = session.output
    if output.as_json:
        shown = str(path) if path else STDOUT
        output.json(
            "blob", cid=str(found.cid), size=found.size, content=found.content.hex(), path=shown
        )
    elif path is not None and output.quiet:
        output.line(str(found.cid))
    elif path is not None:
        output.line(f"{printable(str(path))}  {size_text(found.size)}" if output.is_terminal
                    else str(path))  # fmt: skip
