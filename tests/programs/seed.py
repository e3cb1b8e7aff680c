"""The seed's page with quick functions: its complete example, and the order whose shipment fails."""

from __future__ import annotations

import os
from datetime import timedelta

from celery import Celery
from pydantic import BaseModel

from orchestrator import FlowBuilder, FlowState, Node, Orchestrator, RetryPolicy, manual, schedule
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
app = Celery("seed", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
app.conf.result_expires = timedelta(hours=1)
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)


class Issue(BaseModel):
    """One issue."""

    id: str
    title: str


class Issues(BaseModel):
    """What is fetched."""

    issues: list[Issue]


class Enrichment(BaseModel):
    """What one source knows."""

    data: dict[str, str]


class Merged(BaseModel):
    """What all sources know."""

    enriched: list[dict[str, str]]


class MergeInput(BaseModel):
    """Everything that is merged."""

    issues: list[Issue]
    jira: dict[str, str]
    slack: dict[str, str]
    prs: dict[str, str]


def fetch_issues(count: int) -> Issues:
    """Fetch some issues."""
    return Issues(issues=[Issue(id=f"I-{n}", title=f"Issue {n}") for n in range(count)])


def enricher(source: str):
    """A function that asks one source."""

    def enrich(ids: list[str]) -> Enrichment:
        return Enrichment(data={key: f"{source}:{key}" for key in ids})

    return enrich


def ids(state: FlowState) -> list[str]:
    """The ids that every source is asked for."""
    return [issue.id for issue in state.get("issues", Issues).issues]


def merge(given: MergeInput) -> Merged:
    """Put together what belongs together."""
    found = {"jira": given.jira, "slack": given.slack, "prs": given.prs}
    return Merged(
        enriched=[{"id": each.id} | {name: data[each.id] for name, data in found.items()} for each in given.issues]
    )


def merge_input(state: FlowState) -> MergeInput:
    """Collect the outputs of the parallel step."""
    return MergeInput(
        issues=state.get("issues", Issues).issues,
        jira=state.get("jira-data", Enrichment).data,
        slack=state.get("slack-data", Enrichment).data,
        prs=state.get("pr-data", Enrichment).data,
    )


def source_node(source: str, key: str) -> Node[list[str], Enrichment]:
    """The node that asks one source."""
    return Node(f"enrich-{source}", enricher(source)).with_input_func(ids).as_(key)


enrich_issues = (
    FlowBuilder("enrich-issues")
    .triggered_by(schedule("0 */4 * * *"))
    .then(Node("fetch-issues", fetch_issues, 5).as_("issues"))
    .then_parallel(
        "enrich-sources",
        source_node("jira", "jira-data")
        .with_timeout(timedelta(minutes=2))
        .with_rate_limit(50, per=timedelta(seconds=5)),
        source_node("slack", "slack-data").with_timeout(timedelta(minutes=2)),
        source_node("prs", "pr-data").with_timeout(timedelta(minutes=3)).with_rate_limit(1000, per=timedelta(hours=1)),
    )
    .then(Node("merge-data", merge).with_input_func(merge_input))
    .then(
        Node("store-enriched", lambda given: len(given["enriched"])).with_input_func(
            lambda state: state.get("merge-data")
        )
    )
    .build()
)


class ShipmentRefused(Exception):
    """The carrier said no."""


def refuse() -> None:
    """Fail for good."""
    raise ShipmentRefused("no carrier")


def undo(name: str) -> Node[str, None]:
    """A compensation that leaves a trace."""

    def act(output: str) -> None:
        LEDGER.note("undo", output)

    return Node(name, act)


def create(what: str):
    """A function that creates something with an id of its own."""

    def act(run: str) -> str:
        return f"{what}:{run}"

    return act


fulfill_order = (
    FlowBuilder("fulfill-order")
    .triggered_by(manual("api"))
    .then(
        Node("accept-order", create("accepted"))
        .with_input_func(lambda state: state.run_id)
        .on_error(undo("reject-order"))
    )
    .then_parallel(
        "create-all",
        Node("create-order", create("order"))
        .with_input_func(lambda state: state.run_id)
        .on_error(undo("cancel-order")),
        Node("create-invoice", create("invoice"))
        .with_input_func(lambda state: state.run_id)
        .on_error(undo("void-invoice")),
        Node("create-shipment", refuse).with_retry(RetryPolicy(maximum_attempts=1)).on_error(undo("cancel-shipment")),
    )
    .then(Node("notify-customer", lambda: LEDGER.note("start", "notify-customer")))
    .build()
)

orchestrator.register(enrich_issues)
orchestrator.register(fulfill_order)
