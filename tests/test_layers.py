"""The import contracts of pyproject.toml hold, and each of them can be broken."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

BREACHES = {  # a file of the package, and an import that its contract forbids
    "base/breach.py": "import molia.store",
    "wire/breach.py": "import molia.node",
    "dht/breach.py": "import molia.node\nimport molia.store",
    "store/breach.py": "import molia.node\nimport molia.blobs",
    "node/breach.py": "import molia.api",
    "api/breach.py": "import molia.store",
    "blobs/breach.py": "import molia.sim",
    "cli/put.py": "import molia.node",
}


def verdicts(root: Path) -> dict[str, str]:
    """Return what import-linter says of each contract of the tree at `root`."""
    code = "from importlinter.cli import lint_imports_command as main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--config", "pyproject.toml", "--no-cache"],
        cwd=root, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    found = re.findall(r"^(.+?) (KEPT|BROKEN)\b", done.stdout, re.MULTILINE)
    assert found, done.stdout + done.stderr
    return {name.strip(): verdict for name, verdict in found}


def test_every_contract_holds_and_every_contract_can_fail(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "molia", tmp_path / "molia", ignore=ignored)
    assert set(verdicts(tmp_path).values()) == {"KEPT"}
    for where, line in BREACHES.items():
        path = tmp_path / "molia" / where
        path.write_text((path.read_text() if path.exists() else "") + f"\n{line}\n")
    broken = verdicts(tmp_path)
    assert set(broken.values()) == {"BROKEN"}, broken
