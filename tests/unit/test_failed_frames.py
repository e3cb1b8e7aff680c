"""Release of what a failed function held, once everybody has read its error, without a collection of the process."""

import gc
import logging
import threading
import traceback
import weakref

import pytest
from celery import Celery, signals
from celery.app.trace import build_tracer
from celery.exceptions import Ignore

from orchestrator.execution.failed_frames import Telling, release, release_later


class Held:
    """Something large."""


def fail(seen: list[weakref.ref[Held]]) -> None:
    held = Held()
    seen.append(weakref.ref(held))
    try:
        int("x")
    except ValueError as error:
        raise KeyError(held is None) from error


@pytest.fixture
def failed():
    """An error in a cycle with its own frame, as those of attempts are, and what its function held."""
    seen: list[weakref.ref[Held]] = []

    def keep() -> KeyError:
        try:
            fail(seen)
        except KeyError as error:
            kept = error
        return kept

    gc.disable()
    yield keep(), seen[0]
    gc.enable()


def test_what_an_error_held_is_free_and_what_it_says_is_kept(failed):
    error, held = failed
    assert held() is not None
    release(error)
    assert held() is None
    assert "KeyError: False" in "".join(traceback.format_exception(error))


def test_what_celery_is_told_of_is_free_with_the_next_message_of_the_thread(failed):
    error, held = failed
    release_later(error)

    def begin_message() -> None:
        with Telling():
            pass

    other = threading.Thread(target=begin_message)
    other.start()
    other.join()
    assert held() is not None, "another thread's message is not this one's"
    begin_message()
    assert held() is None
    begin_message()


@pytest.mark.parametrize("kind", [Ignore, ValueError])
def test_what_a_message_raised_is_free_with_the_next_one_though_celerys_tracer_keeps_it(kind, caplog, monkeypatch):
    caplog.set_level(logging.CRITICAL, "celery.app.trace")  # its records would keep the error
    for signal in (signals.task_failure, signals.task_prerun, signals.task_postrun):  # so would handlers of other tests
        monkeypatch.setattr(signal, "receivers", [])
    app = Celery("traced", backend="cache+memory://", set_as_current=False)
    raised: list[weakref.ref[BaseException]] = []

    @app.task(ignore_result=True, shared=False)
    def node(end: str) -> None:
        with Telling():
            if end == "fails":
                error = type("Own", (kind,), {})("no")
                raised.append(weakref.ref(error))
                raise error

    trace = build_tracer(node.name, node, app=app, loader=app.loader)
    gc.disable()
    try:
        for end in ("fails", "returns"):
            trace("id", (end,), {}, {"id": "id", "delivery_info": {}})
    finally:
        gc.enable()
    assert [error() for error in raised] == [None]


def test_a_group_and_a_chain_that_bites_its_tail_are_released(failed):
    error, held = failed
    group = BaseExceptionGroup("both", [error])
    error.__context__ = group
    release(group)
    assert held() is None
