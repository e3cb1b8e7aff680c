"""Flatten a built flow to a plan: positions in order, and the policies of every node.

Pure: the same flow gives the same plan, and the same hash, in every process.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orchestrator.definition.flow import Flow, Map, Parallel, Step, Then, When
from orchestrator.definition.pagination import PagedNode
from orchestrator.definition.plan import END, MICROSECONDS, SLOTS, NodePlan, Plan, StepPlan, in_milliseconds
from orchestrator.definition.policies import RateLimit, SharedRateLimiter
from orchestrator.definition.static_reads import known_reads

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from orchestrator.definition.node import Node

BRANCH_TIMEOUT_MS = 60_000
BRANCH_ATTEMPTS = 3
WIDTH = 256
"""Items of a map in progress at once by default, which also bounds the messages of a map in the queue."""


def make_plan(flow: Flow, default_queue: str, *, fused: bool = False) -> Plan:
    """Flatten a built flow.

    Args:
        flow: The flow.
        default_queue: Queue of the nodes of a flow that names none.
        fused: Whether the flow is fused even if it does not say so.
    """
    queue = flow.queue or default_queue
    order = list(flow.all_steps())
    position: dict[int, int] = {}
    count = 0
    for step in order:
        position[id(step)] = count
        count += 2 if isinstance(step, Map) else 1  # the items of a map are computed at a position of their own
    following = dict(_following(flow.steps, END, position))
    steps = tuple(each for step in order for each in _step_plans(step, following[id(step)], position))
    if not (fused := fused or flow.fused):
        steps = tuple(replace(step, local=False) for step in steps)
    nodes: dict[str, NodePlan] = {}
    sagas = []
    limits: dict[str, tuple[int, ...]] = {}
    for step in order:
        index = position[id(step)]
        if isinstance(step, When):
            nodes[step.name] = _own_plan(flow, step.name, "branch", index, queue, *step.predicates)
            continue
        if isinstance(step, Map):
            nodes[step.source] = _own_plan(flow, step.source, "expand", index, queue, step.over)
            index += 1
        for node in step.nodes():
            nodes[node.name] = _node_plan(flow, node, index, queue, limits)
            if isinstance(step, Map):
                nodes[node.name] = replace(nodes[node.name], kind="item")
            if node.compensation is not None:
                undo = node.compensation
                nodes[undo.name] = _node_plan(flow, undo, index, queue, limits, undoes=node.name)
                sagas.append((node.name, undo.name, node.compensation_when))
    return Plan(
        flow=flow.name,
        queue=queue,
        timeout_ms=in_milliseconds(flow.timeout) if flow.timeout else 0,
        result_key=flow.result_key or "",
        steps=steps,
        nodes=nodes,
        sagas=tuple(sagas),
        limits=limits,
        input_schema=flow.input_codec.schema() if flow.input_codec else None,
        fused=fused,
    )


def _following(steps: tuple[Step, ...], after: int, position: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    for index, step in enumerate(steps):
        follower = position[id(steps[index + 1])] if index + 1 < len(steps) else after
        yield id(step), follower
        if isinstance(step, When):
            for branch in (*step.branches, step.otherwise or ()):
                yield from _following(branch, follower, position)


def _step_plans(step: Step, following: int, position: Mapping[int, int]) -> Iterator[StepPlan]:
    if isinstance(step, Then):
        yield StepPlan(step.node.name, "then", (step.node.name,), following)
        return
    if isinstance(step, Parallel | Map):
        joined = StepPlan(
            step.name,
            "parallel",
            tuple(node.name for node in step.nodes()),
            following,
            go_on=step.on_failure == "continue",
            require=step.require or 0,
            local=isinstance(step, Parallel) and bool(step.local),
        )
        if isinstance(step, Map):
            yield StepPlan(step.source, "expand", (step.source,), position[id(step)] + 1)
            width = step.max_concurrency or WIDTH
            joined = replace(joined, kind="map", source=step.source, width=width, batch=step.batch_size)
        yield joined
        return
    branches = (*step.branches, step.otherwise or ())
    entries = tuple(position[id(branch[0])] if branch else following for branch in branches)
    yield StepPlan(step.name, "branch", (step.name,), following, entries)


def _own_plan(flow: Flow, name: str, kind: str, position: int, queue: str, *functions: object) -> NodePlan:
    """Return the plan of a node of the engine's own: a decision, or the computation of a map's items."""
    gets = {key for function in functions for key in _reads(function)}
    return NodePlan(
        name=name,
        kind=kind,
        task=f"{flow.name}.{name}",
        step=position,
        key="",
        queue=queue,
        timeout_ms=BRANCH_TIMEOUT_MS,
        attempts=BRANCH_ATTEMPTS,
        reads=tuple(sorted(gets)),
    )


def _node_plan(
    flow: Flow, node: Node[Any, Any], position: int, queue: str, limits: dict[str, tuple[int, ...]], *, undoes: str = ""
) -> NodePlan:
    retry = node.retry
    own = limits_of(node, flow.name)
    limits |= {name: _bucket(limit) for name, limit in own.items()}
    slots = {} if node.concurrency is None else {f"{SLOTS}{node.concurrency.name}": (0, node.concurrency.limit)}
    limits |= slots
    return NodePlan(
        name=node.name,
        kind="compensation" if undoes else "node",
        task=f"{flow.name}.{node.name}",
        step=position,
        key="" if undoes else node.output_key,
        queue=node.queue or queue,
        timeout_ms=in_milliseconds(node.timeout),
        attempts=retry.maximum_attempts,
        retry=(
            in_milliseconds(retry.initial_interval),
            retry.backoff_coefficient,
            in_milliseconds(retry.maximum_interval),
            retry.jitter,
        ),
        limits=(*own, *slots),
        keyed=tuple(name for name, limit in own.items() if limit.key is not None),
        reads=tuple(sorted(_reads(node.input_func))) if node.input_func else (),
        undoes=undoes,
        paged=isinstance(node, PagedNode),
        max_pages=node.max_pages or 0 if isinstance(node, PagedNode) else 0,
        source=node.cursor_source or "" if isinstance(node, PagedNode) else "",
    )


def limits_of(node: Node[Any, Any], flow: str) -> dict[str, RateLimit | SharedRateLimiter]:
    """Return the rate limits of a node by their names in the plan."""
    own = {} if node.rate_limit is None else {f"{flow}.{node.name}": node.rate_limit}
    return {**own, **{shared.name: shared for shared in node.shared_rate_limits}}


def _bucket(limit: RateLimit | SharedRateLimiter) -> tuple[int, ...]:
    adaptive = limit.adaptive if isinstance(limit, SharedRateLimiter) else None
    rates = (limit.limit,) if adaptive is None else (limit.limit, adaptive.floor, adaptive.ceiling)
    interval, *bounds = (max(1, round(limit.per.total_seconds() * MICROSECONDS / rate)) for rate in rates)
    return interval, limit.capacity, *bounds


def _reads(function: object) -> AbstractSet[str]:
    reads = known_reads(function)
    return reads.gets | reads.optional
