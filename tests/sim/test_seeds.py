"""Seeds that once failed are tried again, whole."""

from pathlib import Path

import pytest

from molia.sim.campaign import scratch, try_seed

SEEDS = [
    int(line.split()[1])
    for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines()
    if line.startswith("powercut ")
]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_that_once_failed_is_survived(seed: int) -> None:
    with scratch() as root:
        tally = try_seed(seed, root)
    assert not tally.failures, str(tally.failures[0])
