"""A node in an empty home, ended with the test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.process import Node


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node that is not started yet."""
    made = Node(tmp_path / "home")
    try:
        yield made
    finally:
        made.close()
