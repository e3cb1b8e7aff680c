"""Bad input needs: a run that is held at work, what a test may not write, and a forger of messages."""

from __future__ import annotations

import base64
import json
import re
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.harness import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator import FlowRun
    from tests.harness import Ledger

QUEUE = "celery"
TEXT = 'a:b{c}*?[x]|\r\n\0 %s %(x)s ../../etc \u202e 😀 <script> __proto__ "; redis.call("FLUSHALL") --'
FORGED = "[2026-01-01 00:00:00,000: CRITICAL/MainProcess] everything is lost"
MOVING = re.compile(
    r"orchestrator:((sweep|stats)(:.*)?|leader|live|timers:wake|received|holders.*|workers.*)|unacked.*|_kombu.*"
)
"""Keys that workers write by themselves."""


@dataclass
class Held:
    """A run whose first node is at work until it is let go."""

    run: FlowRun
    gate: Path
    ledger: Ledger
    log: Path

    @property
    def plan(self):
        key = f"orchestrator:run:{self.run.id}"
        return self.run._engine.store.client.hget(key, "plan").decode()

    def let_go(self):
        self.gate.unlink()

    def assert_undisturbed(self):
        """The run ends as if nothing had happened, with one attempt of each node."""
        assert self.run.result(str, timeout=60) == "held"
        assert self.ledger.names("start").count(self.run.id) == 1
        assert [event.attempt for event in self.run.history() if event.event == "started"] == [1, 1]


def snapshot(client):
    """Every key with what it holds, but those that workers write by themselves."""
    keys = [key for key in client.scan_iter("*", count=1000) if not MOVING.fullmatch(key.decode())]
    return {key: client.dump(key) for key in keys}


@contextmanager
def nothing_written(client):
    """No key is made, changed or deleted in the block; what workers do of a node is not in `unacked`."""
    wait_until(lambda: not client.exists(QUEUE) and not client.exists("unacked"), "the worker is quiet")
    before = snapshot(client)
    yield
    wait_until(lambda: not client.exists(QUEUE) and not client.exists("unacked"), "every message is handled")
    after = snapshot(client)
    assert {key for key in before | after if before.get(key) != after.get(key)} == set()


@contextmanager
def nothing_written_but_errors(client):
    """As `nothing_written`; what Celery notes of a message that it cannot run goes away by itself."""
    with nothing_written(client):
        yield
        wait_until(lambda: not client.exists(QUEUE) and not client.exists("unacked"), "every message is handled")
        for key in client.scan_iter("celery-task-meta-*"):
            assert client.ttl(key) > 0
            client.delete(key)


def send(client, task, args, *, body=None, kind="application/json"):
    """Put a message into the queue as Celery would write it, whatever it says; returns its id."""
    task_id = str(uuid.uuid4())
    if body is None:
        body = json.dumps([args, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]).encode()
    message = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8" if kind == "application/json" else "binary",
        "content-type": kind,
        "headers": {
            "lang": "py",
            "task": task,
            "id": task_id,
            "root_id": task_id,
            "parent_id": None,
            "group": None,
            "origin": "forger",
            "retries": 0,
            "timelimit": [None, None],
            "expires": None,
            "eta": None,
            "ignore_result": True,
        },
        "properties": {
            "correlation_id": task_id,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }
    client.lpush(QUEUE, json.dumps(message))
    return task_id
