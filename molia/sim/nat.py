"""Boxes between a node and the rest: what they let out, under which address, and what in.

Source: docs/reference/simulator.md, "NAT"; the kinds are RFC 3489's, which people still say.
"""

import random
from enum import Enum
from typing import Final

from molia.wire.addresses import Address

MAPPING_S: Final = 60.0
"""How long a mapping lives without a packet from inside."""
_PORTS: Final = range(1_024, 65_536)


class Kind(Enum):
    """What stands before a node."""

    PUBLIC = "public"
    FULL_CONE = "full cone"
    PORT_RESTRICTED = "port restricted"
    SYMMETRIC = "symmetric"
    BLOCKED = "UDP blocked"


MIX: Final = (
    (Kind.PUBLIC, 0.25), (Kind.FULL_CONE, 0.15), (Kind.PORT_RESTRICTED, 0.40),
    (Kind.SYMMETRIC, 0.15), (Kind.BLOCKED, 0.05),
)  # fmt: skip


def draw_kind(rng: random.Random, *, nated: float) -> Kind:
    """Return what stands before a node: something with chance `nated`, of the usual mix."""
    if rng.random() >= nated:
        return Kind.PUBLIC
    kinds = MIX[1:]
    return rng.choices([kind for kind, _ in kinds], [share for _, share in kinds])[0]


class Nat:
    """One node's box. `host` is its public side, perhaps shared with other nodes."""

    def __init__(self, kind: Kind, host: str, taken: dict[Address, object], owner: object) -> None:
        """taken: who has which public address; new mappings go in, for `owner`."""
        assert kind is not Kind.PUBLIC, "then there is no box"
        self.kind, self.host = kind, host
        self._taken, self._owner = taken, owner
        self._ports: dict[Address | None, int] = {}
        """By target where each has its own, else under None."""
        self._heard: dict[tuple[int, Address | None], float] = {}
        """When a packet last left by a port to a target, or (None) to anyone."""

    def outwards(self, target: Address, now_s: float) -> Address | None:
        """Return the address that a packet to `target` comes from; None: it does not get out."""
        if self.kind is Kind.BLOCKED:
            return None
        key = target if self.kind is Kind.SYMMETRIC else None
        port = self._ports.get(key)
        if port is None or now_s - self._heard[port, None] > MAPPING_S:
            port = self._open(key)
        self._heard[port, target] = self._heard[port, None] = now_s
        return self.host, port

    def lets_in(self, port: int, source: Address, now_s: float) -> bool:
        """Tell whether a packet from `source` to a public port of ours reaches the node."""
        key = None if self.kind is Kind.FULL_CONE else source
        heard_s = self._heard.get((port, key))
        return heard_s is not None and now_s - heard_s <= MAPPING_S

    def close(self) -> None:
        """Give all ports back."""
        for port in self._ports.values():
            self._taken.pop((self.host, port), None)
        self._ports.clear()
        self._heard.clear()

    def _open(self, key: Address | None) -> int:
        old = self._ports.pop(key, None)
        if old is not None:
            self._taken.pop((self.host, old), None)
        port = next(port for port in _PORTS if (self.host, port) not in self._taken)
        self._taken[self.host, port] = self._owner
        self._ports[key] = port
        return port
