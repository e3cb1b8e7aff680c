"""The programs of docs/frameworks.md are parts of the projects that are tested here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documents import blocks

PROGRAMS = [code for language, code in blocks("docs/frameworks.md") if language == "python"]


@pytest.mark.parametrize("code", PROGRAMS, ids=lambda code: code.splitlines()[0])
def test_a_program_is_part_of_a_project(code):
    first, _, rest = code.partition("\n")
    name = first.removeprefix("# ")
    found = [path.read_text() for path in Path(__file__).parent.rglob("*.py") if path.as_posix().endswith(f"/{name}")]
    assert [text for text in found if rest.strip("\n") in text], f"{name} does not have this"
