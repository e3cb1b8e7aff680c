"""Flatten a built flow to a plan: positions in order, and the policies of every node.

Pure: the same flow gives the same plan, and the same hash, in every process.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from orchestrator.definition.gates import Gate
from orchestrator.definition.pagination import PagedNode
from orchestrator.definition.plan import NodePlan, Plan, in_milliseconds
from orchestrator.definition.static_reads import known_reads
from orchestrator.definition.step_plan import END

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from orchestrator.definition.codecs import Codec
    from orchestrator.definition.flow import Flow
    from orchestrator.definition.node import Node
    from orchestrator.definition.policies import Limit, Numbers
    from orchestrator.definition.step_plan import StepPlan
    from orchestrator.definition.steps import Step

BRANCH_TIMEOUT_MS = 60_000
BRANCH_ATTEMPTS = 3


def make_plan(flow: Flow, default_queue: str, *, fused: bool = False) -> Plan:
    """Flatten a built flow.

    Args:
        flow: The flow.
        default_queue: Queue of the nodes of a flow that names none.
        fused: Whether the flow is fused even if it does not say so.
    """
    queue = flow.queue or default_queue
    order = list(flow.all_steps())
    starts = accumulate((step.positions for step in order), initial=0)
    position = {id(step): start for step, start in zip(order, starts, strict=False)}
    following = dict(_following(flow.steps, END, position))
    steps = tuple(each for step in order for each in _step_plans(step, following[id(step)], position))
    if not (fused := fused or flow.fused):
        steps = tuple(replace(step, local=False) for step in steps)
    nodes: dict[str, NodePlan] = {}
    sagas = []
    for step in order:
        if step.own_kind:
            nodes[step.own_name] = _own_plan(flow, step, position[id(step)], queue)
        index = position[id(step)] + step.positions - 1
        for node in step.own_nodes():
            kind = node.waits if isinstance(node, Gate) and node.waits else step.node_kind
            nodes[node.name] = _node_plan(flow, node, index, queue, kind=kind)
            if node.child is not None:
                undone = _undo_of_child(nodes[node.name])
                nodes[undone.name] = undone
            if (undo := node.compensation) is not None:
                nodes[undo.name] = _node_plan(flow, undo, index, queue, kind="compensation", undoes=node.name)
                sagas.append((node.name, undo.name, node.compensation_when))
            elif node.child is not None:
                sagas.append((node.name, f"{node.name}.undo", "succeeded"))
    return Plan(
        flow=flow.name,
        queue=queue,
        timeout_ms=in_milliseconds(flow.timeout) if flow.timeout else 0,
        result_key=flow.result_key or "",
        steps=steps,
        nodes=nodes,
        sagas=tuple(sagas),
        limits=dict(pair for node in _all_nodes(flow) for pair in _numbers(flow, node)),
        input_schema=(flow.input_codec.schema() or None) if flow.input_codec else None,
        fused=fused,
        key_reads=dict(_key_reads(flow)),
        max_runs={} if flow.max_runs is None else flow.max_runs.plan_fields(flow.name),
        types=dict(_types(flow)),
        inputs={node.name: node.wiring.labels() for node in _all_nodes(flow) if node.wiring is not None},
    )


def _following(steps: tuple[Step, ...], after: int, position: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    for index, step in enumerate(steps):
        follower = position[id(steps[index + 1])] if index + 1 < len(steps) else after
        yield id(step), follower
        for path in step.paths():
            yield from _following(path, follower, position)


def _step_plans(step: Step, following: int, position: Mapping[int, int]) -> Iterator[StepPlan]:
    entries = tuple(position[id(path[0])] if path else following for path in step.paths())
    return step.plans(position[id(step)], following, entries)


def _own_plan(flow: Flow, step: Step, position: int, queue: str) -> NodePlan:
    """Return the plan of a node of the engine's own: a decision, or the computation of a map's items."""
    gets = {key for _, function in step.functions() for key in _reads(function)}
    return NodePlan(
        name=step.own_name,
        kind=step.own_kind,
        task=f"{flow.name}.{step.own_name}",
        step=position,
        key="",
        queue=queue,
        timeout_ms=BRANCH_TIMEOUT_MS,
        attempts=BRANCH_ATTEMPTS,
        reads=tuple(sorted(gets)),
    )


def _node_plan(flow: Flow, node: Node[Any, Any], position: int, queue: str, *, kind: str, undoes: str = "") -> NodePlan:
    retry, repeat = node.retry, node.repeat
    limits = limits_of(node, flow.name)
    gate = node if isinstance(node, Gate) and node.waits else None
    has_children = node.child is not None and retry.maximum_attempts > 1
    return NodePlan(
        name=node.name,
        kind=kind,
        task=f"{flow.name}.{node.name}",
        step=position,
        key="" if undoes else node.output_key,
        queue=node.queue or queue,
        timeout_ms=_limit_of(node),
        # Claims of a flow node that were lost before they had started a child count for none.
        attempts=retry.maximum_attempts + (BRANCH_ATTEMPTS - 1 if node.child is not None else 0),
        retry=(
            in_milliseconds(retry.initial_interval),
            retry.backoff_coefficient,
            in_milliseconds(retry.maximum_interval),
            retry.jitter,
        ),
        limits=tuple(limits),
        keyed=tuple(name for name, limit in limits.items() if limit.key is not None),
        reads=_reads_of(node),
        undoes=undoes,
        paged=isinstance(node, PagedNode) or repeat is not None,
        max_pages=node.max_pages or 0 if isinstance(node, PagedNode) else 0,
        source=node.cursor_source or "" if isinstance(node, PagedNode) else "",
        pauses=retry.on_exhausted == "pause" and not undoes,
        repeats=(round(repeat.every.total_seconds() * 1000), repeat.max_iterations) if repeat else (),
        gate={} if gate is None else gate.plan_fields(),
        child="" if node.child is None else node.child.name,
        children=retry.maximum_attempts if has_children else 0,
        deadline_ms=0 if node.deadline is None else in_milliseconds(node.deadline),
        heartbeat_ms=0 if node.heartbeat_timeout is None else in_milliseconds(node.heartbeat_timeout),
    )


def _undo_of_child(node: NodePlan) -> NodePlan:
    """What stands in a saga for the run that a node has started: no message of it is sent, it waits for that run."""
    undo = replace(node, name=f"{node.name}.undo", task=f"{node.task}.undo", kind="compensation", undoes=node.name)
    return replace(undo, key="", reads=(), paged=False, children=0)


def _limit_of(node: Node[Any, Any]) -> int:
    if isinstance(node, Gate) and node.waits:
        return node.lasts_ms
    # Of a flow this is the time to start it; how long its run may take, the code says.
    return BRANCH_TIMEOUT_MS if node.child is not None else in_milliseconds(node.timeout)


def limits_of(node: Node[Any, Any], flow: str) -> dict[str, Limit]:
    """Return the limits of a node by their names in the plan."""
    return {limit.plan_name(f"{flow}.{node.name}"): limit for limit in node.limits()}


def _numbers(flow: Flow, node: Node[Any, Any]) -> Iterator[tuple[str, Numbers]]:
    yield from ((name, limit.numbers()) for name, limit in limits_of(node, flow.name).items())


def _reads_of(node: Node[Any, Any]) -> tuple[str, ...]:
    if node.wiring is not None:
        return node.wiring.keys
    return tuple(sorted(_reads(node.input_func))) if node.input_func else ()


def _key_reads(flow: Flow) -> Iterator[tuple[str, dict[str, tuple[str, ...]]]]:
    """Yield what key functions read of the state, which they get where their node takes nothing."""
    for node in _all_nodes(flow):
        if node.contract.style != "none" or node.child is not None or isinstance(node, Gate):
            continue
        found = {name: _reads(limit.key) for name, limit in limits_of(node, flow.name).items() if limit.key is not None}
        if known := {name: tuple(sorted(keys)) for name, keys in found.items() if keys}:
            yield node.name, known


def _reads(function: object) -> AbstractSet[str]:
    reads = known_reads(function)
    return reads.gets | reads.optional


def _all_nodes(flow: Flow) -> Iterator[Node[Any, Any]]:
    yield from flow.nodes()
    yield from (undo for _, undo in flow.compensations())


def _types(flow: Flow) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the types of each node, as the plan has them."""
    for step in flow.all_steps():
        if step.own_kind:  # what it computes is what its nodes take
            yield step.own_name, ("", "".join(_digest(step.taken_by(node)) for node in step.own_nodes()))
        for node in step.own_nodes():
            yield node.name, (_digest(step.taken_by(node)), _digest(node.output_codec))
            if (undo := node.compensation) is not None:  # what it returns is not stored
                yield undo.name, (_digest(undo.contract.input), "")


def _digest(codec: Codec[Any] | None) -> str:
    return "" if codec is None else codec.digest
