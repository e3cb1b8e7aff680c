"""Clients on event loops: a wait holds neither a thread nor the loop, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from celery import Celery

from orchestrator import (
    FlowBuilder,
    Node,
    Orchestrator,
    RunFailed,
    Settings,
    StoreUnavailable,
    UnknownRun,
    manual,
    runs,
)
from orchestrator.server import EmbeddedServer
from orchestrator.store import shared_listener
from orchestrator.store.blocking_calls import call_in_thread
from tests.harness import wait_until

MANY = 200
# Its runs wait for a worker that never comes.
idle = FlowBuilder("idle").triggered_by(manual("test")).on_queue("nobody").then(Node("one", lambda: 1)).build()


def client_of(url, **settings):
    app = Celery("clients", broker=url, backend=url, set_as_current=False)
    return Orchestrator(app, settings=Settings(**settings))


@pytest.fixture
def orchestrator(server):
    return client_of(server.url)


@pytest.fixture
def run(orchestrator):
    started = orchestrator.start(idle)
    yield started
    started.cancel("over")


@pytest.fixture
def own_server(tmp_path):
    """One that a test may stop."""
    with EmbeddedServer(tmp_path / "server") as running:
        yield running


def subscribers(orchestrator):
    """How many channels of ended runs this server's clients listen to."""
    store = orchestrator._engine.store
    return len(store.client.pubsub_channels(store.keys.done("*")))


async def until(condition, what):
    """As `wait_until`, while the event loop runs."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


async def waiting(orchestrator, *started):
    """A task for each run that waits for it, once the server knows of them all."""
    before = subscribers(orchestrator)
    tasks = [asyncio.create_task(run.wait_async()) for run in started]
    await until(lambda: subscribers(orchestrator) == before + len(started), "every wait listens")
    return tasks


# --- a web application ------------------------------------------------------------------------------


@asynccontextmanager
async def served(orchestrator):
    """Serve an ASGI application that starts a run for each request; gives what makes a request."""

    async def application(scope, receive, send):
        if scope["type"] == "lifespan":
            for moment in ("startup", "shutdown"):
                assert (await receive())["type"] == f"lifespan.{moment}"
                await send({"type": f"lifespan.{moment}.complete"})
            return
        run = await orchestrator.start_async(scope["path"].strip("/"))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(await run.result_async()).encode()})

    async def request(path):
        sent = []

        async def send(message):
            sent.append(message)

        await application({"type": "http", "path": path}, None, send)
        return sent[-1]["body"]

    inbox: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    outbox: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    lifespan = asyncio.create_task(application({"type": "lifespan"}, inbox.get, outbox.put))
    await inbox.put({"type": "lifespan.startup"})
    assert (await outbox.get())["type"] == "lifespan.startup.complete"
    yield request
    await inbox.put({"type": "lifespan.shutdown"})
    await lifespan


def test_requests_are_answered_as_fast_beside_many_that_wait(sample):
    async def serve():
        orchestrator = sample.orchestrator
        orchestrator.register(idle)
        async with served(orchestrator) as request:

            async def seconds_of_requests():
                began = time.monotonic()
                for _ in range(20):
                    assert await request("/asynchronous")
                return time.monotonic() - began

            await seconds_of_requests()
            alone = await seconds_of_requests()
            before = threading.active_count()
            others = [asyncio.create_task(request("/idle")) for _ in range(MANY)]
            await until(lambda: subscribers(orchestrator) >= MANY, "all of them wait")
            threads = threading.active_count()
            assert threads - before < MANY / 4
            beside = await seconds_of_requests()
            assert beside < 3 * alone, f"{beside:.2f} s beside {MANY} waits, {alone:.2f} s alone"
            assert threading.active_count() == threads
            for run in orchestrator.runs(flow="idle", status="pending", limit=MANY):
                run.cancel("over")
            ended = await asyncio.gather(*others, return_exceptions=True)
            assert {type(how) for how in ended} == {RunFailed}

    asyncio.run(serve())


def test_a_call_in_a_thread_has_the_callers_context():
    tenant = contextvars.ContextVar("tenant", default="nobody")

    async def call():
        tenant.set("a")
        return await call_in_thread(tenant.get)

    assert asyncio.run(call()) == "a"


# --- how a wait ends --------------------------------------------------------------------------------


@pytest.mark.parametrize("hears", [True, False], ids=["by its message", "by the timer"])
def test_a_wait_ends_soon_after_its_run(orchestrator, run, hears, monkeypatch):
    listener = orchestrator._engine.store.shared_listener
    if hears:
        monkeypatch.setattr(shared_listener, "READ_AGAIN_S", 3600.0)
    else:
        monkeypatch.setattr(listener, "_channel_of", lambda run_id: f"of-nobody:{run_id}")

    async def go():
        task = asyncio.create_task(run.wait_async(timeout=30))
        await until(lambda: any(waiter.seen for waiter in listener.waiters()), "it was read once")
        await call_in_thread(run.cancel)
        return await task

    assert asyncio.run(go()) == "cancelled"


def test_a_wait_without_time_says_whether_the_run_has_ended(orchestrator, run):
    message = f"run {run.id} has not ended within 0 s: it is pending"
    with pytest.raises(TimeoutError, match=message):
        asyncio.run(run.wait_async(timeout=0))
    run.cancel("over")
    assert asyncio.run(run.wait_async(timeout=0)) == "cancelled"
    with pytest.raises(RunFailed, match="over"):
        asyncio.run(run.result_async(timeout=0))


def test_a_wait_right_after_another_one_for_the_same_run_is_answered_as_soon(run, monkeypatch):
    """The listener may not have noticed in between that the first one is gone."""
    monkeypatch.setattr(shared_listener, "READ_AGAIN_S", 3600.0)

    async def go():
        for _ in range(50):
            with pytest.raises(TimeoutError):
                await run.wait_async(timeout=0)

    asyncio.run(go())


def test_a_wait_for_a_run_that_is_gone_is_an_error(orchestrator, run):
    async def go():
        (task,) = await waiting(orchestrator, run)
        store = orchestrator._engine.store
        record = store.client.dump(store.keys.run(run.id))
        store.client.delete(store.keys.run(run.id))
        try:
            await task
        finally:
            store.client.restore(store.keys.run(run.id), 0, record)

    with pytest.raises(UnknownRun, match=run.id):
        asyncio.run(go())
    with pytest.raises(UnknownRun):
        asyncio.run(runs.FlowRun(orchestrator._engine, "no:such*run").wait_async())


def test_whatever_else_goes_wrong_is_raised_by_every_wait(orchestrator, run, monkeypatch):
    def refuse(_run_ids):
        raise PermissionError("not yours")

    monkeypatch.setattr(orchestrator._engine.store.shared_listener, "_read", refuse)

    async def go():
        return await asyncio.gather(run.wait_async(), run.wait_async(timeout=30), return_exceptions=True)

    assert [repr(error) for error in asyncio.run(go())] == ["PermissionError('not yours')"] * 2


# --- what it leaves behind --------------------------------------------------------------------------


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_cancelled_waits_leave_nothing(orchestrator, monkeypatch):
    monkeypatch.setattr(shared_listener, "IDLE_S", 0.05)
    started = [orchestrator.start(idle) for _ in range(20)]

    async def go():
        for task in await waiting(orchestrator, *started):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    listener = orchestrator._engine.store.shared_listener
    files = []
    for _ in range(10):
        asyncio.run(go())
        assert listener.waiters() == []
        wait_until(lambda: not subscribers(orchestrator), "no channel is listened to")
        if (thread := listener._thread) is not None:
            thread.join(30)
        gc.collect()
        files.append(open_files())
    # The pool of connections grows to as many as are used at the same time; one for each loop or thread would be 9.
    assert files[-1] - files[0] <= 3
    for run in started:
        run.cancel("over")


def test_a_loop_that_ends_in_the_middle_of_a_wait_is_forgotten(orchestrator, run):
    loop = asyncio.new_event_loop()
    (task,) = loop.run_until_complete(waiting(orchestrator, run))
    loop.close()
    wait_until(lambda: not orchestrator._engine.store.shared_listener.waiters(), "its wait is forgotten")
    wait_until(lambda: not subscribers(orchestrator), "its channel is left")
    assert not task.done()
    task.get_coro().close()
    task._log_destroy_pending = False


def test_loops_of_several_threads_wait_for_the_same_run(orchestrator, run):
    def client():
        return asyncio.run(run.wait_async(timeout=30))

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(client) for _ in range(4)]
        listener = orchestrator._engine.store.shared_listener
        wait_until(lambda: sum(waiter.seen is not None for waiter in listener.waiters()) == 4, "all wait")
        run.cancel("over")
        assert {each.result() for each in clients} == {"cancelled"}


def test_a_forked_process_waits_on_its_own(orchestrator, run):
    store = orchestrator._engine.store

    def listeners():
        return store.client.pubsub_numsub(store.keys.done(run.id))[0][1]

    with ThreadPoolExecutor(1) as pool:
        waited = pool.submit(asyncio.run, run.wait_async())
        wait_until(lambda: listeners() == 1, "the parent waits")
        if (child := os.fork()) == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
            os._exit(0 if asyncio.run(run.wait_async()) == "cancelled" else 1)
        wait_until(lambda: listeners() == 2, "the child waits")
        run.cancel("over")
        assert waited.result(timeout=30) == "cancelled"
        assert os.waitpid(child, 0)[1] == 0


# --- Redis away -------------------------------------------------------------------------------------


def test_the_loop_goes_on_while_redis_does_not_answer(own_server):
    orchestrator = client_of(own_server.url, socket_timeout=timedelta(seconds=1))
    seen, unseen = orchestrator.start(idle), orchestrator.start(idle)

    async def longest_gap(until_done):
        longest, last = 0.0, time.monotonic()
        while not until_done.done():
            await asyncio.sleep(0.01)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        return longest

    async def go():
        await waiting(orchestrator, seen)
        own_server.process.send_signal(signal.SIGSTOP)
        try:
            calls = [
                orchestrator.start_async(idle),
                seen.wait_async(timeout=1.5),
                unseen.wait_async(timeout=1.5),
                unseen.result_async(timeout=0),
            ]
            together = asyncio.gather(*calls, return_exceptions=True)
            gap = await longest_gap(together)
        finally:
            own_server.process.send_signal(signal.SIGCONT)
        return gap, await together

    gap, errors = asyncio.run(go())
    assert [type(error) for error in errors] == [StoreUnavailable] * 4
    assert gap < 0.5, "the loop stood still"


def test_the_thread_of_waits_that_are_over_ends_although_redis_has_ended(own_server, monkeypatch):
    monkeypatch.setattr(shared_listener, "IDLE_S", 1.0)
    orchestrator = client_of(own_server.url)
    run = orchestrator.start(idle)
    with pytest.raises(TimeoutError):
        asyncio.run(run.wait_async(timeout=0.2))
    thread = orchestrator._engine.store.shared_listener._thread
    wait_until(lambda: not subscribers(orchestrator), "it has left the channel")
    own_server.stop()
    wait_until(lambda: not thread.is_alive(), "the thread ends")


@pytest.mark.parametrize("kind", ["wait", "wait_async"])
def test_a_long_wait_outlasts_an_outage_and_gives_up_on_a_long_one(own_server, kind, monkeypatch):
    """The patience is with each outage, and not with all that went before it."""
    monkeypatch.setattr(runs, "OUTAGE_S", 2.0)
    orchestrator = client_of(own_server.url)
    run = orchestrator.start(idle)
    began = time.monotonic()

    def wait():
        return asyncio.run(run.wait_async()) if kind == "wait_async" else run.wait()

    with ThreadPoolExecutor(1) as pool:
        waited = pool.submit(wait)
        wait_until(lambda: time.monotonic() - began > runs.OUTAGE_S, "it has waited for long")
        own_server.stop()
        own_server.start()
        run.cancel("over")
        assert waited.result(timeout=30) == "cancelled"
        other = orchestrator.start(idle)
        run = other
        waited = pool.submit(wait)
        own_server.stop()
        with pytest.raises(StoreUnavailable):
            waited.result(timeout=30)
