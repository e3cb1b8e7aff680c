"""Legal uses of the public API: type-checked by mypy and pyright, never run."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, assert_type

from celery import Celery
from pydantic import BaseModel

from orchestrator import (
    Flow,
    FlowBuilder,
    FlowDefinitionError,
    FlowRun,
    FlowState,
    HiddenDependencyError,
    InvalidInput,
    Node,
    NodeContext,
    NodeFailure,
    NodeTimeout,
    Orchestrator,
    OrchestratorError,
    Page,
    Pages,
    RateLimit,
    RemoteFlow,
    RetryLater,
    RetryPolicy,
    RunError,
    RunFailed,
    RunStatus,
    SharedConcurrency,
    SharedRateLimiter,
    StoreError,
    Terminal,
    const,
    manual,
    map_item,
    node,
    paginate,
    run_input,
    schedule,
)


class FetchInput(BaseModel):
    count: int


class FetchOutput(BaseModel):
    issues: list[str]


class Enriched(BaseModel):
    source: str


# Node functions of every form keep their types.


def fetch_issues(given: FetchInput) -> FetchOutput:
    return FetchOutput(issues=[str(number) for number in range(given.count)])


async def fetch_later(given: FetchInput) -> FetchOutput:
    return fetch_issues(given)


def fetch_in_context(ctx: NodeContext, given: FetchInput) -> FetchOutput:
    ctx.logger.info("attempt %s of %s", ctx.attempt, ctx.node_name)
    ctx.heartbeat({"done": 1})
    if ctx.is_cancelled():
        raise Terminal("cancelled")
    if ctx.scheduled_for is None:
        raise RetryLater("busy", after=timedelta(seconds=3), freeze=True)
    return fetch_issues(given)


def enrich(issues: list[str], source: str = "jira") -> Enriched:
    return Enriched(source=source + issues[0])


def ping() -> int:
    return 1


def undo_fetch(output: FetchOutput) -> None:
    """Take back what was fetched."""


fetch = Node("fetch-issues", fetch_issues, FetchInput(count=5)).as_("issues")
later = Node("fetch-later", fetch_later)
in_context = Node("fetch-in-context", fetch_in_context)
assert_type(fetch, Node[FetchInput, FetchOutput])
assert_type(later, Node[FetchInput, FetchOutput])
assert_type(in_context, Node[FetchInput, FetchOutput])


@node
def store(enriched: Enriched) -> int:
    return len(enriched.source)


@node(name="merge-data", timeout=timedelta(minutes=2), retry=RetryPolicy(maximum_attempts=5), queue="merging")
def merge(given: list[Enriched]) -> Enriched:
    return given[0]


assert_type(store, Node[Enriched, int])
assert_type(merge, Node[list[Enriched], Enriched])


# Pages are fetched by functions of a cursor.


def fetch_page(ctx: NodeContext, cursor: str | None, given: FetchInput) -> Page[Enriched]:
    return Page(items=[Enriched(source=cursor or "")] * (ctx.page_size or given.count), next_cursor="2", has_more=True)


async def fetch_page_later(cursor: str | None) -> Page[int]:
    return Page(items=[1], next_cursor=cursor)


all_issues = paginate("all-issues", fetch_page, max_pages=5, page_size=100, cursor_source="jira").as_("issues")
all_numbers = paginate("all-numbers", fetch_page_later).with_rate_limit(50, per=timedelta(minutes=1))
assert_type(all_issues, Node[Any, Pages[Enriched]])
assert_type(all_numbers, Node[Any, Pages[int]])


# A flow has the type of its result, and so has a node that starts it.

fetching = FlowBuilder("fetching").takes(FetchInput).triggered_by(manual("flows")).then(later).build()
fetch_child = Node("fetch-child", fetching).with_inputs(count=run_input["count"]).with_timeout(timedelta(hours=1))
remote = Node("enrich", RemoteFlow("enriching", takes=FetchOutput, returns=Enriched))
unknown = Node("unknown", RemoteFlow("unknown"))
assert_type(fetching, Flow[FetchOutput])
assert_type(fetch_child, Node[Any, FetchOutput])
assert_type(remote, Node[FetchOutput, Enriched])
nested = FlowBuilder("nested").triggered_by(manual("api")).then_parallel("both", fetch_child, remote)
assert_type(nested.then(remote.with_name("again")).then_parallel("more", unknown).build(), Flow[Enriched])
assert_type(nested.when(lambda _: True).then(fetch_child).end_when().build(), Flow[Any])
assert_type(nested.then(fetch_child).returns(remote).then(fetch_child).build(), Flow[Enriched])


def read_children(state: FlowState) -> None:
    assert_type(state.get(fetch_child), FetchOutput)
    assert_type(state.get(remote), Enriched)
    assert_type(state.get(unknown), Any)


def keep_flow(flow: Flow, builder: FlowBuilder) -> Flow:
    return builder.then(Node("flow", flow)).build()


# Inputs wired by name leave the types of the node as they are.

wired = Node("wired", enrich).with_inputs(issues=fetch, source=const("jira"))
assert_type(wired, Node[list[str], Enriched])
assert_type(fetch.with_inputs(given=run_input["fetch"][0]), Node[FetchInput, FetchOutput])
assert_type(in_context.with_inputs(count="count").as_("counted"), Node[FetchInput, FetchOutput])
assert_type(all_issues.with_inputs(given=map_item), Node[Any, Pages[Enriched]])
assert_type(wired.with_inputs(issues=["1"], source="issues").with_inputs(), Node[list[str], Enriched])


# The state knows what a node returns, and validates what a key is read as.


def read_state(state: FlowState) -> FetchInput:
    assert_type(state.get(fetch), FetchOutput)
    assert_type(state.get(later), FetchOutput)
    assert_type(state.get(all_issues).items, list[Enriched])
    assert_type(state.get(all_numbers), Pages[int])
    assert_type(state.get("issues", FetchOutput), FetchOutput)
    assert_type(state.get("count", int), int)
    assert_type(state.get("anything"), Any)
    assert_type(state.get_or("issues", FetchOutput, None), FetchOutput | None)
    assert_type(state.get_or("count", int, 0), int)
    assert_type(state.has("issues") or state.has(fetch), bool)
    assert_type(state.keys(), frozenset[str])
    assert_type(state.input(FetchInput), FetchInput)
    assert_type(state.input(), Any)
    assert_type(state.failure("fetch-issues"), NodeFailure | None)
    assert_type(state.failure(fetch), NodeFailure | None)
    assert_type(state.run_id + state.flow_name, str)
    return state.input(FetchInput)


def ids(output: FetchOutput) -> list[str]:
    return output.issues


def is_rush(state: FlowState) -> bool:
    return state.get(fetch).issues != []


def classify(error: Exception) -> str:
    return "retryable" if isinstance(error, ConnectionError) else "terminal"


# A flow as a sentence, with every option.

api_limiter = SharedRateLimiter("external-api", 5, per=timedelta(seconds=1))
enrich_jira = (
    Node("enrich-jira", enrich)
    .with_input_func(lambda state: {"issues": ids(state.get("issues", FetchOutput))})
    .with_timeout(timedelta(minutes=2))
    .with_retry(RetryPolicy(initial_interval=timedelta(seconds=2), backoff_coefficient=3, non_retryable=(ValueError,)))
    .with_rate_limit(50, per=timedelta(minutes=1), burst=1)
    .with_shared_rate_limit(api_limiter)
    .with_shared_rate_limit(
        SharedRateLimiter("tenants", 5, per=timedelta(seconds=1), key=lambda given: given["tenant"])
    )
    .with_queue("jira")
    .with_error_classifier(classify)
    .as_("jira-data")
)
enrich_slack = Node(
    "enrich-slack",
    enrich,
    {"issues": ["1"]},
    output_key="slack-data",
    timeout=timedelta(minutes=1),
    rate_limit=RateLimit(5, timedelta(seconds=1)),
    shared_rate_limit=api_limiter,
    concurrency=SharedConcurrency("warehouse", 4),
    on_error=Node("undo-slack", ping),
)
flow = (
    FlowBuilder("enrich-issues")
    .takes(FetchInput)
    .returns("stored")
    .on_queue("enrichment-queue")
    .with_timeout(timedelta(hours=1))
    .with_max_runs(2, key="count", when_full="skip")
    .triggered_by(manual("api"), schedule("0 */4 * * *", timezone="Europe/Berlin", overlap="allow", priority=3))
    .triggered_by(schedule("@daily", catch_up=timedelta(hours=1), input=FetchInput(count=1)))
    .then(fetch.with_input_func(read_state).on_error(Node("undo-fetch", undo_fetch), when="started"))
    .then_parallel("enrich-sources", enrich_jira, enrich_slack, on_failure="continue", require=1)
    .when(is_rush)
    .then(merge.with_input([]))
    .when(lambda state: state.has(enrich_jira), name="inner")
    .then(Node("ping", ping))
    .otherwise_parallel("pings", Node("ping-1", ping), Node("ping-2", ping), on_failure="continue", require=1)
    .else_when(lambda state: state.input(FetchInput).count > 1)
    .then(merge.with_name("merge-again"))
    .else_()
    .then(Node("ping-3", ping))
    .end_when()
    .when(is_rush)
    .then(Node("ping-4", ping))
    .otherwise(Node("ping-5", ping))
    .then(store.with_input_func(lambda state: Enriched(source=state.run_id)).as_("stored"))
    .build()
)
assert_type(flow, Flow[int])
schedule("@hourly", overlap="queue")
assert_type(flow.name, str)
nodes = [each.name for each in flow.nodes()]


def make(source: str) -> Node[FetchInput, Enriched]:
    def enrich_one(given: FetchInput) -> Enriched:
        return Enriched(source=source * given.count)

    return Node(f"enrich-{source}", enrich_one)


members = [make(source).with_shared_rate_limit(api_limiter) for source in ("jira", "slack")]
wide: Callable[[], Flow] = FlowBuilder("wide").triggered_by(manual("api")).then_parallel("all", *members).build


# Starting and following runs.

orchestrator = Orchestrator(Celery("shop"))


def follow() -> Enriched | None:
    orchestrator.register(flow)
    run = orchestrator.start("enrich-issues", FetchInput(count=5), idempotency_key="order-42", tags={"tenant": "a"})
    assert_type(run, FlowRun)
    assert_type(run.wait(timeout=60), RunStatus)
    assert_type(run.status is RunStatus.SUCCEEDED, bool)
    assert_type(run.error, NodeFailure | None)
    run.cancel("no longer needed")
    run.resume()
    assert_type(run.fork(at=fetch, input=FetchInput(count=1), outputs={fetch: None, "merged": 1}), FlowRun)
    assert_type(run.fork("fetch").forked_from, FlowRun | None)
    try:
        return run.result(Enriched, timeout=60)
    except RunFailed as failed:
        assert_type(failed.error, NodeFailure)
    except (NodeTimeout, InvalidInput, HiddenDependencyError) as error:
        assert_type(error.node_name, str | None)
    except RunError as error:
        assert_type(error.run_id, str | None)
    except (StoreError, OrchestratorError):
        raise
    return None


async def follow_in_asyncio() -> RunStatus:
    run = await orchestrator.start_async(flow, FetchInput(count=5))
    return await run.wait_async()


def explain(error: FlowDefinitionError) -> list[str]:
    return [f"{problem.code} {problem.where} {problem.message}" for problem in error.problems]
