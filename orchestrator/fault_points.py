"""Points in the code where a test lets this process fail; passing one does nothing unless the environment asks for it.

`ORCHESTRATOR_FAULTS` names a file with one order, `point[@node]:action[:nth]`, with the actions kill9, exit, raise and
sleep=<seconds>. It is read at each point, so that a test can give its order to workers that run already. The file
beside it with `.hits` behind its name has one byte for each hit of all processes: the nth hit is one over their
restarts. Without the variable, which only tests set, a point costs one comparison.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

FAULTS_VARIABLE = "ORCHESTRATOR_FAULTS"


class FaultInjected(Exception):
    """What the action `raise` raises."""


def fault_point(point: str, node: str = "") -> None:
    """Pass a point; fails here if that was asked for."""
    if _orders:
        _fail_if_asked(point, node)


def hits_file(orders: str | os.PathLike[str]) -> Path:
    """The file that counts the hits of the order in a file."""
    return Path(f"{os.fspath(orders)}.hits")


def _fail_if_asked(point: str, node: str) -> None:
    order = ""
    with contextlib.suppress(FileNotFoundError):
        order = Path(_orders).read_text(encoding="utf-8")
    if not order:
        return
    where, _, action = order.rpartition(":")
    nth = "1"
    if action.isdigit():
        nth = action
        where, _, action = where.rpartition(":")
    wanted, _, wanted_node = where.partition("@")  # a timer of the engine's own is called `:tree`
    if point != wanted or wanted_node not in {"", node} or _count_hit() != int(nth):
        return
    if action == "kill9":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "exit":
        os._exit(1)
    elif action == "raise":
        raise FaultInjected(f"{point} {node}")
    elif action.startswith("sleep="):
        time.sleep(float(action.removeprefix("sleep=")))


def _count_hit() -> int:
    count = os.open(hits_file(_orders), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(count, b".")
        return os.lseek(count, 0, os.SEEK_CUR)  # behind this very byte, also when others append
    finally:
        os.close(count)


_orders = os.environ.get(FAULTS_VARIABLE, "")
