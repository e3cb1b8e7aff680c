"""The seed's way to run workers: a program of its own that builds them."""

from __future__ import annotations

import os
import sys

from celery import Celery, current_task

from orchestrator import FlowBuilder, Node, Worker, WorkerConfig, manual


def queue_of_this() -> str:
    """The queue that this message came from."""
    return str(current_task.request.delivery_info["routing_key"])


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test")).takes(int)


plain = (
    flow("plain")
    .then(Node("double", lambda given: given * 2).with_input_func(lambda state: state.input(int)))
    .then(Node("where", queue_of_this))
    .build()
)
second = flow("second").then_parallel("both", Node("left", queue_of_this), Node("right", queue_of_this)).build()
elsewhere = flow("elsewhere").on_queue("elsewhere-queue").then(Node("where", queue_of_this)).build()

if __name__ == "__main__":
    if sys.argv[1] == "named":
        # An app of the user's own, and a queue for all flows that name none.
        url = os.environ["ORCHESTRATOR_REDIS_URL"]
        app = Celery("named", broker=url, backend=url)
        app.conf.broker_connection_retry_on_startup = True
        worker = Worker(app).with_config(WorkerConfig(task_queue="named-queue", concurrency=1))
        worker.with_flow(plain).with_flow(second).with_flow(elsewhere).run()
    else:
        # Nothing but a flow: where Redis is, the environment says, and the queue is the flow's own.
        Worker().with_config(WorkerConfig(concurrency=1, beat=True)).with_flow(elsewhere).run()
    sys.stdout.write(f"ended with {sys.argv[1]}\n")
