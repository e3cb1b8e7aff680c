"""Release what failed functions held: a traceback keeps the local variables of every frame until the next collection.

Error trackers and logs read them when an attempt has ended; of a failure that Celery is told of, until its message has.
"""

from __future__ import annotations

import threading
import traceback

_told = threading.local()


def release(error: BaseException) -> None:
    """Clear the frames of an error that everybody has read, and of those behind it; it can still be printed."""
    todo, seen = [error], set[int]()
    while todo:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        traceback.clear_frames(each.__traceback__)
        todo += [behind for behind in (each.__cause__, each.__context__) if behind is not None]
        todo += each.exceptions if isinstance(each, BaseExceptionGroup) else ()


def release_later(error: BaseException) -> None:
    """Clear the frames of an error when this thread begins with its next message: Celery's signals are to see it."""
    if not hasattr(_told, "errors"):
        _told.errors = []
    _told.errors.append(error)


def release_told() -> None:
    """Clear the frames of what this thread has told Celery of, now that its message has ended."""
    for error in _told.__dict__.pop("errors", ()):
        release(error)
