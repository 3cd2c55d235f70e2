"""What the DHT counted: for metrics, and for tests that ask whether bad input was seen."""

from dataclasses import dataclass


@dataclass(slots=True)
class DhtCounters:
    """Counts since the start, by what happened."""

    asked: int = 0
    """Requests that were sent."""
    answered: int = 0
    failed: int = 0
    """Requests without an answer in time."""
    refused: int = 0
    """Requests that a peer declined: it is a client, or busy."""
    queue_dropped: int = 0
    """Requests that found the queue full."""
    unproved_held: int = 0
    """Packets that were not sent to a host that never answered and was written to a minute ago."""
    answers_elsewhere: int = 0
    """Answers of peers that are not where they were asked: nothing of them counts."""
    bad_replies: int = 0
    """Replies that say nothing this node understands."""
    contacts_impossible: int = 0
    """Relayed addresses at which nobody can be, or keys that are nobody's."""
    contacts_local: int = 0
    """Local addresses that somebody named who is not that near himself."""
    contacts_own: int = 0
    """Relayed contacts that are this node itself."""
    contacts_unadmitted: int = 0
    """Contacts that answered and showed no identity proof that holds for their address."""
    dead_contacts: int = 0
    """Peers penalised because most contacts that they relayed were dead."""
    hints: int = 0
    """Contacts that said they serve."""
    hints_dropped: int = 0
    lookups: int = 0
    lookups_refused: int = 0
    """Lookups beyond the most at once."""
    lookup_requests: int = 0
    attacks: int = 0
    """Lookups that went into attack mode."""
    served: int = 0
    """Requests of peers that were answered with more than a refusal."""
    served_refused: int = 0
    """Requests of peers while this node is a client."""
    bad_requests: int = 0
    records_stored: int = 0
    records_stale: int = 0
    """Records offered with a lower seq than the one held: replays among them."""
    records_conflict: int = 0
    """Two values under one seq."""
    records_cas: int = 0
    """Records refused because the writer expected another seq."""
    records_full: int = 0
    """Records and provider records refused for a quota."""
    records_forged: int = 0
    """Signatures that do not hold, of peers who offered them or answered with them."""
    records_expired: int = 0
    records_far: int = 0
    """Records that expire later than they may: their clock or ours is wrong."""
    records_malformed: int = 0
    """Records of another layout, over their size, or of a location that is not theirs."""
    stores_raced: int = 0
    """Rows that changed between the decision and the write: decided again."""
    stores_failed: int = 0
    providers_stored: int = 0
    providers_refused: int = 0
    repaired: int = 0
    """Stale holders that were sent the newest record after a consistent read."""
    replicas_pushed: int = 0
    replicas_pulled: int = 0
    digests_refused: int = 0
    """DIGESTs beyond a neighbour's share, or the strangers'."""
    dials: int = 0
    """Dial-backs carried out for others."""
    dials_refused: int = 0
    joins: int = 0
    """Times that this node began to join."""
    graveyard_probes: int = 0
    effects_dropped: int = 0
    """Effects that nobody took."""
