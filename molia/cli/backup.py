"""`molia backup` and `molia restore`: what the network cannot give back.

That is the identity, the settings, the records and the pins. Shares need no backup: they are on
other nodes as well, and what is pinned is fetched and made whole again from there.
"""

from pathlib import Path

import click

from molia.cli.environment import environment, home_path
from molia.cli.output import printable
from molia.cli.settings import load, toml_text
from molia.cli.verb import Session, Verb

SHARES_NOTE = "shares are not part of a backup and need none: other nodes hold them as well"


@click.command(cls=Verb, help="Save identity, settings, records and pins; no node.")
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_obj
def backup(session: Session, *, file: Path) -> None:
    """Write a backup of the home to a new file."""
    from molia.node.backup import save  # the node's own work, for a home without one

    home = _home(session)
    result = save(home, load(home).config, file.absolute())
    output = session.output
    if output.as_json:
        output.json(
            "backup", file=str(file), peer=result.peer, files=result.files,
            records=result.records, pins=result.pins, unreadable=result.unreadable, shares=0,
        )  # fmt: skip
        return
    if not output.quiet:
        output.line(
            f"{printable(str(file))}: {result.files} files, {result.records} records, "
            f"{result.pins} pins of peer {result.peer}"
        )
    if result.unreadable:
        output.note(f"{result.unreadable} damaged rows are missing: run molia verify")
    output.note("whoever has this file is this node: keep it where only you can read it")
    output.note(SHARES_NOTE)


@click.command(cls=Verb, help="Make a home from a backup; no node.")
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_obj
def restore(session: Session, *, file: Path) -> None:
    """Make the home that a backup tells of."""
    from molia.node import backup as node_backup

    home = _home(session)
    result = node_backup.restore(
        home, file.absolute(), lambda place: load(place).config, toml_text=toml_text()
    )
    output = session.output
    if output.as_json:
        output.json(
            "restore", home=str(home), peer=result.peer, files=result.files,
            records=result.records, pins=result.pins, shares=0,
        )  # fmt: skip
        return
    if not output.quiet:
        output.line(
            f"{printable(str(home))}: peer {result.peer}, {result.records} records, "
            f"{result.pins} pins"
        )
    output.note("never run two nodes with one identity: be sure that the old one is gone")
    output.note(SHARES_NOTE)


def _home(session: Session) -> Path:
    return home_path(str(session.options.home) if session.options.home else None, environment())
