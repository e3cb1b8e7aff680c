"""Assembly of a script's text: fragments and parts of the library in their places.

Redis gets one text for each script, so an include costs nothing when the script runs. Three comments are read here:

- `-- include: <name>` on a line of its own is replaced by fragments/<name>.lua, library/<name>.lua or the script
  <name>.lua; words behind the name are fields that the fragment reads into locals of the same names;
- `-- module: <name>` is replaced by library/<name>.lua as a module that is made when it is first used;
- `-- needs: transition` in a script's header puts the library in front of it, with the run id as its
  first argument, and writes at its end what was changed.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

INCLUDE = re.compile(r"^ *-- (include|module): (\w+)((?: \w+)*)$", re.MULTILINE)


@cache
def script_text(name: str) -> str:
    """Lua of an operation, with all that it needs."""
    text = _read(f"{name}.lua")
    if "\n-- needs: transition\n" not in text:
        return text
    library = "-- include: keys\nlocal RUN_ID = ARGV[1]\n-- include: transition"
    # A function around the script: a `return` in the middle of it must not leave before flush() has written what
    # changed.
    return _filled(f"{library}\nlocal answer = (function()\n{text}\nend)()\nflush()\nreturn answer")


@cache
def argument_names(name: str) -> tuple[str, ...]:
    """The names that a script binds its ARGV to, in their order and in small letters."""
    bound = re.search(r"^local ([\w,\s]+?) = unpack\(ARGV, 1, \d+\)$", script_text(name), re.MULTILINE)
    return () if bound is None else tuple(each.strip().lower() for each in bound[1].split(","))


def in_order(names: Sequence[str], given: Mapping[str, Any]) -> list[Any]:
    """Arguments by name as a script binds them, '' for those that are not given.

    Raises:
        TypeError: The script knows no argument of a name that is given.
    """
    arguments: dict[str, Any] = {**dict.fromkeys(names, ""), **given}
    if len(arguments) != len(names):
        raise TypeError(f"no argument of the script: {', '.join(given.keys() - set(names))}")
    return list(arguments.values())


def _read(*path: str) -> str:
    return _filled(files(__package__).joinpath(*path).read_text())


def _filled(text: str) -> str:
    return INCLUDE.sub(lambda found: _part(found[1], found[2], tuple(found[3].split())), text)


@cache
def _part(kind: str, name: str, fields: tuple[str, ...]) -> str:
    places = (("fragments",), ("library",), ())  # the last for a script that another one makes a function of
    folder = next(each for each in places if files(__package__).joinpath(*each, f"{name}.lua").is_file())
    text = _read(*folder, f"{name}.lua")
    text = text.replace("--[[, names]]", "".join(f", {field}" for field in fields))
    text = text.replace("--[[, fields]]", "".join(f", '{field}'" for field in fields))
    return f"on_demand({name}, function()\n{text}\nend)" if kind == "module" else text
