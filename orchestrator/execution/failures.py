"""Decide what a failure leads to: another attempt after a delay, or the end of the node.

The order of the verdicts is fixed: the error's own word (`Terminal`, `RetryLater`), the node's classifier, its
`non_retryable` classes, else its retry policy. The scripts have the last word: in an ending run nothing is tried again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery.exceptions import TaskPredicate

from orchestrator.errors import (
    HiddenDependencyError,
    InvalidInput,
    InvalidOutput,
    MissingOutputError,
    NodeTimeout,
    PaginationError,
    PayloadTooLarge,
    RateLimited,
    RepetitionError,
    RetryLater,
    RunError,
    Terminal,
)
from orchestrator.store.run_store import milliseconds

if TYPE_CHECKING:
    from orchestrator.execution.inputs import Inputs

logger = logging.getLogger(__name__)
NO_FURTHER = -1
LOCATED = (InvalidInput, InvalidOutput, MissingOutputError, HiddenDependencyError)
TERMINAL = (*LOCATED, PaginationError, PayloadTooLarge, RateLimited, RepetitionError, Terminal)
# Celery takes these for orders: a MemoryError ends its whole worker, Reject puts a message back.
ORDERS = (MemoryError, TaskPredicate)


@dataclass(frozen=True, slots=True)
class Failed:
    """A failure of an attempt, and the verdict.

    Attributes:
        raised: What was raised.
        error: The same, or a copy that says which node it is about.
        delay_ms: Milliseconds to the next attempt, or NO_FURTHER.
        gives_back: Whether the attempt does not count (`RetryLater(freeze=True)`, and a misfit).
        misfit: Why the code of this process turned out not to fit the run's plan, if the failure comes from that.
    """

    raised: BaseException
    error: BaseException
    delay_ms: int
    gives_back: bool = False
    misfit: str = ""


def judge(error: BaseException, inputs: Inputs) -> Failed:
    """Give the verdict on what an attempt raised."""
    if reason := inputs.misfit(error):
        return Failed(error, _located(error, inputs), 0, gives_back=True, misfit=reason)
    delay = _delay_ms(error, inputs)
    gives_back = isinstance(error, RetryLater) and error.freeze and delay != NO_FURTHER
    return Failed(error, _located(error, inputs), delay, gives_back)


def for_celery(error: BaseException, inputs: Inputs) -> BaseException:
    """The same error, as far as a task may raise it; SystemExit, for one, would end the pool process."""
    error = inputs.redaction.error(error)  # Celery logs its text, and sends it to monitors
    if isinstance(error, Exception) and not isinstance(error, ORDERS):
        return error
    message = f"the node function raised {type(error).__name__}: {error}"
    return RunError(message, **inputs.where).with_traceback(error.__traceback__)


def _delay_ms(error: BaseException, inputs: Inputs) -> int:
    # A pure function raises the same again; only a limit that it ran into may have been the machine's fault.
    if isinstance(error, TERMINAL) or (inputs.is_pure and not isinstance(error, NodeTimeout)):
        return NO_FURTHER
    node = inputs.entry.nodes.get(inputs.node_plan.name)
    if node is not None:  # a decision has no policy of a user's
        if isinstance(error, RetryLater):
            return milliseconds(error.after)
        # A classifier is called with the real exception, and with no other: it stands behind the error's own word.
        if node.error_classifier is not None:
            try:
                verdict = node.error_classifier(error)
            except Exception:
                where = (inputs.plan.flow, inputs.run_id, inputs.name)
                logger.exception("flow %s run %s node %s: its error classifier raised", *where)
                verdict = "terminal"
            if verdict != "retryable":
                return NO_FURTHER
        if isinstance(error, node.retry.non_retryable):
            return NO_FURTHER
    return inputs.plan.delay_ms(inputs.node_plan.name, inputs.claimed.attempt)


def _located(error: BaseException, inputs: Inputs) -> BaseException:
    """The same error; one about a value says which flow, run and node it is about."""
    if not isinstance(error, LOCATED) or type(error) not in LOCATED:  # a user's own class may take other arguments
        return error
    if error.flow_name not in {None, inputs.plan.flow} or error.run_id not in {None, inputs.run_id}:
        return error  # about another run
    located = type(error)(error.message, **inputs.where)
    located.__cause__, located.__context__ = error.__cause__, error.__context__
    located.__suppress_context__ = error.__suppress_context__
    return located.with_traceback(error.__traceback__)
