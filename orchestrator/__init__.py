"""Public names of the library: typed, durable flows on Celery."""

from orchestrator.client import Orchestrator
from orchestrator.definition.builder import FlowBuilder
from orchestrator.definition.context import NodeContext
from orchestrator.definition.flow import Flow
from orchestrator.definition.node import Node, node
from orchestrator.definition.pagination import Page, Pages, paginate
from orchestrator.definition.policies import Adaptive, RateLimit, RetryPolicy, SharedConcurrency, SharedRateLimiter
from orchestrator.definition.state import FlowState, RunStatus
from orchestrator.definition.triggers import manual, schedule
from orchestrator.errors import (
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
    RetryLater,
    RunCancelled,
    RunError,
    RunFailed,
    RunTimeout,
    StoreError,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
    Terminal,
    UnknownFlow,
    UnknownRun,
)
from orchestrator.explain import Waiting
from orchestrator.runs import Event, FlowRun, RunPage
from orchestrator.settings import Settings
from orchestrator.store.limit_numbers import LimitRow
from orchestrator.store.queries import FlowCounts, RunRow
from orchestrator.store.run_view import LogLine, MapCounts, NodeRow, RunView
from orchestrator.store.worker_rows import WorkerRow
from orchestrator.worker import Worker, WorkerConfig

__all__ = [
    "Adaptive",
    "ConfigurationError",
    "Event",
    "Flow",
    "FlowBuilder",
    "FlowCounts",
    "FlowDefinitionError",
    "FlowDefinitionWarning",
    "FlowRun",
    "FlowState",
    "HiddenDependencyError",
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
    "StoreError",
    "StoreFull",
    "StoreRefused",
    "StoreUnavailable",
    "Terminal",
    "UnknownFlow",
    "UnknownRun",
    "Waiting",
    "Worker",
    "WorkerConfig",
    "WorkerRow",
    "manual",
    "node",
    "paginate",
    "schedule",
]
