"""Gates: nodes that only wait for something from outside of the run: a signal, an approval, an instant.

A gate is opened by the script that makes its position ready; it has neither attempt nor message, so nothing of the
fleet is held while it waits. `checks.gates` says what it may be given; store/scripts/library/waiting.lua says how it
ends, and how another kind of waiting is added.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict

from orchestrator.definition.codecs import BadType, codec_of
from orchestrator.definition.context import Deferred
from orchestrator.definition.node import In, Node, Out
from orchestrator.definition.plan import in_milliseconds
from orchestrator.definition.policies import RetryPolicy
from orchestrator.definition.signature import MISSING, BadFunction, Contract, Missing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.definition.state import FlowState

T = TypeVar("T")
DECIDES_WITHIN = timedelta(seconds=60)
DECISIONS = RetryPolicy(maximum_attempts=3)


class Vote(BaseModel):
    """One person's yes to an approval.

    Attributes:
        by: Who, as the caller of `approve` says.
        reason: Why; may be empty.
        at: When, on Redis's clock; aware.
    """

    model_config = ConfigDict(frozen=True)

    by: str
    reason: str = ""
    at: AwareDatetime


class Approval(BaseModel):
    """The output of an approval.

    Attributes:
        approved: Always True: a rejection fails the node.
        votes: The votes, in the order in which they came.
    """

    model_config = ConfigDict(frozen=True)

    approved: bool
    votes: tuple[Vote, ...]


class Gate(Node[In, Out]):
    """A node that waits; made by `signal`, `approval`, `sleep` and `sleep_until`.

    Attributes:
        waits: The word that a plan has for its kind.
        gives: Type of its output.
        timeout: How long it waits at most; None for as long as it takes.
    """

    waits: str
    gives: Any
    timeout: timedelta | None  # type: ignore[assignment]  # an attempt always has a limit

    @property
    def lasts_ms(self) -> int:
        """How long it waits at most, in ms; 0 for as long as it takes."""
        return 0 if self.timeout is None else in_milliseconds(self.timeout)

    def plan_fields(self) -> dict[str, Any]:
        """What a plan has of it besides what it has of every node."""
        return {}

    def _read_contract(self) -> Contract:
        try:
            output = codec_of(self.gives)
        except BadType as fault:
            raise BadFunction("bad-type", str(fault)) from fault
        return Contract(
            self.fn,
            takes_context=False,
            style="none",
            input=None,
            output=output,
            is_async=False,
            parameters=(),
            ignored=(),
        )


class SignalGate(Gate[In, Out]):
    """A gate that waits for a signal.

    Attributes:
        of: The name that was given for the signal; None: the node's.
        default: The output at the timeout; MISSING for none.
    """

    of: str | None
    default: Any
    waits = "signal"

    @property
    def signal_name(self) -> str:
        """The name by which it is sent to."""
        return self.name if self.of is None else self.of

    def plan_fields(self) -> dict[str, Any]:
        """The signal, and the default as JSON."""
        fields: dict[str, Any] = {"of": self.signal_name}
        if self.default is not MISSING:
            codec = self.output_codec
            fields["default"] = codec.dump(codec.check(self.default)).decode()
        return fields


class ApprovalGate(Gate[In, Out]):
    """A gate that waits for votes.

    Attributes:
        quorum: Votes that it takes.
        approvers: Names of those who may vote; None: anybody.
    """

    quorum: int
    approvers: tuple[str, ...] | None
    waits = "approval"
    gives = Approval

    def plan_fields(self) -> dict[str, Any]:
        """The quorum, and who may vote."""
        return {"quorum": self.quorum} | ({} if self.approvers is None else {"approvers": list(self.approvers)})


class SleepGate(Gate[In, Out]):
    """A gate that waits for a time.

    Attributes:
        span: How long.
    """

    span: timedelta
    waits = "sleep"
    gives = type(None)

    @property
    def lasts_ms(self) -> int:
        """Its time in ms, at least 1."""
        return in_milliseconds(self.span)


class UntilGate(Gate[In, Out]):
    """A gate whose instant is computed by an attempt on a worker, once it is ready."""

    waits = ""  # a plan has an ordinary node, whose attempt lets it wait

    def _read_contract(self) -> Contract:
        return Node._read_contract(self)  # noqa: SLF001 - its function is one, unlike that of other gates


def signal(name: str, kind: type[T], *, of: str | None = None, default: T | Missing = MISSING) -> Node[Any, T]:
    """Make a node that waits for a signal, `FlowRun.signal`, and has the value that was sent as its output.

    It waits for as long as it takes, unless `with_timeout` says otherwise.

    Args:
        name: Name of the node.
        kind: Type of the value.
        of: Name of the signal; default: the node's. Several nodes may wait for signals of one name.
        default: The output if none came within the timeout; without it that is a NodeTimeout.
    """
    return _made(SignalGate(name, _wait), gives=kind, of=of, default=default)


def approval(name: str, *, quorum: int = 1, approvers: Sequence[str] | None = None) -> Node[Any, Approval]:
    """Make a node that waits until somebody approves, `FlowRun.approve`, or fails as `Rejected` if somebody rejects.

    It waits for as long as it takes, unless `with_timeout` says otherwise; then that is a NodeTimeout.

    Args:
        name: Name of the node, and of the approval.
        quorum: How many different people have to approve; the first rejection is final.
        approvers: Names of those who may vote; default: anybody. A name is what the caller says it is.
    """
    # Whatever else stands there is refused by build().
    named: Any = tuple(approvers) if isinstance(approvers, list | tuple | set | frozenset) else approvers
    return _made(ApprovalGate(name, _wait), quorum=quorum, approvers=named)


def sleep(name: str, span: timedelta) -> Node[Any, None]:
    """Make a node that waits for a time, from the instant at which it is ready; its output is None.

    Args:
        name: Name of the node.
        span: How long.
    """
    return _made(SleepGate(name, _wait), span=span)


def sleep_until(name: str, at: Callable[[FlowState], datetime]) -> Node[Any, None]:
    """Make a node that waits until an instant; its output is None.

    Args:
        name: Name of the node.
        at: Computes the instant from the state, on a worker and once in a run; it must be pure, and the instant aware.
            One in the past is now.
    """
    made: UntilGate[Any, Any] = UntilGate(name, _wait_until, input_func=at, timeout=DECIDES_WITHIN, retry=DECISIONS)
    return made


def _made(gate: Gate[Any, Any], **fields: Any) -> Gate[Any, Any]:
    gate.__dict__.update(fields | {"timeout": None})
    return gate


def _wait() -> None:
    """Stand where a node has a function; nobody calls it."""


def _wait_until(at: AwareDatetime) -> None:
    return Deferred(until=at)  # type: ignore[return-value]
