"""`molia ls`, `stat`, `rm` and `pin`: what the node keeps, and for how long."""

import time
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import urlencode

import click

from molia.base.cid import Codec, Ref, parse_ref
from molia.base.errors import BadAnswer, MoliaError, NodeNotRunning
from molia.base.limits import DATA_SHARES, LIST_LIMIT_MAX, TOTAL_SHARES
from molia.cli.client import Node, find_node
from molia.cli.fetch import find_blob
from molia.cli.following import follow_job
from molia.cli.output import (
    NodeRefused,
    Output,
    age_text,
    exit_code_of,
    plain_path,
    printable,
    size_text,
)
from molia.cli.verb import Session, Tree, Verb

PARTIAL_EXIT: Final = 3
HTTP_NOT_FOUND: Final = 404
_DAG_CBOR: Final = "application/vnd.ipld.dag-cbor"
Row = dict[str, object]


@click.command(cls=Verb, lines=True, help="List what the node keeps, newest first.")
@click.option("-l", "--long", is_flag=True, help="CID, size, pin, time and name, tab-separated.")
@click.option("--pinned", is_flag=True, help="Only what is pinned.")
@click.option("--at-risk", is_flag=True, help="Only what has lost shares.")
@click.pass_obj
def ls(session: Session, *, long: bool, pinned: bool, at_risk: bool) -> None:
    """List blobs as a table, as lines, or as objects."""
    rows = _listed(
        find_node(session), "/blob" if at_risk or not pinned else "/pin", at_risk=at_risk
    )
    _show(session.output, (row for row in rows if row.get("pinned") or not pinned), long=long)


@click.command(cls=Verb, help="Show what is known of a blob.")
@click.argument("cid")
@click.option("--b3", is_flag=True, help="Print `HEX  NAME`, as b3sum -c reads it.")
@click.option("--manifest", is_flag=True, help="Write the manifest's bytes; with --json, read out.")
@click.pass_obj
def stat(session: Session, *, cid: str, b3: bool, manifest: bool) -> None:
    """Show a blob's ids, size and health."""
    ref, node, output = parse_ref(cid), find_node(session), session.output
    if manifest and not output.as_json:
        answer = node.call("GET", f"/blob/{ref}/manifest", headers={"Accept": _DAG_CBOR})
        output.data(answer.body)
    elif manifest:
        output.json("manifest", **node.call("GET", f"/blob/{ref}/manifest").object())
    elif b3:
        found = find_blob(node, ref)
        if output.as_json:
            output.json("b3", cid=str(found.cid), content=found.content.hex(), name=found.name)
        else:
            output.line(_b3_line(found.content.hex(), found.name))
    else:
        _show_blob(output, _whole_row(node, ref))


@click.command(cls=Verb, lines=True, help="Remove blobs from the node and free their space.")
@click.argument("cids", metavar="CID…", nargs=-1, required=True)
@click.pass_obj
def rm(session: Session, *, cids: tuple[str, ...]) -> int:
    """Remove each blob; one that fails does not stop the others."""

    def remove(node: Node, ref: Ref) -> Row:
        node.call("DELETE", f"/blob/{ref}")
        return {"cid": str(ref), "removed": True}

    return _each(session, cids, remove)


@click.command(cls=Verb, lines=True, help="Bring removed blobs back, or list those that can be.")
@click.argument("cids", metavar="[CID…]", nargs=-1)
@click.pass_obj
def undelete(session: Session, *, cids: tuple[str, ...]) -> int:
    """Bring each blob back while its `store.trash_s` lasts; without any, show what is there."""
    if not cids:
        return _show_trash(session)

    def bring_back(node: Node, ref: Ref) -> Row:
        node.call("POST", f"/trash/{ref}")
        return {"cid": str(ref), "removed": False}

    return _each(session, cids, bring_back)


def _show_trash(session: Session) -> int:
    listed = find_node(session).call("GET", "/trash").object().get("blobs")
    rows = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
    output = session.output
    if output.as_json:
        for row in rows:
            output.json("item", **row)
        output.json("summary", ok=True, exit_code=0, count=len(rows))
    elif output.is_terminal and not output.quiet:
        cells = (
            [str(row.get("cid")), size_text(_number(row, "size")),
             _moment(_number(row, "until_unix_s")), str(row.get("name") or "")]
            for row in rows
        )  # fmt: skip
        output.table(["CID", "SIZE", "UNTIL", "NAME"], cells)
    else:
        for row in rows:
            output.line(str(row.get("cid")))
    return 0


pin = Tree(name="pin", help="Keep blobs until they are removed.")


@pin.command("add", cls=Verb, lines=True, help="Keep these blobs until they are removed.")
@click.argument("cids", metavar="CID…", nargs=-1, required=True)
@click.option("--no-wait", is_flag=True, help="Do not wait for what has to be fetched.")
@click.pass_obj
def pin_add(session: Session, *, cids: tuple[str, ...], no_wait: bool) -> int:
    """Pin each blob; one that others have is fetched. Pinning twice is fine."""

    def add(node: Node, ref: Ref) -> Row:
        answer = node.call("PUT", f"/pin/{ref}")
        job = answer.headers.get("x-molia-job", "")
        if not job.isalnum():
            return {"cid": str(ref), "pinned": True}
        if no_wait:
            return {"cid": str(ref), "pinned": True, "job": job}
        end = _fetched(session, node, job, _number(answer.object(), "size"))
        told: Row = {key: end[key] for key in ("holders", "survives") if key in end}
        return {"cid": str(ref), "pinned": True, **told}

    return _each(session, cids, add)


def _fetched(session: Session, node: Node, job: str, size: int) -> Row:
    """Return what came of a pin's job; its bytes are a bar. One that is broken off goes on."""
    with session.output.bar("pin", size) as bar:

        def on_event(kind: str, data: Row) -> None:
            if kind == "progress" and isinstance(data.get("bytes"), int):
                bar.move(_number(data, "bytes"), label="pin")

        return follow_job(node, job, on_event)


@pin.command("rm", cls=Verb, lines=True, help="Let these blobs go when their lease ends.")
@click.argument("cids", metavar="CID…", nargs=-1, required=True)
@click.pass_obj
def pin_rm(session: Session, *, cids: tuple[str, ...]) -> int:
    """Unpin each blob; its lease runs out by itself."""

    def drop(node: Node, ref: Ref) -> Row:
        node.call("DELETE", f"/pin/{ref}")
        return {"cid": str(ref), "pinned": False}

    return _each(session, cids, drop)


@pin.command("ls", cls=Verb, lines=True, help="List what is pinned.")
@click.option("-l", "--long", is_flag=True, help="CID, size, pin, time and name, tab-separated.")
@click.pass_obj
def pin_ls(session: Session, *, long: bool) -> None:
    """List pinned blobs, as `ls --pinned` does."""
    _show(session.output, _listed(find_node(session), "/pin", at_risk=False), long=long)


def _listed(node: Node, path: str, *, at_risk: bool) -> Iterator[Row]:
    """Yield every line of the node's index, or of its pins, page by page."""
    query = {"limit": str(LIST_LIMIT_MAX)} | ({"state": "at-risk"} if at_risk else {})
    while True:
        page = node.call("GET", f"{path}?{urlencode(query)}").object()
        blobs = page.get("blobs")
        if not isinstance(blobs, list):
            raise BadAnswer("the node's answer lists no blobs", hint="check --node")
        yield from (row for row in blobs if isinstance(row, dict))
        cursor = page.get("next")
        if not isinstance(cursor, str) or cursor == query.get("cursor"):
            return
        query["cursor"] = cursor


def _show(output: Output, rows: Iterator[Row], *, long: bool) -> None:
    if output.as_json:
        count = 0
        for row in rows:
            output.json("item", **row)
            count += 1
        output.json("summary", ok=True, exit_code=0, count=count)
    elif output.quiet or not (output.is_terminal or long):
        for row in rows:
            output.line(str(row.get("cid")))
    elif output.is_terminal:
        now_ms = time.time() * 1000
        output.table(["CID", "SIZE", "AGE", "PIN", "NAME"], (_cells(row, now_ms) for row in rows))
    else:
        for row in rows:
            output.line("\t".join(_columns(row)))


def _cells(row: Row, now_ms: float) -> list[str]:
    age = age_text((now_ms - _number(row, "created_unix_ms")) / 1000)
    size = size_text(_number(row, "size"))
    return [str(row.get("cid")), size, age, _pin_mark(row), str(row.get("name") or "")]


def _columns(row: Row) -> list[str]:
    created = time.strftime(
        "%Y-%m-%dT%H:%M:%SZ", time.gmtime(min(_number(row, "created_unix_ms"), 1 << 45) // 1000)
    )
    size, name = str(_number(row, "size")), plain_path(str(row.get("name") or ""))
    return [str(row.get("cid")), size, _pin_mark(row), created, name]


def _pin_mark(row: Row) -> str:
    return "pinned" if row.get("pinned") else "-"


def _number(row: Row, key: str) -> int:
    value = row.get(key)
    return value if isinstance(value, int) and value >= 0 else 0


def _whole_row(node: Node, ref: Ref) -> Row:
    """Return the index line of a blob with its health."""
    try:
        row = node.call("GET", f"/pin/{ref}").object()
    except NodeRefused as error:
        if error.status != HTTP_NOT_FOUND:
            raise
        row = _row_elsewhere(node, ref)
    health = node.call("GET", f"/blob/{row['cid']}/health").object()
    return {**row, "health": health}


def _row_elsewhere(node: Node, ref: Ref) -> Row:
    """Return the same for a blob that the node does not keep, and can get from others."""
    found = find_blob(node, ref)
    is_small = found.cid.codec is Codec.RAW
    return {
        "cid": str(found.cid), "size": found.size, "content": found.content.hex(), "name": "",
        "pinned": False, "expires_unix_s": None, "k": 1 if is_small else DATA_SHARES,
        "n": 1 if is_small else TOTAL_SHARES,
    }  # fmt: skip


def _show_blob(output: Output, row: Row) -> None:
    health = row["health"]
    assert isinstance(health, dict), "made by _whole_row"
    if output.as_json:
        output.json("blob", **row)
        return
    if output.quiet:
        output.line(str(row.get("cid")))
        return
    size = _number(row, "size")
    expires = row.get("expires_unix_s")
    for name, value in (
        ("cid", row.get("cid")),
        ("name", row.get("name") or "-"),
        ("size", f"{size} ({size_text(size)})" if output.is_terminal else size),
        ("content", row.get("content")),
        ("pinned", "yes" if row.get("pinned") else "no"),
        ("expires", _moment(expires) if isinstance(expires, int) else "never"),
        ("shares", f"{row.get('n')} kept, {row.get('k')} needed"),
        ("state", health.get("state")),
        ("survives", f"the loss of {health.get('survives')} nodes"),
        ("spare", f"{health.get('spare_shares')} shares"),
    ):
        output.line(f"{name + ':':<10}{printable(str(value))}")


def _moment(unix_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(max(0, min(unix_s, 1 << 35))))


def _b3_line(digest: str, name: str) -> str:
    r"""Return a line of `b3sum`: a name with a backslash or newline is escaped and marked so."""
    if "\\" in name or "\n" in name:
        return f"\\{digest}  " + name.replace("\\", "\\\\").replace("\n", "\\n")
    return f"{digest}  {name}"


def _each(session: Session, cids: tuple[str, ...], act: Callable[[Node, Ref], Row]) -> int:
    """Do `act` to each blob, report each, and return the exit code."""
    refs = [parse_ref(text) for text in cids]  # a slip in the last one must not half do the job
    node, output = find_node(session), session.output
    failures: list[MoliaError] = []
    for ref in refs:
        try:
            row = act(node, ref)
        except NodeNotRunning:
            raise
        except MoliaError as error:
            failures.append(error)
            output.error(error, cid=str(ref))
            continue
        if output.as_json:
            output.json("item", **row)
        else:
            output.line(str(ref))
    codes = {exit_code_of(error) for error in failures}
    code = 0
    if failures:
        all_alike = len(failures) == len(refs) and len(codes) == 1
        code = codes.pop() if all_alike else PARTIAL_EXIT
    if output.as_json:
        done = len(refs) - len(failures)
        output.json("summary", ok=code == 0, exit_code=code, done=done, failed=len(failures))
    return code
