"""Log what happens again and again once a minute."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging

AGAIN_S = 60.0
KEPT = 256
_logged: dict[tuple[str, str], float] = {}


def warn_sparingly(logger: logging.Logger, message: str, *args: Any) -> None:
    """Log a warning, unless the same text was logged less than a minute ago."""
    if _is_new(logger, message % args):
        logger.warning(message, *args)


def log_error_sparingly(logger: logging.Logger, error: BaseException, message: str, *args: Any) -> None:
    """Log an exception with its traceback, unless the same one was logged less than a minute ago."""
    if _is_new(logger, f"{message % args} {error!r}"):
        logger.error(message, *args, exc_info=error)


def _is_new(logger: logging.Logger, text: str) -> bool:
    now = time.monotonic()
    if now - _logged.get((logger.name, text), -AGAIN_S) < AGAIN_S:
        return False
    if len(_logged) >= KEPT:
        _logged.clear()
    _logged[logger.name, text] = now
    return True
