"""Forked processes: who ends is told of once, nobody outlives the parent, signals are the parent's.

Each test runs a parent of its own: a process with threads, as pytest's is, must not fork.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAD = """
import os, signal, sys, time
from molia.base.errors import Interrupted
from molia.cli.children import Children

def sleep(pipe):
    os.write(pipe, b"up")
    time.sleep(300)
    return 0

def wait_up(children, count):
    while sum(child.told == b"up" for child in children.alive.values()) < count:
        children.wait(10)
"""


def start(body: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + body], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(body: str) -> str:
    process = start(body)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    return out


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_one_that_is_killed_is_returned_once_and_the_others_live() -> None:
    out = run("""
with Children(stop_s=10) as children:
    for index in range(3):
        children.fork(index, sleep)
    wait_up(children, 3)
    os.kill(children.alive[1].pid, signal.SIGKILL)
    print([(c.index, bytes(c.told)) for c in children.wait(10)])
    print(sorted(children.alive), children.wait(0.01))
print(children.alive)
""")
    assert out == "[(1, b'up')]\n[0, 2] []\n{}\n"


def test_what_one_tells_before_it_ends_is_kept_and_its_parents_code_does_not_run_twice() -> None:
    out = run("""
def fail(pipe):
    os.write(pipe, b"no room")
    raise SystemExit(3)

with Children(stop_s=10) as children:
    children.fork(7, fail)
    ended = []
    while not ended:
        ended = children.wait(10)
    print(ended[0].index, bytes(ended[0].told))
""")
    assert out == "7 b'no room'\n"


def test_one_that_ended_is_told_of_although_a_signal_came_as_well() -> None:
    out = run("""
with Children(stop_s=10) as children:
    children.fork(0, sleep)
    children.fork(1, sleep)
    wait_up(children, 2)
    os.kill(children.alive[0].pid, signal.SIGKILL)
    os.waitid(os.P_PID, children.alive[0].pid, os.WEXITED | os.WNOWAIT)
    os.kill(os.getpid(), signal.SIGINT)
    print([c.index for c in children.wait(10)])
    try:
        children.wait(10)
    except Interrupted:
        print("interrupted")
""")
    assert out == "[0]\ninterrupted\n"


def test_those_that_do_not_end_in_time_are_killed() -> None:
    out = run("""
def refuse(pipe):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return sleep(pipe)

with Children(stop_s=0.1) as children:
    children.fork(0, refuse)
    wait_up(children, 1)
    pid = children.alive[0].pid
try:
    os.kill(pid, 0)
except ProcessLookupError:
    print("gone")
""")
    assert out == "gone\n"


def test_a_signal_ends_the_parents_wait_and_reaches_no_child_by_itself() -> None:
    process = start("""
try:
    with Children(stop_s=10) as children:
        children.fork(0, sleep)
        wait_up(children, 1)
        print(children.alive[0].pid, os.getpgid(children.alive[0].pid), flush=True)
        children.wait(None)
except Interrupted:
    print("told to stop")
""")
    assert process.stdout is not None
    pid, group = map(int, process.stdout.readline().split())
    assert pid == group
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, "told to stop\n", "")
    assert not is_running(pid)


def test_nobody_outlives_a_parent_that_is_killed() -> None:
    process = start("""
with Children(stop_s=10) as children:
    for index in range(3):
        children.fork(index, sleep)
    wait_up(children, 3)
    print(*(child.pid for child in children.alive.values()), flush=True)
    children.wait(None)
""")
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert all(map(is_running, pids))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=120)
    until_s = time.monotonic() + 60
    while any(map(is_running, pids)) and time.monotonic() < until_s:
        time.sleep(0.01)
    assert not any(map(is_running, pids))
