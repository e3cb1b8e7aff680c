"""Blocking calls for event loops, in threads of their own: the loop's default ones are the application's."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import lru_cache, partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

AT_ONCE = 16
"""Calls that one process makes at the same time; more of them wait for one to return, or to fail."""
Given = ParamSpec("Given")
Answer = TypeVar("Answer")


async def call_in_thread(function: Callable[Given, Answer], *args: Given.args, **kwargs: Given.kwargs) -> Answer:
    """Call a function in a thread, with the context variables of the caller.

    Cancelling the caller drops a call that has not begun; one that has begun goes on, and its answer is dropped.
    """
    call = partial(copy_context().run, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_threads(os.getpid()), call)


@lru_cache(maxsize=1)
def _threads(_process: int) -> ThreadPoolExecutor:
    """The threads of this process; a forked process has none of its parent's."""
    return ThreadPoolExecutor(AT_ONCE, thread_name_prefix="orchestrator-async")
