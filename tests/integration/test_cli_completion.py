"""Completion by a shell, which calls the console script as it does."""

from __future__ import annotations

import pytest

from tests.harness import environment_for
from tests.typist import MODULE
from tests.warm import run_python


def completed(url, line):
    """What a shell is told to put in place of the last word."""
    completing = {
        "_ORCHESTRATOR_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
    }
    program = "from orchestrator.cli import main; main()"
    answer = run_python(["-c", program], environment_for(url) | completing)
    assert answer.stderr == ""
    return answer.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("orchestrator sch", ["plain,schedules", "plain,schema"]),
        (f"orchestrator -A {MODULE} start le", ["plain,leaky"]),
        pytest.param(f"orchestrator -A {MODULE} runs --flow ca", ["plain,carded"], marks=pytest.mark.chaos_long),
        ("orchestrator -A nix start o", []),
    ],
)
def test_a_shell_completes_commands_and_flows_and_shows_no_error(server, line, expected):
    assert completed(server.url, line) == expected
