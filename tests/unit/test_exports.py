"""Exports of the package: the names of the public API, every error among them, and nothing else."""

from __future__ import annotations

import inspect

import orchestrator
from orchestrator import errors

API = {
    "Adaptive", "Event", "Flow", "FlowBuilder", "FlowCounts", "FlowDefinitionError", "FlowDefinitionWarning",
    "FlowRun", "FlowState", "LimitRow", "LogLine", "MapCounts", "Node", "NodeContext", "NodeFailure", "NodeRow",
    "Orchestrator", "Page", "Pages", "Problem", "RateLimit", "RetryLater", "RetryPolicy", "RunPage", "RunRow",
    "RunStatus", "RunView", "Settings", "SharedConcurrency", "SharedRateLimiter", "Terminal", "Waiting", "Worker",
    "WorkerConfig", "WorkerRow", "manual", "node", "paginate", "schedule",
}  # fmt: skip


def test_the_public_names_are_those_of_the_api_and_every_error():
    raised = {
        name
        for name, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, errors.OrchestratorError) and value.__module__ == errors.__name__
    }
    assert set(orchestrator.__all__) == API | raised


def test_the_public_names_are_sorted_and_there():
    assert orchestrator.__all__ == sorted(orchestrator.__all__)
    assert all(hasattr(orchestrator, name) for name in orchestrator.__all__)
