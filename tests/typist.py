"""Operator of the command line in tests: types its commands and reads what they print."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from click.testing import CliRunner

from orchestrator.cli.program import program
from orchestrator.cli.schemas import SCHEMAS
from tests.harness import environment_for
from tests.warm import run_python

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

MODULE = "tests.programs.operated"


class Operator:
    """Types commands, most of them in this process."""

    def __init__(self, program_module, url: str, log: Path) -> None:
        self.module = program_module
        self.url = url
        self.log = log
        self.orchestrator = program_module.orchestrator

    def type(self, *words: str, code: int = 0, given: str | None = None) -> str:
        answer = CliRunner().invoke(program, ["-A", MODULE, *words], input=given, auto_envvar_prefix="CELERY")
        assert answer.exit_code == code, f"{words}: {answer.exit_code}\n{answer.output}\n{answer.exception!r}"
        return answer.stdout if code < 2 else answer.stderr

    def json(self, *words: str, code: int = 0):
        text = self.type(*words, "--json", code=code)
        name = next(name for name in (" ".join(words[:2]), words[0]) if name in SCHEMAS)
        SCHEMAS[name].validate_json(text, strict=True, by_alias=True)
        return json.loads(text)

    def in_process(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run_python(["-m", "celery", "-A", MODULE, "flow", *words], environment_for(self.url))

    def samples(self) -> dict[tuple[str, ...], float]:
        """Every sample of the metrics, by its name and the values of its labels."""
        return {(each["name"], *each["labels"].values()): each["value"] for each in self.json("metrics")}

    def order(self, **input) -> str:
        return self.type("start", "order", "--input", json.dumps({"item": "lamp"} | input), "--wait").split()[0]
