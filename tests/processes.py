"""Processes besides workers that tests run: a beat, Flower, a program of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.harness import wait_until
from tests.warm import start_python

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

ASK_AGAIN_S = 5.0


class Running:
    """A process in a group of its own, with its log."""

    def __init__(self, arguments: list[str], *, folder: Path, log: Path, environment: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = log
        self.process = start_python(arguments, folder=folder, environment=environment, log=log)

    @property
    def text(self) -> str:
        return self.log.read_text()

    def wait_for(self, words: str, *, times: int = 1, timeout: float = 30.0) -> None:
        """Wait until words were written to the log as often as that."""

        def has_written() -> bool:
            assert self.process.poll() is None or self.text.count(words) >= times, f"it ended:\n{self.text[-4000:]}"
            return self.text.count(words) >= times

        wait_until(has_written, f"{words!r} in {self.log}", timeout=timeout)

    def stop(self, *, timeout: float = 40.0) -> int:
        """Ask it to end, again now and then, and return its exit code."""
        # Flower ends by an exception of its signal handler, and Python drops one in the callback of a weak reference.
        ends = time.monotonic() + timeout
        while True:
            if self.process.poll() is None:
                self.process.terminate()
            try:
                return self.process.wait(min(ASK_AGAIN_S, timeout))
            except subprocess.TimeoutExpired:
                if time.monotonic() > ends:
                    os.killpg(self.process.pid, signal.SIGKILL)
                    self.process.wait(10)
                    raise


@contextmanager
def running(arguments: list[str], *, folder: Path, log: Path, environment: Mapping[str, str]) -> Iterator[Running]:
    """Run `python <arguments>` in a folder until the block ends."""
    process = Running(arguments, folder=folder, log=log, environment=environment)
    try:
        yield process
    finally:
        process.stop()


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
