"""Public names of the library: typed, durable flows on Celery.

Each is imported when it is first used, because Celery loads the plug-in of this package at every start of its command.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.client import Orchestrator
    from orchestrator.definition.builder import FlowBuilder
    from orchestrator.definition.children import RemoteFlow
    from orchestrator.definition.context import NodeContext
    from orchestrator.definition.flow import Flow
    from orchestrator.definition.gates import Approval, Vote, approval, signal, sleep, sleep_until
    from orchestrator.definition.node import Node, node
    from orchestrator.definition.pagination import Page, Pages, paginate
    from orchestrator.definition.policies import Adaptive, RateLimit, RetryPolicy, SharedConcurrency, SharedRateLimiter
    from orchestrator.definition.state import FlowState, RunStatus
    from orchestrator.definition.triggers import manual, schedule
    from orchestrator.definition.wiring import const, map_item, run_input
    from orchestrator.errors import (
        ApprovalRefused,
        ConfigurationError,
        FlowDefinitionError,
        FlowDefinitionWarning,
        HiddenDependencyError,
        IdempotencyConflict,
        InvalidInput,
        InvalidOutput,
        MissingOutputError,
        NodeFailure,
        NodeTimeout,
        OrchestratorError,
        OutcomeUnknown,
        PaginationError,
        PayloadTooLarge,
        Problem,
        RateLimited,
        RegistrationError,
        Rejected,
        RepetitionError,
        RetryLater,
        RunCancelled,
        RunError,
        RunFailed,
        RunTimeout,
        SignalRefused,
        StaleCallback,
        StoreError,
        StoreFull,
        StoreRefused,
        StoreUnavailable,
        Terminal,
        UnknownFlow,
        UnknownRun,
    )
    from orchestrator.explain import Waiting
    from orchestrator.run_page import RunPage
    from orchestrator.runs import FlowRun
    from orchestrator.settings import Settings
    from orchestrator.store.history import Event
    from orchestrator.store.limit_numbers import LimitRow
    from orchestrator.store.log_lines import LogLine
    from orchestrator.store.queries import FlowCounts, RunRow
    from orchestrator.store.run_view import MapCounts, NodeRow, RunView
    from orchestrator.store.statistics import Durations, FlowStatistics, HourEnds
    from orchestrator.store.waiting_rows import WaitingRow
    from orchestrator.store.worker_rows import WorkerRow
    from orchestrator.worker import Worker, WorkerConfig

_HOMES = {
    "orchestrator.client": ("Orchestrator",),
    "orchestrator.definition.builder": ("FlowBuilder",),
    "orchestrator.definition.children": ("RemoteFlow",),
    "orchestrator.definition.context": ("NodeContext",),
    "orchestrator.definition.flow": ("Flow",),
    "orchestrator.definition.gates": ("Approval", "Vote", "approval", "signal", "sleep", "sleep_until"),
    "orchestrator.definition.node": ("Node", "node"),
    "orchestrator.definition.pagination": ("Page", "Pages", "paginate"),
    "orchestrator.definition.policies": (
        "Adaptive",
        "RateLimit",
        "RetryPolicy",
        "SharedConcurrency",
        "SharedRateLimiter",
    ),
    "orchestrator.definition.state": ("FlowState", "RunStatus"),
    "orchestrator.definition.triggers": ("manual", "schedule"),
    "orchestrator.definition.wiring": ("const", "map_item", "run_input"),
    "orchestrator.errors": (
        "ApprovalRefused",
        "ConfigurationError",
        "FlowDefinitionError",
        "FlowDefinitionWarning",
        "HiddenDependencyError",
        "IdempotencyConflict",
        "InvalidInput",
        "InvalidOutput",
        "MissingOutputError",
        "NodeFailure",
        "NodeTimeout",
        "OrchestratorError",
        "OutcomeUnknown",
        "PaginationError",
        "PayloadTooLarge",
        "Problem",
        "RateLimited",
        "RegistrationError",
        "Rejected",
        "RepetitionError",
        "RetryLater",
        "RunCancelled",
        "RunError",
        "RunFailed",
        "RunTimeout",
        "SignalRefused",
        "StaleCallback",
        "StoreError",
        "StoreFull",
        "StoreRefused",
        "StoreUnavailable",
        "Terminal",
        "UnknownFlow",
        "UnknownRun",
    ),
    "orchestrator.explain": ("Waiting",),
    "orchestrator.run_page": ("RunPage",),
    "orchestrator.runs": ("FlowRun",),
    "orchestrator.settings": ("Settings",),
    "orchestrator.store.history": ("Event",),
    "orchestrator.store.limit_numbers": ("LimitRow",),
    "orchestrator.store.queries": ("FlowCounts", "RunRow"),
    "orchestrator.store.log_lines": ("LogLine",),
    "orchestrator.store.run_view": ("MapCounts", "NodeRow", "RunView"),
    "orchestrator.store.statistics": ("Durations", "FlowStatistics", "HourEnds"),
    "orchestrator.store.waiting_rows": ("WaitingRow",),
    "orchestrator.store.worker_rows": ("WorkerRow",),
    "orchestrator.worker": ("Worker", "WorkerConfig"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Adaptive",
    "Approval",
    "ApprovalRefused",
    "ConfigurationError",
    "Durations",
    "Event",
    "Flow",
    "FlowBuilder",
    "FlowCounts",
    "FlowDefinitionError",
    "FlowDefinitionWarning",
    "FlowRun",
    "FlowState",
    "FlowStatistics",
    "HiddenDependencyError",
    "HourEnds",
    "IdempotencyConflict",
    "InvalidInput",
    "InvalidOutput",
    "LimitRow",
    "LogLine",
    "MapCounts",
    "MissingOutputError",
    "Node",
    "NodeContext",
    "NodeFailure",
    "NodeRow",
    "NodeTimeout",
    "Orchestrator",
    "OrchestratorError",
    "OutcomeUnknown",
    "Page",
    "Pages",
    "PaginationError",
    "PayloadTooLarge",
    "Problem",
    "RateLimit",
    "RateLimited",
    "RegistrationError",
    "Rejected",
    "RemoteFlow",
    "RepetitionError",
    "RetryLater",
    "RetryPolicy",
    "RunCancelled",
    "RunError",
    "RunFailed",
    "RunPage",
    "RunRow",
    "RunStatus",
    "RunTimeout",
    "RunView",
    "Settings",
    "SharedConcurrency",
    "SharedRateLimiter",
    "SignalRefused",
    "StaleCallback",
    "StoreError",
    "StoreFull",
    "StoreRefused",
    "StoreUnavailable",
    "Terminal",
    "UnknownFlow",
    "UnknownRun",
    "Vote",
    "Waiting",
    "WaitingRow",
    "Worker",
    "WorkerConfig",
    "WorkerRow",
    "approval",
    "const",
    "manual",
    "map_item",
    "node",
    "paginate",
    "run_input",
    "schedule",
    "signal",
    "sleep",
    "sleep_until",
]


def __getattr__(name: str) -> object:
    """Import a public name."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
