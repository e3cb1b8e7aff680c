"""Compute the smallest rights of the Redis user of the runs from the code, and compare them with those in the docs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "orchestrator"
NAMES = {"delete": "DEL", "hscan_iter": "HSCAN", "memory_usage": "MEMORY|USAGE", "scan_iter": "SCAN"}
"""Methods of redis-py that are not called like their command."""
LOCAL = {"pipeline", "execute", "pubsub", "connection_pool", "get_message", "close", "reset"}
"""What is no command of its own."""
CLIENTS = {"client", "_client", "pipe", "_pubsub"}
OF_A_CONNECTION = {"PING", "SELECT"}
"""What redis-py calls by itself: between two calls, and for another database than 0. AUTH and HELLO need no right."""
OF_THE_SCRIPTS = {"EVAL", "EVALSHA"}
ON_QUEUES = {"LPUSH", "RPOP"}
"""Only where the user is the broker's too: a script pushes a message, or takes it out."""


def of_lua() -> set[str]:
    texts = [path.read_text() for path in (PACKAGE / "store/scripts").rglob("*.lua")]
    return {name for text in texts for name in re.findall(r"redis\.p?call\('(\w+)'", text)}


def of_python() -> set[str]:
    """The methods that are called on a client of the store, wherever it is."""
    elsewhere = {
        PACKAGE / "server.py",
        *(PACKAGE / "messaging").rglob("*.py"),
    }  # a server of one's own, and the broker's
    found = set()
    for path in set(PACKAGE.rglob("*.py")) - elsewhere:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
                if name in CLIENTS:
                    found.add(node.func.attr)
    return {NAMES.get(name, name.upper()) for name in found - LOCAL}


def printed() -> dict[str, set[str]]:
    """What docs/deployments.md prints: of each ACL, the commands."""
    text = (ROOT / "docs/deployments.md").read_text()
    found = re.findall(r"^ACL SETUSER (\w+) .*?$((?:\n[^`\n]+)*)", text, re.MULTILINE)
    return {name: {word[1:].upper() for word in more.split() if word.startswith("+")} for name, more in found}


def test_every_call_of_a_script_is_written_out():
    for path in (PACKAGE / "store/scripts").rglob("*.lua"):
        text = re.sub(r"--.*", "", path.read_text())
        assert len(re.findall(r"redis\.p?call\(", text)) == len(re.findall(r"redis\.p?call\('[A-Z]+'", text)), path.name


def test_the_rights_that_docs_print_are_those_that_the_code_uses():
    used = of_lua() | of_python() | OF_A_CONNECTION | OF_THE_SCRIPTS
    assert printed() == {"runs": used - ON_QUEUES}
