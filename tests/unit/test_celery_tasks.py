"""A Celery task as a node's function: called as it is, and which of its own options do not apply."""

import functools
import logging

import pytest
from celery import Celery
from celery.local import Proxy
from pydantic import BaseModel

from orchestrator.definition.codecs import codec_of
from orchestrator.definition.context import NodeContext
from orchestrator.definition.node import node
from orchestrator.definition.signature import MISSING, BadFunction, read_contract


class Order(BaseModel):
    number: int
    rush: bool = False


def context():
    return NodeContext(
        run_id="r", flow_name="f", node_name="n", attempt=1, idempotency_key="k", logger=logging.getLogger("x")
    )


def call(function, given=MISSING):
    """Call a function as the engine does."""
    contract = read_contract(function)
    return contract.invoke(context(), contract.read(given))


@pytest.fixture
def app():
    with Celery("test", set_as_current=False, broker="memory://") as app:
        # A task is shared with every app of the process unless told otherwise.
        app.task = functools.partial(app.task, shared=False)
        yield app


def test_a_celery_task_is_called_as_it_is(app):
    @app.task
    def plain(given: int) -> Order:
        return Order(number=given)

    contract = read_contract(plain)
    assert (contract.style, contract.output, contract.ignored) == ("single", codec_of(Order), ())
    assert call(plain, "5") == Order(number=5)


def test_a_bound_task_has_itself_and_is_no_input(app):
    @app.task(bind=True)
    def bound(self, ctx: NodeContext, given: int):
        return self.name, ctx.run_id, given

    assert read_contract(bound).style == "single"
    assert call(bound, 5) == (bound.name, "r", 5)


def test_a_retry_of_a_task_raises_its_reason(app):
    @app.task(bind=True, max_retries=3)
    def retrying(self):
        raise self.retry(exc=ValueError("why"))

    with pytest.raises(ValueError, match="why"):
        call(retrying)


def test_options_of_a_task_that_do_not_apply_are_known(app):
    @app.task(rate_limit="5/m", time_limit=3, soft_time_limit=2, autoretry_for=(KeyError,))
    def busy(given: int):
        raise KeyError(given)

    busy.queue = "q"  # Celery warns when it is given to the decorator
    contract = read_contract(busy)
    assert contract.ignored == ("rate_limit", "time_limit", "soft_time_limit", "queue", "autoretry_for")
    assert contract.style == "single"
    with pytest.raises(KeyError):
        call(busy, 5)


def test_a_rate_limit_of_the_app_is_not_the_tasks_own(app):
    app.conf.task_default_rate_limit = "5/m"

    @app.task
    def plain():
        return 1

    assert read_contract(plain).ignored == ()


def test_a_shared_task_is_a_task(app):
    @app.task
    def shared(given: int):
        return given + 1

    assert call(Proxy(lambda: shared), 5) == 6  # what @shared_task returns


def test_a_generator_task_is_refused(app):
    @app.task
    def generating():
        yield 1

    with pytest.raises(BadFunction, match="generator"):
        read_contract(generating)


def test_a_task_may_be_decorated(app):
    @node
    @app.task
    def decorated_task(given: int) -> int:
        return given

    assert decorated_task.name == "decorated-task"
    assert decorated_task.contract.style == "single"
