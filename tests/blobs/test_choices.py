"""What nodes must agree about without a word is that of the vectors."""

from typing import Any

import pytest

from molia.base.cid import Cid, Codec
from molia.blobs.audit import auditor_of, epoch_start_s
from molia.blobs.elastic import Supplement
from molia.blobs.repair import ranked
from tests.vectors.load import vectors
from tests.vectors.make_choices import KEYS


@pytest.mark.parametrize("row", vectors("choices")["choices"])
def test_choices_are_those_of_the_vectors(row: dict[str, Any]) -> None:
    digest, keys = bytes.fromhex(row["digest"]), KEYS[: row["holders"]]
    epoch = epoch_start_s(digest, row["share"], row["unix_s"])
    assert epoch == row["epoch_start"]
    assert auditor_of(digest, row["share"], epoch, keys[::-1]).hex() == row["auditor"]
    lead = ranked(keys[::-1], loc=digest, unix_s=row["unix_s"])
    assert [key.hex() for key in lead] == row["lead"]


def test_a_supplement_is_that_of_the_vectors() -> None:
    row = vectors("choices")["supplement"]
    roots = tuple(map(bytes.fromhex, row["roots"]))
    made = Supplement(Cid(Codec.MANIFEST, bytes.fromhex(row["digest"])), roots)
    assert made.encode().hex() == row["encoded"]
