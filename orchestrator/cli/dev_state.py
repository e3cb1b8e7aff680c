"""State of an `orchestrator dev`: a second terminal in its folder finds the server and the flows by it."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

FOLDER = Path(".orchestrator")
FILE = FOLDER / "dev.json"
APP = "orchestrator.cli.dev_app"
MODULES_VARIABLE = "ORCHESTRATOR_DEV_MODULES"


def environment(url: str, modules: list[str]) -> dict[str, str]:
    """Return the variables by which a process finds the server and the modules; Celery reads its own two."""
    return {
        "CELERY_BROKER_URL": url,
        "CELERY_RESULT_BACKEND": url,
        "ORCHESTRATOR_REDIS_URL": url,
        MODULES_VARIABLE: ",".join(modules),
    }


def remember(url: str, modules: list[str]) -> None:
    """Write where this process's server is."""
    FOLDER.mkdir(exist_ok=True)
    FILE.write_text(json.dumps({"url": url, "modules": modules, "pid": os.getpid()}), encoding="utf-8")


def forget() -> None:
    """Remove what `remember` wrote."""
    FILE.unlink(missing_ok=True)


def use_running_dev() -> str | None:
    """Put the variables of the `orchestrator dev` of this folder into the environment; None if there runs none.

    Returns:
        What to give to `-A`.
    """
    try:
        found = json.loads(FILE.read_text(encoding="utf-8"))
        os.kill(found["pid"], 0)
    except (OSError, ValueError, KeyError):
        with contextlib.suppress(OSError):  # a dev that was killed left it
            forget()
        return None
    os.environ.update(environment(found["url"], found["modules"]))
    return APP
