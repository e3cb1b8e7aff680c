"""Tracebacks that users see: they begin at the user's own frame, and are whole where that helps."""

import logging
import re
from typing import Annotated

import pytest
from pydantic import AfterValidator

from orchestrator.definition.codecs import codec_of
from orchestrator.definition.signature import read_contract
from orchestrator.errors import path_text, traceback_text


def throw(error):
    raise error


def raised_by(call, *given):
    """What a call raises, without the frame of this test, which is a user's too."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - each case raises its own
        call(*given)
    return caught.value.with_traceback(caught.tb.tb_next)


def frames(text):
    """The functions of a traceback's frames, a list for each exception of the chain."""
    return [
        re.findall(r"^\s+[|+ ]*File .* in (\S+)$", part, re.MULTILINE)
        for part in re.split("\n\n(?:The above|During)", text)
    ]


def node_function():
    return {"a": 1}["b"]


async def async_node_function():
    node_function()


def check_number(value: int) -> int:
    throw(OSError(value))
    return value


def with_a_cause():
    try:
        node_function()
    except KeyError as error:
        raise ValueError("outer") from error


def with_a_group():
    raise ExceptionGroup("several", [raised_by(read_contract(node_function).invoke, None, None)])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (lambda: raised_by(read_contract(node_function).invoke, None, None), [["node_function"]]),
        (
            lambda: raised_by(read_contract(with_a_cause).invoke, None, None),
            [["with_a_cause", "node_function"], ["with_a_cause"]],
        ),
        (lambda: raised_by(read_contract(with_a_group).invoke, None, None), [["with_a_group", "node_function"]]),
        (
            lambda: raised_by(codec_of(Annotated[int, AfterValidator(check_number)]).check, 1),
            [["check_number", "throw"], []],
        ),
        (lambda: raised_by(codec_of(int).dump, "x"), [[]]),
    ],
    ids=["function", "cause", "group", "validator", "own"],
)
def test_a_traceback_begins_at_the_users_own_frame(error, expected):
    assert frames(traceback_text(error())) == expected


def test_a_traceback_is_whole_for_whoever_debugs(caplog):
    error = raised_by(read_contract(node_function).invoke, None, None)
    with caplog.at_level(logging.DEBUG, "orchestrator"):
        assert frames(traceback_text(error)) == [["invoke", "node_function"]]


def test_a_traceback_that_is_nobodys_but_ours_is_whole():
    error = raised_by(path_text, 5)
    assert frames(traceback_text(error)) == [["path_text"]]
