"""End of runs that cannot get on because something of their record is gone.

Nothing of such a run can be joined or undone any more. What is left of it is ended node by node, in steps that another
process repeats if this one dies, and its error says what is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.definition.plan import node_of
from orchestrator.definition.state import NodeFailure
from orchestrator.errors import RunError

if TYPE_CHECKING:
    from orchestrator.store.run_store import RunRecord, Store

NODES_AT_ONCE = 500


def abandon_run(store: Store, record: RunRecord, *, verdict: str, failure: NodeFailure) -> str:
    """End a run as it is.

    Args:
        store: Where it is.
        record: The run.
        verdict: "failed" or "cancelled", if the run has no verdict; a run in which something succeeded that has a
            compensation ends as compensation_failed.
        failure: What is gone; an error that the run has already is told with it.

    Returns:
        "ended", "too late" if the run had ended, or "unknown".
    """
    if record.error is not None:
        message = f"{failure.message}; before that: {record.error.type}: {record.error.message}"
        failure = failure.model_copy(update={"message": message})
    names = store.node_names(record.run_id)
    text = failure.model_dump_json()
    steps = [(names[first : first + NODES_AT_ONCE], False) for first in range(0, len(names), NODES_AT_ONCE)]
    steps.append((sorted({node_of(name) for name in names}), True))
    outcome = ""
    for nodes, is_last in steps:
        with store.guarded():
            outcome = store.scripts.abandon(
                record.run_id, record.plan, nodes, verdict=verdict, failure=text, is_last=is_last
            )
        if outcome in {"too late", "unknown"}:
            break
    return outcome


def loss_of(record: RunRecord, lost: str) -> NodeFailure:
    """Return the failure of a run of which something is gone."""
    error = RunError(f"the run cannot go on: its {lost} are gone from Redis, which may have evicted or lost them")
    return NodeFailure.of(error, flow_name=record.flow)
