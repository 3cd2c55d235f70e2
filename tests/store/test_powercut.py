"""At least 50,000 states that a power cut may leave, over the shipped shard with its real index.

A state counts when the shard was opened on it and checked; `molia.sim.shard_trial` says how. The
states are split into groups so that pytest's workers share them; `make fuzz` runs on. A failure
names its seed and state: `python -m molia.sim powercut --seed S --state K` tries that one again.
"""

import itertools
from collections.abc import Callable

import pytest

from molia.sim.campaign import PHASES, Tally, try_seeds

STATES = 50_000
GROUPS = 25


@pytest.mark.slow
@pytest.mark.parametrize("group", range(GROUPS))
def test_every_acknowledged_write_survives_a_power_cut(
    group: int, record_property: Callable[[str, object], None]
) -> None:
    total = Tally()
    for tally in try_seeds(itertools.count(group, GROUPS), states=STATES // GROUPS):
        total.add(tally)
        assert not total.failures, "\n".join(str(failure) for failure in total.failures[:3])
    assert total.total() >= STATES // GROUPS
    for phase in PHASES:
        record_property(f"count/crash states/{phase}", total.states[phase])
