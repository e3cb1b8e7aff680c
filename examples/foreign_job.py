"""Example `python -m examples.foreign_job`: wait for days for a job that somebody else's system does.

A look every six hours; between two of them the run is one row in Redis, and no worker knows of it. So that nobody has
to wait, `let_hours_pass` moves that row to now, as if six hours had passed.
"""

from __future__ import annotations

import json
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from pydantic import BaseModel

from orchestrator import FlowBuilder, Node, NodeContext, manual, run_input

if TYPE_CHECKING:
    from redis import Redis

    from orchestrator import FlowRun, Orchestrator

EVERY = timedelta(hours=6)
LOOKS = 6


class Job(BaseModel):
    """The job, as its system tells of it."""

    name: str
    looks: int = 0
    is_done: bool = False


def look(ctx: NodeContext, job: Job) -> Job:
    """Ask the other system; here it is done at the sixth look."""
    return Job(name=job.name, looks=ctx.iteration + 1, is_done=ctx.iteration + 1 == LOOKS)


def is_done(job: Job) -> bool:
    """Whether there is nothing to wait for any more."""
    return job.is_done


watched = Node("look", look).with_inputs(name=run_input).with_repeat(until=is_done, every=EVERY)
flow = FlowBuilder("foreign-job").takes(str).triggered_by(manual("cli")).then(watched).build()


def rows_of(redis: Redis, run: FlowRun) -> list[str]:
    """Return all that is there of a run besides its record: its rows among the timers, but for one that was moved."""
    rows = [row.decode() for row in redis.zrangebyscore("orchestrator:timers", "(1", "+inf") if isinstance(row, bytes)]
    return [row for row in rows if row.startswith(run.id)]


def let_hours_pass(redis: Redis, run: FlowRun) -> None:
    """Wait for the row of the next look, and move it to now."""
    while not (rows := rows_of(redis, run)):
        time.sleep(0.02)
    node = rows[0].partition("|")[2]
    record = json.loads(redis.hget(f"orchestrator:run:{run.id}:nodes", node) or "{}")
    redis.hset(f"orchestrator:run:{run.id}:nodes", node, json.dumps(record | {"due": 1}))
    redis.zadd("orchestrator:timers", {rows[0]: 1})
    redis.rpush("orchestrator:timers:wake", 1)  # the one that waits for the first row looks again


def play(orchestrator: Orchestrator, redis: Redis) -> None:
    """Wait for a job for a day and a half."""
    run = orchestrator.start(flow, "export of the year")
    while not rows_of(redis, run):
        time.sleep(0.02)
    (waiting,) = run.explain()
    print(f"{len(rows_of(redis, run))} row in Redis: {waiting.node} {waiting.reason.partition(' until')[0]}")
    for _ in range(LOOKS - 1):
        let_hours_pass(redis, run)
    print(run.result(Job, timeout=60))


if __name__ == "__main__":
    import redis

    from examples.worker import running_worker

    with running_worker() as client:
        play(client, redis.Redis.from_url(str(client.app.conf.broker_url)))
