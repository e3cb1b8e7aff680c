"""Count nodes of pool processes, and share memory with those that are not forked."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import sys
from pathlib import Path
from types import ModuleType

import pytest

from orchestrator.liveness import pool_processes
from orchestrator.liveness.pool_memory import DRAINING, FOLDER_VARIABLE, LIMIT, TOKEN, PoolMemory, start_of
from orchestrator.liveness.pool_processes import NodesPerChild


@pytest.mark.parametrize(("messages", "nodes", "goes_on"), [(0, 0, True), (2, 2, True), (3, 3, False), (1, 9, False)])
def test_a_process_is_replaced_after_as_many_nodes_or_messages(monkeypatch, messages, nodes, goes_on):
    monkeypatch.setattr(pool_processes, "_attempts", nodes)
    most = pickle.loads(pickle.dumps(NodesPerChild(3)))
    assert (messages < most) == goes_on  # as billiard asks before a message
    assert (messages == most) == (not goes_on)  # and when it ends
    assert most
    assert json.dumps(most) == "3"
    monkeypatch.setattr(pool_processes, "_most", most)
    assert pool_processes.is_worn_out() == (nodes >= 3)


def test_what_each_forked_process_would_import_is_imported_before(monkeypatch):
    imported: list[str] = []
    monkeypatch.setattr(importlib, "import_module", imported.append)
    monkeypatch.delitem(sys.modules, "cffi", raising=False)
    pool_processes.prepare_forks()
    assert imported == [], "billiard does without it"
    monkeypatch.setitem(sys.modules, "cffi", ModuleType("cffi"))
    pool_processes.prepare_forks()
    assert imported == ["cffi.cparser"]


def test_a_process_without_a_limit_is_never_worn_out(monkeypatch):
    monkeypatch.setattr(pool_processes, "_attempts", 99)
    assert not pool_processes.is_worn_out()


def test_memory_is_found_by_the_environment_and_gone_with_the_worker():
    memory = PoolMemory.named()
    folder = Path(os.environ[FOLDER_VARIABLE])
    found = PoolMemory.of_environment()
    assert found is not None
    memory.bytes[DRAINING] = 1
    assert found.bytes[DRAINING] == 1
    TOKEN.pack_into(found.bytes, start_of(7, TOKEN), b"x" * 16)
    LIMIT.pack_into(found.bytes, start_of(7, LIMIT), 1.5)
    assert (next(memory.read(7, TOKEN)), next(memory.read(7, LIMIT))) == (b"x" * 16, 1.5)
    found.report_birth(123, 7)
    found.report_birth(124, 8)
    assert memory.births() == {123: 7, 124: 8}
    assert memory.births() == {}
    memory.clear(7)
    assert set(memory.read(7, TOKEN)) == {bytes(16)}
    memory.close()
    assert not folder.exists()
    assert FOLDER_VARIABLE not in os.environ
    assert PoolMemory.of_environment() is None


def test_flows_that_a_process_lacks_are_named_to_the_main_process(monkeypatch, caplog):
    memory = PoolMemory.named()
    monkeypatch.setattr(pool_processes, "_memory", memory)
    pool_processes.expect_flows(["here", "there"])
    pool_processes.report_missing_flows(["here", "there", "new"])
    assert pool_processes.missing_flows() == frozenset()
    pool_processes.report_missing_flows(["here"])
    assert pool_processes.missing_flows() == {"there"}
    assert "flow there: this pool process does not have it" in caplog.text
    memory.close()
