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
from orchestrator.runs import Event, FlowRun
from orchestrator.settings import Settings
from orchestrator.worker import Worker, WorkerConfig

__all__ = [
    "Adaptive",
    "ConfigurationError",
    "Event",
    "Flow",
    "FlowBuilder",
    "FlowDefinitionError",
    "FlowDefinitionWarning",
    "FlowRun",
    "FlowState",
    "HiddenDependencyError",
    "IdempotencyConflict",
    "InvalidInput",
    "InvalidOutput",
    "MissingOutputError",
    "Node",
    "NodeContext",
    "NodeFailure",
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
    "RunStatus",
    "RunTimeout",
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
    "manual",
    "node",
    "paginate",
    "schedule",
]
