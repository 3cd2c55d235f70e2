"""Sizes and times as people write them: `10GiB`, `30d`."""

import re
from collections.abc import Mapping
from typing import Final

BYTE_UNITS: Final = {
    "": 1, "b": 1,
    "k": 1000, "kb": 1000, "m": 1000**2, "mb": 1000**2, "g": 1000**3, "gb": 1000**3,
    "t": 1000**4, "tb": 1000**4,
    "kib": 1024, "mib": 1024**2, "gib": 1024**3, "tib": 1024**4,
}  # fmt: skip
TIME_UNITS: Final = {
    "": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400,
}  # fmt: skip
_QUANTITY: Final = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,9}))? ?([A-Za-z]{0,3})")


class BadValue(ValueError):
    """The value is not of the setting's kind; the text says what it must be."""


def parse_size_bytes(text: str) -> int:
    """Return the bytes that `10GiB`, `1.5 MB` or `4096` mean. Raises BadValue."""
    return _quantity(text, BYTE_UNITS, "a size such as 10GiB, 500MB or a number of bytes")


def parse_duration_s(text: str) -> int:
    """Return the seconds that `30s`, `2h`, `30d` or `90` mean. Raises BadValue."""
    return _quantity(text, TIME_UNITS, "a time such as 30s, 2h, 30d or a number of seconds")


def _quantity(text: str, units: Mapping[str, int], wanted: str) -> int:
    match = _QUANTITY.fullmatch(text.strip())
    unit = units.get(match[3].lower()) if match else None
    if match is None or unit is None:
        raise BadValue(f"must be {wanted}")
    fraction = match[2] or ""
    scale: int = 10 ** len(fraction)
    return int(match[1]) * unit + int(fraction or "0") * unit // scale
