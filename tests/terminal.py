"""Pseudo-terminal with a program in it: what a person types, sees and ends."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.harness import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Terminal:
    """A program in the foreground of a terminal of its own.

    Args:
        command: The program with its arguments.
        folder: Where it runs.
        environment: Its environment.
    """

    def __init__(self, command: Sequence[str], *, folder: Path, environment: Mapping[str, str]) -> None:
        self._own, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            # A new session has no terminal yet; its first open one becomes its own, so that Ctrl-C reaches it.
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # noqa: PLW1509 - no threads here
        )
        os.close(theirs)
        self._shown: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        os.close(self._own)

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the last process that had it has ended
            while piece := os.read(self._own, 65_536):
                self._shown.append(piece)

    @property
    def text(self) -> str:
        return b"".join(self._shown).decode(errors="replace")

    def write(self, keys: str) -> None:
        os.write(self._own, keys.encode())

    def press_ctrl_c(self) -> None:
        self.write("\x03")

    def wait_for(self, words: str, *, timeout: float = 60.0) -> None:
        def is_shown() -> bool:
            assert words in self.text or self.process.poll() is None, f"it ended:\n{self.text[-4000:]}"
            return words in self.text

        wait_until(is_shown, f"{words!r} on the terminal", timeout=timeout)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


def processes_in(folder: Path) -> list[int]:
    """Ids of the processes whose working directory is a folder or in one of its folders."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "cwd").readlink().is_relative_to(folder.resolve()) and not _is_dead(entry):
                    found.append(int(entry.name))
    return found


def _is_dead(entry: Path) -> bool:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
