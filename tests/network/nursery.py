"""Starts nodes as forks of one process that has everything imported: a tenth of a start's cost.

Each line on stdin is an order. `{"environ": …, "arguments": …, "log": …}` runs `molia ARGUMENTS` in
a child and answers with its pid; `{"ended": pid}` answers with how it ended, None while it runs:
its exit code, or the signal below zero. Children end with this process, and it with its stdin.
"""

import gc
import importlib
import json
import os
import signal
import sys
from typing import Any, Final, NoReturn

from molia.cli.main import main as molia
from molia.cli.worker import end_with_parent

MODULES: Final = (
    "molia.cli.run", "molia.api.app", "molia.api.server", "molia.node.app",
    "molia.cli.logs",
)  # fmt: skip
_ended: Final[dict[int, int]] = {}


def main() -> None:
    """Carry out orders until there are no more."""
    for name in MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else a collection in a child would copy every page of the modules
    signal.signal(signal.SIGCHLD, _on_child)
    for line in sys.stdin:
        order = json.loads(line)
        answer = _ended.pop(order["ended"], None) if "ended" in order else _start(order)
        print(json.dumps(answer), flush=True)


def _on_child(number: int, frame: object) -> None:
    del number, frame
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        _ended[pid] = os.waitstatus_to_exitcode(status)


def _start(order: dict[str, Any]) -> int:
    pid = os.fork()
    return pid or _be_node(order)


def _be_node(order: dict[str, Any]) -> NoReturn:
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        end_with_parent()
        os.environ.clear()
        os.environ.update(order["environ"])
        _redirect(order["log"])
        code = molia(list(order["arguments"]))
    finally:
        os._exit(code)


def _redirect(log: str) -> None:
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.dup2(file, 2)


if __name__ == "__main__":
    main()
