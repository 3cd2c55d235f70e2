"""Virtual time: events in order, independent streams, a trace that every byte moves."""

import os
import subprocess
import sys

from molia.sim.world import NS, START, Seeds, Trace, World
from tests.sim.chatter import Town

HERE, THERE = ("20.1.2.3", 7071), ("30.1.2.3", 7071)


def test_events_of_one_instant_happen_in_the_order_in_which_they_were_asked_for() -> None:
    world, said = World(1), list[str]()
    for name in ("b", "a", "c"):
        world.at(5, said.append, name)
    world.at(4, said.append, "first")
    world.run(1.0)
    assert said == ["first", "b", "a", "c"]


def test_time_stands_at_an_event_and_ends_where_it_was_told_to() -> None:
    world, seen = World(1), list[float]()
    world.after(0.25, lambda _: seen.append(world.now.mono_s - START.mono_s))
    world.after(2.0, lambda _: seen.append(world.time_s))
    world.run(1.0)
    assert seen == [0.25]
    assert world.t_ns == NS


def test_an_alarm_for_a_deadline_never_rings_before_it() -> None:
    world = World(1)
    for step in range(1, 2_000):
        due_s = START.mono_s + step * 0.0173
        rang: list[bool] = []
        world.at(world.ns_of(due_s), lambda _, due_s=due_s, rang=rang: rang.append(  # type: ignore[misc]
            world.now.mono_s >= due_s))  # fmt: skip
        world.run(0.02)
        assert rang == [True]


def test_streams_of_one_seed_are_independent_and_repeatable() -> None:
    seeds = Seeds(7)
    first = seeds.entropy(1, "a").token(16)
    seeds.entropy(1, "b").token(99)
    assert seeds.entropy(1, "a").token(16) == first
    others = [seeds.entropy(2, "a"), seeds.entropy(1, "b"), Seeds(8).entropy(1, "a")]
    assert first not in [other.token(16) for other in others]


def test_the_trace_hash_moves_with_time_address_size_and_content() -> None:
    notes = [
        (1, HERE, THERE, b"x"), (2, HERE, THERE, b"x"), (1, THERE, HERE, b"x"),
        (1, HERE, (THERE[0], 7072), b"x"), (1, HERE, THERE, b"y"), (1, HERE, THERE, b"xx"),
    ]  # fmt: skip
    digests = set()
    for note in notes:
        trace = Trace()
        trace.note(*note)
        digests.add(trace.hexdigest())
    assert len(digests) == len(notes)


SCRIPT = (
    "from tests.sim.chatter import Town\n"
    "town = Town({seed}, nodes=12, wire='null')\n"
    "town.churn(40.0, every_s=5.0)\n"
    "print(town.world.trace.count, town.world.trace.hexdigest())\n"
)


def run_with(hash_seed: str, seed: int) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(seed=seed)], capture_output=True, text=True,
        check=True, env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": "."},
    )  # fmt: skip
    return done.stdout


def test_a_seed_gives_one_trace_whatever_python_hashes_by() -> None:
    traces = [run_with("1", 5), run_with("2", 5), run_with("1", 6)]
    assert traces[0] == traces[1]
    assert traces[0] != traces[2], "another seed is another run"
    town = Town(5, nodes=12, wire="null")
    town.churn(40.0, every_s=5.0)
    assert traces[0].split()[1] == town.world.trace.hexdigest()
