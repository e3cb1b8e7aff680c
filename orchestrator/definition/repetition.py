"""Repetition of a node: call its function again with what it returned, until that is good.

Each iteration is stored when it returns, so that a retry, a crash or a resume repeats only the one that is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from orchestrator.definition.wording import count_fault, duration_fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True, slots=True)
class Repeat:
    """How often a node is called, and when that ends; bad values are reported by `build()`.

    Attributes:
        until: `until(output)` returns whether the iteration that returned this output is the last one; it must be pure.
        every: Least time from the end of an iteration to the start of the next; nothing is held meanwhile.
        max_iterations: Iterations at most; the node fails where `until` asks for more.
    """

    until: Callable[[Any], bool]
    every: timedelta = timedelta(0)
    max_iterations: int = 1000

    def faults(self) -> Iterator[str]:
        """What is wrong with its numbers, each as a sentence."""
        faults = (
            duration_fault(self.every, "every", is_zero_fine=True),
            count_fault(self.max_iterations, "max_iterations"),
        )
        return (fault for fault in faults if fault is not None)
