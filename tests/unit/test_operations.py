"""docs/operations.md names commands, options and findings that there are, and every finding of the doctor."""

from __future__ import annotations

import inspect
import re
import shlex

import click
import pytest

from orchestrator import doctor
from orchestrator.cli import flow
from orchestrator.contrib.prometheus import METRICS
from orchestrator.maintenance import preflight
from tests.documents import PAGES

PAGE = PAGES["docs/operations.md"]
TYPED = sorted(
    set(re.findall(r"(?:celery -A \w+ flow|orchestrator -A \w+|orchestrator) ((?!COMMAND)[a-z][^`|\n]*)`", PAGE))
)


@pytest.mark.parametrize("line", TYPED)
def test_a_command_has_these_words_and_options(line):
    words = shlex.split(line)
    command: click.Command = flow
    context = click.Context(command)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words.pop(0))
        assert found is not None
        command = found
        context = click.Context(command)
    command.make_parser(context).parse_args(words)


def test_there_are_many():
    assert len(TYPED) > 25


def test_the_checklist_is_what_the_doctor_finds():
    listed = re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE)
    code = inspect.getsource(doctor) + inspect.getsource(preflight)
    assert sorted(listed) == sorted(set(re.findall(r'Finding\(\s*"([a-z-]+)"', code)))


def test_every_metric_is_explained():
    named = {name.removesuffix("_total") for name in re.findall(r"`(orchestrator_\w+)`", PAGE)}
    assert named == set(METRICS)
