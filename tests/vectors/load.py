"""Read a file of golden vectors."""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def vectors(name: str) -> Any:
    """Return what `name`.json pins."""
    return json.loads((HERE / f"{name}.json").read_text())["vectors"]
