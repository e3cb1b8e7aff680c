"""A run told again from its history: it fails at an event that must not have happened there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.definition.step_plan import END

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from orchestrator.definition.plan import Plan

ENDED = ("succeeded", "failed", "cancelled", "compensation_failed")
SAYS_NOTHING = {"run-started", "admitted", "republished", "approved", "child", "signal-kept", "signal-unused"}
SAYS_NOTHING |= {"forked", "forked-from"}
"""Events that change nothing of what has to hold."""


@dataclass
class Story:
    """A run told again from its history.

    Attributes:
        final: Nodes that ended for good and how, in the order in which they did.
        inherited: Of a fork: nodes that were done before it, and how they ended.
        results: How often each node was recorded as succeeded, by generation.
        saga: Compensations in the order in which they must run, once it is known.
    """

    plan: Plan
    choices: Mapping[str, int]
    inherited: Mapping[str, str] = field(default_factory=dict)
    verdict: str = ""
    ended: str = ""
    must_end: bool = False
    running: set[str] = field(default_factory=set)
    waiting: dict[str, str] = field(default_factory=dict)  # node to the kind of what it waits for
    standing: set[str] = field(default_factory=set)  # nodes that are out of attempts, and paused
    is_held: bool = False
    final: dict[str, str] = field(default_factory=dict)
    attempts: Counter[str] = field(default_factory=Counter)
    generations: Counter[str] = field(default_factory=Counter)
    results: Counter[tuple[str, int]] = field(default_factory=Counter)
    was_lost: dict[str, bool] = field(default_factory=dict)
    undone: dict[str, str] = field(default_factory=dict)
    saga: list[str] | None = None
    done: int = 0

    def tell(self, event: str, node: str, attempt: int, detail: str) -> None:
        """Go on by one event."""
        assert not self.must_end or event == "run-ending", f"{event} {node} after a failure that ends the run"
        is_undone = (event, self.ended) == ("run-ending", "succeeded")
        assert not self.ended or event in {"resumed", "forked"} or is_undone, f"{event} {node} after the end"
        if event == "started":
            self._start(node, attempt)
        elif event in {"retrying", "lost", "timed-out", "unannounced"}:
            self._lose(node, event)
        elif event in {"failed", "unknown", "skipped"}:
            self._miss(node, event)
        elif event == "run-ending":
            assert not self.verdict, f"a second verdict: {self.verdict}, {detail}"
            self.verdict, self.ended, self.must_end, self.is_held = detail, "", False, False
        elif event in self._others:
            self._others[event](node, detail)
        elif event not in SAYS_NOTHING:
            self._end(event.removeprefix("run-"))

    @property
    def _others(self) -> dict[str, Callable[[str, str], None]]:
        return {
            "succeeded": self._succeed,
            "waits": self._wait,
            "waiting": self._queue,
            "paused": self._stand,
            "continued": self._continue,
            "resumed": self._resume,
        }

    def _queue(self, node: str, _limit: str) -> None:
        assert node not in self.running, f"{node} waits while it runs"
        assert node not in self.final, f"{node} waits although it is {self.final.get(node)}"

    @property
    def status(self) -> str:
        """How the run must be, if it has begun."""
        is_paused = (self.is_held or self.standing) and not self.verdict
        return self.ended or ("compensating" if self.verdict else "paused" if is_paused else "running")

    def is_compensation(self, node: str) -> bool:
        return self.plan.nodes[node].kind == "compensation"

    def path(self) -> Iterator[int]:
        """The positions from the first on, as far as decisions have been taken."""
        position = 0
        while position != END:
            yield position
            step = self.plan.steps[position]
            if step.kind == "branch":
                if step.name not in self.choices:
                    return
                position = step.branches[self.choices[step.name]]
            else:
                position = step.next

    def is_settled(self, position: int) -> bool:
        """Whether every member of a position has ended in a way after which the flow goes on."""
        step = self.plan.steps[position]
        ends = {**self.inherited, **self.final}
        return all(
            ends.get(name) == "succeeded" or (step.go_on and ends.get(name) in {"failed", "unknown"})
            for name in step.nodes
        )

    def _start(self, node: str, attempt: int) -> None:
        facts = self.plan.nodes[node]
        assert node not in self.running, f"{node} is started while it runs"
        assert node not in self.standing, f"{node} is started while it stands"
        assert node not in self.final, f"{node} is started although it is {self.final.get(node)}"
        assert node not in self.inherited, f"{node} is started although it was done before the fork"
        if self.is_compensation(node):
            assert self.verdict, f"{node} is started in a run that is not ending"
            assert not self.running, f"{node} is started while {self.running} run"
            assert self.expected_saga()[self.done] == node, f"{node} is not next in {self.saga}"
        else:
            assert not self.verdict, f"{node} is started in a run that is ending"
            before = list(self.path())
            assert facts.step in before, f"{node} is not on the branches that were taken"
            early = [each for each in before[: before.index(facts.step)] if not self.is_settled(each)]
            assert not early, f"{node} is started before positions {early} are done"
        self.attempts[node] += 1
        assert attempt == self.attempts[node], f"{node} says attempt {attempt}, it is number {self.attempts[node]}"
        assert attempt <= facts.attempts, f"{node} is started {attempt} times, {facts.attempts} at most"
        self.running.add(node)

    def _lose(self, node: str, event: str) -> None:
        waits = self.waiting.pop(node, None)
        is_over = (waits, event) in {("callback", "timed-out"), ("child", "retrying")}
        assert node in self.running or is_over, f"{event} {node}: no attempt runs"
        self.running.discard(node)
        self.attempts[node] -= event == "unannounced"  # it is given back
        self.was_lost[node] = event == "lost"

    def _stand(self, node: str, _why: str) -> None:
        """A node stands, or the whole run."""
        assert not self.verdict, f"{node or 'the run'} is paused in a run that is ending"
        if not node:
            self.is_held = True
            return
        assert self.attempts[node], f"{node} is out of attempts without one"
        self.running.discard(node)
        self.waiting.pop(node, None)
        self.standing.add(node)

    def _continue(self, _node: str, _detail: str) -> None:
        for node in self.standing:
            self.attempts.pop(node, None)
        self.is_held, self.standing = False, set()

    def _wait(self, node: str, kind: str) -> None:
        if kind == "undo":
            assert self.expected_saga()[self.done] == node, f"{node} is not next in {self.saga}"
        else:
            assert not self.verdict, f"{node} waits in a run that is ending"
        assert node not in self.final, f"{node} waits although it is {self.final.get(node)}"
        assert (node in self.running) == (self.plan.nodes[node].kind == "node"), f"{node} waits for {kind}"
        self.running.discard(node)
        self.waiting[node] = kind

    def _succeed(self, node: str, _detail: str) -> None:
        assert node in self.running or node in self.waiting, f"{node} succeeds without an attempt"
        self.running.discard(node)
        self.waiting.pop(node, None)
        self.final[node] = "succeeded"
        subject = self.plan.nodes[node].undoes or node
        self.results[node, self.generations[subject]] += 1
        assert self.results[node, self.generations[subject]] == 1, f"{node} has two results"
        if self.is_compensation(node):
            self.undone[subject] = "compensated"
            self.generations[subject] += 1
            self.done += 1

    def _miss(self, node: str, how: str) -> None:
        assert node not in self.final, f"{node} is {how} although it is {self.final.get(node)}"
        self.running.discard(node)
        self.standing.discard(node)
        waits = self.waiting.pop(node, None)
        if how == "skipped":
            # What has only begun to start a child has started nothing, and an attempt that computed an instant neither.
            has_acted = self.attempts[node] and waits != "sleep" and not self.plan.nodes[node].child
            assert self.verdict, f"{node} is skipped"
            assert not has_acted, f"{node} is skipped after an attempt"
        else:
            has_deadline = self.plan.nodes[node].deadline_ms
            assert self.attempts[node] or waits or has_deadline, f"{node} is {how} without an attempt"
        if how == "unknown" and waits != "callback":
            assert self.was_lost.get(node), f"{node} is unknown although its last attempt was not lost"
        self.final[node] = how
        if self.is_compensation(node):
            self.undone[self.plan.nodes[node].undoes] = "compensation_failed"
            self.done += 1
        elif not self.verdict:
            self.must_end = not self.plan.steps[self.plan.nodes[node].step].go_on

    def expected_saga(self) -> list[str]:
        """What has to be undone, last completed first; fixed when it is first asked for."""
        if self.saga is None:
            compensations = {node: (undo, when) for node, undo, when in self.plan.sagas}
            self.saga = [
                compensations[node][0]
                for node, how in reversed(self.final.items())
                if node in compensations
                and (how == "succeeded" or (compensations[node][1] == "started" and self.attempts[node] > 0))
            ]
        return self.saga

    def _end(self, status: str) -> None:
        assert not self.running, f"the run is {status} while {self.running} run"
        if status == "succeeded":
            assert not self.verdict, f"a run with the verdict {self.verdict} succeeded"
            assert all(map(self.is_settled, self.path())), "the run succeeded before its last node"
        else:
            if not self.verdict and not self.attempts and not self.final:  # its start has found its lane full
                self.verdict = "cancelled"
            missed = "compensation_failed" in self.undone.values()
            assert status == ("compensation_failed" if missed else self.verdict)
            assert self.done == len(self.expected_saga()), f"{self.saga} ended after {self.done}"
        self.ended = status

    def _resume(self, _node: str, _detail: str) -> None:
        assert self.ended in ENDED[1:], f"resumed although the run is {self.ended or 'live'}"
        if self.ended == "compensation_failed":
            assert self.saga is not None
            self.saga = [undo for undo in self.saga if self.final[undo] != "succeeded"]
            again = list(self.saga)
            self.undone = {node: state for node, state in self.undone.items() if state == "compensated"}
        else:
            again = [node for node, how in self.final.items() if how != "succeeded" or self.is_compensation(node)]
            again += self.undone
            self.verdict, self.saga, self.undone = "", None, {}
        for node in again:
            self.final.pop(node, None)
            self.attempts.pop(node, None)
        self.done, self.ended = 0, ""
