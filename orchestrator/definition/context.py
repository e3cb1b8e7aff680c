"""Context of an attempt, passed to a node function: ids, a logger, cancel, heartbeat and limits.

A function gets a `NodeContext` when its first parameter is annotated with it. The engine passes in functions for what
needs the store.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.definition.wording import duration_fault
from orchestrator.errors import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from datetime import datetime, timedelta


class RunningAttempt(NamedTuple):
    """The attempt that some code runs in."""

    run_id: str
    node_name: str
    flow_name: str
    attempt: int


running_attempt: ContextVar[RunningAttempt | None] = ContextVar("running_attempt", default=None)
"""The attempt that this code runs in; waiting for a run there would block its pool process."""


@dataclass(frozen=True)
class Deferred:
    """What a node function returns to let its node wait.

    Attributes:
        timeout: For something from outside, at most so long; None for as long as it takes.
        until: For this instant; None for something from outside.
    """

    timeout: timedelta | None = None
    until: datetime | None = None


def _is_never() -> bool:
    return False


def _ignore(_detail: object) -> None:
    return None


def _nothing() -> None:
    return None


def _no_callback() -> str:
    raise Terminal("this function's node cannot wait for a callback")


def _ignore_limit(_name: str, _key: str | None) -> None:
    return None


class AttemptLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that adds flow, run, node and attempt to what a line carries in its own `extra`, which comes first.

    Args:
        logger: The logger.
        extra: What is added.
        keep: Called with the level and the text of every line that is logged.
        hide: Gives an argument, or an extra, as it may be shown.
        clean: Gives the text of a line as it may be shown.
    """

    def __init__(
        self,
        logger: logging.Logger,
        extra: Mapping[str, object],
        keep: Callable[[int, str], None] | None = None,
        hide: Callable[[Any], Any] | None = None,
        clean: Callable[[str], str] | None = None,
    ) -> None:
        super().__init__(logger, extra)
        self._keep = keep
        self._hide = hide
        self._clean = clean

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log a line, and keep it."""
        if not self.isEnabledFor(level):
            return
        if self._hide is not None:
            msg, args = self._hide(msg), tuple(map(self._hide, args))
            kwargs["extra"] = self._hide(kwargs.get("extra"))
        if self._keep is not None:
            named = args[0] if len(args) == 1 and isinstance(args[0], Mapping) else args  # as logging does
            try:
                text = str(msg) % named if args else str(msg)
            except Exception:  # noqa: BLE001 - logging itself reports what does not fit the format
                text = str(msg)
            if self._clean is not None and (shown := self._clean(text)) != text:
                msg, args, text = shown, (), shown
            self._keep(level, text)
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # the line is the caller's, not this one
        super().log(level, msg, *args, **kwargs)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Merge both; before Python 3.13 an adapter drops the extra of the call."""
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeContext:
    """The attempt that a node function runs in.

    Attributes:
        run_id: The run.
        flow_name: Its flow.
        node_name: The node.
        attempt: Number of this attempt, from 1.
        idempotency_key: For the outside world: the same in every attempt, another one after the node was compensated;
            a compensation has its own, and so has each page of a paginated node and each iteration of one that repeats.
        logger: Adds flow, run, node and attempt to every line.
        scheduled_for: The instant of the schedule that started the run, aware; None when no schedule did.
        iteration: Of a node that repeats, the number of this iteration, from 0.
        page_size: Of a paginated node, the page_size given to `paginate`; else None.
        ask_cancelled: How `is_cancelled` finds out.
        report: What `heartbeat` calls.
        take: What `limit` calls.
        ask_callback: How `callback` finds out.
        ask_told: How `last_heartbeat` finds out.
    """

    run_id: str
    flow_name: str
    node_name: str
    attempt: int
    idempotency_key: str
    logger: logging.Logger | logging.LoggerAdapter[Any]
    scheduled_for: datetime | None = None
    iteration: int = 0
    page_size: int | None = None
    ask_cancelled: Callable[[], bool] = field(default=_is_never, repr=False)
    report: Callable[[object], None] = field(default=_ignore, repr=False)
    take: Callable[[str, str | None], None] = field(default=_ignore_limit, repr=False)
    ask_callback: Callable[[], str] = field(default=_no_callback, repr=False)
    ask_told: Callable[[], Any] = field(default=_nothing, repr=False)

    @property
    def callback(self) -> str:
        """A text by which somebody else completes this node: give it away before you return `defer()`.

        It is the same in every attempt. Who has it may complete the node, so keep it out of logs.
        """
        return self.ask_callback()

    def defer(self, timeout: timedelta | None = None) -> Any:
        """Return what a node function returns to wait for `Orchestrator.complete` or `fail` with its `callback`.

        Nothing of the node runs meanwhile. What came while the function ran counts at once.

        Args:
            timeout: How long to wait at most; then the attempt has failed, and the policy retries it. None: as long as
                it takes.

        Raises:
            Terminal: The timeout is no timedelta of at least a millisecond.
        """
        if timeout is not None and (fault := duration_fault(timeout, "timeout")):
            raise Terminal(f"defer: its {fault}")
        return Deferred(timeout)

    def is_cancelled(self) -> bool:
        """Return whether the run is ending, so that a long function can stop early."""
        return self.ask_cancelled()

    def heartbeat(self, detail: object = None) -> None:
        """Report how far this attempt is, for `run.explain()` and the next attempt; `detail` is any JSON value.

        Where the node has a heartbeat timeout, it begins anew with each report.
        """
        self.report(detail)

    @property
    def last_heartbeat(self) -> Any:
        """What the attempt before this one has reported last, so that it need not begin anew; None if there is nothing.

        Of a node that repeats or fetches pages, what was reported in this iteration or page.
        """
        return self.ask_told()

    def limit(self, name: str, key: str | None = None) -> None:
        """Wait until a shared limiter grants a token, once for each call that a node makes in a loop.

        It blocks within the node's time limit and occupies the process; it goes before the attempts in the limiter's
        wait queue. A `RetryLater(freeze=True)` of this attempt freezes this limiter too.

        Args:
            name: A limiter of this node, or of any node of the flow.
            key: The key of a limiter with a key function; default: the key that this attempt started with.

        Raises:
            Terminal: The flow has no such limiter, a key is missing, or the limiter takes none.
        """
        self.take(name, key)
