"""A network that the tests of this directory share; whoever kills a node of it brings it back."""

from collections.abc import Iterator

import pytest

from tests.network.crowd import Crowd, crowd_of

NODES = 18


@pytest.fixture(scope="package")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    """Eighteen nodes that offer space to each other and repair nothing for a while."""
    with crowd_of(tmp_path_factory.mktemp("crowd"), NODES) as made:
        yield made
