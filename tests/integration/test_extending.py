"""The walk-through of docs/extending.md, applied to a copy of the package, gives what it says in six files at most."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.server import EmbeddedServer
from tests.documents import APP, BLOCK, PAGES, REDIS, ROOT, programs
from tests.harness import WorkerProcess, environment_for, wait_until
from tests.warm import run_python

if TYPE_CHECKING:
    from pathlib import Path

PAGE = PAGES["docs/extending.md"]
SECTIONS = [section for section in re.split(r"^## ", PAGE, flags=re.MULTILINE) if "```diff" in section]
MOST_FILES = 6

# Beside the programs of the page: a fallback behind a chord and in a fused flow, one without a success, and a resume.
MORE = """
import os
from datetime import timedelta

from prices import cache, found_price, rival, supplier, tell, wanted_item
from shop import orchestrator

from orchestrator import FlowBuilder, Node, SharedQuota, Terminal, manual


def answer():
    return 1


def answer_when_told(item):
    if not os.path.exists("told"):
        raise Terminal("nobody has told it")
    return len(item)


def node(name, function):
    return Node(name, function).with_input_func(wanted_item)


one, two, late = node("one", len), node("two", len), node("supplier", answer_when_told)
last = Node("tell", tell).with_input_func(found_price)


def register(name, change):
    flow = change(FlowBuilder(name).takes(str).triggered_by(manual("api"))).then(last)
    orchestrator.register(flow.build())


register("behind", lambda flow: flow.then_parallel("both", one, two).then_fallback("ask", cache, supplier))
register("fused", lambda flow: flow.fused().then(one).then_fallback("ask", cache, supplier, rival))
once = Node("once", answer).with_shared_rate_limit(SharedQuota("once", 1, per=timedelta(days=36_500)))
orchestrator.register(FlowBuilder("once").triggered_by(manual("api")).then(once).build())
register("none", lambda flow: flow.then_fallback("ask", cache, late))
"""
CLIENT = """
import json
import time

import prices, searches, more
from shop import orchestrator

store = orchestrator._engine.store


def records(run):
    return {name: [node["state"], node["attempt"]] for name, node in store.nodes(run.id).items()}


runs = {name: orchestrator.start(name, "apple") for name in ("price", "behind", "fused", "none")}
searches = [orchestrator.start("search") for _ in range(5)]
told = {}
for name, run in runs.items():
    run.wait(timeout=60)
    error = run.error and run.error.message
    told[name] = [run.status, run.result(str) if run.status == "succeeded" else error, records(run)]
run = runs["none"]
open("told", "w").close()
run.resume()
told["resumed"] = [run.wait(timeout=60), run.result(str), records(run)]
told["searches"] = [run.result(str, timeout=60) for run in searches]
told["started"] = [store.nodes(run.id)["search"]["started"] for run in searches]
orchestrator.start("once").wait(timeout=60)
waiting = orchestrator.start("once")
until = time.monotonic() + 60
while not (found := [each for each in waiting.explain() if each.state == "parked"]) and time.monotonic() < until:
    time.sleep(0.05)
told["explained"] = [[each.node, each.reason, each.until] for each in found]
told["limits"] = [[row.name, row.kind, row.n, row.waiting] for row in orchestrator.limits()]
waiting.cancel("seen")
told["cancelled"] = waiting.wait(timeout=60)
told["keys"] = {key.decode(): store.client.ttl(key) for key in store.client.keys("*quota:search*")}
print(json.dumps(told))
"""


def edits(text: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Each file that is edited, with the lines that it has and those to put in their place; none in a new file."""
    found = []
    for language, block in BLOCK.findall(text):
        for change in re.split(r"^--- .*\n", block, flags=re.MULTILINE)[1:] if language == "diff" else ():
            name, *hunks = re.split(r"^@@.*@@\n", change, flags=re.MULTILINE)
            lines = [hunk.splitlines(keepends=True) for hunk in hunks]
            pairs = [
                (
                    "".join(line[1:] for line in hunk if line[0] != "+"),
                    "".join(line[1:] for line in hunk if line[0] != "-"),
                )
                for hunk in lines
            ]
            found.append((name.strip().removeprefix("+++ b/"), pairs))
    return found


def apply(text: str, home: Path) -> set[str]:
    """Make the edits of a part of the page, and return the files."""
    for name, pairs in edits(text):
        path = home / name
        content = path.read_text() if path.exists() else ""
        for before, after in pairs:
            assert content.count(before) == 1 if content else not before, f"{name} has not once: {before}"
            content = content.replace(before, after) if content else after
        path.write_text(content)
    return {name for name, _ in edits(text)}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of its own: the worker consumes the default queue."""
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as own:
        yield own


@pytest.fixture(scope="module")
def home(server, tmp_path_factory):
    """A folder with the extended package, and the programs that use it."""
    folder: Path = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / "orchestrator", folder / "orchestrator", ignore=shutil.ignore_patterns("__pycache__"))
    for section in SECTIONS:
        apply(section, folder)
    written = {
        code.splitlines()[0].removeprefix("# "): code for language, code in BLOCK.findall(PAGE) if language == "python"
    }
    for name, code in {**programs(), **written, "more.py": MORE, "client.py": CLIENT}.items():
        (folder / name).write_text(code.replace(REDIS, server.url.rsplit("/", 1)[0]))
    return folder


@pytest.fixture(scope="module")
def told(server, home) -> dict[str, Any]:
    """What came of the runs, from a client and a worker with the extended package."""
    environment = environment_for(server.url) | {"PYTHONPATH": str(home)}
    options = ["-c", "3", "-I", "prices,searches,more"]
    worker = WorkerProcess(APP, "extended", home / "worker.log", environment=environment, options=options, folder=home)
    try:
        wait_until(worker.is_up, "the worker is ready", timeout=60)
        done = run_python(["client.py"], environment, folder=home, timeout=120)
    finally:
        worker.stop()
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.splitlines()[0])
def test_a_kind_touches_few_files(section):
    assert 1 <= len({name for name, _ in edits(section)}) <= MOST_FILES


def test_a_fallback_ends_with_the_first_success(told):
    for name in ("price", "behind", "fused"):
        status, result, nodes = told[name]
        assert status == "succeeded"
        assert result.startswith("5 of ")
        assert (nodes["cache"], nodes["supplier"]) == (["failed", 1], ["succeeded", 1])
        assert "rival" not in nodes


def test_a_fallback_without_a_success_fails_its_run_and_can_be_resumed(told):
    status, error, nodes = told["none"]
    assert (status, error) == ("failed", "step ask: 0 of 2 nodes succeeded, 1 are required")
    assert (nodes["cache"], nodes["supplier"]) == (["failed", 1], ["failed", 1])

    status, _, nodes = told["resumed"]
    assert status == "succeeded"
    assert (nodes["cache"], nodes["supplier"]) == (["failed", 1], ["succeeded", 1])


def test_a_quota_lets_so_many_start_in_each_window(told):
    assert told["searches"] == ["found"] * 5
    assert max(Counter(at // 1000 for at in told["started"]).values()) <= 2
    assert told["keys"]
    assert told["explained"] == [["once", "is number 1 in the wait queue of limiter once", None]]
    assert told["limits"] == [["once", "quota", 1, 1], ["search-service", "quota", 2, 0]]
    assert told["cancelled"] == "cancelled"
    assert all(0 <= ttl <= 2 for ttl in told["keys"].values())
