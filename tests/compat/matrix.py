"""Try the deployments of docs/deployments.md and write its table: `python -m tests.compat.matrix [word ...]`.

Pairs and not the product: every value of each axis at least twice, all of them for the newest Celery on prefork. Each
cell runs every kind of flow and kills a worker. Environments are resolved from the wheel's ranges, as a user's are.
With words, only cells that have one of them in their title are tried, and no table is written.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.server import EmbeddedServer
from tests.compat.deployments import DEPLOYMENTS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "deployments.md"
BEGIN, END = "<!-- the table of `make compat` -->", "<!-- end of the table -->"
CELL_LIMIT_S = 240
NEWEST = "5.7"


@dataclass(frozen=True)
class Cell:
    """One deployment."""

    servers: str
    celery: str = NEWEST
    pool: str = "prefork"
    start: str = "fork"
    python: str = "3.11"

    @property
    def title(self) -> str:
        return f"{self.servers}, Celery {self.celery}, {self.pool}, {self.start}, Python {self.python}"

    @property
    def options(self) -> list[str]:
        if self.pool == "prefork":
            return ["-c", "2"]
        return ["-P", self.pool, *(["-c", "8"] if self.pool != "solo" else [])]


CELLS = [
    *(Cell(servers) for servers in DEPLOYMENTS),
    Cell("Redis 7", pool="threads"),
    Cell("Redis 7", pool="solo"),
    Cell("Redis 7", pool="gevent"),
    Cell("Redis 7", start="spawn"),
    Cell("Redis 7", start="forkserver"),
    Cell("RabbitMQ + Redis", pool="threads"),
    Cell("TLS", start="spawn"),
    Cell("Sentinel", start="forkserver"),
    Cell("password", pool="gevent"),
    Cell("two Redis servers", pool="solo"),
    Cell("Redis 7", celery="5.6"),
    Cell("Redis 7", celery="5.5"),
    Cell("RabbitMQ + Redis", celery="5.6"),
    Cell("RabbitMQ + Redis", celery="5.5"),
    Cell("TLS", celery="5.5"),
    Cell("Sentinel", celery="5.6"),
    Cell("Sentinel over TLS", celery="5.5"),
    Cell("unix socket", celery="5.5", pool="threads"),
    Cell("key prefix", celery="5.6", pool="gevent"),
    Cell("Valkey 9 (embedded)", python="3.12"),
    Cell("RabbitMQ + Redis", python="3.12", celery="5.6"),
    Cell("Valkey 9 (embedded)", python="3.13"),
    Cell("Redis 7", python="3.13", celery="5.5"),
]


def interpreter(version: str) -> str | None:
    """A Python of this version on this machine, if there is one."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    return str(found[-1]) if found else shutil.which(f"python{version}")


def environment_of(cell: Cell, base: Path, wheel: Path) -> Path | None:
    """The Python of an environment with the wheel and a Celery; None without an interpreter."""
    program = interpreter(cell.python)
    if program is None:
        return None
    home = base / f"{cell.python}-{cell.celery}"
    if not home.exists():
        subprocess.run([program, "-m", "venv", home], check=True)
        asked = [f"{wheel}[embedded]", f"celery[redis]=={cell.celery}.*", "gevent"]
        quiet = ["--quiet", "--disable-pip-version-check"]
        subprocess.run([home / "bin/python", "-m", "pip", "install", *quiet, *asked], check=True)
    return home / "bin/python"


def try_cell(cell: Cell, python: Path) -> dict[str, Any]:
    """Run one cell; returns its problems and seconds."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            conf = DEPLOYMENTS[cell.servers](stack, folder)
            ledger = stack.enter_context(EmbeddedServer(folder / "ledger")).url
            here = Path(__file__).parent
            environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {
                "COMPAT_CONF": json.dumps(conf),
                "COMPAT_LEDGER": ledger,
                "COMPAT_START": "" if cell.start == "fork" else cell.start,
                "PYTHONPATH": str(here),
                "ORCHESTRATOR_LEASE": "5",
                "ORCHESTRATOR_RECONCILE_EVERY": "0.5",
            }
            command = [str(python), str(here / "cell.py"), *cell.options]
            done = subprocess.run(
                command, env=environment, cwd=folder, capture_output=True, text=True, timeout=CELL_LIMIT_S, check=False
            )
            answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        except (AssertionError, IndexError, ValueError, subprocess.SubprocessError) as error:
            return {"problems": [f"{type(error).__name__}: {error}"], "seconds": 0}
    return answer


def versions_of(python: Path) -> str:
    """What the environment of a cell has."""
    code = "from importlib.metadata import version as v; print(v('celery'), v('kombu'), v('redis'), sep=' / ')"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def row_of(cell: Cell, versions: str, answer: dict[str, Any] | None) -> str:
    """A line of the table."""
    if answer is None:
        result = "not run: no such Python on this machine"
    else:
        result = "works" if not answer["problems"] else "**fails**: " + str(answer["problems"][0]).splitlines()[0][:120]
    pool = cell.pool if cell.pool != "prefork" else f"prefork, {cell.start}"
    return f"| {cell.servers} | {pool} | {cell.python} | {versions} | {result} |"


def write_table(rows: list[str]) -> None:
    """Put the table into its page."""
    head = [
        "| servers | pool | Python | Celery / kombu / redis-py | all flows, a worker killed |",
        "|---|---|---|---|---|",
    ]
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text("\n".join([before + BEGIN, "", *head, *rows, "", END + after.rstrip(), ""]))


def main(words: list[str]) -> int:
    """Try the cells; the exit code counts those that fail."""
    cells = [cell for cell in CELLS if not words or any(word in cell.title for word in words)]
    base = ROOT / ".compat"
    base.mkdir(exist_ok=True)
    rows, failed, began = [], 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(ROOT)]
        subprocess.run(build, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        for stale in base.iterdir():  # with a wheel of yesterday
            shutil.rmtree(stale)
        for cell in cells:
            python = environment_of(cell, base, wheel)
            answer = try_cell(cell, python) if python else None
            failed += bool(answer and answer["problems"])
            rows.append(row_of(cell, versions_of(python) if python else "", answer))
            took = f"{answer['seconds']} s" if answer else ""
            print(f"{cell.title}: {took} {answer['problems'] if answer else 'not run'}", flush=True)
    if not words:
        write_table(rows)
    print(f"{len(cells)} cells, {failed} failed, {(time.monotonic() - began) / 60:.0f} minutes")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
