"""The command tree as a whole: help, JSON everywhere, quick start, no traceback."""

import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import molia as package
from molia.cli.main import VERBS, cli
from molia.cli.verb import Verb
from tests.cli.conftest import Run, command, spawn
from tests.cli.fake_node import FakeNode

ROOT = Path(__file__).parents[2]
DAEMON = ("molia.node", "molia.api", "molia.blobs", "molia.store", "fastapi", "pydantic", "lmdb",
          "asyncio", "structlog", "uvicorn", "cryptography", "rich", "zfec", "anyio")  # fmt: skip


def leaves(
    group: click.Group = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Verb]]:
    """Yield every verb with its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if isinstance(found, click.Group):
            yield from leaves(found, (*path, name))
        else:
            assert isinstance(found, Verb)
            yield (*path, name), found


ALL = dict(leaves())
SAMPLES: dict[tuple[str, ...], list[str]] = {
    ("init",): ["--network", ""],  # a refusal: the home belongs to the fake node
    ("run",): ["--workers", "65"],  # a refusal
    ("put",): ["file"],
    ("get",): ["CID"],
    ("cat",): ["CID"],
    ("ls",): [],
    ("stat",): ["CID"],
    ("rm",): ["CID"],
    ("undelete",): [],
    ("doctor",): [],
    ("pin", "add"): ["CID"],
    ("pin", "rm"): ["CID"],
    ("pin", "ls"): [],
    ("verify",): [],
    ("repair",): [],
    ("gc",): ["--dry-run"],
    ("record", "put"): ["name", "file"],
    ("record", "get"): ["kept"],
    ("record", "ls"): [],
    ("peers",): [],
    ("ping",): ["peer"],
    ("lookup",): ["key"],
    ("testnet",): ["--nodes", "0"],  # a refusal
    ("migrate",): [],  # refusals: the fake node's home has no store
    ("backup",): ["backup"],
    ("restore",): ["no-such-file"],
    ("id",): [],
    ("config", "show"): [],
    ("version",): [],
    ("completion",): ["bash"],
}
REFUSED: dict[tuple[str, ...], int] = {
    ("init",): 2, ("run",): 2, ("testnet",): 2, ("migrate",): 10, ("backup",): 10, ("restore",): 2,
}  # fmt: skip


def words_of(path: tuple[str, ...], node: FakeNode) -> list[str]:
    kept = node.world.add(b"some bytes", name="name")
    node.world.records["kept"] = 3, b"value"
    Path("file").write_bytes(b"file")
    return [kept.cid if word == "CID" else word for word in SAMPLES[path]]


@pytest.mark.parametrize("path", list(ALL), ids=" ".join)
@pytest.mark.parametrize("place", ["before", "after"])
def test_every_verb_speaks_json(
    node: FakeNode, molia: Run, path: tuple[str, ...], place: str
) -> None:
    words = [*path, *words_of(path, node)]
    ran = molia("--json", *words) if place == "before" else molia(*words, "--json")
    assert ran.code == REFUSED.get(path, 0)
    text = ran.stderr if ALL[path].gives_bytes else ran.out
    objects = [json.loads(line) for line in text.splitlines()]
    assert objects
    assert {thing["v"] for thing in objects} == {1}
    if ALL[path].lines:
        assert objects[-1]["type"] == "summary"
        assert objects[-1]["exit_code"] == ran.code
    else:
        assert len(objects) == 1


@pytest.mark.parametrize("path", list(ALL), ids=" ".join)
def test_every_verb_takes_the_common_options_anywhere(
    node: FakeNode, molia: Run, path: tuple[str, ...]
) -> None:
    words = words_of(path, node)
    common = [
        "-q",
        "--no-progress",
        "--timeout",
        "9s",
        "--node",
        node.url,
        "--home",
        str(node.home),
    ]
    for line in (
        [*common, *path, *words],
        [*path, *common, *words, *(["--force"] * (path == ("get",)))],
    ):
        node.world.add(b"some bytes", name="name")
        ran = molia(*line)
        assert ran.code == REFUSED.get(path, 0), ran.stderr


@pytest.mark.parametrize("path", list(ALL), ids=" ".join)
@pytest.mark.parametrize("wrong", [["--no-such-option"], ["--timeout", "soon"], ["a\nb", "c", "d"]])
def test_a_wrong_command_line_is_one_line_and_exit_2_or_the_verbs_own(
    molia: Run, path: tuple[str, ...], wrong: list[str]
) -> None:
    ran = molia(*path, *wrong)
    if path == ("put",) and wrong[0] == "a\nb":
        assert ran.code == 13
        return
    assert ran.code == 2
    assert ran.out == ""
    assert len(ran.stderr.splitlines()) == 1
    assert ran.stderr.startswith("error: ")
    as_json = molia("--json", *path, *wrong)
    kinds = [json.loads(line)["type"] for line in (as_json.out or as_json.stderr).splitlines()]
    assert kinds == (["error", "summary"] if ALL[path].lines else ["error"])


def test_an_unknown_verb_is_exit_2(molia: Run) -> None:
    ran = molia("frobnicate")
    assert (ran.code, ran.out) == (2, "")
    assert ran.stderr == "error: No such command 'frobnicate'. molia --help shows what it takes\n"
    assert json.loads(molia("frobnicate", "--json").out)["exit_code"] == 2


def test_without_a_verb_the_help_is_shown(molia: Run) -> None:
    ran = molia()
    assert "Commands:" in ran.out + ran.stderr
    for flag in ("--help", "-h"):
        ran = molia(flag)
        assert ran.code == 0
        assert all(re.search(rf"^  {name} ", ran.out, re.MULTILINE) for name in VERBS)


@pytest.mark.parametrize("name", list(VERBS))
def test_a_lazy_verbs_line_is_its_own_help(name: str) -> None:
    module, _, attribute = VERBS[name].where.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    assert found.help == VERBS[name].help
    assert found.name == name


def test_every_verb_has_a_sample() -> None:
    assert set(SAMPLES) == set(ALL)


@pytest.mark.parametrize("path", [path for path in ALL if path not in REFUSED], ids=" ".join)
def test_a_client_verb_loads_nothing_of_the_daemon(node: FakeNode, path: tuple[str, ...]) -> None:
    script = (
        "import sys; from molia.cli.main import main; main(sys.argv[1:]);"
        f"print([m for m in {DAEMON!r} if m in sys.modules], file=sys.stderr)"
    )
    words = [*path, *words_of(path, node)]
    ran = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, cwd=".",
        env={"MOLIA_HOME": str(node.home), "PYTHONPATH": str(ROOT), "HOME": "/nowhere",
             "PATH": "/usr/bin:/bin"}, check=True,
    )  # fmt: skip
    assert ran.stderr.splitlines()[-1] == b"[]"


def test_help_loads_no_verb() -> None:
    script = (
        "import sys; from molia.cli.main import main; main(['--help']);"
        "print([m for m in ('molia.cli.put', 'molia.cli.client', 'http.client', 'molia.cli.run')"
        " if m in sys.modules], file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, cwd=ROOT)
    assert ran.stderr.splitlines()[-1] == b"[]"


def test_the_version_is_pyprojects(molia: Run) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert package.__version__ == project["version"]
    assert molia("version").out == f"molia {project['version']}\n"
    assert molia("version", "-q").out == f"{project['version']}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_that_calls_molia(molia: Run, shell: str) -> None:
    ran = molia("completion", shell)
    assert ran.code == 0
    assert f"_MOLIA_COMPLETE={shell}_complete" in ran.out
    assert molia("completion", "tcsh").code == 2


def test_completion_offers_the_verbs() -> None:
    ran = subprocess.run(
        command(), capture_output=True, check=False, cwd=ROOT,
        env={"_MOLIA_COMPLETE": "bash_complete", "COMP_WORDS": "molia p", "COMP_CWORD": "1"},
    )  # fmt: skip
    assert ran.stdout.split() == [b"plain,put", b"plain,pin", b"plain,peers", b"plain,ping"]


def test_config_show_names_each_origin(
    molia: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "molia.toml").write_text("[log]\nlevel = 'debug'\n")
    monkeypatch.setenv("MOLIA_NETWORK", "mine")
    lines = molia("config", "show", "--origin").out.splitlines()
    assert 'network = "mine"  # MOLIA_NETWORK' in lines
    assert f'log.level = "debug"  # {tmp_path}/home/molia.toml' in lines
    assert "workers = 0  # default" in lines
    tomllib.loads("\n".join(molia("config", "show").out.splitlines()))
    monkeypatch.setenv("MOLIA_NETWROK", "x")
    ran = molia("config", "show")
    assert (ran.code, ran.stderr) == (
        2, "error: MOLIA_NETWROK: no such setting. Did you mean MOLIA_NETWORK?\n",
    )  # fmt: skip


def test_a_closed_stdout_is_no_traceback(node: FakeNode) -> None:
    process = spawn("version", stdout=None, preexec_fn=_close_stdout)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 2
    assert stderr == b"error: stdout is closed\n"


def _close_stdout() -> None:
    import os

    os.close(1)
