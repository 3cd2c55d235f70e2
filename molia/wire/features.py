"""What two nodes agree on before they talk: a version, and feature bits.

Source: docs/reference/messages.md, "Negotiation".
"""

from typing import Final

VERSIONS: Final = (1, 1)
"""The lowest and the highest version of the protocol that this program speaks."""
FEATURES: Final = 0
"""The feature bits of this program. An even bit must be understood by the peer, an odd one may be
ignored; no bit has a meaning yet."""
_EVEN: Final = 0x5555_5555_5555_5555


def features_agree(theirs: int, known: int) -> bool:
    """Tell whether we know every even bit of `theirs`; unknown odd ones are no matter."""
    return not theirs & ~known & _EVEN


def negotiate_version(ours: tuple[int, int], theirs: tuple[int, int]) -> int | None:
    """Return the highest version that both speak, of lowest and highest of each; None for none."""
    highest = min(ours[1], theirs[1])
    return highest if highest >= max(ours[0], theirs[0]) else None
