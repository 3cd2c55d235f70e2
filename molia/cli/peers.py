"""`molia peers`, `ping` and `lookup`: who is there, and how a key is found."""

import sys
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

import click

from molia.base.errors import BadAnswer, ConnectionLost
from molia.cli.client import Node, as_error, find_node
from molia.cli.event_stream import Event, read_events
from molia.cli.output import NodeRefused, Output, age_text, printable
from molia.cli.verb import Session, Verb

_EVENT_STREAM: Final = "text/event-stream"
_HEADINGS: Final = ("PEER", "STATE", "RTT", "AGE", "SESSION", "ADDRESS")
Row = dict[str, object]


@click.command(cls=Verb, lines=True, help="List the nodes that the node knows.")
@click.pass_obj
def peers(session: Session) -> None:
    """List peers as a table, as addresses, or as objects."""
    rows = _rows(find_node(session).call("GET", "/peers").object(), "peers")
    output = session.output
    if output.as_json:
        for row in rows:
            output.json("item", **row)
        output.json("summary", ok=True, exit_code=0, count=len(rows))
    elif output.is_terminal and not output.quiet:
        output.table(_HEADINGS, map(_cells, rows))
    else:
        for row in rows:
            output.line(printable(str(row.get("peer" if output.quiet else "address"))))


@click.command(cls=Verb, help="Ask a peer for a sign of life.")
@click.argument("peer")
@click.pass_obj
def ping(session: Session, *, peer: str) -> None:
    """Ping a peer, by its key or its `molia://` address, and say how it sees us."""
    path = f"/peers/{quote(peer, safe='')}/ping"
    pong = find_node(session).call("POST", path).object()
    output = session.output
    if output.as_json:
        output.json("pong", **pong)
    elif output.quiet:
        output.line(printable(str(pong.get("peer"))))
    elif not output.is_terminal:
        output.line(printable(f"{pong.get('address')} {_float(pong, 'rtt_ms'):.1f} ms"))
    else:
        rtt, offset = _float(pong, "rtt_ms"), _float(pong, "clock_offset_s")
        serves = "serves others" if pong.get("serves") else "does not serve others"
        text = f"{pong.get('address')} answered in {rtt:.1f} ms, sees us at "
        text += f"{pong.get('seen_address')}, {serves}, its clock {offset:+.1f} s"
        output.line(printable(text))


@click.command(cls=Verb, lines=True, help="Find the nodes closest to a key.")
@click.argument("key")
@click.option("--trace", is_flag=True, help="Show each step as it happens.")
@click.pass_obj
def lookup(session: Session, *, key: str, trace: bool) -> None:
    """Look up a peer key, a record's address, a CID, or 64 hex digits."""
    path = f"/lookup/{quote(key, safe='')}"
    node, output = find_node(session), session.output
    result = _traced(node, path, output) if trace else node.call("GET", path).object()
    closest = _rows(result, "closest")
    if output.as_json:
        output.json("lookup", **result)
        output.json("summary", ok=True, exit_code=0, count=len(closest))
        return
    for row in closest:
        output.line(printable(str(row.get("peer") if output.quiet else _place(row))))
    text = f"{len(closest)} closest nodes after {result.get('rpcs')} requests in "
    output.note(f"{text}{_float(result, 'took_ms'):.0f} ms: {result.get('why')}")


def _traced(node: Node, path: str, output: Output) -> Row:
    """Show the steps of a lookup while it runs, and return its result."""
    for event in _steps(node, path):
        match event.kind:
            case "done":
                return event.data
            case "error":
                raise _refusal(event.data)
            case kind if output.as_json:
                output.json("step", step=kind, data=event.data)
            case kind if not output.quiet:
                output.line(_step_line(kind, event.data))
        sys.stdout.flush()
    raise ConnectionLost("the node ended the lookup's steps early", hint="try again")


def _steps(node: Node, path: str) -> Iterator[Event]:
    with node.stream("GET", f"{path}?trace=true", {"Accept": _EVENT_STREAM}) as response:
        try:
            yield from read_events(response)
        except (OSError, ValueError) as error:
            raise as_error(error) from None


def _step_line(kind: str, data: Row) -> str:
    """Return a step as a line: when, what, and its fields in the node's order."""
    rest = " ".join(f"{name}={_shown(value)}" for name, value in data.items() if name != "at_ms")
    return printable(f"{_float(data, 'at_ms'):8.1f} ms  {kind:<8} {rest}".rstrip())


def _shown(value: object) -> str:
    return ",".join(map(_shown, value)) if isinstance(value, list) else str(value)


def _refusal(problem: Row) -> NodeRefused:
    status = problem.get("status")
    return NodeRefused(
        str(problem.get("detail") or "the lookup failed"),
        hint=str(problem.get("hint") or ""),
        code=str(problem.get("code") or ""),
        status=status if isinstance(status, int) else 500,
        title=str(problem.get("title") or ""),
    )


def _rows(answer: Row, member: str) -> list[Row]:
    rows = answer.get(member)
    if not isinstance(rows, list):
        raise BadAnswer(f"the node's answer lists no {member}", hint="check --node")
    return [row for row in rows if isinstance(row, dict)]


def _cells(row: Row) -> list[str]:
    rtt = f"{_float(row, 'rtt_ms'):.1f} ms" if row.get("rtt_ms") is not None else "-"
    address = str(row.get("address")).rpartition("@")[2]
    session = "yes" if row.get("has_session") else "-"
    age = age_text(_float(row, "age_s"))
    return [str(row.get("peer")), str(row.get("state")), rtt, age, session, address]


def _place(row: Row) -> str:
    address = str(row.get("address") or "")
    return address if address.startswith("molia://") else f"molia://{row.get('peer')}@{address}"


def _float(row: Row, key: str) -> float:
    value = row.get(key)
    return float(value) if isinstance(value, int | float) else 0.0
