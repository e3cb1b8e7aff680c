"""Commands without a server or with a wrong app, and the check of an app that would not run: each a process."""

from __future__ import annotations

import json

import pytest

from orchestrator.cli.schemas import SCHEMAS
from tests.harness import environment_for
from tests.warm import run_python

NOWHERE = "redis://127.0.0.1:1/0"
ORCHESTRATOR = ("-c", "from orchestrator.cli import main; main()")
BROKEN = """
from celery import Celery
from orchestrator import FlowBuilder, Node, Orchestrator, manual

app = Celery("broken", broker="redis://127.0.0.1:1/0", backend="redis://127.0.0.1:1/0")
orchestrator = Orchestrator(app)
"""
EMPTY_FLOW = 'orchestrator.register(FlowBuilder("empty").build())'
UNDECLARED = """
app.conf.update(task_create_missing_queues=False, accept_content=["json", "pickle"])
orchestrator.register(FlowBuilder("far").triggered_by(manual("x")).then(Node("go", lambda: 1)).on_queue("moon").build())
"""


@pytest.mark.parametrize(
    ("code", "exit_code", "found"),
    [
        (BROKEN + EMPTY_FLOW, 1, {"no-step", "no-trigger"}),
        (BROKEN + UNDECLARED, 1, {"would-hang", "unsafe-content"}),
        (BROKEN, 1, {"no-flow"}),
        ("1 / 0", 1, {"import"}),
        pytest.param("import a_module_that_is_not_there", 1, {"import"}, marks=pytest.mark.chaos_long),
        pytest.param("def (", 1, {"import"}, marks=pytest.mark.chaos_long),
        (None, 2, set()),
    ],
)
def test_check_finds_without_a_server_what_would_not_run(tmp_path, code, exit_code, found):
    if code is not None:
        (tmp_path / "broken.py").write_text(code)
    answer = run_python([*ORCHESTRATOR, "-A", "broken", "check", "--json"], environment_for(NOWHERE), folder=tmp_path)
    assert answer.returncode == exit_code, answer.stderr
    if exit_code == 1:
        SCHEMAS["check"].validate_json(answer.stdout, strict=True)
        problems = json.loads(answer.stdout)
        assert {each["code"] for each in problems} == found
        assert found != {"import"} or problems[0]["where"] == f"{tmp_path / 'broken.py'}:1"
    else:
        assert "cannot be imported" in answer.stderr


@pytest.mark.parametrize(
    ("app", "message"),
    [("tests.programs.sample", "did not answer"), ("tests.programs.raw_load", "has no orchestrator")],
)
def test_no_server_and_a_wrong_app_are_named(app, message):
    answer = run_python(
        ["-m", "celery", "-A", app, "flow", "runs"],
        environment_for(NOWHERE) | {"TEST_LEDGER_URL": NOWHERE},
    )
    assert answer.returncode == 2
    assert message in answer.stderr
    assert "orchestrator dev" in answer.stderr
    assert answer.stdout == ""
