"""Flow `sync-issues`: new issues of an API go to SQLite, page by page, each issue once.

`celery -A examples.issue_flow worker` runs it. The variables `ORCHESTRATOR_REDIS_URL`, `ISSUES_API` and `ISSUES_DB` say
where Redis, the API and the database are.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from datetime import timedelta
from urllib.error import HTTPError
from urllib.request import urlopen

from celery import Celery
from pydantic import BaseModel

from orchestrator import (
    FlowBuilder,
    Node,
    NodeContext,
    Orchestrator,
    Page,
    RetryLater,
    RetryPolicy,
    manual,
    paginate,
)

REDIS = os.environ.get("ORCHESTRATOR_REDIS_URL", "redis://127.0.0.1:6379/0")
API = os.environ.get("ISSUES_API", "http://127.0.0.1:8000")
DATABASE = os.environ.get("ISSUES_DB", "issues.sqlite")
TOO_MANY_REQUESTS = 429

app = Celery("issues", broker=REDIS, backend=REDIS)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)


class Issue(BaseModel):
    """One issue."""

    number: int
    title: str


def fetch_page(ctx: NodeContext, cursor: str | None) -> Page[Issue]:
    """Fetch the issues after a cursor; an exhausted quota freezes the node's limit for every worker."""
    try:
        with urlopen(f"{API}/issues?after={cursor or 0}&size={ctx.page_size}", timeout=10) as response:  # noqa: S310
            found = json.load(response)
    except HTTPError as error:
        if error.code == TOO_MANY_REQUESTS:
            wait = timedelta(seconds=float(error.headers["Retry-After"]))
            raise RetryLater("the quota is used up", after=wait, freeze=True) from error
        raise
    return Page(items=found["issues"], next_cursor=found["cursor"], has_more=found["more"])


def store(ctx: NodeContext, issues: list[Issue]) -> int:
    """Write issues and the key of this node in one transaction: an attempt that finds the key has nothing to do."""
    with closing(sqlite3.connect(DATABASE)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS issues (number INTEGER, title TEXT)")
        database.execute("CREATE TABLE IF NOT EXISTS done (key TEXT PRIMARY KEY)")
        if database.execute("INSERT OR IGNORE INTO done VALUES (?)", [ctx.idempotency_key]).rowcount:
            rows = [(issue.number, issue.title) for issue in issues]
            database.executemany("INSERT INTO issues VALUES (?, ?)", rows)
    return len(issues)


fetch = (
    paginate("fetch-issues", fetch_page, page_size=50, cursor_source="issues")
    .with_rate_limit(20, per=timedelta(seconds=1), burst=1)
    .with_retry(RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_attempts=5))
    .with_timeout(timedelta(seconds=15))
)
flow = (
    FlowBuilder("sync-issues")
    .triggered_by(manual("api"))
    .then(fetch)
    .then(Node("store-issues", store).with_input_func(lambda state: state.get(fetch).items))
    .build()
)
orchestrator.register(flow)
