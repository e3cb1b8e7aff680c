"""Health check of the container's own service: `python health.py worker|beat|flower`, exit code 0 or 1.

It is a program because a health check in exec form has no shell to fill in the host's name. It does not look at flows:
whether runs make progress is a question for monitoring.
"""

import os
import socket
import sys
import urllib.request
from collections.abc import Callable

from workers.app import app

_SECONDS = 5.0


def check_worker() -> bool:
    """The worker of this container, under its default name, answers a ping."""
    return _answers(f"celery@{socket.gethostname()}")


def check_beat() -> bool:
    """Beat, started with `--enable-remote-control`, answers a ping, unless its clock has stopped ticking."""
    return _answers(f"celerybeat@{socket.gethostname()}")


def check_flower() -> bool:
    """Flower answers on the one page that needs no password."""
    port = int(os.environ.get("FLOWER_PORT", "5555"))  # the variable is Flower's own
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthcheck", timeout=_SECONDS) as answer:
        return bool(answer.status == 200)  # noqa: PLR2004 - OK


def _answers(name: str) -> bool:
    return bool(app.control.ping(destination=[name], timeout=_SECONDS))


CHECKS: dict[str, Callable[[], bool]] = {"worker": check_worker, "beat": check_beat, "flower": check_flower}


def main(arguments: list[str]) -> int:
    """Run the named check; the reason for a failure goes to standard error, which `docker inspect` shows."""
    if len(arguments) != 1 or arguments[0] not in CHECKS:
        sys.stderr.write(f"usage: health.py {'|'.join(CHECKS)}\n")
        return 2
    try:
        is_well = CHECKS[arguments[0]]()
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is the answer
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    if not is_well:
        sys.stderr.write(f"{arguments[0]} did not answer within {_SECONDS:.0f} s\n")
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
