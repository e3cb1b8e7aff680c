"""Commands `list` and `graph`: the flows that there are, and their steps."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from orchestrator import starts
from orchestrator.cli import drawing
from orchestrator.cli.completion import FlowName
from orchestrator.cli.problems import Refusal
from orchestrator.cli.session import FULL_ID, NAMED, Session, command
from orchestrator.cli.text import as_json, at, clean, table
from orchestrator.definition.triggers import ScheduleTrigger
from orchestrator.engine import engine_of
from orchestrator.errors import StoreError, UnknownFlow, UnknownRun
from orchestrator.store.run_view import statuses_of_children
from orchestrator.web.graph import draw_graph
from orchestrator.web.marks import TONES
from orchestrator.web.shapes import Mark

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.definition.plan import Plan
    from orchestrator.store.set_aside import SetAside


def svg(plan: Plan, states: Mapping[str, str], children: drawing.Children) -> str:
    """Return the picture of the pages."""
    del children  # a picture has no links
    marks = {name: Mark(TONES.get(found, "none"), found) for name, found in states.items()}
    return draw_graph(plan, marks or None, standalone=True)


DRAWERS = {"svg": svg, "mermaid": drawing.mermaid, "dot": drawing.dot, "plain": drawing.plain}


@command("list", example="list")
def list_flows(session: Session) -> None:
    """List the flows of this app and of its workers."""
    rows = flow_rows(session)
    header = ("FLOW", "NODES", "QUEUE", "CODE", "TRIGGERS")
    session.print(
        rows,
        lambda: table(
            header,
            [
                (
                    clean(row["name"]),
                    str(row["nodes"]),
                    clean(row["queue"]),
                    "here" if row["is_registered"] else "at workers",
                    clean(", ".join(row["triggers"])),
                )
                for row in rows
            ],
        ),
    )
    with suppress(StoreError):  # said by `flow_rows`
        parts = session.orchestrator.set_aside()
        for part in parts[:NAMED]:
            click.echo(aside_line(part), err=True)
        if len(parts) > NAMED:
            click.echo(f"and {len(parts) - NAMED} more are set aside: see `doctor`", err=True)


def aside_line(part: SetAside) -> str:
    """Return what is set aside as a line."""
    return f"{part.kind} {clean(part.name)} is set aside since {at(part.since)}: {clean(part.reason)}"


def flow_rows(session: Session) -> list[dict[str, Any]]:
    """Describe every known flow; without a server, those that are registered here."""
    engine = engine_of(session.orchestrator.app)
    registered = engine.registry.flows
    try:
        names = starts.known_flows(engine)
    except StoreError as error:
        click.echo(f"Only the flows of this app: {clean(str(error))}", err=True)
        names = sorted(registered)
    rows: list[dict[str, Any]] = []
    for name in names:
        plan = registered[name].plan if name in registered else engine.store.announced_plan(name)
        if plan is not None:
            rows.append(
                {
                    "name": name,
                    "nodes": len(plan.nodes),
                    "queue": plan.queue,
                    "queues": sorted({plan.queue, *(node.queue for node in plan.nodes.values())}),
                    "is_registered": name in registered,
                    "triggers": triggers_of(session, name),
                }
            )
    return rows


def triggers_of(session: Session, flow: str) -> list[str]:
    """Describe the triggers of a flow; empty for one whose code is elsewhere."""
    entry = engine_of(session.orchestrator.app).registry.flows.get(flow)
    triggers = entry.flow.triggers if entry else ()
    return [
        f"{each.cron} {each.timezone}" if isinstance(each, ScheduleTrigger) else f"manual {each.label}"
        for each in triggers
    ]


@command("graph", example="graph order --mermaid")
@click.argument("name", metavar="FLOW|RUN", type=FlowName())
@click.option("--mermaid", "form", flag_value="mermaid", help="As a Mermaid flowchart.")
@click.option("--dot", "form", flag_value="dot", help="As a Graphviz digraph.")
@click.option("--svg", "form", flag_value="svg", help="As a picture, for a file.")
@click.option("--plain", "form", flag_value="plain", default="plain", help="A line for each node; the default.")
def graph(session: Session, name: str, form: str) -> None:
    """Draw the steps of a flow, or of a run with its states."""
    plan, states, children = read_drawn(session, name)
    text = DRAWERS[form](plan, states, children)
    if session.is_json:
        drawn = {"flow": plan.flow, "format": form, "text": text, "edges": [vars(edge) for edge in drawing.edges(plan)]}
        click.echo(as_json(drawn))
        return
    click.echo(clean(text, lines=True))


def read_drawn(session: Session, name: str) -> tuple[Plan, dict[str, str], drawing.Children]:
    """Return the plan of a flow by name, or by the beginning of its id that of a run, with its states and children."""
    engine = engine_of(session.orchestrator.app)
    if not FULL_ID.fullmatch(name):
        try:
            return starts.find_plan(engine, name), {}, {}
        except UnknownFlow as unknown:
            try:
                run = session.run(name)
            except UnknownRun:
                raise unknown from None
    else:
        run = session.run(name)
    view = run.show()
    if view.plan is None:
        raise Refusal(f"the plan of run {run.id} is gone")
    statuses = statuses_of_children(engine.store, view)
    children = {row.name: (row.child_run, statuses[row.child_run]) for row in view.nodes if row.child_run}
    states = {row.name: row.state for row in view.nodes if row.state != "pending"}
    return view.plan, states, {name: child for name, child in children.items() if name in view.plan.children}
