"""What a lookup is for, what it asks, what it says on its way and what came of it."""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from molia.base import limits
from molia.base.config import require
from molia.dht.contact import Contact


class Goal(Enum):
    """What a lookup is for, and so when it ends."""

    FIND = "find"
    """The nodes closest to the target: as soon as the three closest known have answered."""
    GET = "get"
    """One value: the first one."""
    GET_QUORUM = "get-quorum"
    """Values of three holders in distinct networks, or of all the region."""
    COLLECT = "collect"
    """The values of all the region."""
    REGION = "region"
    """All nodes of the region that answer: to store there."""


class End(Enum):
    """Why a lookup ended."""

    FOUND = "found"
    """It has what it was for."""
    COVERED = "covered"
    """The region was asked, and nothing more is to be expected."""
    EXHAUSTED = "exhausted"
    """There was nobody left to ask; fewer nodes than expected have answered."""
    CAPPED = "capped"
    """It asked as many nodes as it may."""
    DEADLINE = "deadline"
    """It ran out of time."""
    STOPPED = "stopped"
    """The caller had enough."""


class Probe(NamedTuple):
    """A request to send."""

    contact: Contact
    asks: bool
    """The node may hold what is looked for: ask it for that, with the real location. Otherwise
    only who is close, with `Lookup.target_for`."""


class Step(NamedTuple):
    """Something that a traced lookup did or learned."""

    kind: str
    """`asked`, `answered`, `value`, `late`, `failed`, `mode`, `widened` or `ended`."""
    contact: Contact | None
    at_s: float
    detail: str


@dataclass(frozen=True, slots=True)
class LookupResult:
    """What came of a lookup. Contacts are in order of distance."""

    end: End
    closest: tuple[Contact, ...]
    """The 20 closest that answered."""
    heard: tuple[Contact, ...]
    """The 20 closest of all that were named and did not fail, whether they were asked or not."""
    responders: tuple[Contact, ...]
    """All that answered in the region."""
    values: tuple[tuple[Contact, object], ...]
    """Values with who gave them, in the order they came."""
    probes: int
    answers: int
    failures: int
    late: int
    """Nodes that did not answer in the usual time; some of them did later."""
    is_attacked: bool
    """More nodes were named in the region than there can be honest ones."""
    took_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupConfig:
    """How lookups go about it."""

    parallelism: int = 4
    """Requests in flight on the way to the region. More is faster and louder."""
    region_parallelism: int = 8
    """Requests in flight inside the region."""
    deadline_s: float = 20.0
    """When a lookup ends with what it has. Attacked keys take long: less loses them."""

    def __post_init__(self) -> None:
        top = limits.LOOKUP_FLIGHT_MAX
        require(1 <= self.parallelism <= top, "lookup.parallelism", f"1 to {top}")
        require(1 <= self.region_parallelism <= top, "lookup.region_parallelism", f"1 to {top}")
        require(1 <= self.deadline_s <= 300, "lookup.deadline_s", "1 s to 5 min")
