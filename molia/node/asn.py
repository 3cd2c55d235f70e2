"""Which autonomous system announces an address, by a database that the operator supplies.

Any .mmdb file does that gives `autonomous_system_number` (or `asn`, as a number or `AS64500`) for
an address. The one importer of `maxminddb`.
Source: docs/reference/settings.md; https://maxmind.github.io/MaxMind-DB/.
"""

import re
from collections.abc import Callable
from typing import Final

import maxminddb

from molia.base.errors import BadConfig

_ASN: Final = re.compile(r"(?:AS)?([0-9]{1,10})")
_SETTING: Final = "admission.asn_database"


def open_asn_database(path: str) -> Callable[[str], int | None]:
    """Return what gives the ASN of a numeric host, None where the database knows none.

    Raises BadConfig when the file cannot be read or is no such database.
    """
    try:
        reader = maxminddb.open_database(path)
    except (OSError, ValueError, maxminddb.InvalidDatabaseError) as error:
        raise BadConfig(_SETTING, "must be a readable .mmdb file", hint=str(error)) from None

    def asn_of(host: str) -> int | None:
        try:
            return _number_in(reader.get(host))
        except (ValueError, maxminddb.InvalidDatabaseError):
            return None

    return asn_of


def _number_in(row: object) -> int | None:
    if not isinstance(row, dict):
        return None
    value = row.get("autonomous_system_number", row.get("asn"))
    if isinstance(value, int):
        return value if value >= 0 else None
    match = _ASN.fullmatch(value) if isinstance(value, str) else None
    return int(match[1]) if match else None
