"""A user's module whose nodes end their process, or raise what is hard to catch, to print or to send."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import threading
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from celery import Celery
from celery.exceptions import Ignore, Reject, Retry
from celery.signals import task_failure

from orchestrator import FlowBuilder, Node, NodeContext, Orchestrator, RetryPolicy, manual
from tests.harness import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

URL = os.environ["TEST_REDIS_URL"]
app = Celery("poison", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)
ONCE = RetryPolicy(maximum_attempts=1)
SOON = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=3, jitter=False)


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test"))


@task_failure.connect
def note_failure(sender: Any, exception: BaseException, **_: Any) -> None:
    """Note what Celery saw of a failed task, as an error tracker does."""
    kind = getattr(exception, "exc_cls_name", type(exception).__name__)
    LEDGER.note("celery", f"{sender.name} {kind}")


# --- nodes that end their process ------------------------------------------------------------------
def abort() -> None:
    """End as a failed assertion in C does, without a core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.abort()


def read_null() -> None:
    """End as a bug in an extension does."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


def end_badly() -> None:
    """Fail while giving back what it holds, because its process is told to end."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        raise ConnectionError("no rollback")


DEATHS: dict[str, Callable[[], Any]] = {
    "exit-zero": lambda: os._exit(0),
    "exit-one": lambda: os._exit(1),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "abort": abort,
    "null": read_null,
    "term": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "quit": lambda: os.kill(os.getpid(), signal.SIGQUIT),
    "term-broken": end_badly,
}


def die(ctx: NodeContext, way: str, attempts: int) -> int:
    """End the process in the first attempts; returns the number of the attempt that does not."""
    LEDGER.note("start", ctx.run_id)
    if ctx.attempt <= attempts:
        DEATHS[way]()
    return ctx.attempt


def undo(name: str) -> Node[Any, Any]:
    """A compensation that writes what it undoes to the ledger."""

    def undone(output: Any) -> None:
        LEDGER.note("undo", f"{name}({output})")

    return Node(f"undo-{name}", undone)


mortal = Node("die", die).with_input_func(lambda state: state.input())
dies = flow("dies").takes(dict[str, Any]).then(mortal).build()
unsure = (
    flow("unsure")
    .takes(dict[str, Any])
    .then(Node("before", lambda: "done").on_error(undo("before")))
    .then(mortal.with_retry(ONCE).on_error(undo("die"), when="started"))
    .then(Node("never", lambda: LEDGER.note("start", "never")))
    .build()
)
sure = (
    flow("sure")
    .takes(dict[str, Any])
    .then(Node("before", lambda: "done").on_error(undo("before")))
    .then(mortal.with_retry(ONCE).on_error(undo("die"), when="succeeded"))
    .then(Node("never", lambda: LEDGER.note("start", "never")))
    .build()
)
beside = (
    flow("beside")
    .takes(dict[str, Any])
    .then_parallel("both", Node("well", lambda: "well").on_error(undo("well")), mortal)
    .then(Node("joined", lambda given: given).with_input_func(lambda state: sorted(state.keys())))
    .build()
)


# --- exceptions ------------------------------------------------------------------------------------
class Unpicklable(Exception):
    """Holds what no pickle can."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.lock = threading.Lock()


class Particular(Exception):
    """Cannot be made again from its args, which breaks in the process that unpickles it."""

    def __init__(self, left: int, right: int) -> None:
        super().__init__(f"{left} is not {right}")


class Mute(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no str")

    __repr__ = __str__


class Fatal(BaseException):
    """A user's own way out."""


class FatalText(Exception):
    """Ends the process that reads its text."""

    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


def local_error() -> Exception:
    """An exception of a class that no other process can import."""

    class Local(Exception):
        pass

    return Local("here")


def chained_error() -> Exception:
    """An exception with a very long line of causes."""
    error = ValueError("last")
    for number in range(3000):
        cause, error = error, ValueError(f"number {number}")
        error.__cause__ = cause
    return error


def recurse() -> NoReturn:
    """Go on for ever."""
    recurse()
    raise AssertionError


def next_of_nothing() -> Iterator[int]:
    """Let a StopIteration out."""
    return next(iter([]))


ERRORS: dict[str, Callable[[], Any]] = {
    "system-exit": lambda: SystemExit("stop"),
    "keyboard-interrupt": lambda: KeyboardInterrupt("stop"),
    "generator-exit": lambda: GeneratorExit("stop"),
    "cancelled": lambda: asyncio.CancelledError("stop"),
    "fatal": lambda: Fatal("stop"),
    "fatal-group": lambda: BaseExceptionGroup("several", [Fatal("stop"), ValueError("bad")]),
    "unpicklable": lambda: Unpicklable("held"),
    "particular": lambda: Particular(1, 2),
    "local": local_error,
    "large": lambda: ValueError("x" * 5_000_000),
    "mute": Mute,
    "fatal-text": FatalText,
    "group": lambda: ExceptionGroup("several", [ValueError("one"), Unpicklable("two"), Mute()]),
    "not-json": lambda: ValueError({"lock": threading.Lock()}, b"\xff", 1j, {1, 2}),
    "chained": chained_error,
    "recursion": recurse,
    "memory": lambda: MemoryError("none left"),
    "stop-iteration": next_of_nothing,
    "ignore": lambda: Ignore("please"),
    "reject": lambda: Reject("please", requeue=False),
    "requeue": lambda: Reject("please", requeue=True),
    "retry": lambda: Retry("please"),
    "forged": lambda: type("A\n[2026-11-05 12:00:00,000: CRITICAL/MainProcess] forged", (Exception,), {})("b"),
    "surrogate": lambda: ValueError("a\ud800b"),
}


def throw(kind: str) -> NoReturn:
    """Raise what was asked for."""
    LEDGER.note("start", kind)
    error = ERRORS[kind]()
    raise error


throws = (
    flow("throws")
    .takes(str)
    .then(Node("kept", lambda: "kept").on_error(undo("kept")))
    .then(Node("throw", throw).with_input_func(lambda state: state.input()).with_retry(SOON))
    .then(Node("never-after", lambda: LEDGER.note("start", "never")))
    .build()
)
throws_beside = (
    flow("throws-beside")
    .takes(str)
    .then_parallel(
        "thrown",
        Node("quiet", lambda: "quiet"),
        Node("throw-beside", throw).with_input_func(lambda state: state.input()).with_retry(ONCE),
        on_failure="continue",
    )
    .then(Node("counted", lambda given: given).with_input_func(lambda state: sorted(state.keys())))
    .build()
)


def swallow() -> int:
    """Return although the process is told to end."""
    with suppress(SystemExit):
        os.kill(os.getpid(), signal.SIGTERM)
    return os.getpid()


swallows = flow("swallows").then(Node("swallow", swallow)).then(Node("next", os.getpid)).fused().build()
fresh = flow("fresh").then(Node("answer", os.getpid)).build()

for each in (dies, unsure, sure, beside, throws, throws_beside, swallows, fresh):
    orchestrator.register(each)
