"""Standing of a run: the part of its record by which a wait recognises the end."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.definition.state import RunStatus
from orchestrator.errors import UnknownRun

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.definition.state import NodeFailure
    from orchestrator.redaction import Redaction

RUN_ID = re.compile(r"[0-9a-f-]{32,36}")
FIELDS = ("flow", "plan", "status", "error")
"""Fields of a run's hash, in the order that `standing_of` takes their values."""


@dataclass(frozen=True)
class Standing:
    """Flow, plan and status of a run, and its first failure or None."""

    flow: str
    plan: str
    status: RunStatus
    error: NodeFailure | None


def standing_of(run_id: str, values: Sequence[bytes | None], redaction: Redaction) -> Standing:
    """Read the stored values of FIELDS.

    Raises:
        UnknownRun: There is no such run.
    """
    flow, plan, status, error = values
    if flow is None or plan is None or status is None:
        raise unknown_run(run_id)
    failure = redaction.failure_of(error) if error else None
    return Standing(flow.decode(), plan.decode(), RunStatus(status.decode()), failure)


def read_standing(run_id: str, values: Sequence[bytes | None], redaction: Redaction) -> Standing | UnknownRun:
    """Return what `standing_of` returns or raises."""
    try:
        return standing_of(run_id, values, redaction)
    except UnknownRun as error:
        return error


def unknown_run(run_id: str) -> UnknownRun:
    """Return the error of a run that has no record."""
    return UnknownRun(f"run {run_id!r} is unknown: it was never started here, or its retention is over", run_id=run_id)
