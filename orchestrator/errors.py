"""Errors of the library, as one tree, so that a caller catches as much or as little of it as it wants.

    OrchestratorError
    ├── FlowDefinitionError      build() found problems, all of them in `.problems`
    ├── RegistrationError        a flow that collides with what is registered
    ├── ConfigurationError       settings or an app that cannot work
    ├── UnknownFlow              no flow of this name, here or announced
    ├── IdempotencyConflict      the same idempotency key with another input
    ├── PayloadTooLarge          a value over `Settings.max_payload_bytes`
    ├── RunError                 about one run; knows flow, run, node and attempt
    │   ├── UnknownRun, RunFailed, RunTimeout, RunCancelled
    │   ├── NodeTimeout, OutcomeUnknown, RateLimited, PaginationError, RepetitionError
    │   ├── Rejected, SignalRefused, ApprovalRefused, StaleCallback
    │   ├── InvalidInput, InvalidOutput
    │   └── MissingOutputError, HiddenDependencyError
    └── StoreError               Redis
        ├── StoreUnavailable     it did not answer, or refuses for a while
        │   └── StoreRefused     until somebody changes something: rights, password, a key of another type
        └── StoreFull            it answered that its memory is full
    Signal                       not errors: a node function raises one to say what happens next
    ├── Terminal, RetryLater
    FlowDefinitionWarning        a soft finding of build(); a UserWarning

The `args` of each are its constructor's arguments, as JSON values only, so that pickle and Celery's JSON results bring
back the same error. What a failure means for a run is decided elsewhere.
"""

from __future__ import annotations

import difflib
import logging
import traceback as tracebacks
from dataclasses import astuple, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Self, overload

from pydantic import BaseModel, BeforeValidator, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pydantic import ValidationError

PACKAGE = __name__.partition(".")[0]
PLUMBING = {PACKAGE, "asyncio", "billiard", "celery", "concurrent", "contextlib", "functools", "kombu", "pydantic"}
PLUMBING |= {"eventlet", "gevent", "opentelemetry", "pydantic_core", "sentry_sdk", "threading", "wrapt"}
"""Packages whose frames stand between a worker and a user's function, and tell the user nothing."""
MESSAGE_LIMIT = 2_000
TRACEBACK_LIMIT = 16_000
FIELD_LIMIT = 20


class OrchestratorError(Exception):
    """Root of every error that this library raises."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that `build()` refuses.

    Attributes:
        where: The flow, step or node at fault, by name.
        code: The check that found it, such as `unknown-key`; stable, for programs.
        message: What is wrong and what to do, for people.
    """

    where: str
    code: str
    message: str

    def __str__(self) -> str:
        """Return the problem as one line."""
        return f"{self.where}: {self.message}"


class FlowDefinitionError(OrchestratorError):
    """`build()` refused a flow; `problems` has every problem, and the text a line for each."""

    problems: tuple[Problem, ...]

    def __init__(self, problems: Iterable[Problem | Sequence[str]]) -> None:
        """Take the problems, as `Problem` or, as they come back from JSON, as (where, code, message)."""
        self.problems = tuple(each if isinstance(each, Problem) else Problem(*each) for each in problems)
        super().__init__([list(astuple(problem)) for problem in self.problems])

    def __str__(self) -> str:
        """Return one line for each problem."""
        return "\n".join(map(str, self.problems))


class FlowDefinitionWarning(UserWarning):
    """A flow that works, but probably not as well as it could."""


class RegistrationError(OrchestratorError):
    """A flow cannot be registered: its name or one of its tasks is taken."""


class ConfigurationError(OrchestratorError):
    """Settings, environment or Celery app cannot work; the message says which value and what to put there."""


class UnknownFlow(OrchestratorError):
    """No flow of this name is registered in this process or announced by a worker."""

    def __init__(self, name: str, known: Iterable[str] = ()) -> None:
        """Take the name that was asked for and the names that there are."""
        self.name = name
        self.known = tuple(known)
        super().__init__(name, list(self.known))

    def __str__(self) -> str:
        """Return a sentence that names the nearest known flows."""
        near = difflib.get_close_matches(str(self.name), self.known, n=3, cutoff=0.5)
        if near:
            hint = f"did you mean {' or '.join(repr(name) for name in near)}?"
        elif self.known:
            hint = f"known flows: {', '.join(sorted(self.known)[:10])}"
        else:
            hint = "no flow is known: register it here, or start a worker that has it"
        return f"there is no flow named {self.name!r}; {hint}"


class IdempotencyConflict(OrchestratorError):
    """An idempotency key was used again with another input; `run_id` is the run that has the key."""

    def __init__(self, flow_name: str, key: str, run_id: str) -> None:
        """Take the flow, the key and the run that owns the key."""
        self.flow_name = flow_name
        self.key = key
        self.run_id = run_id
        super().__init__(flow_name, key, run_id)

    def __str__(self) -> str:
        """Return flow, key and run, and what to do."""
        return (
            f"flow {self.flow_name}: the idempotency key {self.key!r} belongs to run {self.run_id}, which was started "
            "with another input; use another key, or the same input"
        )


class PayloadTooLarge(OrchestratorError):
    """A value is larger, as JSON, than `Settings.max_payload_bytes`; nothing of it was stored."""

    def __init__(self, what: str, size: int, limit: int) -> None:
        """Take a name for the value, its size and the limit, both in bytes."""
        self.what = what
        self.size = size
        self.limit = limit
        super().__init__(what, size, limit)

    def __str__(self) -> str:
        """Return size and limit, and what to do."""
        return (
            f"{self.what} is {self.size} bytes of JSON, over the limit of {self.limit}; store it elsewhere and pass a "
            "reference, or raise Settings.max_payload_bytes"
        )


class RunError(OrchestratorError):
    """An error about one run; the attributes that are known say where it happened, the others are None."""

    def __init__(
        self,
        message: str = "",
        flow_name: str | None = None,
        run_id: str | None = None,
        node_name: str | None = None,
        attempt: int | None = None,
    ) -> None:
        """Take the message and, by keyword, where it happened."""
        self.message = message
        self.flow_name = flow_name
        self.run_id = run_id
        self.node_name = node_name
        self.attempt = attempt
        arguments = [message, flow_name, run_id, node_name, attempt]
        while len(arguments) > 1 and arguments[-1] is None:
            arguments.pop()
        super().__init__(*arguments)

    def __str__(self) -> str:
        """Return the message, then in brackets where it happened."""
        context = {"flow": self.flow_name, "run": self.run_id, "node": self.node_name, "attempt": self.attempt}
        known = ", ".join(f"{word} {value}" for word, value in context.items() if value is not None)
        return f"{self.message} [{known}]" if known else self.message


class UnknownRun(RunError):
    """There is no run of this id, or its retention is over."""


class RunFailed(RunError):
    """A result was requested from a run that did not succeed; `error` is its first failure."""

    error: NodeFailure

    def __init__(self, error: NodeFailure | Mapping[str, Any], run_id: str | None = None) -> None:
        """Take the failure, as an object or as its JSON, and the run's id."""
        self.error = error if isinstance(error, NodeFailure) else NodeFailure.model_validate(error)
        super().__init__(str(self.error), self.error.flow_name, run_id, self.error.node_name, self.error.attempt)
        # What pickle calls our own constructor with: the root's one has set the arguments of another.
        self.args = (self.error.model_dump(mode="json"), run_id)

    def __str__(self) -> str:
        """Return the first failure, and the run's id if it is known."""
        return self.message if self.run_id is None else f"{self.message} [run {self.run_id}]"


class RunTimeout(RunError):
    """A run did not end within the limit of its flow."""


class RunCancelled(RunError):
    """A run was cancelled."""


class NodeTimeout(RunError):
    """An attempt took longer than its node's timeout; it counts as a failed attempt like any other."""


class InvalidInput(RunError):
    """A value does not fit the type that reads it; the message has each field's path. Terminal for a node."""


class InvalidOutput(RunError):
    """A value cannot be stored as JSON and read back as its type; the message has type and path. Terminal."""


class OutcomeUnknown(RunError):
    """A worker died in a node's last attempt: the attempt may or may not have had its effects."""


class Rejected(RunError):
    """Somebody rejected an approval; the message says who and why."""


class SignalRefused(RunError):
    """A signal was not taken: no gate of the run waits for it or will, the inbox is full, or the run is ending."""


class ApprovalRefused(RunError):
    """A vote was not counted: the approval is not open, or this person may not vote or has voted."""


class StaleCallback(RunError):
    """A callback has no effect any more: its node was completed, failed, went on by itself, or its run has ended."""


class RateLimited(RunError):
    """A node had to wait for longer than `Settings.max_throttle` by `RetryLater(freeze=True)`."""


class PaginationError(RunError):
    """A page has more after it but no cursor, or the cursor it was fetched with. Terminal."""


class RepetitionError(RunError):
    """A node that repeats asked for more iterations than `max_iterations`. Terminal."""


class MissingOutputError(RunError):
    """A missing output was read; the message names the key and the existing keys. Terminal."""


class HiddenDependencyError(RunError):
    """A node read the output of a sibling in its parallel step, which is a race. Terminal."""


class StoreError(OrchestratorError):
    """Redis could not do what it was asked to do."""


class StoreUnavailable(StoreError):
    """Redis did not answer in time, or refuses for a while; the last call may or may not have had its effect."""


class StoreFull(StoreError):
    """Redis refused a write because its memory is full; nothing was written."""


class StoreRefused(StoreUnavailable):
    """Redis refuses as it is set up: a password, a right, a key of another program. The message says what to do."""


class Signal(Exception):
    """Raised by a node function to say what happens next; deliberately outside the root."""


class Terminal(Signal):
    """End the node as failed, without another attempt, whatever its retry policy says."""

    def __init__(self, message: str = "") -> None:
        """Take the reason."""
        self.message = message
        super().__init__(message)


EXPECTED: tuple[type[Exception], ...] = (Terminal,)
"""Verdicts that a node function gives on purpose: a failed node, but no fault of its code."""


class RetryLater(Signal):
    """End this attempt and make the next one after a given delay."""

    after: timedelta

    @overload
    def __init__(self, message: str = "", *, after: timedelta, freeze: bool = False) -> None: ...
    @overload
    def __init__(self, message: str, after: float, freeze: bool, /) -> None: ...  # noqa: FBT001 - rebuilt from `args`
    def __init__(  # what `args` rebuild, by position
        self,
        message: str = "",
        after: timedelta | float | None = None,
        freeze: Any = False,  # noqa: FBT002 - callers are held to freeze=True by the overloads
    ) -> None:
        """Take the reason and the delay.

        Args:
            message: The reason.
            after: From now to the next attempt; a number is seconds, which is how it comes back from JSON.
            freeze: Also stop the node's rate limits for every worker until then, and do not count this attempt.
        """
        if after is None:
            raise TypeError("RetryLater needs after=, the timedelta until the next attempt")
        self.message = message
        self.after = after if isinstance(after, timedelta) else timedelta(seconds=after)
        self.freeze = bool(freeze)
        super().__init__(message, self.after.total_seconds(), self.freeze)

    def __str__(self) -> str:
        """Return the reason and the delay."""
        return f"{self.message or 'retry later'} (after {self.after})"


def _clean_text(value: object) -> object:
    # UTF-8 has no lone surrogates: an exception's text with one must not keep its failure from being recorded.
    return _printable(value) if isinstance(value, str) else value


CleanText = Annotated[str, BeforeValidator(_clean_text)]


class NodeFailure(BaseModel):
    """Failure of a node or a run: the stored form of an exception.

    Attributes:
        flow_name: The run's flow.
        node_name: The node, or None for a failure of the run itself (a timeout, a cancel).
        attempt: Number of the last attempt, from 1; 0 when no attempt started.
        type: `module.qualname` of the exception.
        message: Its text, shortened if it is very long.
        traceback: As Python prints it, from the user's own frame on; shortened if it is very long, empty if there is
            none.
    """

    model_config = ConfigDict(frozen=True)

    flow_name: str
    node_name: str | None
    attempt: int
    type: CleanText
    message: CleanText
    traceback: CleanText = ""

    @classmethod
    def of(cls, error: BaseException, *, flow_name: str, node_name: str | None = None, attempt: int = 0) -> Self:
        """Record an exception, whatever its methods do; long texts are shortened, never refused."""
        return cls(
            flow_name=flow_name,
            node_name=node_name,
            attempt=attempt,
            type=_full_name(type(error)),
            message=_cut(text_of(error), MESSAGE_LIMIT),
            traceback=_cut(traceback_text(error), TRACEBACK_LIMIT),
        )

    def __str__(self) -> str:
        """Return the failure as one sentence."""
        where = f"flow {self.flow_name}" if self.node_name is None else f"flow {self.flow_name}, node {self.node_name}"
        tried = f" in attempt {self.attempt}" if self.attempt else ""
        return f"{where} failed{tried}: {self.type}: {self.message}"


def type_name(kind: object) -> str:
    """Return `module.qualname` of a class, or the text of another annotation, without `builtins.`; never raises."""
    return _printable(_full_name(kind).removeprefix("builtins."))


def describe_fields(error: ValidationError) -> str:
    """Return each field's path and its fault, without the values, which may be secret."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    lines = [f"{path_text(each['loc'])}: {_cut(each['msg'], 500)}" for each in found[:FIELD_LIMIT]]
    more = len(found) - FIELD_LIMIT
    return "; ".join([*lines, f"and {more} more"] if more > 0 else lines)


def path_text(path: Iterable[object]) -> str:
    """Return a path into a value as text, `items.0.price`; the value itself is `(root)`."""
    parts = [_cut(str(part), 100) if isinstance(part, str | int) else type_name(type(part)) for part in path]
    shown = parts if len(parts) <= FIELD_LIMIT else [*parts[:FIELD_LIMIT], "..."]
    return ".".join(shown) or "(root)"


def text_of(error: BaseException) -> str:
    """Return the text of an exception; never raises."""
    try:
        return _printable(str(error))
    except Exception:  # noqa: BLE001 - a user's exception may raise anything from __str__
        return "<its text cannot be read>"


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _full_name(kind: object) -> str:
    try:
        return f"{kind.__module__}.{kind.__qualname__}" if isinstance(kind, type) else str(kind)
    except Exception:  # noqa: BLE001 - a metaclass or an annotation may raise anything
        return "<unprintable type>"


def traceback_text(error: BaseException) -> str:
    """Return a traceback as Python prints it, without the frames above the user's own; never raises.

    It is whole while the logger `orchestrator` is at DEBUG, and where an error of no known kind comes out of the
    plumbing itself.
    """
    try:
        known = tracebacks.TracebackException.from_exception(error)
        if not logging.getLogger(PACKAGE).isEnabledFor(logging.DEBUG):
            if isinstance(error, OrchestratorError | Signal) or _plumbing_above(error) < len(known.stack):
                del known.stack[: _plumbing_above(error)]
            _cut_causes(known, error)
        return "".join(known.format())
    except Exception:  # noqa: BLE001 - formatting reads notes and causes, which are a user's too
        return "".join(tracebacks.format_tb(error.__traceback__))


def _plumbing_above(error: BaseException) -> int:
    """How many frames there are before the first that is a user's; all of them if none is."""
    depth = 0
    for frame, _ in tracebacks.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in PLUMBING:
            break
        depth += 1
    return depth


def _cut_causes(known: tracebacks.TracebackException, error: BaseException) -> None:
    inner = list(zip(known.exceptions or (), getattr(error, "exceptions", ()), strict=False))
    for part, cause in ((known.__cause__, error.__cause__), (known.__context__, error.__context__), *inner):
        if part is not None and cause is not None:
            del part.stack[: _plumbing_above(cause)]
            _cut_causes(part, cause)


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... {len(text) - limit} characters left out ...\n{text[-half:]}"
