"""Footprint of a process, as Linux tells it: open files, connections that only the other side has closed, memory."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

CLOSE_WAIT = "08"


@dataclass(frozen=True)
class Footprint:
    """What a process holds.

    Attributes:
        files: Open files, sockets and pipes.
        deserted: Of those, TCP connections in CLOSE-WAIT.
        memory_mb: Resident memory.
        peak_mb: The most that it ever was.
    """

    files: int
    deserted: int
    memory_mb: float
    peak_mb: float

    @classmethod
    def of(cls, pid: int) -> Footprint:
        """Look at a process that runs."""
        deserted = _deserted_sockets()
        links = []
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                links.append(str(link.readlink()))
        lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        memory = {name: int(numbers[0]) / 1024 for name, *numbers in lines if name in {"VmRSS:", "VmHWM:"}}
        return cls(len(links), sum(link in deserted for link in links), memory["VmRSS:"], memory["VmHWM:"])

    def row(self, prefix: str) -> dict[str, float]:
        """Columns of a table of curves."""
        return {f"{prefix}_{name}": round(value) for name, value in asdict(self).items()}


def _deserted_sockets() -> set[str]:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {f"socket:[{row[9]}]" for row in rows if row[3] == CLOSE_WAIT}
