"""Priority of a run: the broker's own number, carried by the run's epoch.

Each message of a run names its epoch, for those of an older one do nothing. So the epoch of a run with a
priority begins at a number that has it, and no publisher has to ask Redis; a run without one begins with 1, and nothing
of its record or of its messages says more.
"""

from __future__ import annotations

from typing import Final

from orchestrator.definition.wording import is_whole, show

EPOCHS: Final = 1_000_000
"""More than the resumes of any run. library/transition.lua and commit_and_claim.lua read the last digits, too."""
MOST: Final = 255
"""The highest number of any broker: RabbitMQ's."""


def first_epoch(priority: int | None) -> int:
    """The epoch with which a run begins."""
    return 1 if priority is None else (priority + 1) * EPOCHS + 1


def priority_of(epoch: int) -> int | None:
    """The priority of a run by its epoch; None if its start has not given one."""
    return epoch // EPOCHS - 1 if epoch >= EPOCHS else None


def count_of(epoch: int) -> int:
    """An epoch as it is shown: 1, and one more with each resume."""
    return epoch % EPOCHS


def priority_fault(priority: object, most: int = MOST) -> str | None:
    """What is wrong with a priority, if anything."""
    if is_whole(priority) and 0 <= priority <= most:
        return None
    return f"the priority is {show(priority)}; use a whole number from 0 to {most}"
