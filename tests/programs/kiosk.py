"""An app that had tasks, queues and settings of its own before a flow came: a kiosk."""

from __future__ import annotations

import os
import warnings
from datetime import timedelta

from celery import Celery, Task, group
from celery.exceptions import Ignore, Reject

from orchestrator import FlowBuilder, FlowDefinitionWarning, Node, NodeContext, Orchestrator, RetryPolicy, manual
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
LEDGER = Ledger(URL)


class Config:
    """What the kiosk's celeryconfig says; read when somebody asks for it."""

    broker_url = URL
    result_backend = URL
    broker_connection_retry_on_startup = True
    task_default_queue = "kiosk"
    task_routes = {"kiosk.slow.*": {"queue": "kiosk-slow"}}  # noqa: RUF012 - as people write it
    task_annotations = {"kiosk.limited": {"rate_limit": "100/s"}}  # noqa: RUF012 - as above
    task_track_started = True
    result_extended = True
    result_expires = 3600
    worker_prefetch_multiplier = 3
    task_acks_late = False
    task_send_sent_event = True
    timezone = "Europe/Vienna"


app = Celery("kiosk")
app.config_from_object(Config)


@app.task(name="kiosk.add")
def add(left: int, right: int) -> int:
    """A task with a result."""
    return left + right


@app.task(name="kiosk.where", bind=True)
def where(self: Task) -> dict[str, object]:
    """Say how it came here."""
    request = self.request
    return {
        "queue": request.delivery_info["routing_key"],
        "parent": request.parent_id,
        "root": request.root_id,
        "acks_late": self.acks_late,
        "ignore_result": self.ignore_result,
    }


@app.task(name="kiosk.slow.where", bind=True)
def slow_where(self: Task) -> str:
    """Say which queue its route led it to."""
    return str(self.request.delivery_info["routing_key"])


@app.task(name="kiosk.limited", rate_limit="100/s")
def limited(number: int) -> int:
    """A task with Celery's own limit."""
    return number


@app.task(name="kiosk.patient", bind=True, max_retries=3, default_retry_delay=0)
def patient(self: Task, until: int) -> int:
    """A task that tries again in Celery's own way."""
    if self.request.retries < until:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@app.task(name="kiosk.auto", bind=True, autoretry_for=(ConnectionError,), max_retries=2, retry_backoff=False,
          default_retry_delay=0)  # fmt: skip
def auto(self: Task, until: int) -> int:
    """A task that Celery tries again by itself."""
    if self.request.retries < until:
        raise ConnectionError(f"no {self.request.retries}")
    return int(self.request.retries)


@app.task(name="kiosk.note-failure")
def note_failure(request: object, error: Exception, _traceback: object) -> None:
    """A user's own error callback."""
    LEDGER.note("errback", repr(error))


@app.task(name="kiosk.charge", bind=True, max_retries=None)
def charge(self: Task, amount: int) -> int:
    """A task that retries with the error it met; as a node each retry is a failed attempt."""
    calls = LEDGER.count("charge")
    if calls < 3:
        try:
            raise TimeoutError(f"bank is slow {calls}")  # noqa: TRY301 - it stands for the bank's
        except TimeoutError as error:
            raise self.retry(exc=error, countdown=3600) from error
    return amount


@app.task(name="kiosk.refuse", bind=True)
def refuse(self: Task) -> None:
    """A task that retries for ever."""
    error = PermissionError("card is blocked")
    raise self.retry(exc=error)


@app.task(name="kiosk.again", bind=True)
def again(self: Task) -> None:
    """A task that retries without a word."""
    raise self.retry()


@app.task(name="kiosk.reject")
def reject() -> None:
    """A task that sends its message back, which a node's message must not be."""
    raise Reject("not me", requeue=True)


@app.task(name="kiosk.ignore")
def ignore() -> None:
    """A task that leaves no result."""
    raise Ignore


@app.task(name="kiosk.slow.autoretried", autoretry_for=(ConnectionError,), retry_backoff=60, rate_limit="1/h")
def autoretried(name: str) -> str:
    """Celery's own policies, none of which holds for a node."""
    if LEDGER.count(name) < 2:
        raise ConnectionError("once")
    return name


# --- and then the flows came -----------------------------------------------------------------------------------------
before = dict(app.conf)
orchestrator = Orchestrator(app)
AT_ONCE = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=3, jitter=False)


def ask_others(ctx: NodeContext) -> str:
    """A node that calls the app's tasks as code in a worker does."""
    LEDGER.client.set("asked", where.delay().id)
    group(add.s(1, 2), add.s(3, 4)).apply_async()
    return ctx.run_id


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test"))


with warnings.catch_warnings(category=FlowDefinitionWarning, action="ignore"):  # their own policies do not apply
    checkout = (
        flow("checkout")
        .then(Node("charge", charge, 5).with_retry(AT_ONCE))
        .then(Node("autoretried", autoretried, "autoretried").with_retry(AT_ONCE))
        .then(Node("ask-others", ask_others))
        .build()
    )
    refused = flow("refused").then(Node("refuse", refuse).with_retry(AT_ONCE)).build()
    silent = flow("silent").then(Node("silent", again).with_retry(AT_ONCE)).build()
rejected = flow("rejected").then(Node("rejected", reject).with_retry(AT_ONCE)).build()
ignored = flow("ignored").then(Node("ignored", ignore).with_retry(AT_ONCE)).build()

for each in (checkout, refused, silent, rejected, ignored):
    orchestrator.register(each)
