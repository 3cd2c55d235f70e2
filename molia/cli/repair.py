"""`molia repair`: which blobs lack shares on other nodes, and a repair now."""

import click

from molia.base.cid import parse_ref
from molia.base.errors import BadAnswer
from molia.cli.client import find_node
from molia.cli.output import age_text, printable
from molia.cli.verb import Session, Verb

_HEADINGS = ("CID", "STATE", "SHARES", "MISSING", "DUE")
Row = dict[str, object]


@click.command(
    cls=Verb, lines=True, help="Show what lacks shares on other nodes, or repair it now."
)
@click.argument("cids", nargs=-1, metavar="[CID]...")
@click.option("--dry-run", is_flag=True, help="Only say how the blobs stand.")
@click.pass_obj
def repair(session: Session, *, cids: tuple[str, ...], dry_run: bool) -> None:
    """List the queue; with CIDs begin to repair these, if they lack anything."""
    wanted = [str(parse_ref(text)) for text in cids]
    node, output = find_node(session), session.output
    if wanted:
        rows = [
            node.call("POST", "/repair", body={"cid": text, "dry_run": dry_run}).object()
            for text in wanted
        ]
    else:
        found = node.call("GET", "/repair").object().get("repairs")
        if not isinstance(found, list):
            raise BadAnswer("the node's answer lists no repairs", hint="check --node")
        rows = [row for row in found if isinstance(row, dict)]
    if output.as_json:
        for row in rows:
            output.json("item", **row)
        output.json("summary", ok=True, exit_code=0, count=len(rows))
    elif output.is_terminal and not output.quiet:
        output.table(_HEADINGS, map(_cells, rows))
        if not rows:
            output.note("nothing that this node watches lacks a share")
    else:
        for row in rows:
            cells = [str(row.get("cid"))] if output.quiet else _cells(row)
            output.line("\t".join(map(printable, cells)))


def _cells(row: Row) -> list[str]:
    due = row.get("due_s")
    when = f"in {age_text(due)}" if isinstance(due, int | float) else "-"
    shares = f"{row.get('reachable')} (needs {row.get('needed')})"
    return [str(row.get("cid")), str(row.get("state")), shares, str(row.get("missing")), when]
