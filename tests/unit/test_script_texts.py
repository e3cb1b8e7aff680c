"""Texts of the scripts: what their headers promise, fragments that exist once, arguments by name."""

from __future__ import annotations

import re
from importlib.resources import files
from itertools import takewhile

import pytest

from orchestrator.store.scripts.assembly import argument_names, in_order, script_text

FOLDER = files("orchestrator.store.scripts")


def names_in(*folders):
    found = FOLDER.joinpath(*folders)
    return sorted(path.name.removesuffix(".lua") for path in found.iterdir() if path.name.endswith(".lua"))


def source(*path):
    return FOLDER.joinpath(*path[:-1], f"{path[-1]}.lua").read_text()


SCRIPTS = names_in()


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_what_it_does_takes_returns_and_keeps_and_what_a_second_call_does(name):
    header = "".join(takewhile(lambda line: line.startswith("--"), source(name).splitlines(keepends=True)))
    for part in ("-- KEYS ", "-- ARGV ", "-- Returns ", "-- TTL "):
        assert header.count(part) == 1, f"{name}.lua: {part}"
    assert "second call" in " ".join(header.split("\n-- ")), name


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_fragment_is_in_its_place(name):
    assert "-- include:" not in script_text(name)


def test_a_fragment_stands_in_several_scripts():
    texts = [source(name) for name in names_in()] + [source("library", name) for name in names_in("library")]
    texts.append(FOLDER.joinpath("assembly.py").read_text())  # puts the keys in front of the library
    for name in names_in("fragments"):
        used = sum(bool(re.search(rf"-- include: {name}\b", text)) for text in texts)
        assert used > 1, f"{name}.lua is no fragment"


def test_the_clock_is_read_in_one_place():
    assert sum(script_text(name).count("redis.call('TIME')") for name in SCRIPTS) > 1
    places = [(folder, name) for folder in ("", "library", "fragments") for name in names_in(*folder.split())]
    assert [name for folder, name in places if "'TIME'" in source(*folder.split(), name)] == ["instant"]


def test_as_many_arguments_are_bound_as_have_names():
    names = argument_names("start")
    assert (names[0], names[-1]) == ("flow", "lane")
    assert f"= unpack(ARGV, 1, {len(names)})\n" in source("start")
    assert f"FIRST, WRITE_AT_ONCE = 1000, 50, {len(names) + 1}, 1000" in source("start"), "the nodes come behind them"


def test_arguments_are_given_by_name():
    assert in_order(("one", "two", "three"), {"three": 3, "one": 1}) == [1, "", 3]
    with pytest.raises(TypeError, match="no argument of the script: four"):
        in_order(("one", "two", "three"), {"four": 4})
