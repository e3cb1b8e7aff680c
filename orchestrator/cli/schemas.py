"""Shapes of what `--json` prints, one for each command; `orchestrator schema COMMAND` prints one as JSON Schema."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import click
from pydantic import BaseModel, ConfigDict, TypeAdapter

from orchestrator.cli.text import as_json


class Shape(BaseModel):
    """An object with these fields and no others."""

    model_config = ConfigDict(extra="forbid")


class Flow(Shape):
    """A flow in a list."""

    name: str
    nodes: int
    queue: str
    queues: list[str]
    is_registered: bool
    triggers: list[str]


class FlowNode(Shape):
    """A node of a flow; times in seconds."""

    name: str
    kind: str
    queue: str
    timeout: float
    attempts: int
    limits: list[str]
    deadline: float | None
    heartbeat_timeout: float | None
    child: str | None


class MaxRuns(Shape):
    """How many runs of a flow go on at once, for each value at a path in their input if there is one."""

    most: int
    key: str | None
    when_full: str


class FlowShown(Shape):
    """A flow as `show` prints it."""

    flow: str
    queue: str
    triggers: list[str]
    input_schema: dict[str, Any] | None
    timeout: float | None
    max_runs: MaxRuns | None
    nodes: list[FlowNode]


class Failure(Shape):
    """A failure of a node or a run."""

    flow_name: str
    node_name: str | None
    attempt: int
    type: str
    message: str
    traceback: str


class Run(Shape):
    """A run in a list; durations in seconds."""

    id: str
    flow: str
    status: str
    created: datetime
    finished: datetime | None
    tags: dict[str, str]
    key: str | None
    error: Failure | None
    epoch: int
    priority: int | None
    parent: str | None
    plan: str
    position: int
    steps: int
    done_steps: int
    nodes_running: int
    waits_for: str
    parent_node: str | None
    duration: float


class Runs(Shape):
    """A page of runs."""

    runs: list[Run]
    cursor: str | None
    searched_back_to: datetime | None


class Items(Shape):
    """Items of a map."""

    count: int
    done: int
    failed: int
    running: int


class Step(Shape):
    """A step of a plan."""

    name: str
    kind: str
    nodes: list[str]
    next: int
    branches: list[int]


class RunNode(Shape):
    """A node of a run."""

    name: str
    kind: str
    step: int
    state: str
    attempt: int
    attempts: int
    queue: str
    task: str
    key: str
    output: str | None
    output_size: int | None
    since: datetime | None
    started: datetime | None
    ended: datetime | None
    due: datetime | None
    deadline: datetime | None
    holder: str | None
    worker: str | None
    limit: str | None
    detail: str | None
    failure: Failure | None
    choice: int | None
    items: Items | None
    pages: int | None
    undoes: str
    first: datetime | None
    busy: float | None
    waits: str | None
    is_inherited: bool
    child: str
    child_run: str | None
    child_count: int


class LogLine(Shape):
    """A line that a node wrote."""

    at: datetime
    node: str
    attempt: int
    level: str
    text: str


class Aside(Shape):
    """A part that cannot be handled."""

    kind: str
    name: str
    reason: str
    since: datetime


class RunShown(Shape):
    """A run as `show` prints it."""

    run: Run
    steps: list[Step]
    nodes: list[RunNode]
    input: str | None
    input_size: int
    verdict: str
    log: list[LogLine]
    scheduled: datetime | None
    forked_from: str | None
    forked_at: str | None
    forks: list[str]
    set_aside: list[Aside]


class Edge(Shape):
    """An arrow of a drawing; `is_read`: of an output that is read later than in the next step."""

    start: str
    end: str
    label: str
    is_read: bool


class Graph(Shape):
    """A drawing."""

    flow: str
    format: Literal["mermaid", "dot", "plain", "svg"]
    text: str
    edges: list[Edge]


class Started(Shape):
    """A run that was started."""

    id: str
    flow: str
    status: str


class Ended(Started):
    """A run that was waited for."""

    result: Any
    error: str | None


class Event(Shape):
    """An entry of a run's history; `watch` prints one a line."""

    at: datetime
    event: str
    node: str
    attempt: int
    detail: str
    holder: str
    error: str


class Waiting(Shape):
    """The reason why a node has not ended."""

    node: str
    state: str
    reason: str
    until: datetime | None
    attempt: int


class Output(Shape):
    """A stored output."""

    key: str
    value: Any


class Acted(Shape):
    """One run of an action; of `fork` with the run that it made."""

    id: str
    is_done: bool
    message: str
    made: str | None


class Action(Shape):
    """What was done to runs."""

    action: Literal["cancel", "pause", "resume", "fork", "undo", "delete", "signal", "approve", "reject", "complete"]
    count: int
    runs: list[Acted]


class Worker(Shape):
    """A worker."""

    id: str
    name: str
    queues: list[str]
    flows: dict[str, list[str]]
    versions: dict[str, str]
    processes: int
    busy: int
    json_: bool
    missing: list[str]
    last_seen: datetime

    model_config = ConfigDict(alias_generator=lambda name: name.rstrip("_"))


class Limit(Shape):
    """A limit."""

    name: str
    title: str
    kind: str
    n: float
    per: float | None
    burst: int
    pace: float | None
    tokens: int | None
    waiting: int
    longest_wait: datetime | None
    first_run: str | None
    first_node: str | None
    frozen_until: datetime | None
    is_set: bool
    buckets: int


class Schedule(Shape):
    """A schedule; durations in seconds."""

    id: str
    flow: str
    cron: str
    timezone: str
    overlap: Literal["skip", "allow", "queue"]
    catch_up: float
    jitter: float
    priority: int | None
    is_paused: bool
    note: str
    last: datetime | None
    last_run: str | None
    next: datetime | None


class Triggered(Shape):
    """The run that a schedule started now."""

    id: str


class Filled(Shape):
    """An instant of a backfill."""

    instant: datetime
    run: str
    is_new: bool


class Problem(Shape):
    """A finding of `check`."""

    where: str
    code: str
    message: str


class Live(Shape):
    """Unfinished runs of a flow with one verdict of `check --against live`."""

    flow: str
    verdict: Literal["goes on", "would wait for code that is gone", "stored data no longer fits"]
    reason: str
    runs: list[str]


class Finding(Shape):
    """A finding of `doctor`."""

    name: str
    what: str
    setting: str


class AskedFor(Shape):
    """A node that waits for somebody outside."""

    run_id: str
    flow: str
    node: str
    kind: str
    since: datetime
    until: datetime | None
    name: str
    quorum: int
    approvers: list[str] | None
    votes: list[str]


class Metric(Shape):
    """A value of a metric."""

    name: str
    labels: dict[str, str]
    value: float


class DevLine(Shape):
    """A line that a process of `dev` has written, or `dev` itself."""

    process: str
    line: str


SCHEMAS: dict[str, TypeAdapter[Any]] = {
    "list": TypeAdapter(list[Flow]),
    "show": TypeAdapter(FlowShown | RunShown),
    "graph": TypeAdapter(Graph),
    "start": TypeAdapter(Started | Ended),
    "runs": TypeAdapter(Runs),
    "watch": TypeAdapter(Event),
    "history": TypeAdapter(list[Event]),
    "explain": TypeAdapter(list[Waiting]),
    "output": TypeAdapter(Output),
    "cancel": TypeAdapter(Action),
    "pause": TypeAdapter(Action),
    "resume": TypeAdapter(Action),
    "fork": TypeAdapter(Action),
    "undo": TypeAdapter(Action),
    "delete": TypeAdapter(Action),
    "waiting": TypeAdapter(list[AskedFor]),
    "signal": TypeAdapter(Action),
    "approve": TypeAdapter(Action),
    "reject": TypeAdapter(Action),
    "complete": TypeAdapter(Action),
    "workers": TypeAdapter(list[Worker]),
    "limits": TypeAdapter(list[Limit]),
    "limits list": TypeAdapter(list[Limit]),
    "limits set": TypeAdapter(list[Limit]),
    "limits reset": TypeAdapter(list[Limit]),
    "limits freeze": TypeAdapter(list[Limit]),
    "schedules": TypeAdapter(list[Schedule]),
    "schedules list": TypeAdapter(list[Schedule]),
    "schedules pause": TypeAdapter(list[Schedule]),
    "schedules unpause": TypeAdapter(list[Schedule]),
    "schedules trigger": TypeAdapter(Triggered),
    "schedules next": TypeAdapter(list[datetime]),
    "schedules backfill": TypeAdapter(list[Filled] | list[datetime]),
    "doctor": TypeAdapter(list[Finding]),
    "metrics": TypeAdapter(list[Metric]),
    "check": TypeAdapter(list[Problem] | list[Live]),
    "schema": TypeAdapter(dict[str, Any]),
    "dev": TypeAdapter(DevLine),
}
"""By the words of the command; of `watch` and `dev`, the shape of a line."""


@click.command("schema", epilog="Example: celery -A proj flow schema runs")
@click.argument("words", metavar="COMMAND", nargs=-1, required=True)
@click.option("--json", "is_json", is_flag=True, help="Print JSON, as it does in any case.")
def schema(words: tuple[str, ...], *, is_json: bool) -> None:  # noqa: ARG001 - as every command has it
    """Print the JSON Schema of a command's --json."""
    name = " ".join(words)
    if name not in SCHEMAS:
        raise click.UsageError(f"there is no schema of {name!r}; there are those of {', '.join(SCHEMAS)}")
    click.echo(as_json(SCHEMAS[name].json_schema()))
