"""A user's module with flows that a clock starts, and an entry of the user's own for beat."""

from __future__ import annotations

import os
import signal
from datetime import timedelta

from celery import Celery
from celery.signals import before_task_publish
from pydantic import BaseModel

from orchestrator import FlowBuilder, Node, NodeContext, Orchestrator, schedule
from orchestrator.schedules import TICK
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
app = Celery("scheduled", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
app.conf.beat_scheduler = "celery.beat:Scheduler"
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)


class Region(BaseModel):
    """What a report is about."""

    name: str


@app.task(name="scheduled.own")
def own() -> None:
    """A task that beat sent before there was any flow."""
    LEDGER.note("own", "own")


def report(ctx: NodeContext, region: Region) -> str:
    """Write down which instant this is about."""
    assert ctx.scheduled_for is not None
    LEDGER.note("report", f"{region.name} {ctx.scheduled_for.isoformat()} {ctx.run_id}")
    return region.name


reports = (
    FlowBuilder("reports")
    .takes(Region)
    .triggered_by(
        # The test says when: a minute or two before it starts a beat, and then not for a year.
        schedule(os.environ["TEST_CRON"], catch_up=timedelta(minutes=10), input=Region(name="north")),
        schedule(os.environ["TEST_CRON"], catch_up=timedelta(minutes=10), input={"name": "south"}),
    )
    .then(Node("report", report).with_input_func(lambda state: state.input(Region)))
    .build()
)
orchestrator.register(reports)


def die(**_: object) -> None:
    """End this process as a host that goes away does."""
    os.kill(os.getpid(), signal.SIGKILL)


if "TEST_BEAT_DIES" in os.environ:  # between the instant at which a tick is due and its message
    before_task_publish.connect(die, sender=TICK)
app.conf.beat_schedule = {"own": {"task": "scheduled.own", "schedule": timedelta(seconds=1)}}
