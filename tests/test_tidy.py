"""The rules of the code that a machine can hold: layers, engines, sizes, words.

ruff bans calls, import-linter follows imports through modules; this file holds the rest. Every
rule has a case below that breaks it: a rule that cannot fail is not a rule.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from molia.base import errors, limits

ROOT = Path(__file__).parent.parent
FOLDERS = ("molia", "migrations", "tests", "scripts", "docs", ".ci")
FILE_LINES_MAX, FUNCTION_LINES_MAX = 600, 60

MAY_IMPORT = {
    "base": {"base"},
    "wire": {"base", "wire"},
    "dht": {"base", "wire", "dht"},
    "store": {"base", "store"},
    "blobs": {"base", "blobs"},
    "node": {"base", "wire", "dht", "store", "blobs", "node"},
    "api": {"base", "node.service", "api"},
    "cli": {"base", "cli"},
    "sim": {"base", "wire", "dht", "store", "blobs", "node.core", "sim"},
}
ALSO = {  # files that may import more than their package, and why
    "cli/run.py": {"node", "api"},  # the composition root: it builds the node and its API
    "cli/worker.py": {"node", "api"},  # the same in each process of several
    "cli/testnet_forked.py": {"node", "api"},  # many nodes, a process each
    "cli/testnet_inside.py": {"node", "api"},  # many nodes in one process
    "cli/init.py": {"node.home"},  # makes a home, without a node
    "cli/verify.py": {"node.offline"},  # a store that no node serves can be checked all the same
    "cli/migrate.py": {"node.migration"},  # a store is migrated while no node serves it
    "cli/backup.py": {"node.backup"},  # the same for what a backup holds
    "cli/only_hash.py": {"blobs"},  # a CID can be computed without a node
}
SHELLS = {"node", "api", "cli"}  # the packages that may be async, log, and read clocks
ONLY = {  # what one file or package alone may import
    "lmdb": ("store/lmdb_env.py",),
    "crc32c": ("store/frame.py",),
    "zfec": ("blobs/erasure.py",),
    "cryptography": ("base/crypto.py",),
    "nacl": ("base/curve.py",),
    "blake3": ("base/hashing.py",),
    "google.protobuf": ("wire/bodies.py", "wire/_pb/"),
    "fastapi": ("api/",),
    "starlette": ("api/",),
    "uvicorn": ("api/",),
    "python_multipart": ("api/",),
    "pydantic": ("api/", "cli/settings.py"),
    "prometheus_client": ("node/",),
    "maxminddb": ("node/asn.py",),
    "click": ("cli/",),
    "rich": ("cli/",),
}
EFFECTS = {"anyio", "asyncio", "socket", "multiprocessing", "subprocess", "time", "datetime", "os",
           "secrets", "random", "logging", "structlog", "concurrent", "threading"}  # fmt: skip
MAY_TOUCH = {  # effects that some synchronous files need, and why
    "store/disk.py": {"os"},  # the one place of the operating system's file calls
    "store/os_disk.py": {"os"},
    "store/lmdb_env.py": {"os"},  # an environment must not cross a fork: it compares process ids
    "store/": {"threading"},  # locks: any thread reads while the writer writes
    "blobs/erasure.py": {"threading"},  # coders are cached per thread
    "sim/": {"os", "random", "subprocess", "time"},  # seeds, copies of LMDB's files, rates
}


def imports(tree: ast.Module) -> Iterator[str]:
    """Yield the dotted name of every import, wherever it stands in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def under(name: str, prefixes: set[str]) -> bool:
    """Tell whether the dotted `name` is one of `prefixes` or lies below one."""
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def import_faults(where: str, tree: ast.Module) -> Iterator[str]:
    """Yield what is wrong with the imports of one file of the package."""
    package = where.partition("/")[0]
    allowed = {"__version__"} | MAY_IMPORT[package] | ALSO.get(where, set())
    touches = {e for start, some in MAY_TOUCH.items() if where.startswith(start) for e in some}
    for name in imports(tree):
        if name.startswith("molia.") and not under(name[6:], allowed):
            yield f"{where}: {package} may not import {name}"
        if package not in SHELLS and under(name, EFFECTS - touches):
            yield f"{where}: {name} belongs to node, api or cli"
        for owned, homes in ONLY.items():
            if under(name, {owned}) and not where.startswith(homes):
                yield f"{where}: {owned} belongs to {' and '.join(homes)}"


def size_faults(where: str, source: str, tree: ast.Module) -> Iterator[str]:
    """Yield what is too long."""
    if source.count("\n") > FILE_LINES_MAX:
        yield f"{where}: over {FILE_LINES_MAX} lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield f"{where}:{node.lineno}: {node.name} has {lines} lines"


def shape_faults(where: str, tree: ast.Module) -> Iterator[str]:
    """Yield async code where it may not be, and public names without a docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef) and where.partition("/")[0] not in SHELLS:
            yield f"{where}:{node.lineno}: only node, api and cli are async"
    if tree.body and ast.get_docstring(tree) is None:
        yield f"{where}: says nothing about itself"
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if not node.name.startswith("_") and ast.get_docstring(node) is None:
            yield f"{where}:{node.lineno}: {node.name} has no docstring"


def faults(where: str, source: str) -> list[str]:
    """Return what is wrong with the file `where` of the package molia, one line each."""
    tree = ast.parse(source)
    found = [*size_faults(where, source, tree), *shape_faults(where, tree)]
    if "/" in where and where != "__main__.py":
        found += import_faults(where, tree)
    return found


PACKAGE_FILES = sorted(
    path.relative_to(ROOT / "molia").as_posix()
    for path in ROOT.glob("molia/**/*.py")
    if "_pb" not in path.parts  # generated
)
OTHER_CODE = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("migrations", "tests", "scripts")
    for path in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("where", PACKAGE_FILES)
def test_a_file_of_the_package_keeps_the_rules(where: str) -> None:
    assert faults(where, (ROOT / "molia" / where).read_text()) == []


@pytest.mark.parametrize("where", OTHER_CODE)
def test_other_code_keeps_the_sizes(where: str) -> None:
    source = (ROOT / where).read_text()
    assert list(size_faults(where, source, ast.parse(source))) == []


@pytest.mark.parametrize(
    ("where", "body"),
    [
        ("base/x.py", "from molia.store.shard import Shard\n"),
        ("store/x.py", "from molia.blobs import merkle\n"),
        ("blobs/x.py", "import molia.store.keys\n"),
        ("blobs/x.py", "def f() -> None:\n    '''Do.'''\n    import molia.node.home\n"),
        ("api/x.py", "from molia.node.home import init_home\n"),
        ("node/x.py", "from molia.api.app import create_app\n"),
        ("cli/put.py", "from molia.node.home import init_home\n"),
        ("sim/x.py", "from molia.node.app import run\n"),
        ("store/x.py", "import time\n"),
        ("store/x.py", "from os import urandom\n"),
        ("base/x.py", "from structlog import get_logger\n"),
        ("blobs/x.py", "import anyio\n"),
        ("store/index.py", "import lmdb\n"),
        ("wire/x.py", "from molia.store.keys import Kind\n"),
        ("wire/x.py", "from google.protobuf.message import Message\n"),
        ("store/log.py", "from crc32c import crc32c\n"),
        ("base/crypto.py", "from nacl import bindings\n"),
        ("blobs/upload.py", "import zfec\n"),
        ("node/x.py", "from blake3 import blake3\n"),
        ("node/x.py", "import pydantic\n"),
        ("node/x.py", "import maxminddb\n"),
        ("api/x.py", "import click\n"),
        ("blobs/x.py", "async def f() -> None:\n    '''Do.'''\n"),
        ("base/x.py", "def f() -> None:\n    pass\n"),
        ("base/x.py", "class Thing:\n    pass\n"),
        ("base/x.py", "def f() -> None:\n    '''Do.'''\n" + "    x = 1\n" * 59),
        ("base/x.py", "\n" * 600),
    ],
)
def test_each_rule_fails_on_a_file_made_to_break_it(where: str, body: str) -> None:
    assert len(faults(where, '"""A file."""\n' + body)) == 1


def test_a_file_without_a_docstring_is_seen() -> None:
    assert faults("base/x.py", "x = 1\n") == ["base/x.py: says nothing about itself"]


# ---------------------------------------------------------------------------- words

_HOSTS = ("py" + "pi.org", "python" + "hosted.org", "npm" + "js.org", "cra" + "tes.io")
FORBIDDEN = {
    "a path of somebody's machine": r"(?<![\w.$~}])/(?:work|root|home(?!/u/)|Users|tmp/brief)/\w",
    "a package registry": "|".join(re.escape(host) for host in _HOSTS),
    "work left open": r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b|NotImplemented" + r"Error",
    "a test known to fail": r"mark\.x" + r"fail|pytest\.x" + r"fail",
    "how it came about": r"(?i)\b(?:cla" + r"ude|chat" + r"gpt|copi" + r"lot|A" + r"I-generated)\b",
}
TEXT_SUFFIXES = {".py", ".md", ".toml", ".json", ".txt", ".sh", ".service", ""}


def word_faults(text: str) -> list[str]:
    """Return the kinds of words in `text` that have no place in the tree."""
    return [kind for kind, pattern in FORBIDDEN.items() if re.search(pattern, text)]


def texts() -> list[Path]:
    """Return every file of the tree that people read."""
    inside = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.is_file()]
    top = [p for p in ROOT.iterdir() if p.is_file()]
    kept = [p for p in inside + top if p.suffix in TEXT_SUFFIXES and "__pycache__" not in p.parts]
    return sorted(p for p in kept if p.name != "LICENSE")


def test_no_file_holds_a_word_that_has_no_place() -> None:
    found = {str(p.relative_to(ROOT)): word_faults(p.read_text("utf-8")) for p in texts()}
    assert {name: kinds for name, kinds in found.items() if kinds} == {}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("see /ho" + "me/ann/molia", "a path of somebody's machine"),
        ("from https://" + _HOSTS[0] + "/simple", "a package registry"),
        ("# TO" + "DO later", "work left open"),
        ("@pytest.mark.x" + "fail", "a test known to fail"),
        ("as Cla" + "ude said", "how it came about"),
    ],
)
def test_each_kind_of_word_is_seen(text: str, kind: str) -> None:
    assert word_faults(text) == [kind]


# ---------------------------------------------------------------------------- tables


def bounds() -> list[str]:
    """Return the names of all bounds."""
    return [name for name in vars(limits) if name.isupper()]


def unused(names: list[str], sources: list[str]) -> list[str]:
    """Return the names that stand in none of the sources."""
    words = {word for source in sources for word in re.findall(r"\b[A-Z][A-Z0-9_]+\b", source)}
    return [name for name in names if name not in words]


def test_every_bound_bounds_something() -> None:
    files = [p for p in (ROOT / "molia").rglob("*.py") if p.name != "limits.py"]
    units = {"KIB", "MIB", "GIB", "TIB"}
    left = unused([n for n in bounds() if n not in units], [p.read_text() for p in files])
    assert left == []


def test_a_bound_that_bounds_nothing_is_seen() -> None:
    assert unused(["QUEUE_MAX", "SIZE_MAX"], ["if size > SIZE_MAX:"]) == ["QUEUE_MAX"]


def error_classes() -> list[type[errors.MoliaError]]:
    """Return every class of the error tree, its root included."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return [kind for kind in kinds if issubclass(kind, errors.MoliaError)]


def stray_errors(where: str, tree: ast.Module) -> list[str]:
    """Return the names of classes outside the tree that are derived from one of its classes."""
    names = {kind.__name__ for kind in error_classes()}
    return [
        f"{where}: {node.name} belongs to base/errors.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).rpartition(".")[2] in names for base in node.bases)
    ]


def test_every_error_lives_in_the_one_tree() -> None:
    found = []
    for where in PACKAGE_FILES:
        if where not in ("base/errors.py", "cli/output.py"):  # the latter repeats a node's words
            found += stray_errors(where, ast.parse((ROOT / "molia" / where).read_text()))
    assert found == []
    stray = "class Lost(errors.NotFound):\n    pass\n"
    assert stray_errors("x.py", ast.parse(stray)) == ["x.py: Lost belongs to base/errors.py"]


def test_every_error_says_its_remedy() -> None:
    for kind in error_classes():
        assert kind.__doc__, f"{kind} names no remedy"
        assert errors.outcome_of(kind).title


def test_outcomes_are_distinct_and_within_the_contract() -> None:
    rows = list(errors.OUTCOMES.values())
    assert len({row.code for row in rows}) == len(rows)
    assert {row.exit_code for row in rows} <= {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 130}
    assert all(400 <= row.status <= 599 for row in rows)
    assert [row.code for row in rows if row.status == 500] == ["failed"]
