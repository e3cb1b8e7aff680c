"""Runs command lines of `celery`, each in a process of its own that has the imports already.

Reads a JSON list of word lists, and prints a JSON list of exit codes and outputs.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from celery.bin.celery import main

from orchestrator.cli import COMMANDS


def run(words: list[str], folder: Path) -> tuple[int, str, str]:
    """Run one in a child; returns exit code, standard output and standard error."""
    files = folder / "out", folder / "err"
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status), files[0].read_text(), files[1].read_text()
    for number, path in zip((1, 2), files, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = ["celery", *words]
    code = 70
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    for place in COMMANDS.values():
        import_module(place.partition(":")[0])
    with tempfile.TemporaryDirectory() as made:
        answers = [run(words, Path(made)) for words in json.load(sys.stdin)]
    print(json.dumps(answers))  # noqa: T201 - what it is for
