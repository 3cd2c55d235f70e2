"""`python -m molia.sim COMMAND`: try the store under power cuts, or the network under anything.

`powercut` tries states of the store's shard, `years` months of churn on one shard, `durability`
counts blobs lost a year; every other command is a scenario of the network.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence

from molia.sim import durability, runs
from molia.sim.campaign import Failure, Tally, scratch, try_seed, try_seeds
from molia.sim.years import Years

FAILURES_SHOWN = 10


def main(arguments: Sequence[str]) -> int:
    """Run a campaign or a scenario. Return 0 if all was well, else 1."""
    if list(arguments[:1]) == ["durability"]:
        return durability.main(arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m molia.sim", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    powercut = commands.add_parser("powercut", help="the store's shard under power cuts")
    powercut.add_argument("--states", type=int, default=50_000, help="how many to try at least")
    powercut.add_argument("--seed", type=int, default=1, help="the first workload")
    powercut.add_argument("--state", type=int, help="try this state of that workload alone")
    years = commands.add_parser("years", help="one shard under months of churn")
    years.add_argument("--months", type=int, default=24)
    years.add_argument("--seed", type=int, default=1)
    runs.add_commands(commands)
    options = parser.parse_args(arguments)
    if options.command == "years":
        return live(options.seed, options.months)
    if options.command != "powercut":
        return runs.main(options)
    if options.state is not None:
        return replay(options.seed, options.state)
    return campaign(options.seed, options.states)


def campaign(first_seed: int, states: int) -> int:
    """Try at least `states` states from `first_seed` on, and print what came of it."""
    total = Tally()
    for tally in try_seeds(itertools.count(first_seed), states=states):
        total.add(tally)
        for failure in tally.failures[:1]:
            print(failure, flush=True)
        if total.seeds % 20 == 0:
            print(f"{total.total():,} states of {total.seeds} seeds", flush=True)
        if len(total.failures) > FAILURES_SHOWN * 100:
            break
    print("\n".join(total.lines()))
    return report(total.failures)


def replay(seed: int, state: int) -> int:
    """Try one state of one workload, and print what became of each unsafe change."""
    with scratch() as root:
        tally = try_seed(seed, root, only=state)
    for failure in tally.failures:
        print(failure.verdict.details)
    print("\n".join(tally.lines()))
    return report(tally.failures)


def live(seed: int, months: int) -> int:
    """Live through the months, on a disk that can punch and on one that cannot. Return 0."""
    for can_punch in (True, False):
        print("punching" if can_punch else "no punching")
        with scratch() as root:
            years = Years(root, seed, can_punch=can_punch)
            for number in range(1, months + 1):
                print(years.month(number, restart=number % 6 == 0), flush=True)
            years.rebuild()
            years.close()
    return 0


def report(failures: list[Failure]) -> int:
    """Print the first failures. Return the exit code."""
    for failure in failures[:FAILURES_SHOWN]:
        print(failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
