"""Release of what a failed function held, once everybody has read its error, without a collection of the process."""

import gc
import threading
import traceback
import weakref

import pytest

from orchestrator.execution.failed_frames import release, release_later, release_told


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


def test_what_an_error_held_is_free_and_it_can_still_be_printed(failed):
    error, held = failed
    assert held() is not None
    release(error)
    assert held() is None
    assert "in fail" in "".join(traceback.format_exception(error))


def test_what_celery_is_told_of_is_free_with_the_next_message_of_the_thread(failed):
    error, held = failed
    release_later(error)
    other = threading.Thread(target=release_told)
    other.start()
    other.join()
    assert held() is not None, "another thread's message is not this one's"
    release_told()
    assert held() is None
    release_told()


def test_a_group_and_a_chain_that_bites_its_tail_are_released(failed):
    error, held = failed
    group = BaseExceptionGroup("both", [error])
    error.__context__ = group
    release(group)
    assert held() is None
