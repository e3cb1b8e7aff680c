"""Import time of the package beyond a Celery worker's own imports: `python -m benchmarks.imports`.

Both are imported in new processes, one after the other, from byte code, as where the package is installed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile

ROUNDS = 15
CELERY = """
import time
began = time.perf_counter()
import celery.apps.worker, celery.bin.celery, celery.concurrency.prefork, kombu.transport.redis
"""
PRINT_SECONDS = "\nprint(time.perf_counter() - began)"
PROGRAMS = {"celery": CELERY + PRINT_SECONDS, "celery and orchestrator": f"{CELERY}import orchestrator{PRINT_SECONDS}"}


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"PYTHONPYCACHEPREFIX": cache}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)

        def seconds(program: str) -> float:
            return float(subprocess.check_output([sys.executable, "-c", program], env=environment))

        for program in PROGRAMS.values():
            seconds(program)  # writes the bytecode
        rounds = [{name: seconds(program) for name, program in PROGRAMS.items()} for _ in range(ROUNDS)]
    alone, both = ([each[name] * 1000 for each in rounds] for name in PROGRAMS)
    over = sorted(mine - theirs for mine, theirs in zip(both, alone, strict=True))
    sys.stdout.write(
        f"celery {statistics.median(alone):.0f} ms, orchestrator over it {statistics.median(over):.0f} ms "
        f"({over[0]:.0f} to {over[-1]:.0f})\n"
    )


if __name__ == "__main__":
    main()
