"""Command `dev`: a server, a worker, a beat and Flower in one terminal; everything ends with it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli import dev_state
from orchestrator.cli.problems import Refusal, broken_import, broken_place
from orchestrator.cli.text import as_json_line, clean
from orchestrator.engine import engine_of
from orchestrator.errors import OrchestratorError
from orchestrator.maintenance.flow_worker import flow_queues
from orchestrator.server import HOST, EmbeddedServer

if TYPE_CHECKING:
    from celery import Celery

FLOWER_PORT = 5555
GRACE_S = 5.0
END_S = 20.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
COLOURS = {"dev": "bright_black", "worker": "green", "beat": "yellow", "flower": "magenta"}
WIDTH = max(map(len, COLOURS))
# No other mention counts: a program that only starts runs would start them as it is imported.
IMPORTS = re.compile(r"^\s*(?:import|from)\s+orchestrator\b", re.MULTILINE)
# It ends the process groups that it was given when this process is gone without having said so, however that came.
GUARD = """
import os, signal, sys, time
groups = []
for line in sys.stdin:
    if line == "done\\n":
        sys.exit()
    groups.append(int(line))
for number in (signal.SIGTERM, signal.SIGKILL):
    for group in groups:
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            pass
    time.sleep(2)
"""


@click.command("dev", epilog="Example: orchestrator dev shop")
@click.argument("module", required=False)
@click.option("--concurrency", type=click.IntRange(1), default=2, show_default=True, help="Processes of the worker.")
@click.option("--json", "is_json", is_flag=True, help="Print each line as a JSON object.")
@click.pass_context
def dev(context: click.Context, module: str | None, concurrency: int, *, is_json: bool) -> None:
    """Run a server, worker, beat and Flower here until Ctrl-C.

    MODULE has the flows; without one, every Python file of this folder that imports orchestrator. In the same folder a
    second terminal finds them: orchestrator start FLOW.
    """
    given = module or context.find_root().params.get("app")
    modules = [given] if isinstance(given, str) else modules_here()
    if dev_state.use_running_dev() is not None:
        raise Refusal("another `orchestrator dev` runs in this folder; end it first")
    with EmbeddedServer(dev_state.FOLDER / "data") as server:
        os.environ.update(dev_state.environment(server.url, modules))
        os.environ.setdefault("ORCHESTRATOR_SHUTDOWN_GRACE", f"{GRACE_S:g}")
        app = load_app(modules)
        dev_state.remember(server.url, modules)
        try:
            code = Processes(app, concurrency, is_json=is_json).run(server.url)
        finally:
            dev_state.forget()
    if code:
        raise click.exceptions.Exit(code)


def modules_here() -> list[str]:
    """Return the modules of this folder that import the library.

    Raises:
        Refusal: There is none.
    """
    names = [
        path.stem
        for path in sorted(Path.cwd().glob("*.py"))
        if path.stem.isidentifier() and IMPORTS.search(path.read_text(encoding="utf-8", errors="replace"))
    ]
    if not names:
        raise Refusal("no Python file here imports orchestrator; write flows into one, or name a module: dev MODULE")
    return names


def load_app(modules: list[str]) -> Celery:
    """Import the modules with the flows, whose names are in the environment.

    Raises:
        Refusal: One cannot be imported, or there are no flows in them.
    """
    sys.path.insert(0, str(Path.cwd()))
    try:
        app: Celery = import_module(dev_state.APP).app
        app.loader.import_default_modules()
        engine = engine_of(app)
        engine.discovery.catch_up()
    except OrchestratorError:
        raise  # says itself what is wrong with a flow
    except Exception as error:
        place = broken_place(error) or (", ".join(modules) if isinstance(error, ImportError) else None)
        if place is None:
            raise  # a fault of this program
        raise Refusal(clean(f"{place} {broken_import(error)}")) from error
    if not engine.registry.flows:
        raise Refusal("there is no flow in these modules; build one at the top of a module with FlowBuilder")
    return app


class Processes:
    """The processes beside the server, each with its name before its lines.

    Args:
        app: The app of the flows.
        concurrency: Processes of the worker's pool.
        is_json: Whether each line is printed as a JSON object.
    """

    def __init__(self, app: Celery, concurrency: int, *, is_json: bool) -> None:
        self._app = app
        self._is_json = is_json
        self._started: dict[str, subprocess.Popen[str]] = {}
        self._printing = threading.Lock()
        self._ended = threading.Event()
        self._ready = threading.Event()
        queues = ",".join(sorted({app.conf.task_default_queue, *flow_queues(engine_of(app))}))
        worker = ["worker", "-l", "INFO", "-n", "dev@%h", "-c", str(concurrency), "-Q", queues, "--without-mingle"]
        self._commands = {"worker": worker, "beat": ["beat", "-l", "INFO", "--scheduler", "celery.beat:Scheduler"]}
        if importlib.util.find_spec("flower") is not None:
            self._port = _free_port(FLOWER_PORT)
            own = Path("flowerconfig.py")  # else the one with the Flows tab and nothing more
            config = own if own.exists() else Path(__file__).parents[1] / "web" / "flowerconfig.py"
            self._commands["flower"] = ["flower", f"--address={HOST}", f"--port={self._port}", f"--conf={config}"]

    def run(self, url: str) -> int:
        """Run until a signal comes or the worker ends; returns the exit code."""
        signals: list[int] = []
        for number in SIGNALS:
            signal.signal(number, lambda received, _frame: signals.append(received))
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", GUARD], stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            self.print("dev", f"server at {url}")
            for name, arguments in self._commands.items():
                self._start(name, arguments)
                assert guard.stdin is not None  # noqa: S101 - it was asked for
                guard.stdin.write(f"{self._started[name].pid}\n")
                guard.stdin.flush()
            return self._watch(signals)
        finally:
            self._stop(signals)
            with contextlib.suppress(OSError):
                guard.communicate("done\n", timeout=END_S)

    def print(self, name: str, line: str) -> None:
        """Print one line of a process."""
        with self._printing:
            if self._is_json:
                click.echo(as_json_line({"process": name, "line": line.rstrip("\n")}))
                return
            shown = clean(line.rstrip("\n").replace("\t", "    "))
            click.echo(f"{click.style(name.ljust(WIDTH), fg=COLOURS[name])} | {shown}")

    def _start(self, name: str, arguments: list[str]) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", dev_state.APP, *arguments],
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches this process alone, which ends the others in order
        )
        self._started[name] = process
        threading.Thread(target=self._copy, args=(name, process), name=f"dev-{name}", daemon=True).start()

    def _copy(self, name: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        for line in process.stdout:
            self.print(name, line)
            if name == "worker" and " ready." in line:
                self._ready.set()

    def _watch(self, signals: list[int]) -> int:
        is_announced, missed = False, set[str]()
        while not signals:
            if self._ready.is_set() and not is_announced:
                is_announced = True
                self._announce()
            for name, process in self._started.items():
                if process.poll() is not None and name not in missed:
                    missed.add(name)
                    self.print("dev", f"{name} has ended with exit code {process.returncode}")
            if "worker" in missed:
                return 1
            self._ended.wait(0.1)
        return 0

    def _announce(self) -> None:
        flows = sorted(engine_of(self._app).registry.flows)
        if "flower" in self._commands:
            self.print("dev", f"Flower at http://{HOST}:{self._port}/flows")
        self.print("dev", f"flows: {', '.join(flows)}. In another terminal: orchestrator start {flows[0]} --wait")

    def _stop(self, signals: list[int]) -> None:
        """End every process; a second signal, or 20 s, ends them by force."""
        known, deadline = len(signals), time.monotonic() + END_S
        for process in self._started.values():
            process.terminate()
        while any(process.poll() is None for process in self._started.values()):
            if len(signals) > known or time.monotonic() > deadline:
                for process in self._started.values():
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
            self._ended.wait(0.05)


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, port))
            found: int = probe.getsockname()[1]
            return found
    return wanted
