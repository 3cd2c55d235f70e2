"""`molia gc`: what nobody wants any more goes now, or is told."""

import click

from molia.cli.client import find_node
from molia.cli.output import printable, size_text
from molia.cli.verb import Session, Verb

_KINDS = (
    ("blobs", "blob_bytes", "of yours, whose time is over"),
    ("trashed", "trashed_bytes", "removed before, too long ago to be brought back"),
    ("held", "held_bytes", "kept for others, whose leases have all ended"),
)


@click.command(cls=Verb, help="Remove what nobody wants any more now, not within the hour.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.pass_obj
def gc(session: Session, *, dry_run: bool) -> None:
    """Print a line for each kind: how many blobs, how many bytes."""
    node, output = find_node(session), session.output
    found = node.call("POST", "/gc", body={"dry_run": dry_run}).object()
    if output.as_json:
        output.json("garbage", dry_run=dry_run, **found)
        return
    for kind, bytes_of, text in _KINDS:
        count, size = found.get(kind, 0), found.get(bytes_of, 0)
        if output.quiet:
            output.line(f"{kind}\t{count}\t{size}")
        else:
            size_of = size_text(size) if isinstance(size, int) else "?"
            output.line(f"{count} blobs {text}: {size_of} {'would go' if dry_run else 'gone'}")
    if found.get("doubt"):
        output.note(f"nothing goes for its age: {printable(str(found['doubt']))}")
