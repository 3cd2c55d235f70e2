"""The ASN of an address, out of databases that are written here byte by byte."""

from collections.abc import Callable
from pathlib import Path

import pytest

from molia.base.errors import BadConfig
from molia.node.asn import open_asn_database

Value = int | str | dict[str, "Value"] | list[str]


def encoded(value: Value, kind: int = 6) -> bytes:
    """Encode a value of a database (MaxMind DB format, "Data section"); kind: a number's type."""
    if isinstance(value, str):
        return head(2, len(value)) + value.encode()
    if isinstance(value, int):
        body = value.to_bytes(4, "big").lstrip(b"\0")
        return head(kind, len(body)) + body
    if isinstance(value, dict):
        items = [encoded(k) + encoded(v, NUMBERS.get(k, 6)) for k, v in value.items()]
        return head(7, len(value)) + b"".join(items)
    return head(11, len(value)) + b"".join(map(encoded, value))


def head(kind: int, size: int) -> bytes:
    """A control byte; types from 8 on and sizes from 29 on take another."""
    assert size < 29 or kind < 8
    if kind > 7:
        return bytes([size, kind - 7])
    return bytes([kind << 5 | size]) if size < 29 else bytes([kind << 5 | 29, size - 29])


NUMBERS = {  # 5: 16 bits, 6: 32, 9: 64
    "record_size": 5, "ip_version": 5, "binary_format_major_version": 5,
    "binary_format_minor_version": 5, "build_epoch": 9,
}  # fmt: skip


def database(high: Value | None, low: Value) -> bytes:
    """A database of one node: one value for 128.0.0.0/1, another for 0.0.0.0/1."""
    low_data = encoded(low)
    data = low_data + (b"" if high is None else encoded(high))
    start = 1 + 16
    right = 1 if high is None else start + len(low_data)
    tree = start.to_bytes(3, "big") + right.to_bytes(3, "big")
    about: dict[str, Value] = {
        "node_count": 1, "record_size": 24, "ip_version": 4, "database_type": "test-ASN",
        "languages": [], "binary_format_major_version": 2, "binary_format_minor_version": 0,
        "build_epoch": 1, "description": {},
    }  # fmt: skip
    return tree + bytes(16) + data + b"\xab\xcd\xefMaxMind.com" + encoded(about)


def opened(folder: Path, content: bytes) -> Callable[[str], int | None]:
    """Write a database and open it."""
    path = folder / "asn.mmdb"
    path.write_bytes(content)
    return open_asn_database(str(path))


@pytest.mark.parametrize(
    ("row", "asn"),
    [
        ({"autonomous_system_number": 64500, "autonomous_system_organization": "Example"}, 64500),
        ({"asn": 64500}, 64500),
        ({"asn": "AS64500", "name": "Example"}, 64500),
        ({"asn": "64500"}, 64500),
        ({"asn": "Example"}, None),
        ({"country": "XX"}, None),
        ("AS64500", None),
    ],
)
def test_every_common_way_to_give_an_asn_is_read(
    row: Value, asn: int | None, tmp_path: Path
) -> None:
    asn_of = opened(tmp_path, database({"asn": 1}, row))
    assert [asn_of("8.8.8.8"), asn_of("192.0.2.1")] == [asn, 1]


def test_what_the_database_does_not_know_has_no_asn(tmp_path: Path) -> None:
    asn_of = opened(tmp_path, database(None, {"asn": 1}))
    assert asn_of("192.0.2.1") is None
    assert asn_of("2001:db8::1") is None
    assert asn_of("no address") is None


def test_a_damaged_database_gives_nothing_and_breaks_nothing(tmp_path: Path) -> None:
    whole = database({"asn": 1}, {"asn": 2})
    for at in range(22, 36):
        asn_of = opened(tmp_path, whole[:at] + b"\xff" + whole[at + 1 :])
        assert asn_of("8.8.8.8") in (None, 2, 0xFF)


@pytest.mark.parametrize("content", [b"", b"not a database" * 100])
def test_a_file_of_another_kind_is_a_wrong_setting(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(BadConfig) as caught:
        opened(tmp_path, content)
    assert caught.value.setting == "admission.asn_database"


def test_a_missing_file_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(BadConfig):
        open_asn_database(str(tmp_path / "none.mmdb"))
