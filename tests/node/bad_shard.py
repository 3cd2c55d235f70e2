"""A shard of which nothing can be listed for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from molia.base.errors import MoliaError
from molia.node.shards import ReadShard


@contextmanager
def unlisted(bad: ReadShard, error: MoliaError) -> Iterator[None]:
    """Have every listing of a shard raise an error."""
    scan = type(bad).scan

    def unreadable(shard: object, *args: object, **named: object) -> object:
        if shard is bad:
            raise error
        return scan(shard, *args, **named)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(bad), "scan", unreadable)
        yield
