"""Writes the pages of docs/reference that say what the code says.

Settings, commands, routes, metrics, errors and log events are defined once, in the code. This
script renders them; `tests/test_docs.py` fails when a page on the disk differs from its rendering.
Run it by `make docs`.
"""

import ast
import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import click

from molia.base import config, errors
from molia.cli.fields import field_docs
from scripts import proto_docs
from scripts.proto_docs import camel

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
NOTE = "<!-- Written by scripts/gen_docs.py from the code: change the code, then run make docs. -->"
LEVELS = ("debug", "info", "warning", "error", "exception")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def page(title: str, intro: str, *parts: str) -> str:
    """Return one generated page."""
    return "\n".join([f"# {title}\n", NOTE, "", intro.strip() + "\n", *parts])


def package_trees() -> Iterator[tuple[str, ast.Module]]:
    """Yield the dotted name and the syntax tree of every module of the package."""
    for path in sorted((ROOT / "molia").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        yield name.removesuffix(".__init__"), ast.parse(path.read_text("utf-8"))


# ---------------------------------------------------------------------------- settings


def _shown(name: str, value: object) -> str:
    """Return a default as it would stand in molia.toml."""
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, int) and name.endswith("_bytes"):
        for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
            if value and value % size == 0:
                return f'"{value // size}{unit}"'
    if isinstance(value, int) and name.endswith("_s") and value and value % 86_400 == 0:
        return f'"{value // 86_400}d"'
    return str(value)


def settings_page() -> str:
    """Return the page of all settings."""
    top = config.Config()
    plain, sections = [], []
    for field in dataclasses.fields(top):
        value = getattr(top, field.name)
        if not dataclasses.is_dataclass(value):
            plain.append(_setting(top, "", field.name))
            continue
        rows = [_setting(value, field.name, inner.name) for inner in dataclasses.fields(value)]
        about = inspect.getdoc(type(value)) or ""
        sections.append(f"## [{field.name}]\n\n{about}\n\n" + table(_SETTING_HEAD, rows))
    intro = """
Read from flags, then `MOLIA_*` environment variables, then `molia.toml` in the home, then the
defaults below; the first that says something counts. `molia config show --origin` prints each value
and where it came from. A key that does not exist is refused. `_bytes` settings take `10GiB`, `5MB`
or a number of bytes, `_s` settings take `30s`, `2h`, `30d` or a number of seconds. Lists are TOML
arrays, or separated by commas in a variable. `MOLIA_HOME` names the home itself.
"""
    return page("Settings", intro, "## Top level\n\n" + table(_SETTING_HEAD, plain), *sections)


_SETTING_HEAD = ("setting", "default", "variable", "meaning")


def _setting(owner: object, section: str, name: str) -> tuple[str, ...]:
    path = f"{section}.{name}" if section else name
    variable = "MOLIA_" + path.upper().replace(".", "__")
    doc = field_docs(type(owner)).get(name, "")
    return f"`{path}`", f"`{_shown(name, getattr(owner, name))}`", f"`{variable}`", doc


# ---------------------------------------------------------------------------- errors


def errors_page() -> str:
    """Return the page of all errors: code, status, exit code, remedy."""
    rows = []
    for kind, row in errors.OUTCOMES.items():
        doc = " ".join((inspect.getdoc(kind) or "").split())
        rows.append((f'<a id="{row.code}"></a>`{row.code}`', row.title, str(row.status),
                     str(row.exit_code), doc))  # fmt: skip
    intro = """
Every failure has one code. Over HTTP it comes as a problem document (RFC 9457,
`application/problem+json`) with `type`, `title`, `status`, `detail`, `code` and `hint`; at the
command line as one line on standard error and an exit code. After the first byte of a body nothing
can be said any more: the connection is cut.
"""
    codes: dict[int, list[str]] = {}
    for row in errors.OUTCOMES.values():
        codes.setdefault(row.exit_code, []).append(f"`{row.code}`")
    by_exit = [("0", "done")] + [(str(n), ", ".join(codes[n])) for n in sorted(codes)]
    return page(
        "Errors and exit codes", intro,
        table(("code", "title", "HTTP status", "exit code", "meaning and remedy"), rows),
        "## Exit codes\n\nAny other code is a failure too.\n",
        table(("exit code", "codes"), by_exit),
    )  # fmt: skip


# ---------------------------------------------------------------------------- commands


def walk_commands(
    command: click.Command, path: tuple[str, ...], parent: click.Context | None = None
) -> Iterator[tuple[tuple[str, ...], click.Command, click.Context]]:
    """Yield every command below `command`, itself first."""
    context = click.Context(command, info_name=path[-1], parent=parent)
    yield path, command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from walk_commands(below, (*path, name), context)


def root_command() -> click.Command:
    """Return the command `molia`."""
    from molia.cli.main import cli

    return cli


def commands_page() -> str:
    """Return the page of all commands."""
    root = root_command()
    shared = [p for p in root.params if isinstance(p, click.Option)]
    known = {p.opts[-1] for p in shared}
    parts = []
    for path, command, _ in walk_commands(root, ("molia",)):
        if isinstance(command, click.Group):
            continue
        arguments = [p for p in command.params if isinstance(p, click.Argument)]
        own = [p for p in command.params if isinstance(p, click.Option) and p.opts[-1] not in known]
        usage = " ".join([*path, "[OPTIONS]", *(_metavar(p) for p in arguments)])
        text = f"## {' '.join(path)}\n\n```\n{usage}\n```\n\n{_help(command)}\n"
        if own:
            text += "\n" + table(("option", "meaning"), [_option(p) for p in own])
        parts.append(text)
    intro = """
Standard output is data, standard error is progress and messages. On a terminal there are tables and
progress bars, elsewhere one plain line per result. The exit codes are on the page
[Errors and exit codes](errors.md). `-` stands for standard input or output, `--` ends the options.
JSON, codes and tokens in detail: [What the command writes](output.md).
"""
    every = "## Options of every command\n\n" + table(
        ("option", "meaning"), list(map(_option, shared))
    )
    return page("Commands", intro, every, *parts)


def _metavar(parameter: click.Parameter) -> str:
    """Return what stands for the value; not as click does it, which differs between versions."""
    if isinstance(parameter.type, click.Choice):
        return "|".join(map(str, parameter.type.choices))
    name = parameter.name if isinstance(parameter, click.Argument) else parameter.type.name
    return parameter.metavar or str(name).upper().removesuffix(" RANGE")


def _option(option: click.Option) -> tuple[str, str]:
    names = ", ".join([*option.opts, *option.secondary_opts])
    return f"`{names if option.is_flag else names + ' ' + _metavar(option)}`", option.help or ""


def _help(command: click.Command) -> str:
    return inspect.cleandoc(command.help or command.short_help or "").replace("\b\n", "")


# ---------------------------------------------------------------------------- routes


def openapi() -> dict[str, Any]:
    """Return the OpenAPI document of the API, without running a node."""
    from molia.api.app import create_app
    from molia.api.openapi import openapi_document

    app = create_app(cast("Any", None), config.ApiConfig(), token=None)
    return openapi_document(app, needs_token=False)


def routes_page() -> str:
    """Return the page of all routes."""
    parts = []
    for path, methods in openapi()["paths"].items():
        for method, operation in methods.items():
            if method in ("get", "put", "post", "delete", "head"):
                parts.append(_route(method.upper(), path, operation))
    intro = """
The node listens on `127.0.0.1:7070`, `[::1]:7070` and on a Unix socket in its home; where exactly
stands in `node.json` there. `/openapi.json` is the machine's version of this page. Who may call
what is told in [Safety of the local API](../explanation/api-safety.md). Every `GET` route answers
`HEAD` too. Failures are problem documents, see [Errors and exit codes](errors.md).
"""
    return page("HTTP routes", intro, *parts)


def _route(method: str, path: str, operation: dict[str, Any]) -> str:
    about = operation.get("description") or operation.get("summary", "")
    text = f"## {method} {path}\n\n{about.strip()}\n"
    rows = [
        (f"`{p['name']}`", p["in"], _meaning(p["schema"]), p.get("description", ""))
        for p in operation.get("parameters", [])
    ]
    if rows:
        text += "\n" + table(("parameter", "in", "value", "meaning"), rows)
    if "requestBody" in operation:
        types = ", ".join(f"`{name}`" for name in operation["requestBody"]["content"])
        text += f"\nBody: {types}\n"
    replies = [
        (code, ", ".join(f"`{t}`" for t in reply.get("content", {})), reply.get("description", ""))
        for code, reply in sorted(operation["responses"].items())
    ]
    return text + "\n" + table(("status", "body", "meaning"), replies)


def _meaning(schema: dict[str, Any]) -> str:
    """Return in a few words what a schema allows."""
    kinds = [s for s in schema.get("anyOf", [schema]) if s.get("type") != "null"]
    said = []
    for kind in kinds:
        words = [" or ".join(f"`{v}`" for v in kind["enum"])] if "enum" in kind else []
        words = words or [f"`{kind['const']}`"] if "const" in kind else words
        words = words or [str(kind.get("type", ""))]
        if "minimum" in kind or "maximum" in kind:
            words.append(f"{kind.get('minimum', '')} to {kind.get('maximum', '')}".strip())
        said.append(" ".join(words))
    if schema.get("default") is not None:
        said.append(f"default `{schema['default']}`")
    return ", ".join(word for word in said if word)


# ---------------------------------------------------------------------------- metrics


def metrics_page() -> str:
    """Return the page of all metrics."""
    from molia.node.metrics import DhtCounts, Metrics, WireCounts

    metrics = Metrics()
    metrics.watch(list)
    metrics.watch_wire(WireCounts)
    metrics.watch_dht(DhtCounts)
    named: dict[str, Sequence[str]] = {
        getattr(m, "_name", ""): getattr(m, "_labelnames", ()) for m in vars(metrics).values()
    }
    rows: dict[str, Sequence[str]] = {}
    for family in metrics.registry.collect():
        labels = [*(named.get(family.name) or getattr(family, "_labelnames", None) or ())]
        if family.name.startswith("molia_"):
            name = family.name + ("_total" if family.type == "counter" else "")
            rows[name] = (f"`{name}`", family.type, ", ".join(labels), family.documentation)
    rows |= dict(_gauges())
    intro = """
Served at `GET /metrics` in Prometheus' text format, together with the `process_*` metrics of its
client library. Names are `molia_<area>_<what>_<unit>`; no label holds a blob's name or a peer's.
"""
    head = ("metric", "type", "labels", "meaning")
    return page("Metrics", intro, table(head, [rows[name] for name in sorted(rows)]))


def _gauges() -> Iterator[tuple[str, Sequence[str]]]:
    """Yield what the node shows by `metrics.gauge(name, text, read)`."""
    for _, tree in package_trees():
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            texts = [a.value for a in node.args if isinstance(a, ast.Constant)]
            if node.func.attr == "gauge" and len(texts) >= 2:
                name, about = str(texts[0]), str(texts[1])
                yield name, (f"`{name}`", "gauge", "", about)


# ---------------------------------------------------------------------------- log events


def log_events() -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """Yield event, level, fields and module of every log call in the package."""
    for module, tree in package_trees():
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            target = ast.unparse(node.func.value)
            if node.func.attr not in LEVELS or target.rpartition(".")[2] not in ("log", "_log"):
                continue
            event = node.args[0] if node.args else None
            if not isinstance(event, ast.Constant):
                raise TypeError(f"{module}:{node.lineno}: an event is a constant")
            fields = tuple(k.arg or "**" for k in node.keywords)
            yield str(event.value), node.func.attr, fields, module


def log_events_page() -> str:
    """Return the page of all log events."""
    rows: dict[str, tuple[str, ...]] = {}
    for event, level, fields, module in sorted(log_events()):
        shown = ", ".join(f"`{name}`" for name in fields)
        rows.setdefault(f"{event} {level} {shown}", (f"`{event}`", level, shown, f"`{module}`"))
    intro = """
What the node says on standard error: an event in the past tense and its fields, as text on a
terminal and as one JSON object a line elsewhere (`log.format`). `debug` is for who develops Molia,
`info` reports a finished unit of work, `warning` is what an operator may act on, `error` is a
promise given up. Never in a line: keys, tokens, what is in a blob, text that a client sent.
"""
    head = ("event", "level", "fields", "where")
    return page("Log events", intro, table(head, list(rows.values())))


# ---------------------------------------------------------------------------- messages


def messages_page() -> str:
    """Return the page of the messages of the wire."""
    (numbers,) = (b for b in proto_docs.blocks() if b.kind == "enum")
    kinds = {b.name: b for b in proto_docs.blocks() if b.kind == "message"}
    sent = [member for member in numbers.members if member.number]
    parts = [table(("number", "message", "meaning"),
                   [(str(m.number), f"`{m.name}`", m.about) for m in sent])]  # fmt: skip
    parts += [_message(f"{m.name}, {m.number}", kinds.pop(camel(m.name))) for m in sent]
    parts += [_message(f"{name}, a part of others", block) for name, block in kinds.items()]
    return page("Messages", _MESSAGES_INTRO, *parts)


_MESSAGES_INTRO = """
The small messages of a session, protobuf (proto3) from `molia/wire/schema`. A body is at most
2 KiB; one that breaks a bound below is dropped, never answered in part. Unknown fields are
ignored. Numbers 0 to 63 belong to the transport, 64 to 127 to the DHT, 128 to 191 to blobs.
Protobuf has several encodings for one value: no encoding is ever hashed, signed or compared.
Vectors: `tests/vectors/messages.json`.

## Negotiation

The handshake does it (packets.md, "Payload"): each side names the lowest and the highest version
that it speaks; the highest that both speak is used, and without one the handshake is dropped and
counted. Of the 64 feature bits, those with an odd index may be ignored by who does not know them; a
peer with an even one that the other lacks is dropped too. Version 1 defines no bit. HELLO tells the
same, and what program a peer is, to who asks.

## Numbers
"""


def _message(title: str, block: proto_docs.Block) -> str:
    rows = [(str(m.number), f"`{m.name}`", f"`{m.kind}`", m.about) for m in block.members]
    text = f"## {title}\n\n{block.about}\n"
    return text + "\n" + table(("field", "name", "type", "meaning"), rows) if rows else text


PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "commands.md": commands_page,
    "routes.md": routes_page,
    "metrics.md": metrics_page,
    "errors.md": errors_page,
    "log-events.md": log_events_page,
    "messages.md": messages_page,
}


def main() -> int:
    """Write all pages; return the exit code."""
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for name, render in PAGES.items():
        (REFERENCE / name).write_text(render(), "utf-8")
        print(f"docs/reference/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
