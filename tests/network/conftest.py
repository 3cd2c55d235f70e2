"""A network that the tests of this directory share; whoever kills a node of it brings it back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.network.crowd import Crowd, crowd_of

NODES = 18
TIMEOUT_S = 900
"""Eighteen processes on a busy machine."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give the tests of this directory more time, where none is given on the command line."""
    for item in items:
        if Path(__file__).parent in item.path.parents and config.getoption("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.fixture(scope="package")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    """Eighteen nodes that offer space to each other and repair nothing for a while."""
    with crowd_of(tmp_path_factory.mktemp("crowd"), NODES) as made:
        yield made
