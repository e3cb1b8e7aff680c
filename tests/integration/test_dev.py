"""`orchestrator dev` in a terminal: an empty folder, one file of flows, a run from a second terminal, and the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from orchestrator.cli.schemas import SCHEMAS
from tests.harness import ROOT, wait_until
from tests.terminal import Terminal, processes_in

ORCHESTRATOR = [sys.executable, "-c", "from orchestrator.cli import main; main()"]
FLOWS = """
from pydantic import BaseModel

from orchestrator import FlowBuilder, FlowState, Node, manual


class Order(BaseModel):
    item: str


def order_of(state: FlowState) -> Order:
    return state.input(Order)


def greet(order: Order) -> str:
    return f"hello {order.item}"


hello = (
    FlowBuilder("hello")
    .takes(Order)
    .triggered_by(manual("test"))
    .then(Node("greet", greet).with_input_func(order_of).with_queue("desk"))
    .build()
)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "flows.py").write_text(FLOWS)
    yield tmp_path
    wait_until(lambda: processes_in(tmp_path) == [], "every process of the folder has ended", timeout=30)


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TEST_", "ORCHESTRATOR_"))}
    return kept | {"PYTHONPATH": str(ROOT), "TERM": "xterm"}


def second(folder, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ORCHESTRATOR, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_file_of_flows_is_the_whole_set_up_and_ctrl_c_the_end_of_it(folder):
    with Terminal([*ORCHESTRATOR, "dev"], folder=folder, environment=environment()) as terminal:
        terminal.wait_for("In another terminal: orchestrator start hello --wait")
        started = second(folder, "start", "hello", "--input", '{"item": "lamp"}', "--wait", "--timeout", "30", "--json")
        assert started.returncode == 0, started.stderr
        assert json.loads(started.stdout)["result"] == "hello lamp"
        lines = terminal.text.splitlines()
        assert {"dev", "worker", "beat", "flower"} <= {line.split("|")[0].strip("\x1b[0123456789m ") for line in lines}
        refused = second(folder, "dev")
        assert refused.returncode == 2
        assert "another `orchestrator dev` runs in this folder" in refused.stderr
        terminal.press_ctrl_c()
        assert terminal.process.wait(40) == 0
    assert not (folder / ".orchestrator" / "dev.json").exists()
    ended = second(folder, "list")
    assert ended.returncode == 2
    assert "orchestrator dev" in ended.stderr


def test_everything_ends_when_dev_is_killed(folder):
    with Terminal([*ORCHESTRATOR, "dev", "flows", "--json"], folder=folder, environment=environment()) as terminal:
        terminal.wait_for("In another terminal")
        assert len(processes_in(folder)) > 4
        *lines, _ = terminal.text.splitlines()
        terminal.kill()
    told = [SCHEMAS["dev"].validate_json(line, strict=True) for line in lines]
    assert {"dev", "worker"} <= {each.process for each in told}
    wait_until(lambda: processes_in(folder) == [], "the others have ended too", timeout=30)
    assert second(folder, "list").returncode == 2


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no Python file here imports orchestrator"),
        ({"flows.py": "import orchestrator"}, "there is no flow in these modules"),
        ({"flows.py": "import orchestrator\n1 / 0"}, "flows.py:2 cannot be imported: ZeroDivisionError"),
        pytest.param(
            {"order.py": "from shop import orchestrator\nprint(1 / 0)"},
            "no Python file here imports orchestrator",
            marks=pytest.mark.chaos_long,
        ),
        pytest.param(
            {"flows.py": "import orchestrator\ndef ("},
            "flows.py:2 cannot be imported: SyntaxError",
            marks=pytest.mark.chaos_long,
        ),
    ],
)
def test_a_folder_without_flows_is_refused_with_what_to_do(tmp_path, files, words):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    refused = second(tmp_path, "dev")
    assert refused.returncode == 2
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr
    assert processes_in(tmp_path) == []
