"""Stock Flower shows every node as a task of its own, and every run as the parent of its nodes' tasks."""

from __future__ import annotations

import json
import socket
import threading
import urllib.request
from collections import Counter
from typing import Any

import pytest

from orchestrator.server import EmbeddedServer
from tests.harness import environment_for, load_program, wait_until, workers
from tests.processes import Running, free_port, running

MODULE = "tests.programs.watched"
ENDED = {"SUCCESS", "FAILURE"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of its own: these workers must not take the messages of other programs."""
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as own:
        yield own


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("flower")


@pytest.fixture(scope="module")
def program(server):
    return load_program("watched", server.url)


@pytest.fixture(scope="module")
def pair(server, program, folder):
    """Two workers; either may lead."""
    with workers(MODULE, server.url, folder, count=2, options=["-c", "1"]) as started:
        yield started


class Flower:
    """What the pages of a Flower process say."""

    def __init__(self, port: int, process: Running) -> None:
        self.port = port
        self.process = process

    def page(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def is_up(self) -> bool:
        assert self.process.process.poll() is None, self.process.text
        try:
            return self.page("/healthcheck") == "OK"
        except OSError:
            return False

    def tasks(self) -> dict[str, Any]:
        tasks: dict[str, Any] = json.loads(self.page("/api/tasks"))
        return tasks

    def info(self, task: str) -> dict[str, Any]:
        info: dict[str, Any] = json.loads(self.page(f"/api/task/info/{task}"))
        return info

    def of_run(self, run_id: str) -> list[dict[str, Any]]:
        """Tasks that say that they belong to a run, the run itself not among them."""
        return [task for task in self.tasks().values() if task["root_id"] == run_id != task["uuid"]]

    def sender(self) -> dict[str, Any]:
        """What the page of workers says of who sends the events of runs."""
        rows = json.loads(self.page("/workers?json=1"))["data"]
        return next((row for row in rows if row["hostname"] == "flows@orchestrator"), {})

    def wait_for(self, run_id: str, state: str) -> dict[str, Any]:
        """Wait until a run has a state; returns its row."""
        return wait_until(
            lambda: next((row for row in self.tasks().values() if (row["uuid"], row["state"]) == (run_id, state)), {}),
            f"run {run_id} is {state} in Flower",
        )


@pytest.fixture(scope="module")
def early(program, pair):
    """A run that has begun before Flower came and runs when it is there."""
    program.LEDGER.clear()
    run = program.orchestrator.start("slow")
    program.LEDGER.wait_for("start", "waits")
    return run


@pytest.fixture(scope="module")
def flower(server, pair, folder, early):
    """Flower as it is, started like any Celery command; nobody said `-E` to the workers."""
    port = free_port()
    options = ["-m", "celery", "-A", MODULE, "flower", f"--port={port}", "--address=127.0.0.1"]
    environment = environment_for(server.url) | {"FLOWER_UNAUTHENTICATED_API": "true"}
    with running(options, folder=folder / "cwd", log=folder / "flower.log", environment=environment) as process:
        shown = Flower(port, process)
        wait_until(shown.is_up, "Flower is up", timeout=60)
        shown.wait_for(early.id, "STARTED")  # events are on
        yield shown


def test_nothing_is_sent_while_nobody_watches(program, pair):
    seen: list[str] = []
    keys, client = program.orchestrator._engine.store.keys, program.orchestrator._engine.store.client
    with program.app.connection_for_read() as connection:
        receiver = program.app.events.Receiver(connection, handlers={"*": lambda event: seen.append(event["type"])})
        is_over = threading.Event()

        def listen() -> None:
            while not is_over.is_set():
                try:
                    receiver.capture(limit=None, timeout=0.2, wakeup=False)
                except TimeoutError:
                    continue

        listener = threading.Thread(target=listen)
        listener.start()
        try:
            wait_until(lambda: "worker-heartbeat" in seen, "events arrive")
            assert program.orchestrator.start("tour").wait(timeout=30) == "succeeded"
            newest = client.xrevrange(keys.events, count=1)[0][0]
            wait_until(lambda: client.hget(keys.sweep, "events") == newest, "the events of the run are passed over")
            beats = len(seen)
            wait_until(lambda: len(seen) > beats, "another heartbeat")
        finally:
            is_over.set()
            listener.join()
    assert {event.split("-")[0] for event in seen} == {"worker"}


def test_a_run_from_before_flower_came_is_shown_and_linked(program, flower, early):
    assert flower.info(early.id)["started"] == pytest.approx(early.created_at.timestamp(), abs=0.01)
    program.LEDGER.client.set("go", 1)
    assert early.wait(timeout=30) == "succeeded"
    row = flower.wait_for(early.id, "SUCCESS")
    assert row["name"] == "flow:slow"
    (node,) = wait_until(lambda: flower.of_run(early.id), "its node")
    assert (node["name"], node["parent_id"], node["uuid"]) == ("slow.waits", early.id, row["children"][0])


def test_a_run_is_the_parent_of_every_attempt_of_every_node(program, flower):
    run = program.orchestrator.start("tour")
    assert run.wait(timeout=30) == "succeeded"
    row = flower.wait_for(run.id, "SUCCESS")
    assert (row["name"], row["worker"], row["parent_id"]) == ("flow:tour", "flows@orchestrator", None)
    assert row["runtime"] == pytest.approx((run.finished_at - run.created_at).total_seconds(), abs=0.01)

    # In chains, in chords and after them, sent again after a failed attempt: always the run's own.
    once = ["first", "in-chain", "left", "right", "chord-body", "beside", "last"]
    expected = Counter({(f"tour.{name}", "SUCCESS"): 1 for name in once})
    for name in ("again-in-chain", "again-in-chord"):
        expected |= Counter({(f"tour.{name}", "RETRY"): 1, (f"tour.{name}", "SUCCESS"): 1})

    def shown() -> list[dict[str, Any]]:
        found = [task for task in flower.of_run(run.id) if task["name"].startswith("tour.")]
        return found if all(task["state"] in {*ENDED, "RETRY"} for task in found) else []

    nodes = wait_until(shown, "its nodes")
    assert Counter((node["name"], node["state"]) for node in nodes) == expected
    assert {(node["parent_id"], node["root_id"]) for node in nodes} == {(run.id, run.id)}
    assert {node["exception"] for node in nodes if node["state"] == "RETRY"} == {"ConnectionError('stumbled')"}

    page = flower.page(f"/task/{run.id}")
    for node in nodes:
        assert f'href="/task/{node["uuid"]}"' in page
        assert f'href="/task/{run.id}"' in flower.page(f"/task/{node['uuid']}")
    assert set(flower.info(run.id)["children"]) == {node["uuid"] for node in nodes}


def test_a_failed_node_shows_what_it_raised_and_its_run_shows_why_it_failed(program, flower):
    run = program.orchestrator.start("sale")
    assert run.wait(timeout=30) == "failed"
    row = flower.wait_for(run.id, "FAILURE")
    assert row["name"] == "flow:sale"
    assert "node ship failed in attempt 2" in row["exception"]
    assert "OutOfStock: no shoes <left>" in row["exception"]
    assert "in sells_nothing" in row["traceback"]

    nodes = {task["name"]: task for task in flower.of_run(run.id) if task["state"] in ENDED}
    failed = nodes["sale.ship"]
    assert (failed["state"], failed["exception"]) == ("FAILURE", "OutOfStock('no shoes <left>')")
    assert "in sells_nothing" in failed["traceback"]
    assert 'raise OutOfStock("no shoes <left>")' in failed["traceback"]
    assert "no shoes &lt;left&gt;" in flower.page(f"/task/{failed['uuid']}")

    undone = [nodes[f"sale.undo-{name}"] for name in ("charge", "reserve")]
    assert [task["state"] for task in undone] == ["SUCCESS", "SUCCESS"]
    assert {(task["parent_id"], task["root_id"]) for task in undone} == {(run.id, run.id)}
    page = flower.page(f"/task/{run.id}")
    assert all(f'href="/task/{task["uuid"]}"' in page for task in (failed, *undone))


def test_what_waits_is_shown_as_received_and_a_child_below_its_parent(program, flower):
    run = program.orchestrator.start("asked")

    def shown(name: str, state: str) -> dict[str, Any]:
        rows = [row for row in flower.tasks().values() if (row["name"], row["state"]) == (name, state)]
        return next((row for row in rows if row["root_id"] == run.id), {})

    row = wait_until(lambda: shown("asked.ok", "RECEIVED"), "the approval waits")
    assert (row["parent_id"], row["kwargs"]) == (run.id, "{'waits_for': 'approval'}")
    run.approve("ok", by="ann")
    again = wait_until(lambda: shown("asked.again", "RECEIVED"), "the last approval waits")
    assert shown("asked.ok", "SUCCESS")["uuid"] == row["uuid"] in flower.info(run.id)["children"]
    assert shown("asked.nap", "SUCCESS")
    child = wait_until(lambda: shown("flow:parcel", "SUCCESS"), "the child has ended")
    assert (child["parent_id"], child["root_id"]) == (run.id, run.id)
    assert shown("asked.ship", "SUCCESS")
    run.reject("again", by="bob", reason="no <more>")
    failed = wait_until(lambda: shown("asked.again", "FAILURE"), "the rejection is shown")
    assert failed["uuid"] == again["uuid"]
    assert "Rejected: bob rejected it: no <more>" in failed["exception"]


def test_a_resumed_run_is_shown_as_running_again(program, flower):
    program.LEDGER.clear()
    run = program.orchestrator.start("mendable")
    assert run.wait(timeout=30) == "failed"
    assert "not mended" in flower.wait_for(run.id, "FAILURE")["exception"]
    program.LEDGER.client.set("mended", 1)
    run.resume()
    assert flower.wait_for(run.id, "STARTED")["exception"] is None
    program.LEDGER.client.set("go", 1)
    assert run.wait(timeout=30) == "succeeded"
    flower.wait_for(run.id, "SUCCESS")


def test_every_event_of_a_run_is_sent_once_whichever_worker_leads(program, flower, pair):
    kinds = ("task-received", "task-started", "task-succeeded", "task-failed")
    before = Counter({kind: flower.sender()[kind] for kind in kinds})

    def run_both() -> None:
        runs = [program.orchestrator.start(name) for name in ("tour", "sale")]
        assert [run.wait(timeout=30) for run in runs] == ["succeeded", "failed"]
        flower.wait_for(runs[0].id, "SUCCESS")
        flower.wait_for(runs[1].id, "FAILURE")

    run_both()
    next(worker for worker in pair if worker.pid == flower.sender()["pid"]).stop()
    run_both()
    sent = Counter({kind: flower.sender()[kind] for kind in kinds}) - before
    assert sent == {"task-received": 4, "task-started": 4, "task-succeeded": 2, "task-failed": 2}
    assert flower.sender()["status"] is True  # online
    alive = next(worker for worker in pair if worker.process.poll() is None)
    for page in ("/workers", "/tasks", "/broker", f"/worker/{alive.name}@{socket.gethostname()}"):
        assert "Traceback" not in flower.page(page)
    assert "Traceback" not in flower.process.text
