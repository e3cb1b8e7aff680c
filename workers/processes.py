"""Worker processes, and a Flower: started in process groups of their own, watched, and stopped with all their children.

Their environment says which server they use.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent
TAIL_LINES = 20
WARM_S = 10.0
COLD_S = 5.0
POLL_S = 0.05

# Waits until its standard input is closed, however that comes about, and kills a process group.
GUARD = 'read -r _; kill -s KILL -- "-$1"'


class WorkerEnded(Exception):
    """A worker process exited by itself; the end of its log is in the text."""


class WorkerProcess:
    """One `celery -A workers.app worker`, started at once.

    A process group of its own keeps a terminal's Ctrl-C from reaching it before its owner, and lets one signal reach
    its children and the interpreters that they started. A worker tries for ever to reach a server that is gone; so a
    guard kills it when its owner is killed.

    Args:
        name: Name of the worker.
        log: File for what it prints; written anew.
        environment: Added to this process's own.
    """

    ready = b" ready."
    """What its log says when it takes messages."""

    def __init__(self, name: str, log: Path, *, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        command = [sys.executable, "-m", "celery", "-A", "workers.app", *self.arguments()]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        guard = ["/bin/sh", "-c", GUARD, "guard", str(self.process.pid)]
        self._guard = subprocess.Popen(guard, stdin=subprocess.PIPE, start_new_session=True)

    def arguments(self) -> list[str]:
        """Return the Celery command that it runs."""
        # Mingle and gossip, the search for other workers, cost a second at the start and are not needed here.
        quick = ["--without-mingle", "--without-gossip"]
        return ["worker", "--hostname", f"{self.name}@%h", "--concurrency", "2", "--loglevel", "INFO", *quick]

    @property
    def pid(self) -> int:
        """Id of the process and of its group."""
        return self.process.pid

    def is_ready(self) -> bool:
        """Whether it takes messages."""
        return self.ready in self.log.read_bytes()

    def check_alive(self) -> None:
        """Do nothing while it runs.

        Raises:
            WorkerEnded: It does not.
        """
        code = self.process.poll()
        if code is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            raise WorkerEnded(f"{self.name} (pid {self.pid}) ended {how}. The end of its log, {self.log}:\n{tail}")

    def end_group(self) -> None:
        """Kill what is left of its group, even if the worker is gone: a killed worker leaves its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(COLD_S)
        self._guard.kill()  # closing its input would make it kill a group whose number may be reused by now
        self._guard.communicate()


class FlowerProcess(WorkerProcess):
    """One `celery -A workers.app flower` with the Flows tab, on this machine only."""

    ready = b"Visit me at"

    def __init__(self, name: str, log: Path, *, environment: Mapping[str, str], port: int) -> None:
        self.port = port
        super().__init__(name, log, environment=environment)

    def arguments(self) -> list[str]:
        """Return the Celery command that it runs, from the folder with `flowerconfig.py`."""
        return ["flower", "--address=127.0.0.1", f"--port={self.port}"]


def stop_workers(workers: Sequence[WorkerProcess]) -> None:
    """End workers and everything they started: TERM lets running nodes finish, KILL follows after 10 s."""
    for worker in workers:
        worker.process.terminate()
    deadline = time.monotonic() + WARM_S
    while any(worker.process.poll() is None for worker in workers) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    for worker in workers:
        worker.end_group()
