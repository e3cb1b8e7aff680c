"""Where a test may let this process fail: named points in the code that do nothing unless the environment names one.

`ORCHESTRATOR_FAULT=point[@node]:action[:nth]`, with the actions kill9, exit, raise and sleep=<seconds>. The file that
`ORCHESTRATOR_FAULT_COUNT` names counts the hits of all processes, so that the nth hit is one over their restarts.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time

FAULT_VARIABLE = "ORCHESTRATOR_FAULT"
COUNT_VARIABLE = "ORCHESTRATOR_FAULT_COUNT"


class FaultInjected(Exception):
    """What the action `raise` raises."""


def fault_point(point: str, node: str = "") -> None:
    """Pass a point; fails here if that was asked for."""
    if _asked:
        _fail_if_asked(point, node)


def _fail_if_asked(point: str, node: str) -> None:
    where, action, *rest = _asked.split(":")
    wanted, _, wanted_node = where.partition("@")
    if point != wanted or wanted_node not in {"", node} or _count_hit() != int(rest[0] if rest else 1):
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
    with open(os.environ[COUNT_VARIABLE], "ab") as count:  # noqa: PTH123 - one descriptor to lock and to append to
        fcntl.flock(count, fcntl.LOCK_EX)
        count.write(b".")
        count.flush()
        return os.fstat(count.fileno()).st_size


_asked = os.environ.get(FAULT_VARIABLE, "")
