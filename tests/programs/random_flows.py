"""Random flows on a worker: those of the seed in TEST_SEED, TEST_FLOWS of them; see tests/random_recipes.py."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from celery import Celery, current_task
from pydantic import BaseModel

from orchestrator import (
    FlowBuilder,
    FlowState,
    Node,
    NodeContext,
    Orchestrator,
    Page,
    RemoteFlow,
    RetryPolicy,
    SharedRateLimiter,
    Terminal,
    approval,
    manual,
    paginate,
    signal,
    sleep,
    sleep_until,
)
from tests.harness import Ledger
from tests.random_recipes import (
    STEP,
    Call,
    Child,
    Choice,
    Each,
    Gate,
    Member,
    Part,
    Recipe,
    Together,
    flows_of,
    recipe_of,
)
from tests.random_results import answer_to, climb, mix, number_of, page_items

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orchestrator import Flow

URL = os.environ["TEST_REDIS_URL"]
LEDGER = Ledger(os.environ["TEST_LEDGER_URL"])
SPARE = int(os.environ.get("TEST_SPARE_ATTEMPTS", "0"))
"""Attempts that may be lost without an end to the node: workers are killed."""
SOON = timedelta(milliseconds=20)
HOUR = timedelta(hours=1)
OVERDUE = timedelta(milliseconds=200)
SILENCE = timedelta(seconds=1)
RESERVE = 3
"""Attempts that a process without processor time may lose, where not to report for `SILENCE` ends one."""
LIMITER = SharedRateLimiter("random-api", 100, per=timedelta(seconds=1))

app = Celery("random", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)


class Order(BaseModel):
    """The input of a flow whose runs go on one after the other for each customer."""

    given: int
    customer: str


def note(event: str, ctx: NodeContext, call: Call, item: int | None = None) -> None:
    """Write a line to the ledger."""
    which = "" if item is None else f"[{item}]"
    sent = current_task.request.delivery_info if current_task else {}  # a thread of a local step has no task
    priority = sent.get("priority") or 0
    LEDGER.note(event, f"{ctx.flow_name}|{ctx.run_id}|{call.name}{which}|{priority}")


def is_mended(ctx: NodeContext) -> bool:
    """Whether what fails for good has been mended, in the whole tree of the run, or in what that is a fork of."""
    return bool(LEDGER.client.exists(*(f"mended {run_id}" for run_id in lineage_of(ctx.run_id))))


@cache
def lineage_of(run_id: str) -> tuple[str, ...]:
    """The run at the top, and the runs that this one is a fork of."""
    fields = orchestrator._engine.store.run(run_id).fields
    above = fields.get("root") or fields.get("forked_from")
    own = () if "root" in fields else (run_id,)
    return own + (lineage_of(above) if above else ())


def number_among_its_like(ctx: NodeContext, given: int) -> int:
    """Which run a child is that its node has started for one item or iteration, from 1."""
    fields = orchestrator._engine.store.run(ctx.run_id).fields
    key = f"children {fields['parent']} {fields['parent_node']} {given}"
    if LEDGER.client.hsetnx(key, ctx.run_id, "0"):
        LEDGER.client.hset(key, ctx.run_id, LEDGER.client.hlen(key))
    return int(LEDGER.client.hget(key, ctx.run_id) or 0)


def fail_as_told(ctx: NodeContext, call: Call, which: str, *, is_bad: bool) -> None:
    """Fail, if it is this attempt's turn."""
    if call.fault not in {"", "overdue"} and is_bad and not is_mended(ctx):
        raise Terminal("broken for good") if call.fault == "terminal" else OSError("broken")
    if call.stands and not LEDGER.client.exists(f"helped {ctx.run_id}"):
        LEDGER.note("stuck", f"{ctx.flow_name}|{ctx.run_id}|{call.name}|")
        raise OSError("somebody has to look")
    count = f"{ctx.run_id} {call.name} {which} {ctx.iteration}"
    if call.fails and LEDGER.count(count) <= call.fails:
        raise OSError("not yet")
    if call.dies and LEDGER.count(count) == 1:
        os._exit(1)
    if call.silent:
        fall_silent(ctx, count)


def fall_silent(ctx: NodeContext, count: str) -> None:
    """Report, and hang; the next attempt has what was reported."""
    if LEDGER.count(count) == 1:
        ctx.heartbeat(count)
        LEDGER.client.set(f"reported {count}", 1)
        time.sleep(60)
    # Once: a run that is resumed calls it afresh, without what was reported before it was undone.
    elif LEDGER.client.delete(f"reported {count}") and ctx.last_heartbeat != count:
        raise Terminal(f"the report {count} is lost: {ctx.last_heartbeat}")


def function_of(call: Call, *, climbs: bool, bad: int | None = None, stumbles: int = 0) -> Callable[..., Any]:
    """The function of a node.

    Args:
        call: The node.
        climbs: It returns its input and `STEP`.
        bad: Of a map's node, the item that fails.
        stumbles: Of the last node of a child: how many of the first ones fail.
    """
    turn = climb if climbs or call.repeats else None

    def act(ctx: NodeContext, given: int) -> int:
        item = None if bad is None else given
        note("start", ctx, call, item)
        fail_as_told(ctx, call, "" if item is None else str(item), is_bad=item == bad)
        if stumbles and number_among_its_like(ctx, given) <= stumbles:
            raise Terminal("not this run")
        if call.fault == "overdue":
            late: int = ctx.defer()
            return late
        if call.defers:
            LEDGER.client.set(f"callback {ctx.run_id} {call.name}", f"{mix(call.name, given)} {ctx.callback}")
            waits: int = ctx.defer()
            return waits
        note("done", ctx, call, item)
        return turn(given) if turn else mix(call.name, given)

    async def act_async(ctx: NodeContext, given: int) -> int:
        return act(ctx, given)

    return act_async if call.is_async else act


def fetch_of(call: Call) -> Callable[..., Any]:
    """The function of a paginated node: one item on each page."""

    def fetch(ctx: NodeContext, cursor: str | None, given: int) -> Page[int]:
        page = int(cursor or 0)
        note("start", ctx, call)
        fail_as_told(ctx, call, f"page {page}", is_bad=page == call.pages - 1)
        note("page", ctx, call)
        has_more = page + 1 < call.pages
        return Page(items=page_items(call, given)[page : page + 1], next_cursor=str(page + 1), has_more=has_more)

    return fetch


def undo_of(call: Call, *, takes_item: bool = False) -> Node[Any, Any]:
    """A compensation that leaves a trace; it fails when the recipe says so."""

    def act_back(ctx: NodeContext, output: int | None) -> None:
        LEDGER.note("undo", f"{ctx.flow_name}|{ctx.run_id}|{call.name}|{output if takes_item else ''}")
        if call.undo_fault and not is_mended(ctx):
            raise Terminal("it cannot be taken back")

    def undo(ctx: NodeContext, output: int | None) -> None:
        act_back(ctx, output)

    def undo_pages(ctx: NodeContext) -> None:
        act_back(ctx, None)

    made: Node[Any, Any] = Node(f"undo-{call.name}", undo_pages if call.pages else undo)
    return made.with_retry(RetryPolicy(SOON, maximum_attempts=1 + SPARE))


def policy_of(call: Call) -> RetryPolicy:
    """As many attempts as the recipe needs."""
    if call.stands:
        return RetryPolicy(SOON, maximum_attempts=2, on_exhausted="pause", jitter=False)
    if call.fault == "late":
        return RetryPolicy(2 * HOUR, maximum_interval=2 * HOUR, maximum_attempts=2 + SPARE, jitter=False)
    tries = (2 if call.fault else 1 + call.fails + call.dies + call.silent * RESERVE) + SPARE
    return RetryPolicy(SOON, maximum_attempts=tries, backoff_coefficient=1, jitter=False)


def call_node(call: Call, *, climbs: bool = False, bad: int | None = None, stumbles: int = 0) -> Node[Any, Any]:
    node: Node[Any, Any] = (
        paginate(call.name, fetch_of(call))
        if call.pages
        else Node(call.name, function_of(call, climbs=climbs, bad=bad, stumbles=stumbles))
    )
    node = node.with_retry(policy_of(call))
    if call.silent:
        node = node.with_heartbeat_timeout(SILENCE)
    if call.has_deadline:
        node = node.with_deadline(OVERDUE if call.fault == "overdue" else HOUR)
    if call.is_limited:
        node = node.with_shared_rate_limit(LIMITER)
    if call.repeats:
        enough = call.repeats * STEP
        every = SOON if call.repeats % 2 else timedelta(0)
        node = node.with_repeat(lambda output: output - output % STEP >= enough, every=every)
    undo = undo_of(call, takes_item=bad is not None)
    return node.on_error(undo, when=call.undo) if call.undo else node  # type: ignore[arg-type]


def gate_node(gate: Gate) -> Node[Any, Any]:
    if gate.kind == "signal":
        if gate.answer == "default":
            return signal(gate.name, int, default=answer_to(gate)).with_timeout(timedelta(milliseconds=100))
        waits = signal(gate.name, int)
        return waits.with_timeout(timedelta(milliseconds=100)) if gate.answer == "never" else waits
    if gate.kind == "approval":
        return approval(gate.name, quorum=gate.quorum)
    if gate.kind == "sleep":
        return sleep(gate.name, timedelta(milliseconds=100))
    return sleep_until(gate.name, lambda _state: datetime.now(UTC) + timedelta(milliseconds=100))


def child_node(child: Child) -> Node[Any, Any]:
    built = BUILT[child.flow.name]
    node: Node[Any, Any] = Node(
        child.name, RemoteFlow(child.flow.name, takes=int, returns=int) if child.is_remote else built
    )
    if child.repeats:
        enough = child.repeats * STEP
        node = node.with_repeat(lambda output: output - output % STEP >= enough)
    if child.flow.stumbles:
        node = node.with_retry(RetryPolicy(SOON, maximum_attempts=1 + child.flow.stumbles, backoff_coefficient=1))
    if child.is_timed:
        node = node.with_timeout(timedelta(hours=1))
    return node.on_error(undo_of(Call(child.name))) if child.has_undo else node


def node_of(member: Member, before: Callable[[FlowState], int]) -> Node[Any, Any]:
    """The node of a member, with its input."""
    if isinstance(member, Gate):
        return gate_node(member)
    node = call_node(member) if isinstance(member, Call) else child_node(member)
    return node.with_input_func(before)


def add_outputs(state: FlowState, keys: tuple[str, ...]) -> int:
    """The run's input and what the step before has put out, small enough for a node that repeats to begin with."""
    return (given_to(state) + sum(number_of(state.get_or(key, Any, 0)) for key in keys)) % STEP


def given_to(state: FlowState) -> int:
    given: Any = state.input()
    return given.given if isinstance(given, Order) else int(given)


def sum_of(keys: tuple[str, ...]) -> Callable[[FlowState], int]:
    """An input function; short, for what is not short takes long to be read by `build()` in so many flows."""
    return lambda state: add_outputs(state, keys)


def first_numbers(_state: FlowState, count: int) -> list[int]:
    return list(range(count))


def always(_state: FlowState) -> bool:
    return True


def never(_state: FlowState) -> bool:
    return False


def keys_of(part: Part) -> tuple[str, ...]:
    """Output keys of what a part ends with."""
    if isinstance(part, Choice):
        return tuple(key for branch in part.branches for key in keys_of(branch[-1]))
    if isinstance(part, Together):
        return tuple(member.name for member in part.members)
    return (part.node.name,) if isinstance(part, Each) else (part.name,)


def add_parts(builder: FlowBuilder[Any], parts: Iterable[Part], keys: tuple[str, ...]) -> None:
    for part in parts:
        before = sum_of(keys)
        if isinstance(part, Together):
            members = [node_of(member, before) for member in part.members]
            builder.then_parallel(
                part.name,
                *members,
                on_failure="continue" if part.goes_on else "fail",
                require=part.require,
                local=part.is_local,
            )
        elif isinstance(part, Each):
            node = call_node(part.node, bad=part.bad) if isinstance(part.node, Call) else child_node(part.node)
            builder.then_map(
                part.name,
                node,
                partial(first_numbers, count=part.items),
                max_concurrency=part.width,
                batch_size=part.batch,
                on_failure="continue" if part.goes_on else "fail",
            )
        elif isinstance(part, Choice):
            for index, branch in enumerate(part.branches):
                if index == len(part.branches) - 1:
                    builder.else_()
                else:
                    (builder.else_when if index else builder.when)(always if index == part.taken else never)
                add_parts(builder, branch, keys)
            builder.end_when()
        else:
            builder.then(node_of(part, before))
        keys = keys_of(part)


def build(recipe: Recipe) -> Flow[Any]:
    lane = recipe.lane
    builder = FlowBuilder(recipe.name).takes(Order if lane and lane.is_keyed else int).triggered_by(manual("chance"))
    if recipe.has_time:
        builder.with_timeout(HOUR)
    if lane:
        key = "customer" if lane.is_keyed else None
        builder.with_max_runs(lane.most, key, when_full="skip" if lane.skips else "queue")
    if recipe.is_fused:
        builder.fused()
    *parts, last = recipe.parts
    add_parts(builder, parts, ())
    assert isinstance(last, Call)
    before = (lambda state: state.input(int)) if recipe.climbs else sum_of(keys_of(parts[-1]))
    node = call_node(last, climbs=recipe.climbs, stumbles=recipe.stumbles)
    return builder.then(node.with_input_func(before)).build()


BUILT: dict[str, Flow[Any]] = {}
for number in range(int(os.environ["TEST_FLOWS"])):
    for recipe in reversed(list(flows_of(recipe_of(os.environ["TEST_SEED"], number)))):
        BUILT[recipe.name] = build(recipe)
        orchestrator.register(BUILT[recipe.name])
