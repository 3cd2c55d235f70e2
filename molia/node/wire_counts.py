"""What the network counted, gathered from its parts for the metrics."""

from typing import Final

from molia.node.metrics import WireCounts
from molia.node.network import Network

_NO_DROPS: Final = frozenset(
    ("packets_in", "handshakes_in", "handshakes_out", "initiations_out", "cookies_out",
     "cookies_in", "roamed")
)  # fmt: skip
"""Counters of the endpoint that tell of something else than a drop."""


def counts_of(network: Network) -> WireCounts:
    """Return the counts of one worker's network as they stand."""
    transport, endpoint = network.transport, network.transport.endpoint.counters
    counts = WireCounts(sessions=network.session_count)
    pumps = [pump.counters for pump in network.driver.pumps]
    counts.packets = {
        "in": sum(pump.packets_in for pump in pumps), "out": sum(pump.packets_out for pump in pumps)
    }  # fmt: skip
    counts.bytes = {
        "in": sum(pump.bytes_in for pump in pumps), "out": sum(pump.bytes_out for pump in pumps)
    }  # fmt: skip
    counts.handshakes = {"in": endpoint.handshakes_in, "out": endpoint.handshakes_out}
    served, requests = transport.counters, transport.requests
    counts.requests = {
        "served": served.requests_in - served.requests_unknown - served.requests_refused,
        "unknown": served.requests_unknown,
        "refused": served.requests_refused,
        "early": served.early_requests,
        "repeated": requests.retried,
        "timed_out": requests.timed_out,
        "unexpected_reply": requests.unexpected,
    }
    counts.dropped = {k: v for k, v in endpoint.as_dict().items() if k not in _NO_DROPS}
    counts.dropped["malformed"] = served.malformed
    for reason, value in network.admission.counts.items():
        if reason != "admitted":
            counts.dropped[f"admission_{reason}"] = value
    for pump in pumps:
        for reason, value in pump.dropped.items():
            name = f"socket_{reason}"
            counts.dropped[name] = counts.dropped.get(name, 0) + value
    return counts
