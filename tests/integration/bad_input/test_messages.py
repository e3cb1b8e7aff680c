"""Messages that are forged or damaged: refused, nothing written, and workers that go on."""

from __future__ import annotations

import os
import pickle
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import wait_until
from tests.hostile_world import TEXT, nothing_written, nothing_written_but_errors, send

if TYPE_CHECKING:
    from collections.abc import Callable


def to(task, *messages: Any) -> list[tuple[str, Any]]:
    """Messages to one task, by their arguments."""
    return [(task, args) for args in messages]


EPOCHS: list[Any] = [-1, 0, 2, 10**30, 1.5, None, [1], {"a": 1}, TEXT]
POSITIONS: list[Any] = [-5, -1, 0, 1, 10**9, "saga", None, {}, TEXT]
FORGERIES: dict[str, Callable[[str, str], list[Any]]] = {
    "wrong types": lambda run, plan: to("holds.hold", [5, "x", None], [{}, [], {}], [[run], True, plan]),
    "wrong count": lambda run, plan: to("holds.hold", [], [run], [run, 1, plan, 0, 0]),
    "no list": lambda run, plan: to("holds.hold", None, 5, "abc", {"run_id": run}),
    "unknown run": lambda run, plan: to("holds.hold", [str(uuid.uuid4()), 1, plan], [TEXT, 1, plan], ["*", 1, plan]),
    "other keys": lambda run, plan: to(
        "holds.hold", *([f"{run}:{key}", 1, plan] for key in ("nodes", "outputs", "history", "failures"))
    ),
    "unknown plan": lambda run, plan: to("holds.hold", [run, 1, "0" * 32], [run, 1, TEXT]),
    "unknown node": lambda run, plan: [*to("holds.nothing", [run, 1, plan]), *to("fresh.answer", [run, 1, plan])],
    "epoch": lambda run, plan: to("holds.hold", *([run, epoch, plan] for epoch in EPOCHS)),
    "epoch of the next": lambda run, plan: to("holds.pass-on", *([run, epoch, plan] for epoch in EPOCHS)),
    "too early": lambda run, plan: to("holds.pass-on", [run, 1, plan]),
    "twice": lambda run, plan: to("holds.hold", *[[run, 1, plan]] * 3),
    "advance": lambda run, plan: to("orchestrator.advance", *([run, 1, plan, position] for position in POSITIONS)),
    "saga": lambda run, plan: to("orchestrator.begin-saga", *([run, epoch, plan] for epoch in (-1, 1, 2))),
    "tick": lambda run, plan: to("orchestrator.tick", ["holds", "x"], [5, {}], [TEXT, TEXT]),
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_forged_message_changes_nothing(client, hold, kind):
    held = hold("holds")
    with nothing_written_but_errors(client):
        for task, args in FORGERIES[kind](held.run.id, held.plan):
            send(client, task, args)
    held.let_go()
    held.assert_undisturbed()


def test_a_message_with_another_run_s_epoch_or_plan_changes_nothing(hostile, client, hold):
    ended = hostile.orchestrator.start("gives", "nan")
    assert ended.wait(timeout=30) == "failed"
    ended.resume()
    assert ended.wait(timeout=30) == "failed"
    epoch, plan = 2, client.hget(f"orchestrator:run:{ended.id}", "plan").decode()
    assert int(client.hget(f"orchestrator:run:{ended.id}", "epoch")) == epoch
    held = hold("holds")
    with nothing_written(client):
        send(client, "holds.pass-on", [held.run.id, epoch, held.plan])
        send(client, "holds.pass-on", [held.run.id, epoch, plan])
        send(client, "gives.give", [ended.id, 1, plan])
        send(client, "gives.give", [ended.id, epoch, plan])
        send(client, "holds.hold", [ended.id, epoch, held.plan])
    held.let_go()
    held.assert_undisturbed()


@pytest.mark.parametrize("kind", ["application/x-python-serialize", "application/x-yaml", "text/x-unknown"])
def test_a_message_that_is_not_json_is_refused_and_not_run(worker, client, tmp_path, kind):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    bodies = {
        "application/x-python-serialize": pickle.dumps([[Evil()], {}, {}]),
        "application/x-yaml": f"!!python/object/apply:os.mkdir ['{tmp_path / 'made'}']".encode(),
    }
    with nothing_written(client):
        send(client, "holds.hold", None, body=bodies.get(kind, b"{}"), kind=kind)
    refusal = "Refusing to deserialize untrusted content of type"
    wait_until(lambda: refusal in worker.log.read_text(), "the message is refused")
    assert not (tmp_path / "made").exists()


def test_a_run_is_never_led_along_the_plan_of_another_flow(hostile, client, ledger):
    other = hostile.orchestrator.start("twin")
    assert other.wait(timeout=30) == "succeeded"
    run = hostile.orchestrator.start("unserved")
    plan = client.hget(f"orchestrator:run:{other.id}", "plan").decode()
    with nothing_written_but_errors(client):
        send(client, "twin.twin", [run.id, 1, plan])
    assert run.status == "pending"
    run.cancel()
    assert run.wait(timeout=30) == "cancelled"
    assert ledger.names("start") == []
