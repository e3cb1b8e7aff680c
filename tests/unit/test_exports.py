"""Exports of the package: the names of the public API, every error among them, and nothing else."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import orchestrator
from orchestrator import errors

API = {
    "Adaptive", "Approval", "Durations", "Event", "Flow", "FlowBuilder", "FlowCounts", "FlowDefinitionError",
    "FlowDefinitionWarning", "FlowRun", "FlowState", "FlowStatistics", "HourEnds", "LimitRow", "LogLine",
    "MapCounts", "Node", "NodeContext", "NodeFailure", "NodeRow", "Orchestrator", "Page", "Pages", "Problem",
    "RateLimit", "RemoteFlow", "RetryLater", "RetryPolicy", "RunPage", "RunRow", "RunStatus", "RunView", "Settings",
    "SharedConcurrency", "SharedRateLimiter", "Terminal", "Vote", "Waiting", "WaitingRow", "Worker", "WorkerConfig",
    "WorkerRow", "approval", "const", "manual", "map_item", "node", "paginate", "run_input", "schedule", "signal",
    "sleep", "sleep_until",
}  # fmt: skip


def test_the_public_names_are_those_of_the_api_and_every_error():
    raised = {
        name
        for name, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, errors.OrchestratorError) and value.__module__ == errors.__name__
    }
    assert set(orchestrator.__all__) == API | raised


def test_the_public_names_are_sorted_and_there():
    assert orchestrator.__all__ == sorted(orchestrator.__all__)
    assert all(hasattr(orchestrator, name) for name in orchestrator.__all__)


def test_the_names_that_are_imported_on_first_use_are_those_that_type_checkers_see():
    tree = ast.parse(Path(inspect.getfile(orchestrator)).read_text())
    seen = {
        (node.module, alias.name)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {(module, name) for module, names in orchestrator._HOMES.items() for name in names}
    assert {name for _, name in seen} == set(orchestrator.__all__)


def test_celerys_command_gets_its_plug_in_without_the_library():
    code = (
        "import sys, celery.bin.celery as c; assert 'flow' in c.celery.commands; "
        "print(sorted({'pydantic', 'orchestrator.client', 'rich'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_all_that_celerys_command_imports_for_the_plug_in_is_one_small_module():
    """So that `celery --help` is as fast as without it."""
    code = (
        "import sys, typing, importlib, click; before = set(sys.modules); "
        "import orchestrator.cli as c; c.flow.get_short_help_str(); print(sorted(set(sys.modules) - before))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "['orchestrator', 'orchestrator.cli']"
