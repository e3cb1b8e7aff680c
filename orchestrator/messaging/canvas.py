"""Compiler of positions of a plan to Celery canvas: pure, and the only module that touches `celery.canvas`.

Consecutive single nodes are a chain, a parallel step is a chord (a group at the flow's end), compensations are a chain;
work that only the stored join can continue becomes single signatures. Signatures are immutable and carry names and ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery.canvas import Signature, chain, chord, group
from celery.utils.functional import regen

from orchestrator.definition.flow import Flow
from orchestrator.definition.plan import Plan, node_of
from orchestrator.definition.planning import make_plan
from orchestrator.definition.priority import priority_of
from orchestrator.definition.step_plan import END
from orchestrator.messaging.engine_task import Routes
from orchestrator.store.scripts.results import Work

if TYPE_CHECKING:
    from celery import Celery

SEGMENT = 20
"""Most nodes in one chain: each message of a chain embeds the rest of it."""
BEGIN_SAGA = "orchestrator.begin-saga"
ADVANCE = "orchestrator.advance"
JUDGE = "orchestrator.judge-signal"
SINCE_HEADER = "orchestrator_since"
"""Message header: the instant in ms at which the node became publishable, or was sent again."""


@dataclass(frozen=True)
class Target:
    """The run that messages are made for.

    Attributes:
        app: The Celery app that sends them.
        plan: The plan the run pins.
        run_id: The run.
        epoch: Its epoch; messages of an older one do nothing. It has the priority, too, with which they are sent.
    """

    app: Celery | None
    plan: Plan
    run_id: str
    epoch: int

    def node(self, name: str, since: int) -> Signature:
        """Return the message for one attempt of a node, decision or compensation."""
        node_plan = self.plan.nodes[node_of(name)]
        options = self._options(node_plan.queue) | {"headers": {SINCE_HEADER: since}}
        # Immutable, so Celery publishes the callback: one with arguments runs inside of the process that sees the
        # failure, and when a child dies that is the worker's main process, whose event loop it would block.
        if not node_plan.undoes:
            options["link_error"] = [self.engine(BEGIN_SAGA)]
        item = () if name == node_plan.name else (name,)  # the compensation of one item
        return self._signature(node_plan.task, (self.run_id, self.epoch, self.plan.hash, *item), options)

    def engine(self, task: str, *args: Any) -> Signature:
        """Return a message for one of the engine's own tasks."""
        return self._signature(task, (self.run_id, self.epoch, self.plan.hash, *args), self._options(self.plan.queue))

    def _options(self, queue: str) -> dict[str, Any]:
        priority = priority_of(self.epoch)
        # Without one it is left to the app: an annotation, a route or task_default_priority may have a number.
        return ({} if priority is None else {"priority": priority}) | {
            "queue": queue,
            # With a stored result a child killed between it and its chord's count hangs the chord for ever (celery
            # #10752).
            "ignore_result": True,
            "serializer": "json",
            # Monitors show the run as the parent of its nodes; Celery would name the task that published each.
            "root_id": self.run_id,
            "parent_id": self.run_id,
        }

    def _signature(self, task: str, args: tuple[Any, ...], options: dict[str, Any]) -> Signature:
        return Signature(task, args=args, immutable=True, options=options, app=self.app)


def compile_work(target: Target, work: Work) -> list[Signature]:
    """Turn what a transition left to publish into signatures, each to be sent on its own."""
    # Compensations in one chain, as far as a message should grow: the end of its last one publishes the rest.
    if work.kind == "saga":
        return [_one_by_one([target.node(name, work.since) for name in work.names[:SEGMENT]], target)]
    if work.kind == "nodes":
        return [target.node(name, work.since) for name in work.names]
    step = target.plan.steps[work.position]
    if step.rules.is_single:
        return [_one_by_one([target.node(name, work.since) for name in _segment(target.plan, work.position)], target)]
    members = [target.node(name, work.since) for name in work.names]
    # A member that was parked or lost comes back in a message of its own, and Celery's chord would wait for it in vain:
    # the stored count joins the step.
    if work.joined_in_store or not step.rules.is_parallel:
        return members
    if step.next == END:  # nothing follows that a chord could call
        return [group(members, app=target.app)]
    return [chord(members, _body(target, step.next, work.since), app=target.app)]


def is_single(plan: Plan, work: Work) -> bool:
    """Whether work is one node whose message needs nothing of the canvas around it."""
    if len(work.names) != 1 or work.names[0] not in plan.nodes or work.kind == "saga":
        return False
    return work.kind == "nodes" or work.joined_in_store or plan.steps[work.position].rules.is_single


def _one_by_one(signatures: list[Signature], target: Target) -> Signature:
    return signatures[0] if len(signatures) == 1 else chain(*signatures, app=target.app)


def _segment(plan: Plan, position: int) -> list[str]:
    """Return consecutive single nodes from a position on; a decision ends the segment."""
    names: list[str] = []
    while position != END and len(names) < SEGMENT:
        step = plan.steps[position]
        if not step.rules.is_single or (names and plan.nodes[step.nodes[0]].child):
            break
        names.append(step.nodes[0])
        # A chain behind it would run what the process has done already; one behind a node that waits is never run.
        if plan.fused or plan.nodes[step.nodes[0]].child:
            break
        position = END if step.branches else step.next
    return names


def _body(target: Target, position: int, since: int) -> Signature:
    step = target.plan.steps[position]
    # Never a chord inside a chord: a failing inner one hangs the outer one for ever in several shapes. The worker that
    # runs this task sends the next step.
    return target.node(step.nodes[0], since) if step.rules.is_single else target.engine(ADVANCE, position)


class _Members(group):
    """Members that are sent with options that a chord does not give them, and whose results nobody waits for."""

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Send the members."""
        return super().apply_async(args, kwargs, **options | self.sent_with)

    # Celery makes a barrier of the members' results, which subscribes this process to each of them. They unsubscribe
    # when the garbage collector finds them, and while Redis is away that waits for 20 s in whatever thread it runs in.
    def _apply_tasks(self, tasks: Any, producer: Any = None, app: Any = None, _barrier: Any = None, **more: Any) -> Any:
        return super()._apply_tasks(tasks, producer, app, **more)

    def _freeze_group_tasks(self, *args: Any, **options: Any) -> Any:
        name, results = super()._freeze_group_tasks(*args, **options)
        return name, regen(iter(results))  # of a list the backend would make one result, with a barrier


def send(signature: Signature, producer: Any) -> None:
    """Send a signature by a producer, whose connection is the only one that is used.

    What canvas sends without one waits for a pooled producer, and a pool may have none but those whose holders wait.
    """
    options = {"producer": producer, "router": Routes(signature.app)}
    if signature.task == "celery.chain":
        # A chain drops a producer that it is given.
        signature.apply_async(connection=producer.connection, router=options["router"])
    elif signature.task in {"celery.chord", "celery.group"}:
        members = _Members(signature.tasks, app=signature.app)
        members.sent_with = options
        if signature.task == "celery.chord":
            # Not `apply_async`: it makes a plain group of the members, which would send them without the producer.
            signature.run(members, signature.body, ())
        else:
            # A group of our own class: a plain one would subscribe this process to the result of each member.
            members.apply_async()
    else:
        signature.apply_async(**options)


def show_canvas(flow: Flow, run_id: str) -> Signature:
    """Return the canvas of a flow's first segment, as the start of a run would send it."""
    plan = make_plan(flow, "celery")
    names = plan.steps[0].first_nodes
    return compile_work(Target(None, plan, run_id, 1), Work("step", 0, 0, joined_in_store=False, names=names))[0]


Flow._compile = show_canvas  # noqa: SLF001 - the slot is made for this
