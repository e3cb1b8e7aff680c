"""Make one attempt of a node, decision, page or compensation: claim it, take its limits, call what it stands for.

An attempt knows nothing of what comes after it. Its result or failure is stored by `commits`; what that leads to, the
scripts decide; where the next attempt comes from, `sources`.
"""

from __future__ import annotations

import logging
import os
import random
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from orchestrator.definition.context import Deferred, RunningAttempt, running_attempt
from orchestrator.definition.priority import count_of
from orchestrator.errors import StoreError
from orchestrator.execution.child_attempt import Spawn
from orchestrator.execution.failures import NO_FURTHER, Failed, judge
from orchestrator.execution.inputs import Inputs
from orchestrator.execution.keyed_limits import admit
from orchestrator.execution.node_kinds import Returned
from orchestrator.execution.page_attempt import kind_of
from orchestrator.execution.prefetched_outputs import PrefetchedOutputs
from orchestrator.execution.store_retries import retry_for, retry_until_stored
from orchestrator.fault_points import fault_point
from orchestrator.liveness.interruption import exit_if_ending, raise_interruption
from orchestrator.liveness.leases import holder_name
from orchestrator.liveness.pool_processes import is_draining
from orchestrator.liveness.time_limit import call_within
from orchestrator.messaging.passing import passed_on
from orchestrator.middleware import End, NodeCall, Outcome
from orchestrator.sparing_log import warn_sparingly
from orchestrator.store.log_lines import dump_lines
from orchestrator.store.scripts.commit_and_claim import Claim
from orchestrator.store.scripts.results import Claimed, Moved

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from orchestrator.definition.plan import NodePlan, Plan
    from orchestrator.definition.registry import Registered
    from orchestrator.engine import Engine

logger = logging.getLogger(__name__)
_tokens = random.Random()  # noqa: S311 - unique is all that they have to be
# A forked process would make its parent's next tokens too, and two attempts with one token are not fenced off from each
# other.
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_tokens.seed)
NOT_CLAIMED = Claimed("")
ASK_AGAIN = {"", "sleep", "no limit"}
MAY_RUN = {*ASK_AGAIN, "run", "admit"}


@dataclass(frozen=True, slots=True)
class Waits:
    """The attempt was not started: the node waits for a limit of its input, and others may go on."""

    moved: Moved


Made: TypeAlias = Returned | Failed | Deferred | Spawn | Waits | Outcome


class Attempt:
    """One try at one node; at a map's node, at whichever item is next; at a paginated one, at the next page.

    Attributes:
        engine: The engine.
        plan: The plan that the run pins.
        name: The node; of a map, the item once it is claimed.
        node_plan: What the plan says of the node.
        entry: The code of the flow, if who handed it out has looked it up.
        kind: What it calls, and what follows it in its message.
        run_id: The run.
        epoch: Its epoch in the message.
        celery_continues: Whether Celery publishes what follows, because the message carries it.
        is_first: Whether it is the message's own attempt.
        is_own: Whether it is of the message's own node.
        message: The Celery request of the message.
        token: 128 random bits that fence its claim.
        claimed: The answer of its claim.
        prefetched: The outputs that come with its claim.
        node_call: What middlewares see of it; None if it was not called.
    """

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        name: str,
        node_plan: NodePlan,
        entry: Registered | None = None,
        *,
        run_id: str,
        epoch: int,
        celery_continues: bool = False,
        is_first: bool = False,
        is_own: bool = False,
        message: Any = None,
    ) -> None:
        self.engine = engine
        self.store = engine.store
        self.plan = plan
        self.name = name
        self.node_plan = node_plan
        self.entry = entry
        self.kind = kind_of(node_plan)
        self.run_id = run_id
        self.epoch = epoch
        self.celery_continues = celery_continues
        self.is_first = is_first
        self.is_own = is_own
        self.message = message
        # With the attempt: a claim that is repeated after a lost answer is known by it, and granted again.
        self.token = f"{_tokens.getrandbits(128):032x}"
        self.claimed = NOT_CLAIMED
        self.prefetched = PrefetchedOutputs(plan, node_plan)
        self.node_call: NodeCall | None = None
        self._inputs: Inputs | None = None
        self._verdict: Failed | None = None

    @property
    def place(self) -> tuple[str, str, str]:
        """Flow, run and node, for a line of the log."""
        return self.plan.flow, self.run_id, self.name

    @property
    def key(self) -> tuple[str, str, str]:
        """Run, plan and node, as scripts take them."""
        return self.run_id, self.plan.hash, self.name

    @property
    def may_run(self) -> bool:
        """Whether it holds its node, or may still ask for it."""
        return self.claimed.outcome in MAY_RUN

    @property
    def inputs(self) -> Inputs:
        """What it reads, once it is held."""
        assert self._inputs is not None  # noqa: S101 - only an attempt that was called has returned or failed
        return self._inputs

    def hold(self, claimed: Claimed, seen: Mapping[str, bytes]) -> None:
        """Take over a claim that was made together with the commit in front of it.

        Args:
            claimed: The answer.
            seen: JSON of outputs that this message has read or stored, by key.
        """
        self.claimed = claimed
        self.prefetched.seen |= seen

    def make(self) -> Made:
        """Claim the node, if that was not done, and call what it stands for; never raises what a node function does."""
        # A function may have swallowed the exception that told this process to end: nothing more is claimed in it.
        exit_if_ending()
        entry = self.entry or self.engine.registry.entry_for(self.plan, self.node_plan)
        # Before the claim: an attempt that is claimed counts, whether or not its function can be called here.
        if entry is None:
            return self._leave_to_others()
        if (outcome := self._claim_once()) is not None:
            return outcome
        # A map's message names no item: which one is this attempt's, the claim has said.
        self.name = self.kind.name_of(self.name, self.claimed)
        fault_point("after_claim", self.node_plan.name)
        token = running_attempt.set(RunningAttempt(self.run_id, self.name, self.plan.flow, self.claimed.attempt))
        try:
            made = self._call(entry)
        except BaseException as error:  # noqa: BLE001 - whatever a node function raises is the node's failure
            # Only what is left is a failure: a process that was told to end has lost the attempt, and a failure
            # recorded for it would cost the node its last one and keep the process alive.
            raise_interruption(error)
            return self._judge(error)
        finally:
            running_attempt.reset(token)
            # Before the commit: a caller that waits for the run's end finds the lines.
            self._keep_log()
        fault_point("before_store", self.node_plan.name)
        return made

    def _keep_log(self) -> None:
        """Keep the lines of `ctx.logger` with the run; they are lost while Redis is away."""
        if self._inputs is None or not self._inputs.lines:
            return
        try:
            with self.store.guarded():
                self.store.scripts.keep_log(self.run_id, dump_lines(self._inputs.lines))
        except StoreError as error:
            logger.warning("flow %s run %s node %s: its log lines are not kept: %s", *self.place, error)

    def _leave_to_others(self) -> Outcome:
        """Pass the message on to a worker whose code fits; without one the reconciler sends another later."""
        reason = self.engine.registry.why_unfit(self.plan, self.node_plan)
        try:
            passes = passed_on.may_pass(self.run_id, self.name) and self.engine.has_other_code(self.plan, self.name)
        except StoreError:
            # Redis is away: whether somebody else could take the message is not known, and the reconciler sends another
            # one.
            passes = False
        warn_sparingly(
            logger, "flow %s: the code of this worker does not fit runs of another version: node %s: %s",
            self.plan.flow, self.node_plan.name, reason,
        )  # fmt: skip
        return Outcome(End.REQUEUE if passes else End.SKIPPED)

    def _claim_once(self) -> Outcome | None:
        """Claim it, if that was not done; returns how it ended if it is not to be made here."""
        # A claim that came with the commit in front of it is worked on even now: giving it back would cost an attempt.
        if is_draining() and not self.claimed.is_held:
            return Outcome(End.REQUEUE)
        fault_point("before_claim", self.node_plan.name)
        if self.claimed.outcome in ASK_AGAIN:
            try:
                self.claimed = self._claim()
            except StoreError as error:
                logger.warning("flow %s run %s node %s: not claimed: %s", *self.place, error)
                # The message is only a hint, and another one comes when Redis is back; to keep it would keep the
                # process from other work.
                return Outcome(End.SKIPPED)
        if self.claimed.is_held:
            return None
        # "done" is told apart for chords: a repeated message of a done member repeats a count that a crash has lost.
        return Outcome(End.DONE if self.claimed.outcome == "done" else End.SKIPPED)

    def _claim(self) -> Claimed:
        """Claim the node, sleeping once for a token that comes soon; gives up after `Settings.claim_patience`."""
        patience = self.engine.settings.claim_patience
        options: dict[str, Any] = {}
        while True:
            claimed = retry_for(self.store, patience, partial(self._ask, **options))
            if claimed.outcome == "sleep":  # up to 250 ms without a token: shorter than the way through the broker
                time.sleep(claimed.sleep / 1_000_000)
                # With its first arrival it keeps its place in the line; it naps once, and then waits there without a
                # process.
                options = {"arrived": claimed.arrived, "may_sleep": False}
            elif claimed.outcome == "no limit":
                # The bucket's numbers are gone (a flushed key): the run's plan still has them.
                retry_for(self.store, patience, partial(self.store.define_limits, self.plan))
            else:
                return claimed

    def _ask(self, **options: Any) -> Claimed:
        return self.store.scripts.claim(
            self.run_id,
            self.plan,
            self.claim_of(),
            epoch=self.epoch,
            holder=holder_name(),
            lease_ms=self.store.lease_ms,
            **options,
        )

    def claim_of(self, seen: Collection[str] = ()) -> Claim:
        """The claim that it asks for, with all outputs that it reads but those seen by then."""
        return Claim(self.name, self.token, self.prefetched.to_ask(seen))

    def _call(self, entry: Registered) -> Returned | Deferred | Spawn | Waits:
        self._inputs = inputs = Inputs(
            self.engine,
            self.plan,
            run_id=self.run_id,
            name=self.name,
            node_plan=self.node_plan,
            token=self.token,
            claimed=self.claimed,
            prefetched=self.prefetched,
            entry=entry,
            read_given=self.kind.given,
        )
        try:
            # Outside of the time limit: this may wait for Redis, which is no fault of the node.
            if self.kind.has_state or inputs.is_wired:
                inputs.read_state()
            if self.claimed.outcome == "admit" and (moved := self._admit(inputs)) is not None:
                return Waits(moved)
            function: Callable[[], Returned | Deferred | Spawn] = partial(self.kind.call, inputs)
        except BaseException as error:  # noqa: BLE001 - it is raised where middlewares see it
            function = partial(_raise, error)
        self.node_call = NodeCall(
            self.plan.flow,
            self.run_id,
            self.name,
            self.claimed.attempt,
            self.node_plan.task,
            inputs.first_limit_s,
            self.message,
            self.is_first,
            self.is_own,
            inputs.expired,
            self._will_retry,
            goes_on=self.plan.steps[self.node_plan.step].go_on and not self.node_plan.undoes,
            undoes=self.node_plan.undoes,
            epoch=count_of(self.epoch),
        )
        return self.engine.middlewares.call(self.node_call, function)

    def _admit(self, inputs: Inputs) -> Moved | None:
        """Take tokens of the buckets that depend on the input; returns what to publish if it has to wait for one."""
        # Key functions are a user's and may hang, so the limit holds for them; asking Redis below may take as long as
        # it is away.
        buckets = call_within(inputs.timeout_s, inputs.expired, inputs.read_buckets)
        claim = (*self.key, self.token)
        ask = partial(admit, self.store, self.plan, claim, buckets=buckets, follows=self.celery_continues)
        admitted = retry_until_stored(self.store, self.place, ask)
        return None if admitted.outcome == "run" else Moved(admitted.outcome, admitted.work)

    def _judge(self, error: BaseException) -> Failed:
        """The verdict on an error, given once: a classifier is a user's function."""
        if self._verdict is None or self._verdict.raised is not error:
            self._verdict = judge(error, self.inputs)
        return self._verdict

    def _will_retry(self, error: BaseException) -> bool:
        verdict = self._judge(error)
        has_more = verdict.gives_back or self.claimed.attempt < self.node_plan.attempts
        return verdict.delay_ms != NO_FURTHER and has_more and not self.inputs.is_too_late(verdict.delay_ms)


def _raise(error: BaseException) -> NoReturn:
    raise error
