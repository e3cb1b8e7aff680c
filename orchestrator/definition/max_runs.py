"""Most runs of a flow at once: how many, by what part of the input they are told apart, what a further start does.

The runs that share a maximum are a lane: all runs of the flow, or those with one value at a path in their input. It is
read from JSON, so that every client finds the same lane, also one without the flow's code. The runs of a schedule that
queues them are a lane, too, one run wide.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from orchestrator.definition.wording import count_fault, is_a, is_whole, show
from orchestrator.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MOST_AT_ONCE: Final = 10_000
WHEN_FULL: Final = ("queue", "skip")


@dataclass(frozen=True, slots=True)
class MaxRuns:
    """At most so many runs at once; bad values are reported by `build()`.

    Attributes:
        most: How many.
        key: Path in the input, names with dots between them; None: all runs of the flow count together.
        when_full: What a start does when they are all there: wait for its turn, or end at once.
    """

    most: int
    key: str | None = None
    when_full: Literal["queue", "skip"] = "queue"

    def faults(self) -> Iterator[str]:
        """What is wrong with it, each as a sentence."""
        if fault := count_fault(self.most, "the number"):
            yield fault
        elif is_whole(self.most) and self.most > MOST_AT_ONCE:
            yield f"the number is {self.most}; use at most {MOST_AT_ONCE}"
        if self.key is not None and (not is_a(self.key, str) or not all(self.key.split("."))):
            yield f'key is {show(self.key)}; use the path of a part of the input, such as "customer.id"'
        if not is_a(self.when_full, str) or self.when_full not in WHEN_FULL:
            yield f'when_full is {show(self.when_full)}; use "queue" or "skip"'

    def plan_fields(self, flow: str) -> dict[str, Any]:
        """What a plan has of it; `full` says that all are there."""
        runs = f"{self.most} run{'s' if self.most > 1 else ''} of flow {flow} at a time"
        full = f"at most {runs}" + (f" for each {self.key}" if self.key else "")
        return {"most": self.most, "key": self.key or "", "when_full": self.when_full, "full": full}


def lane_of_schedule(schedule: str) -> str:
    """Return the lane of the runs of a schedule of which the next one waits for the one before."""
    # The mark is in no name of a flow. fragments/lane.lua knows by it how wide the lane is.
    return schedule.replace(":", "@")


def lane_of(flow: str, max_runs: Mapping[str, Any], input_json: bytes) -> str:
    """Return the lane of a run by its input; nothing of the input is in it but a hash.

    Raises:
        InvalidInput: The input has nothing at the path.
    """
    path = max_runs["key"]
    if not path:
        return flow
    value = json.loads(input_json or b"null")
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            raise InvalidInput(f"the input of flow {flow} has no {path}, by which its runs are limited", flow_name=flow)
        value = value[name]
    # Sorted: clients that write the keys of an object in another order must find the same lane.
    text = json.dumps(value, sort_keys=True).encode()
    return f"{flow}#{hashlib.sha256(text).hexdigest()[:32]}"
