"""Checks of `build()`: each is one function that looks at a flow and yields the problems of one kind.

They are listed here and know nothing of each other, so that a flow with many faults is reported with all of them. No
check calls a user's function, and none raises, whatever stands where a name, a node or a number belongs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from orchestrator.definition.checks import (
    children,
    data_flow,
    functions,
    gates,
    inputs,
    limits,
    names,
    pagination,
    repetition,
    structure,
    triggers,
)
from orchestrator.definition.checks.messages import flow_place
from orchestrator.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from orchestrator.definition.checks.messages import Stray
    from orchestrator.definition.flow import Flow

CHECKS: Final[tuple[Callable[[Flow], Iterator[Problem]], ...]] = (
    names.check_names,
    names.check_queues,
    triggers.check_triggers,
    functions.check_input_type,
    structure.check_steps,
    structure.check_nodes,
    structure.check_compensations,
    names.check_unique_names,
    names.check_unique_keys,
    limits.check_timeouts,
    limits.check_deadlines,
    limits.check_heartbeats,
    limits.check_max_runs,
    limits.check_retries,
    limits.check_limits,
    pagination.check_pages,
    pagination.check_sources,
    repetition.check_repeats,
    gates.check_gates,
    gates.check_local_gates,
    gates.check_signals,
    children.check_children,
    children.check_child_steps,
    functions.check_functions,
    functions.check_callbacks,
    inputs.check_inputs,
    inputs.check_returned_inputs,
    data_flow.check_reads,
    data_flow.check_result,
)
FINDINGS: Final[tuple[Callable[[Flow], Iterator[str]], ...]] = (
    structure.find_unsuitable_steps,
    limits.find_low_caps,
    functions.find_ignored_options,
)


def find_problems(flow: Flow, strays: Sequence[Stray] = ()) -> list[Problem]:
    """Return every problem of a flow as its builder left it.

    Args:
        flow: The flow, whatever junk it is made of.
        strays: Calls of the builder that belong to no open block.
    """
    problems = [Problem(f"{flow_place(flow)}, {stray.place}", stray.code, stray.message) for stray in strays]
    problems += (problem for check in CHECKS for problem in check(flow))
    # The text of a user's exception may have several lines; a node that is used twice reports its problem twice.
    return list(dict.fromkeys(replace(each, message=" ".join(each.message.splitlines())) for each in problems))


def find_warnings(flow: Flow) -> list[str]:
    """Return every soft finding of a flow without problems, a sentence each."""
    return [finding for find in FINDINGS for finding in find(flow)]
