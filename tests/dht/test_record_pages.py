"""The pages of records and provider records place every field where the code does."""

from typing import Any

import pytest

from molia.dht.providers import Kind
from molia.dht.records import Fault
from tests.test_formats import REFERENCE, layout, table
from tests.vectors.load import vectors


def cut(data: bytes, fields: dict[str, tuple[int, int]]) -> dict[str, bytes]:
    """Return the bytes of each field, by the first word of its name."""
    return {name.split(":")[0]: data[at : at + size] for name, (at, size) in fields.items()}


def u64(number: int) -> str:
    return number.to_bytes(8, "big").hex()


@pytest.mark.parametrize("row", vectors("records"))
def test_the_page_of_records_places_every_field(row: dict[str, Any]) -> None:
    signed = cut(bytes.fromhex(row["signed"]), layout("records.md", "Signed bytes"))
    assert signed["`molia/record/1`"] == b"molia/record/1"
    assert signed["version"] == b"\x01"
    assert signed["network id"].hex() == row["network"]
    assert signed["blinded key"].hex() == row["blinded_key"]
    assert (signed["seq"].hex(), signed["expires"].hex()) == (u64(row["seq"]), u64(row["expires"]))
    assert sum(map(len, signed.values())) == len(row["signed"]) // 2
    for name, form in (("row", b"\x01"), ("floor_row", b"\x02")):
        kept = cut(bytes.fromhex(row[name]), layout("records.md", "Rows"))
        assert (kept["form"], kept["seq"].hex()) == (form, u64(row["seq"]))
        assert kept["until"] >= bytes.fromhex(u64(row["expires"]))


@pytest.mark.parametrize("row", vectors("providers"))
def test_the_page_of_provider_records_places_every_field(row: dict[str, Any]) -> None:
    encoded = bytes.fromhex(row["encoded"])
    fields = cut(encoded, layout("provider-records.md", "Layout"))
    assert (fields["version"], fields["kind"]) == (b"\x01", bytes([row["kind"]]))
    assert fields["LOC"].hex() == row["loc"]
    assert fields["issued"].hex() == u64(row["issued"])
    assert fields["expires"].hex() == u64(row["expires"])
    size = fields["p"][0]
    assert encoded[83 : 83 + size].hex() == row["prefix"]
    assert encoded[83 + size : -64].hex() == row["sealed"]


def test_the_pages_name_every_reason_and_kind() -> None:
    text = "".join(
        (REFERENCE / f"{name}.md").read_text() for name in ("records", "provider-records")
    )
    assert [fault for fault in Fault if f"`{fault}`" not in text] == []
    kinds = {
        int(row[0]): row[1].partition(":")[0] for row in table("provider-records.md", "Layout", 1)
    }
    assert kinds == {kind.value: kind.name.lower() for kind in Kind}
