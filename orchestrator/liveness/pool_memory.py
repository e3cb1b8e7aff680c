"""Memory that a worker's main process and its pool processes share, whichever way the pool starts them.

Pool processes that are forked inherit it. Those that are spawned, or come from a fork server, begin with nothing but
the environment, which names a folder where they find the same memory.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FOLDER_VARIABLE = "ORCHESTRATOR_POOL_MEMORY"
AT_ONCE = 32
"""Most attempts that one pool process executes at the same time."""
PLACES = 4096
"""Pool processes of a worker that have memory of their own; further ones share places."""
TOKEN = struct.Struct("16s")
LIMIT = struct.Struct("d")  # on the clock that all processes of a machine share
BORN = struct.Struct("ii")  # process id, place in the pool
HEAD = 64
DRAINING, WATCHED, TAKING, EVICTING = 0, 1, 2, 3
"""Bytes of the head: the worker is shutting down, a monitor wants task events, it takes flows, it begins no runs."""
SIZE = HEAD + PLACES * AT_ONCE * (TOKEN.size + LIMIT.size)
START = {TOKEN: HEAD, LIMIT: HEAD + PLACES * AT_ONCE * TOKEN.size}
MEMORY_FILE, BIRTHS_FILE = "memory", "births"
EXPECTED_FILE, MISSING_FILE = "expected-flows", "missing-flows"


class PoolMemory:
    """The memory of one worker, and the pipe in which its pool processes say that they began.

    Attributes:
        bytes: The memory itself.
    """

    def __init__(self, memory: mmap.mmap, births: tuple[int, int] | None, folder: Path | None = None) -> None:
        self.bytes = memory
        self._births = births
        self._folder = folder

    @classmethod
    def own(cls) -> PoolMemory:
        """Memory of a worker without pool processes; no pipe, for eventlet waits at an empty one."""
        return cls(mmap.mmap(-1, SIZE), None)

    @classmethod
    def inherited(cls) -> PoolMemory:
        """Memory that only a forked process gets."""
        births = os.pipe()
        for end in births:
            # Neither side may ever wait for the other: the main process runs Celery's event loop, and a child its
            # message.
            os.set_blocking(end, False)
        # Anonymous and shared: pages that no attempt has used take no memory.
        return cls(mmap.mmap(-1, SIZE), births)

    @classmethod
    def named(cls) -> PoolMemory:
        """Make memory that a process finds by the environment it inherits."""
        folder = Path(tempfile.mkdtemp(prefix="orchestrator-"))
        with (folder / MEMORY_FILE).open("wb") as file:
            file.truncate(SIZE)  # zeros: no token and no limit at any place
        os.mkfifo(folder / BIRTHS_FILE, 0o600)
        os.environ[FOLDER_VARIABLE] = str(folder)
        # For reading first: opening a pipe for writing without blocking fails while nobody reads it.
        reader = os.open(folder / BIRTHS_FILE, os.O_RDONLY | os.O_NONBLOCK)
        return cls(_mapped(folder), (reader, _writer(folder)), folder)

    @classmethod
    def of_environment(cls) -> PoolMemory | None:
        """Return the memory that the environment names; None without one."""
        folder = Path(os.environ.get(FOLDER_VARIABLE, ""))
        if not (folder / MEMORY_FILE).is_file():
            return None
        return cls(_mapped(folder), (-1, _writer(folder)), folder)

    def clear(self, place: int) -> None:
        """Forget the process that had a place before."""
        for kind in (TOKEN, LIMIT):
            start, size = start_of(place, kind), AT_ONCE * kind.size
            self.bytes[start : start + size] = bytes(size)

    def read(self, place: int, kind: struct.Struct) -> Iterator[Any]:
        """Return the values of all attempts of a place."""
        start = start_of(place, kind)
        return (value for (value,) in kind.iter_unpack(self.bytes[start : start + AT_ONCE * kind.size]))

    def report_birth(self, pid: int, place: int) -> None:
        """Report to the main process that a pool process began."""
        if self._births is not None:
            with suppress(BlockingIOError):  # thousands are unread: then a lease ends this process's claims
                # At most PIPE_BUF bytes are written whole: reports of processes that begin together never mix.
                os.write(self._births[1], BORN.pack(pid, place))

    def births(self) -> dict[int, int]:
        """Return ids of the pool processes that began since the last call, with their places in the pool."""
        if self._births is not None:
            with suppress(BlockingIOError):
                return dict(BORN.iter_unpack(os.read(self._births[0], 4096 * BORN.size)))
        return {}

    def write_names(self, file: str, names: Iterable[str]) -> None:
        """Write names of flows to a file of the folder; without one, all processes have the same flows."""
        if self._folder is not None:
            (self._folder / file).write_text("\n".join(names))

    def read_names(self, file: str) -> frozenset[str]:
        """Read names of flows from a file of the folder; none without it."""
        if self._folder is None or not (self._folder / file).is_file():
            return frozenset()
        return frozenset((self._folder / file).read_text().split("\n")) - {""}

    def close(self) -> None:
        """Release what the main process holds."""
        self.bytes.close()
        for end in self._births or ():
            os.close(end)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.environ.pop(FOLDER_VARIABLE, None)


def start_of(place: int, kind: struct.Struct) -> int:
    """Return where the values of a place begin."""
    return START[kind] + place % PLACES * AT_ONCE * kind.size


def _mapped(folder: Path) -> mmap.mmap:
    with (folder / MEMORY_FILE).open("r+b") as file:
        return mmap.mmap(file.fileno(), SIZE)


def _writer(folder: Path) -> int:
    return os.open(folder / BIRTHS_FILE, os.O_WRONLY | os.O_NONBLOCK)
