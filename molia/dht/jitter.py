"""Chance in schedules: what all nodes do in the same rhythm must not fall on the same moment."""

from molia.base.entropy import Entropy


def between(entropy: Entropy, low: float, high: float) -> float:
    """Return a number drawn evenly from `low` to `high`."""
    return low + (high - low) * int.from_bytes(entropy.token(6), "big") / 2**48
