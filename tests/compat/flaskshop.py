"""A Flask project: tasks have the app's context from their base class, which has hooks of its own, too."""

from __future__ import annotations

import asyncio
import os
import warnings
from datetime import timedelta
from typing import Any

from celery import Celery, Task, current_task, shared_task
from flask import Flask, current_app

from orchestrator import FlowBuilder, FlowDefinitionWarning, FlowState, Node, Orchestrator, RetryPolicy, manual
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
LEDGER = Ledger(URL)
ONCE = RetryPolicy(maximum_attempts=1)
SOON = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=2, jitter=False)


def make_celery(flask_app: Flask) -> Celery:
    """What Flask's documentation says, and hooks."""

    class FlaskTask(Task):
        def __call__(self, *args: object, **kwargs: object) -> object:
            with flask_app.app_context():
                return self.run(*args, **kwargs)

        def note(self, hook: str, task_id: str, outcome: object = "") -> None:
            where = [self.name, self.request.root_id, task_id == self.request.id, self.request.retries, outcome]
            LEDGER.note(hook, "|".join(map(str, where)))

        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            self.note("before_start", task_id, kwargs)

        def on_success(self, retval: object, task_id: str, args: Any, kwargs: Any) -> None:
            self.note("on_success", task_id, retval)
            if self.name.startswith("line."):
                raise RuntimeError("a hook that is broken")

        def on_retry(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            self.note("on_retry", task_id, exc)

        def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            self.note("on_failure", task_id, exc)

        def after_return(self, status: str, retval: object, task_id: str, *about: Any) -> None:
            self.note("after_return", task_id, status)

    celery_app = Celery(flask_app.name, task_cls=FlaskTask)
    celery_app.config_from_object(flask_app.config["CELERY"])
    flask_app.extensions["celery"] = celery_app
    return celery_app


flask_app = Flask("flaskshop")
CELERY = {"broker_url": URL, "result_backend": URL, "task_default_queue": "flaskshop", "result_extended": True}
flask_app.config.update(SHOP="corner", CELERY=CELERY | {"broker_connection_retry_on_startup": True})
app = make_celery(flask_app)
orchestrator = Orchestrator(app)


def shop() -> str:
    return str(current_app.config["SHOP"])


def named(_state: FlowState) -> str:
    return str(current_app.config["SHOP"])


def is_corner(_state: FlowState) -> bool:
    return bool(current_app.config["SHOP"] == "corner")


def fails(attempts: int) -> str:
    if current_task.request.retries < attempts - 1:
        raise ConnectionError("not yet")
    return shop()


def refuses() -> None:
    raise ValueError(shop())


@app.task(bind=True)
def whoami(self: Task) -> dict[str, Any]:
    request = self.request
    return {
        "id": request.id,
        "current": current_task.request.id,
        "by name": whoami.request.id,
        "root": request.root_id,
        "queue": (request.delivery_info or {}).get("routing_key"),
        "retries": request.retries,
        "direct": request.called_directly,
        "canvas": bool(request.chain or request.chord or request.callbacks),
        "shop": shop(),
    }


@app.task(bind=True)
def progress(self: Task, n: int) -> str:
    for done in range(n):
        self.update_state(state="PROGRESS", meta={"done": done})
    return str(self.request.id)


@app.task(bind=True, max_retries=5)
def retries(self: Task, caller: str) -> int:
    """Ask for a retry in an hour, of itself or by the name of the module."""
    if self.request.retries == 0:
        error = ConnectionError("again")
        raise {"self": self, "name": retries}[caller].retry(exc=error, countdown=3600)
    return int(self.request.retries)


@app.task(autoretry_for=(ConnectionError,), default_retry_delay=3600)
def autoretries() -> int:
    if current_task.request.retries == 0:
        raise ConnectionError("again")
    return int(current_task.request.retries)


@shared_task(name="flaskshop.plus")
def plus(left: int, right: int) -> int:
    return left + right


@app.task(bind=True)
def replaces(self: Task, n: int) -> int:
    if n:
        raise self.replace(plus.s(n, 1))
    return 0


@app.task(bind=True)
async def waits(self: Task, n: int) -> list[Any]:
    before = self.request.id
    await asyncio.sleep(0.01)
    return [before == self.request.id == current_task.request.id, before, n]


class Skipping(Task):
    """A base class that calls no function."""

    def __call__(self, *args: object, **kwargs: object) -> str:
        return "skipped"


@app.task(base=Skipping)
def skipped() -> str:
    return "called"


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test"))


def once(name: str, fn: Any, *given: Any) -> Node[Any, Any]:
    return Node(name, fn, *given).with_retry(ONCE)


me = once("me", whoami)
warnings.simplefilter("ignore", FlowDefinitionWarning)  # of autoretry_for, which the node's policy takes the place of
for built in (
    flow("plain").then(once("a", shop)).build(),
    flow("line")
    .fused()
    .takes(str)
    .then(once("a", lambda name: f"{name} {shop()}").with_input_func(named))
    .when(is_corner)
    .then(once("b", shop))
    .end_when()
    .then_parallel("both", once("l", shop), once("r", shop), local=True)
    .then(Node("c", fails, 2).with_retry(SOON))
    .build(),
    flow("map").then_map("all", once("item", lambda _: shop()), over=lambda _: [named(_)] * 3, batch_size=3).build(),
    flow("broken").fused().then(once("a", shop).on_error(once("undo", shop))).then(once("b", refuses)).build(),
    flow("me").then(me).then(me.with_name("again")).build(),
    flow("me-fused")
    .fused()
    .then(me)
    .then_parallel("both", me.with_name("left"), me.with_name("right"), local=True)
    .then(me.with_name("again"))
    .build(),
    flow("tasks")
    .fused()
    .then(once("progress", progress, 2))
    .then(Node("by-self", retries, "self").with_retry(SOON))
    .then(Node("by-name", retries, "name").with_retry(SOON))
    .then(Node("auto", autoretries).with_retry(SOON))
    .then(once("replaced", replaces, 2))
    .then(once("waits", waits, 5))
    .then(once("skipped", skipped))
    .build(),
):
    orchestrator.register(built)
