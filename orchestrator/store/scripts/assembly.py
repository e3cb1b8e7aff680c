"""Assembly of a script's text: fragments in their places, the transition library in front of what needs it.

Redis gets one text for each script, so an include costs nothing when the script runs. Three comments are read here:

- `-- include: <name>` on a line of its own is replaced by fragments/<name>.lua;
- `-- needs: transition` in a script's header puts the library in front and writes at the end what was changed;
- `-- needs: <module>` puts one module of the library in front, under its name.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MODULES = ("maps", "pages", "buckets", "wait_queue", "unpublished", "abort", "finish")
"""Parts of the transition library that few operations need: a script makes one when it first uses it."""
ONE = "local answer = operations[1](ARGV)"
MANY = """local answer, at = {}, 2
while at <= #ARGV do
  local last = at + 1 + tonumber(ARGV[at + 1])
  operation = #answer + 1
  answer[#answer + 1] = operations[tonumber(ARGV[at])]({RUN_ID, unpack(ARGV, at + 2, last)})
  at = last + 1
end"""


@cache
def script_text(name: str) -> str:
    """Lua of an operation, or of two on one run as "<one>+<other>", with all that it needs."""
    texts = [_read(part) for part in name.split("+")]
    before = re.search(r"^-- before: (.*)$", texts[0], re.MULTILINE) if len(texts) == 1 else None
    needs = re.search(r"^-- needs: (.*)$", texts[0], re.MULTILINE)
    if needs is None:
        return texts[0]
    if needs[1] != "transition":
        return f"local {needs[1]} = (function()\n{_read(f'library/{needs[1]}')}\nend)()\n{texts[0]}"
    declared = "\n".join(f"local {module} = {{}}" for module in MODULES)
    modules = "\n".join(f"on_demand({module}, function()\n{_read(f'library/{module}')}\nend)" for module in MODULES)
    operations = ",\n".join(f"function(ARGV)\n{text}\nend" for text in texts)
    parts = (
        "" if before is None else f"do\n{_read(before[1])}\nend",
        _read("library/transition"),
        declared,
        _read("library/steps"),
        modules,
        f"local operations = {{{operations}}}",
        ONE if len(texts) == 1 else MANY,
        "flush()",
    )
    return "\n".join((*parts, "return answer"))


@cache
def argument_names(name: str, *, first: str = "") -> tuple[str, ...]:
    """The names that a script binds its ARGV to, in their order and in small letters, from the one named `first` on."""
    bound = re.search(r"^local ([\w,\s]+?) = unpack\(ARGV, 1, \d+\)$", script_text(name), re.MULTILINE)
    names = () if bound is None else tuple(each.strip().lower() for each in bound[1].split(","))
    return names[names.index(first) :] if first else names


def in_order(names: Sequence[str], given: Mapping[str, Any]) -> list[Any]:
    """Arguments by name as a script binds them, '' for those that are not given.

    Raises:
        TypeError: The script knows no argument of a name that is given.
    """
    arguments: dict[str, Any] = {**dict.fromkeys(names, ""), **given}
    if len(arguments) != len(names):
        raise TypeError(f"no argument of the script: {', '.join(given.keys() - set(names))}")
    return list(arguments.values())


def _read(name: str) -> str:
    """The text of a file, with its fragments."""
    text = (files(__package__) / f"{name}.lua").read_text()
    return re.sub(r"^ *-- include: (\w+)$", lambda found: _read(f"fragments/{found[1]}"), text, flags=re.MULTILINE)
