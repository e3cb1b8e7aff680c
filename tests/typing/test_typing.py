"""Types of the public API under mypy and pyright: legal uses pass, and each wrong use is refused on its line."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.types
ROOT = Path(__file__).parents[2]
LEGAL = ROOT / "tests" / "typing" / "legal.py"
WRONG = ROOT / "tests" / "typing" / "wrong.py"
MARK = re.compile(r"  # type: ignore\[[\w, -]+\]  # pyright: ignore\[\w+(, \w+)*\]$")

Lines = dict[int, str]


def ask_mypy(path: Path) -> Lines:
    """Lines that mypy refuses, with what it says."""
    lines = run("mypy", "--output=json", "--follow-imports=silent", str(path)).splitlines()
    found = [json.loads(line) for line in lines if line]
    return {each["line"]: each["message"] for each in found if each["severity"] == "error"}


def ask_pyright(path: Path) -> Lines:
    """Lines that pyright refuses, with what it says; a warning counts too."""
    report = json.loads(run("basedpyright", "--outputjson", "--project", str(ROOT), str(path)))
    assert report["summary"]["filesAnalyzed"] == 1
    return {found["range"]["start"]["line"] + 1: found["message"] for found in report["generalDiagnostics"]}


def run(tool: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", tool, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("ask", [ask_mypy, ask_pyright])
def test_legal_uses_are_accepted(ask: Callable[[Path], Lines]):
    assert ask(LEGAL) == {}


@pytest.mark.parametrize("ask", [ask_mypy, ask_pyright])
def test_each_wrong_use_is_refused_on_its_line_and_nothing_else_is(ask: Callable[[Path], Lines], tmp_path: Path):
    # Given the wrong uses without the comments that silence them
    lines = WRONG.read_text().splitlines()
    bare = tmp_path / "bare_wrong_uses.py"
    bare.write_text("\n".join(MARK.sub("", line) for line in lines) + "\n")
    marked = {number for number, line in enumerate(lines, 1) if MARK.search(line)}

    # When a type checker looks at them
    refused = ask(bare)

    # Then it refuses the marked lines and no other
    assert refused.keys() == marked
    assert len(marked) >= 60
