"""The loop of a process's async nodes: one for all threads, interruptible, and closed in order."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from celery import Celery, current_task

from orchestrator.execution import event_loop
from orchestrator.execution.current_loop import provide_current_loop
from orchestrator.execution.event_loop import NodeLoop
from orchestrator.execution.node_requests import with_current_task
from orchestrator.liveness.time_limit import call_within, interruptible
from tests.harness import wait_until

tenant = contextvars.ContextVar("tenant", default="nobody")


class Limit(Exception):
    """What a time limit raises here."""


def run_on_loop(awaitable, timeout_s=30.0):
    return event_loop.run_on_loop(awaitable, timeout_s=timeout_s, expired=Limit)


@pytest.fixture(autouse=True)
def _closed():
    yield
    event_loop.close_loop()
    left = {thread for thread in threading.enumerate() if thread.name == "orchestrator-async-nodes"}
    wait_until(lambda: not any(thread.is_alive() for thread in left), "the thread of the loop has ended")


async def where():
    return asyncio.get_running_loop(), threading.get_native_id()


async def fail():
    raise ValueError("no")


def test_all_threads_share_one_loop_in_a_thread_of_its_own():
    with ThreadPoolExecutor(4) as pool:
        found = {
            run_on_loop(where()),
            *(each.result() for each in [pool.submit(run_on_loop, where()) for _ in range(8)]),
        }
    assert len(found) == 1
    ((_, thread),) = found
    assert thread != threading.get_native_id()


def test_coroutines_of_several_threads_run_at_the_same_time():
    meeting = asyncio.Barrier(4)

    async def meet():
        async with asyncio.timeout(30):
            await meeting.wait()

    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(run_on_loop, meet()) for _ in range(4)]:
            each.result(timeout=30)


@pytest.mark.parametrize(
    "error", [ValueError("no"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError("stop")]
)
def test_what_a_coroutine_raises_is_the_callers_and_the_loop_goes_on(error):
    async def fail():
        raise error

    with pytest.raises(type(error)) as caught:
        run_on_loop(fail())
    assert caught.value is error
    assert run_on_loop(where())


def test_a_task_that_was_left_behind_cannot_end_the_loop(caplog):
    async def leave():
        async def later():
            raise SystemExit(3)

        return asyncio.create_task(later())

    task = run_on_loop(leave())
    wait_until(task.done, "the task has ended")
    assert run_on_loop(where())
    assert "left behind" in caplog.text
    assert isinstance(task.exception(), SystemExit)


def test_what_a_task_left_behind_goes_on_between_nodes():
    done = []

    async def leave():
        async def later():
            await asyncio.sleep(0.01)
            done.append(1)

        return asyncio.create_task(later())

    kept = run_on_loop(leave())
    wait_until(lambda: done and kept.done(), "the background task has ended")


def test_a_coroutine_has_the_context_of_its_caller():
    async def read():
        await asyncio.sleep(0)
        return tenant.get()

    token = tenant.set("a")
    try:
        assert run_on_loop(read()) == "a"
    finally:
        tenant.reset(token)


def test_a_coroutine_has_its_callers_celery_task_in_every_step():
    app = Celery("steps", set_as_current=False)

    async def read(number):
        seen = set()
        for _ in range(20):
            await asyncio.sleep(0.001)
            seen.add((current_task.name, current_task.request.id))
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.001)  # a cancel on the way
        return [*seen, number, (current_task.name, current_task.request.id)]

    def act(number):
        return run_on_loop(with_current_task(read(number)))

    tasks = [app.task(act, name=f"task-{number}") for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(task.apply, (number,), task_id=f"id-{number}") for number, task in enumerate(tasks)]
        for number, result in enumerate(results):
            about = (f"task-{number}", f"id-{number}")
            assert result.result().get() == [about, number, about]
    assert run_on_loop(with_current_task(no_task())) is None


async def no_task():
    return current_task._get_current_object()


def test_a_thread_that_nothing_interrupts_has_a_limit_too():
    async def own():
        raise TimeoutError("its own")

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(Limit):
            pool.submit(run_on_loop, asyncio.sleep(60), 0.1).result(timeout=30)
        with pytest.raises(TimeoutError, match="its own"):
            pool.submit(run_on_loop, own()).result(timeout=30)


def test_whatever_can_be_awaited_may_be():
    class Later:
        def __await__(self):
            return (yield from asyncio.sleep(0.001, 5).__await__())

    assert run_on_loop(Later()) == 5


def limited(coroutine, seconds=0.1):
    with interruptible():
        return call_within(seconds, Limit, lambda: run_on_loop(coroutine))


def test_a_time_limit_cancels_the_coroutine_and_waits_for_its_end():
    seen = []

    async def hang():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
            seen.append("cleaned up")
            raise

    with pytest.raises(Limit):
        limited(hang())
    assert seen == ["cleaned up"]
    assert run_on_loop(where())


def test_a_coroutine_that_ends_otherwise_when_it_is_cancelled_does_not_hide_the_limit():
    async def swallow():
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return "late"

    async def replace():
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("while it ends")

    for coroutine in (swallow(), replace()):
        with pytest.raises(Limit):
            limited(coroutine)


def test_a_second_interruption_leaves_a_coroutine_that_refuses_to_end():
    ends, cancelled = threading.Event(), threading.Event()

    async def refuse():
        while not ends.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                if not cancelled.is_set():
                    cancelled.set()
                    os.kill(os.getpid(), signal.SIGUSR1)

    def strike(_signal, _frame):
        raise Limit("the second one")

    before = signal.signal(signal.SIGUSR1, strike)
    try:
        with pytest.raises(Limit, match="the second one"):
            limited(refuse())
        assert cancelled.is_set()
    finally:
        signal.signal(signal.SIGUSR1, before)
        ends.set()


@pytest.mark.filterwarnings("ignore:coroutine .*short.* was never awaited")  # struck before it was handed over
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # struck in a callback of a weakref
def test_a_limit_strikes_at_any_point_and_the_loop_goes_on():
    """Of many limits about as long as a call, some strike while it is handed over or has just ended."""

    async def short():
        await asyncio.sleep(0)
        return 1

    run_on_loop(short())
    outcomes = set()
    for number in range(400):
        try:
            outcomes.add(limited(with_current_task(short()), seconds=0.00002 + number * 0.000001))
        except Limit:
            outcomes.add("limit")
    assert run_on_loop(short()) == 1
    assert outcomes == {1, "limit"}


def test_waiting_for_a_coroutine_on_the_loop_itself_is_refused():
    async def nested():
        return run_on_loop(where())

    with pytest.raises(RuntimeError, match="use start_async"):
        run_on_loop(nested())


def test_a_forked_process_has_a_loop_of_its_own():
    parent, _ = run_on_loop(where())
    if (child := os.fork()) == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        own, _ = run_on_loop(where())
        event_loop.close_loop()
        os._exit(0 if own is not parent else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert run_on_loop(where())[0] is parent, "the child has not closed its files"


def test_closing_cancels_what_is_left_and_finishes_generators():
    seen = []

    async def count():
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            seen.append("generator")

    async def leave():
        async def later():
            try:
                await asyncio.sleep(60)
            finally:
                seen.append("task")

        task, generator = asyncio.create_task(later()), count()
        await asyncio.sleep(0)
        assert await anext(generator) == 1
        return task, generator

    kept = run_on_loop(leave())
    loop, _ = run_on_loop(where())
    event_loop.close_loop()
    assert sorted(seen) == ["generator", "task"]
    assert kept[0].cancelled()
    assert loop.is_closed()
    assert run_on_loop(where())[0] is not loop, "a worker that starts later in this process has its own"


def test_closing_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(event_loop, "CLOSE_S", 0.2)
    ends = threading.Event()

    async def leave():
        return asyncio.get_running_loop().run_in_executor(None, ends.wait)

    kept = run_on_loop(leave())
    began = time.monotonic()
    event_loop.close_loop()
    assert time.monotonic() - began < 3
    assert not kept.done()
    ends.set()


def test_a_loop_on_which_nothing_ran_has_nothing_to_close():
    NodeLoop().close()


# --- the current loop of a thread that runs functions ----------------------------------------------


@pytest.fixture
def in_thread():
    """Calls a function in a thread that has no loop yet."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda function: pool.submit(function).result(timeout=30)


def test_a_thread_has_the_same_current_loop_for_each_node_and_after_asyncio_run(in_thread):
    async def running():
        return asyncio.get_running_loop()

    def go():
        provide_current_loop()
        loop = asyncio.get_event_loop()
        future: asyncio.Future[int] = asyncio.Future()
        loop.call_soon(future.set_result, 1)
        assert loop.run_until_complete(future) == 1
        assert loop.run_until_complete(running()) is loop
        assert asyncio.run(running()) is not loop
        return loop

    first, second = in_thread(go), in_thread(go)
    assert first is second


def test_a_current_loop_that_is_there_stays_and_a_closed_one_is_replaced(in_thread):
    def go():
        provide_current_loop()
        provided = asyncio.get_event_loop()
        own = asyncio.new_event_loop()
        asyncio.set_event_loop(own)
        provide_current_loop()
        assert asyncio.get_event_loop() is own
        own.close()
        asyncio.set_event_loop(None)
        provided.close()
        provide_current_loop()
        assert asyncio.get_event_loop() is not provided
        return asyncio.get_event_loop().run_until_complete(asyncio.sleep(0, 1))

    assert in_thread(go) == 1


def test_a_current_loop_is_closed_with_its_thread():
    def go():
        provide_current_loop()
        asyncio.get_event_loop().run_until_complete(asyncio.sleep(0))
        return asyncio.get_event_loop()

    with ThreadPoolExecutor(1) as pool:
        loop = pool.submit(go).result()
        assert not loop.is_closed()
    assert loop.is_closed()


def test_a_current_loop_opens_no_file_before_it_is_used():
    def open_files():
        return {each.name for each in Path("/proc/self/fd").iterdir()}

    def go():
        before = open_files()
        provide_current_loop()
        return open_files() - before  # files of other tests may be closed meanwhile

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(go).result() == set()
