"""Cuts between nodes of one process: what is sent over one is lost, until it is healed."""

from collections.abc import Iterable, Sequence
from typing import Any

from molia.base.now import Now
from molia.node.udp import Address
from tests.node.inside import Inside


class _Cut:
    """A node's core, which hears nothing from some addresses."""

    def __init__(self, core: Any) -> None:
        self.core, self.lost = core, set[tuple[str, int]]()

    def datagram(self, data: bytes, address: Address, now: Now) -> bytes | None:
        if address[:2] in self.lost:
            return None
        answer: bytes | None = self.core.datagram(data, address, now)
        return answer

    def burst(self, packets: Sequence[bytes], address: Address, now: Now) -> Sequence[bytes]:
        if address[:2] in self.lost:
            return ()
        answers: Sequence[bytes] = self.core.burst(packets, address, now)
        return answers


def cut(some: Sequence[Inside], others: Sequence[Inside]) -> None:
    """Let nothing pass between some nodes and others."""
    for side, beyond in ((some, others), (others, some)):
        addresses = {pump.address for node in beyond for pump in _pumps(node)}
        for node in side:
            for pump in _pumps(node):
                if not isinstance(pump._core, _Cut):
                    pump._core = _Cut(pump._core)
                pump._core.lost |= addresses


def heal(nodes: Iterable[Inside]) -> None:
    """Let everything pass to these nodes again."""
    for node in nodes:
        for pump in _pumps(node):
            if isinstance(pump._core, _Cut):
                pump._core.lost.clear()


def _pumps(node: Inside) -> Any:
    return node.member.network.driver.pumps
