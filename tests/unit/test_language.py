"""Language of the code: each module says what it does, in the words of the field and the glossary."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("orchestrator", "workers", "examples", "benchmarks", "docker", "tests")


def find(pattern: str) -> list[Path]:
    """Every file of the folders, in order."""
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob(pattern))


MODULES = find("*.py")
CODE = [path for path in MODULES if "tests" not in path.relative_to(ROOT).parts]
# A first line that begins with one of these is a clause, and a clause does not say what the module does.
CLAUSES = {"What", "Which", "Whether", "Who", "Whoever", "Whatever", "How", "Where", "Why", "When", "That"}
# Words of this house for which the field has its own: retry, log, emit, commit, fast path, wait queue, node plan.
PRIVATE_NAMES = {"ahead", "company", "facts", "onward", "stretch", "surely", "tell", "tells", "together", "turned"}
PRIVATE_PHRASES = re.compile(
    r"\b(whoever|surely|hand(s|ed)? on|short(er)? ways?|vocabulary|onward|nobody but|is told by|takes? down)\b",
    re.IGNORECASE,
)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def test_a_module_begins_with_what_it_does():
    firsts = {name_of(path): docstring(path).partition("\n")[0] for path in MODULES if path.stat().st_size}
    assert {name: first for name, first in firsts.items() if first.split(" ")[0].rstrip(":,") in {"", *CLAUSES}} == {}


def names(path: Path) -> set[str]:
    """Names of the functions, classes and parameters that a module defines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    defined = {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
    return defined | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}


def words(name: str) -> set[str]:
    return set(re.split(r"_|(?<=[a-z])(?=[A-Z])", name.lower()))


def test_names_are_of_the_field():
    assert [(name_of(path), name) for path in CODE for name in names(path) if PRIVATE_NAMES & words(name)] == []


def test_sentences_are_of_the_field():
    texts = [*CODE, *find("*.lua"), ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    found = {name_of(path): PRIVATE_PHRASES.findall(path.read_text(encoding="utf-8")) for path in texts}
    assert {name: phrases for name, phrases in found.items() if phrases} == {}


@pytest.mark.parametrize(
    ("line", "is_right"),
    [
        ("Which runs a pool process begins by itself", False),
        ("How messages leave", False),
        ("Publisher: sends what a transition left to publish", True),
        ("Call on_after_configure handlers", True),
    ],
)
def test_the_rule_itself(line, is_right):
    assert (line.split(" ")[0] not in CLAUSES) == is_right
