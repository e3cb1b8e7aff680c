"""Release what failed functions held: a traceback keeps the local variables of every frame until the next collection.

Error trackers and logs read them when an attempt has ended; of a failure that Celery is told of, until its message has.
"""

from __future__ import annotations

import threading
import traceback

_told = threading.local()


def release(error: BaseException) -> None:
    """Clear the frames of an error that everybody has read, and of those behind it, and take its traceback away."""
    todo, seen = [error], set[int]()
    while todo:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        traceback.clear_frames(each.__traceback__)
        # Frames that still run are not cleared, and those keep the error: a cycle that only a collection would end.
        each.__traceback__ = None
        todo += [behind for behind in (each.__cause__, each.__context__) if behind is not None]
        todo += each.exceptions if isinstance(each, BaseExceptionGroup) else ()


def release_later(error: BaseException) -> None:
    """Release an error when this thread begins with its next message: Celery's signals are to see it."""
    if not hasattr(_told, "errors"):
        _told.errors = []
    _told.errors.append(error)


class Telling:
    """A message of Celery: what it raises, be it an order such as Ignore, is released as this thread's next one begins.

    Celery's tracer keeps it, with a copy of its traceback, in a frame that its traceback leads to: without a collection
    of the whole process none of them would ever be free. A class, for every message enters one.
    """

    def __enter__(self) -> None:
        """Release what the message before has told Celery of, now that it has ended."""
        for error in _told.__dict__.pop("errors", ()):
            release(error)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Note what goes to Celery."""
        if error is not None:
            release_later(error)
