"""`molia init` and `molia run`: the real node, from its first start to SIGTERM."""

import json
import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import Run, spawn


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@contextmanager
def node_in(home: Path, *flags: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a node on a free port; it must be told to end within the block or is told after it."""
    log = home.with_name("log").open("ab")
    process = spawn(
        "run", "--home", str(home), "--api", "127.0.0.1:0", "--listen", "127.0.0.1:0",
        *flags, stderr=log,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 90
        while not (home / "node.json").exists() and process.poll() is None:
            assert time.monotonic() < deadline, "the node does not come up"
            time.sleep(0.02)
        yield process
    finally:
        log.close()
        process.terminate()
        process.communicate(timeout=120)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_init_makes_a_private_home_once(home: Path, molia: Run) -> None:
    first = molia("init")
    assert first.code == 0
    assert mode_of(home) == 0o700
    for name in ("molia.toml", "identity.key", "api.token"):
        assert mode_of(home / name) == 0o600
    before = {path.name: path.read_bytes() for path in home.iterdir() if path.is_file()}
    assert molia("init").out == first.out
    assert before == {path.name: path.read_bytes() for path in home.iterdir() if path.is_file()}
    assert json.loads(molia("init", "--json").out)["created"] is False
    assert molia("config", "show").code == 0


def test_a_home_that_others_can_enter_is_exit_8(home: Path, molia: Run) -> None:
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    for verb in ("init", "run"):
        ran = molia(verb)
        assert (ran.code, ran.stderr) == (
            8, f"error: {home} is open to other users. chmod 700 {home}\n",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--workers", "65"], "workers: must be 0 to 16, not 65 (--workers)"),
        (["--api", "0.0.0.0:7070"], "api.auth"),
        (["--api", "nonsense"], "nonsense"),
        (["--network", ""], "network: must be 1 to 64 bytes"),
        (["--bootstrap", "127.0.0.1:7071"], "dht.bootstrap: must be addresses like molia://"),
    ],
)
def test_a_wrong_flag_is_exit_2_and_one_line(home: Path, flags: list[str], words: str) -> None:
    process = spawn("run", "--home", str(home), *flags)
    out, stderr = process.communicate(timeout=120)
    assert process.returncode == 2
    assert out == b""
    errors = [line for line in stderr.decode().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert words in errors[0]
    assert b"Traceback" not in stderr


def test_a_node_keeps_a_file_until_it_is_removed(home: Path, molia: Run) -> None:
    body = os.urandom(3_000_000)
    Path("f.bin").write_bytes(body)
    with node_in(home, "--json") as process:
        cid = molia("put", "f.bin").out.strip()
        assert molia("put", "--only-hash", "f.bin").out.strip() == cid
        assert molia("run", "--api", "127.0.0.1:0").code == 11
        assert molia("verify", "--rebuild-index").code == 11
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        ready = json.loads(out)
        assert (ready["type"], ready["socket"]) == ("ready", f"unix:{home}/api.sock")
    assert not (home / "node.json").exists()
    assert not (home / "api.sock").exists()
    assert molia("ls").code == 13
    with node_in(home):
        assert molia("get", cid, "-o", "back").code == 0
        assert Path("back").read_bytes() == body
        assert molia("stat", cid).code == 0
        assert molia("id").out.strip() == ready["peer"]
        assert molia("verify").code == 0
        assert molia("verify", cid, "--json").code == 0
        assert molia("pin", "rm", cid).code == 0
        assert molia("pin", "ls").out == ""
        assert molia("rm", cid).code == 0
        assert molia("get", cid).code == 4
        url = json.loads((home / "node.json").read_text())["urls"][0]
        assert molia("put", "f.bin", "--node", url).out.strip() == cid


def test_a_killed_node_leaves_a_home_that_runs_again(home: Path, molia: Run) -> None:
    with node_in(home, "--workers", "1") as process:
        cid = molia("put", "-", stdin=b"kept").out.strip()
        process.kill()
        process.wait(timeout=120)
        ran = molia("cat", cid)
        assert (ran.code, ran.out) == (13, "")
    (home / "node.json").unlink()
    with node_in(home):
        assert molia("cat", cid).stdout == b"kept"


@pytest.mark.parametrize("runtime", [True, False])
def test_a_long_path_puts_the_socket_in_the_runtime_directory(
    tmp_path: Path, molia: Run, monkeypatch: pytest.MonkeyPatch, runtime: bool
) -> None:
    home = tmp_path / ("x" * 120)
    short = Path(f"/tmp/molia-test-{os.getpid()}")
    if runtime:
        short.mkdir(mode=0o700)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    try:
        with node_in(home):
            known = json.loads((home / "node.json").read_text())
            assert known["socket"].startswith(f"{short}/molia-") if runtime else not known["socket"]
            cid = molia("put", "-", "--home", str(home), stdin=b"x").out.strip()
            assert molia("rm", cid, "--home", str(home)).code == 0
    finally:
        for path in sorted(short.rglob("*"), reverse=True):
            path.rmdir()
        if short.exists():
            short.rmdir()


def test_verify_without_a_node_opens_the_store_itself(home: Path, molia: Run) -> None:
    with node_in(home):
        cid = molia("put", "-", stdin=b"x" * 100).out.strip()
    for arguments in (["verify"], ["verify", cid], ["verify", "--rebuild-index"]):
        process = spawn(*arguments, "--json")
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        (summary,) = [json.loads(line) for line in out.splitlines()]
        assert (summary["type"], summary["unhealed"], summary["blobs"]) == ("summary", 0, 1)
