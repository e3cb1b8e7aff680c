"""Command `show`: a flow with its steps and input, or a run with the state of every node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator import starts
from orchestrator.cli import drawing
from orchestrator.cli.completion import FlowName
from orchestrator.cli.flows import aside_line, triggers_of
from orchestrator.cli.session import FULL_ID, Session, command
from orchestrator.cli.text import as_json, as_json_line, at, clean, cut, span, state
from orchestrator.definition.plan import limit_title
from orchestrator.engine import engine_of
from orchestrator.errors import UnknownFlow, UnknownRun
from orchestrator.store.keys import limit_of
from orchestrator.store.run_view import statuses_of_children, without_child_undos
from orchestrator.store.worker_rows import name_holders
from orchestrator.web.flow_limits import told_limits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator.definition.plan import Plan
    from orchestrator.runs import FlowRun
    from orchestrator.store.run_view import NodeRow, RunView

TRACEBACK_LINES = 12
MAX_RUNS = ("most", "key", "when_full")


@command("show", example="show 3f2a")
@click.argument("name", metavar="FLOW|RUN", type=FlowName())
def show(session: Session, name: str) -> None:
    """Show a flow, or a run: states, attempts, outputs, errors.

    A run is named by its id or the beginning of it.
    """
    engine = engine_of(session.orchestrator.app)
    if not FULL_ID.fullmatch(name):
        try:
            plan = starts.find_plan(engine, name)
        except UnknownFlow as unknown:
            try:
                show_run(session, session.run(name))
            except UnknownRun:
                raise unknown from None
            return
        show_flow(session, plan)
        return
    show_run(session, session.run(name))


def show_flow(session: Session, plan: Plan) -> None:
    """Print a flow."""
    found = {
        "flow": plan.flow,
        "queue": plan.queue,
        "triggers": triggers_of(session, plan.flow),
        "input_schema": plan.input_schema,
        "timeout": _seconds(plan.timeout_ms),
        "max_runs": {name: plan.max_runs[name] or None for name in ("most", "key", "when_full")}
        if plan.max_runs
        else None,
        "nodes": [
            {
                "name": node.name,
                "kind": node.kind,
                "queue": node.queue,
                "timeout": node.timeout_ms / 1000,
                "attempts": node.attempts,
                "limits": [limit_title(each) for each in node.limits],
                "deadline": _seconds(node.deadline_ms),
                "heartbeat_timeout": _seconds(node.heartbeat_ms),
                "child": node.child or None,
            }
            for node in plan.nodes.values()
        ],
    }
    if session.is_json:
        click.echo(as_json(found))
        return
    click.echo(f"flow {clean(plan.flow)} on queue {clean(plan.queue)}")
    for trigger in triggers_of(session, plan.flow):
        click.echo(f"  trigger {clean(trigger)}")
    if plan.input_schema:
        click.echo(f"  input {cut(as_json_line(plan.input_schema), 1000)}")
    for line in drawing.plain(plan, {}, {}).splitlines():
        click.echo(f"  {clean(line)}")
    for name, said in told_limits(plan):
        click.echo(f"  limit of {'the flow' if not name else clean(name)}: {clean(said)}")


def _seconds(milliseconds: int) -> float | None:
    return milliseconds / 1000 if milliseconds else None


def show_run(session: Session, run: FlowRun) -> None:
    """Print a run."""
    record = engine_of(session.orchestrator.app).store.run(run.id)
    aside = [part for part in session.orchestrator.set_aside() if part.concerns(run.id, record.plan)]
    view = run.show()
    workers = workers_of(run, view)
    if session.is_json:
        shown = view.to_json()
        shown["nodes"] = [each | {"worker": workers.get(each["holder"])} for each in shown["nodes"]]
        click.echo(as_json(shown | {"set_aside": [vars(part) for part in aside]}))
        return
    for line in [*map(aside_line, aside), *run_lines(view, workers, children_of(run, view))]:
        click.echo(line)


def workers_of(run: FlowRun, view: RunView) -> dict[str, str]:
    """Return for each process that runs a node of a run how a person knows it: its worker's name and its number."""
    named = name_holders(run._engine.store, {node.holder for node in view.nodes if node.holder})  # noqa: SLF001 - a door
    return {
        holder: f"a worker that is gone, process {holder.rpartition('/')[2]}" if name == holder else name
        for holder, name in named.items()
    }


def children_of(run: FlowRun, view: RunView) -> dict[str, str]:
    """Return the status of each run that a node has started last, by its id."""
    return statuses_of_children(run._engine.store, view)  # noqa: SLF001 - a door


def run_lines(view: RunView, workers: Mapping[str, str], children: Mapping[str, str]) -> Iterator[str]:
    """Yield a run as lines: what it is, each node in order with the run that it started, its errors and its log."""
    run = view.run
    yield f"run {run.id} of flow {clean(run.flow)}: {state(str(run.status))}"
    yield (
        f"  started {at(run.created)}, "
        + (f"ended {at(run.finished)}, " if run.finished else "")
        + f"took {span(run.duration)}"
    )
    if run.key:
        yield f"  key {clean(run.key)}"
    if run.priority is not None:
        yield f"  priority {run.priority}"
    if run.tags:
        yield "  tags " + clean(", ".join(f"{name}={value}" for name, value in run.tags.items()))
    if view.input:
        yield f"  input {cut(view.input)}"
    if view.forked_from:
        yield f"  a fork of run {view.forked_from} at {clean(view.forked_at or '')}"
    if view.forks:
        yield f"  forked: {', '.join(view.forks)}"
    nodes = without_child_undos(view).nodes
    width = max((len(node.name) for node in nodes), default=0)
    yield from (line for node in nodes for line in _node_lines(node, width, workers, children))
    if run.error is not None:
        yield f"error: {clean(run.error)}"
        yield from (f"  {clean(line)}" for line in run.error.traceback.splitlines()[-TRACEBACK_LINES:])
    for entry in view.log:
        yield f"log {at(entry.at)} {clean(entry.node)} {clean(entry.level)}: {cut(entry.text)}"


def _at_present(node: NodeRow, workers: Mapping[str, str]) -> Iterator[str]:
    if node.limit:
        yield f"waits for {clean(limit_title(limit_of(node.limit)))}"
    if node.holder and node.started:
        yield f"in {clean(workers[node.holder])} since {at(node.started)}"
    if node.due:
        yield f"due {at(node.due)}"


def _node_lines(node: NodeRow, width: int, workers: Mapping[str, str], children: Mapping[str, str]) -> Iterator[str]:
    indent = "    " if node.kind in {"item", "compensation"} else "  "
    parts = [f"{indent}{clean(node.name):<{width}}", state(node.state)]
    if node.is_inherited:
        parts.append("taken over")
    if node.attempt > 1 or (node.attempt and node.state in {"failed", "unknown", "parked"}):
        parts.append(f"attempt {node.attempt} of {node.attempts}")
    if node.items is not None:
        parts.append(f"{node.items.done} of {node.items.count} items, {node.items.failed} failed")
    if node.pages:
        parts.append(f"{node.pages} pages")
    if node.started and node.ended:
        parts.append(span(node.ended - node.started))
    parts += _at_present(node, workers)
    if node.detail:
        parts.append(cut(node.detail, 80))
    if node.output is not None and node.state == "succeeded":
        parts.append(cut(node.output))
    yield "  ".join(parts)
    if node.failure is not None and node.state != "succeeded":
        yield f"{indent}  {cut(node.failure.type)}: {cut(node.failure.message)}"
    if node.child_run is not None:
        before = f", the last of {node.child_count}" if node.child_count > 1 else ""
        yield f"{indent}  run {node.child_run} of flow {clean(node.child)}{before}: {state(children[node.child_run])}"
