"""`molia record put`, `get` and `ls`: small signed values that can change."""

import sys
import time
from pathlib import Path
from typing import Final

import click

from molia.base.errors import BadAnswer, FileUnusable, RecordTooLarge
from molia.base.limits import RECORD_VALUE_MAX, UNIX_S_MAX
from molia.base.record_ref import RecordRef, own_name
from molia.cli.client import find_node
from molia.cli.output import Output, age_text, printable, size_text
from molia.cli.verb import Session, Tree, Verb

_BYTES: Final = "application/octet-stream"
Row = dict[str, object]

record = Tree(name="record", help="Small signed values that can change.")


@record.command("put", cls=Verb, help="Sign a value and publish it under a name of this node.")
@click.argument("name")
@click.argument("file", metavar="[FILE|-]", default="-")
@click.option(
    "--if-seq",
    type=click.IntRange(0, (1 << 64) - 1),
    metavar="N",
    help="Only when the present record has this seq; 0: only when there is none.",
)
@click.pass_obj
def put(session: Session, *, name: str, file: str, if_seq: int | None) -> None:
    """Put at most 1,000 bytes and print the record's address."""
    ref = RecordRef(None, own_name(name))
    value = _read(file)
    condition: dict[str, str] = {}
    if if_seq is not None:
        condition = {"If-Match": f'"{if_seq}"'} if if_seq else {"If-None-Match": "*"}
    headers = {"Content-Type": _BYTES, **condition}
    path = f"/record/{ref.quoted}"
    receipt = find_node(session).call("PUT", path, data=value, headers=headers).object()
    output = session.output
    if output.as_json:
        output.json("record", **receipt)
    elif output.quiet or not output.is_terminal:
        output.line(printable(str(receipt.get("address"))))
    else:
        text = f"{receipt.get('address')}  seq {receipt.get('seq')}  kept by {receipt.get('acks')}"
        output.line(printable(f"{text} node(s) until {_moment(_number(receipt, 'expires'))}"))


@record.command("get", cls=Verb, help="Write a record's value to stdout.")
@click.argument("address")
@click.option("--consistent", is_flag=True, help="Ask a quorum of the holders; the highest wins.")
@click.pass_obj
def get(session: Session, *, address: str, consistent: bool) -> None:
    """Read a record by its address, or one of this node by its name."""
    path = f"/record/{RecordRef.parse(address).quoted}" + ("?consistent=true" if consistent else "")
    node, output = find_node(session), session.output
    if output.as_json:
        output.json("record", **node.call("GET", path).object())
        return
    value = node.call("GET", path, headers={"Accept": _BYTES}).body
    if output.is_terminal:  # what a stranger signed must not drive it
        output.line(printable(value.decode("utf-8", "backslashreplace")))
    else:
        output.data(value)


@record.command("ls", cls=Verb, lines=True, help="List the records that this node keeps alive.")
@click.pass_obj
def ls(session: Session) -> None:
    """List our own records as a table, as addresses, or as objects."""
    records = find_node(session).call("GET", "/record").object().get("records")
    if not isinstance(records, list):
        raise BadAnswer("the node's answer lists no records", hint="check --node")
    _show(session.output, [row for row in records if isinstance(row, dict)])


def _show(output: Output, rows: list[Row]) -> None:
    if output.as_json:
        for row in rows:
            output.json("item", **row)
        output.json("summary", ok=True, exit_code=0, count=len(rows))
    elif output.is_terminal and not output.quiet:
        now_s = time.time()
        output.table(["ADDRESS", "SEQ", "SIZE", "ENDS IN"], (_cells(row, now_s) for row in rows))
    else:
        for row in rows:
            output.line(printable(str(row.get("address"))))


def _cells(row: Row, now_s: float) -> list[str]:
    ends = age_text(_number(row, "expires") - now_s)
    return [str(row.get("address")), str(row.get("seq")), size_text(_number(row, "size")), ends]


def _read(path: str) -> bytes:
    """Return the whole of a value. Raises RecordTooLarge before more than that is read."""
    if path != "-":
        with Path(path).open("rb") as file:
            value = file.read(RECORD_VALUE_MAX + 1)
    elif sys.stdin is None:
        raise FileUnusable("stdin is closed")
    else:
        value = sys.stdin.buffer.read(RECORD_VALUE_MAX + 1)
    if len(value) > RECORD_VALUE_MAX:
        raise RecordTooLarge(RECORD_VALUE_MAX)
    return value


def _number(row: Row, key: str) -> int:
    value = row.get(key)
    return value if isinstance(value, int) and value >= 0 else 0


def _moment(unix_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(min(unix_s, UNIX_S_MAX)))
