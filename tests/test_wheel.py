"""What is shipped: the wheel holds the package and the migrations, no test, and works unpacked."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NO_INDEX = ("No matching distribution", "Could not find a version", "ConnectionError",
            "Failed to establish", "Temporary failure", "Network is unreachable")  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel built from this tree as pip builds it for everyone."""
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", "."]
    done = subprocess.run(
        [*command, str(ROOT)], cwd=target, capture_output=True, text=True, timeout=240
    )
    if done.returncode and any(sign in done.stderr for sign in NO_INDEX):
        pytest.skip("pip cannot reach a package index, so it cannot fetch the build tool")
    assert done.returncode == 0, done.stderr
    (found,) = target.glob("molia-*.whl")
    return found


def test_the_wheel_holds_what_a_node_needs_and_no_more(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"molia/py.typed", "molia/_migrations/0001_initial.py", "molia/cli/main.py"} <= names
    shipped = {p.relative_to(ROOT).as_posix() for p in (ROOT / "molia").rglob("*.py")}
    assert shipped <= names
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"molia", next(top for top in tops if top.endswith(".dist-info"))}
    verb = "molia/cli/testnet"  # what runs a network on one machine
    assert not [name for name in names if "test" in name.lower() and not name.startswith(verb)]


def test_the_unpacked_wheel_makes_a_home(wheel: Path, tmp_path: Path) -> None:
    """Without the source tree on the path, so the migrations come out of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, 'site'); from molia.cli.main import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "init", "--home", "home"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "home" / "molia.toml").is_file()
