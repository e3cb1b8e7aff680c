"""fakeredis in this process in place of the server, for the tests of the scripts: the same texts run on its Lua.

`make unit` runs them so. Where the two differ, or fakeredis cannot show what a test is about, the real server decides:
such a test is collected for it alone, and `REAL_ONLY` says why.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from fakeredis import FakeServer
from fakeredis._clients._sync import FakeRedisConnection

from orchestrator.store.address import Address

if TYPE_CHECKING:
    import pytest

SCHEME = "fakeredis://"
SCRIPT_TESTS = "tests/integration/test_scripts_"
REAL_ONLY = {
    "test_scripts_memory_waiting.py::": "it has no memory limit, so that nothing is refused",
    "test_scripts_memory.py::": "it has no memory limit, so that nothing is refused",
    "test_scripts_bytes.py::": "it has no MEMORY USAGE",
    "test_a_full_server_": "it has no memory limit, so that nothing is refused",
    "test_scripts_protocol.py::test_drawn_runs": "it has no MONITOR, by which these tests see each command",
    "test_scripts_long_queues.py::": "what thousands cost is the server's own: it takes milliseconds for each call",
    "test_three_hundred_": "what hundreds cost is the server's own: it takes milliseconds for each call",
    "test_a_resume_releases_many_items_in_portions": "what thousands cost is the server's own",
    "test_the_history_of_a_run_is_capped": "what thousands cost is the server's own",
    "test_a_sweep_leaves_a_mark": "it does not count the entries of a stream",
    "_hundred_": "calls in one process follow each other, so that those of many threads do not race",
    "_at_once": "calls in one process follow each other, so that those of many threads do not race",
    "test_an_answer_that_nobody_read": "its connections are no sockets, on which an answer could be left unread",
}
"""Part of a test's name, and what fakeredis lacks for it; the first that fits is the reason."""
PARAMETERS = {
    "test_a_tree_ends_with_its_root_whatever_happens": ({"0", "1"}, "it compiles a script at each call, 10 ms of 11"),
}
"""Long tests of which fakeredis runs those with these parameters, and why it leaves the others."""

_numbers = itertools.count()
_servers: dict[str, FakeServer] = {}


class InProcessServer:
    """Has the URL that `World` takes; no socket leads to it, so that only this process reaches it."""

    def __init__(self) -> None:
        self.url = f"{SCHEME}{next(_numbers)}"
        _servers[self.url] = FakeServer(server_type="valkey", version=(8, 0))


def address_of(url: str) -> Address:
    """The address of a server in this process."""
    return Address("fake", FakeRedisConnection, {"server": _servers[url]})


def why_not(item: pytest.Item) -> str:
    """The reason why a test needs the real server; "" if it does not."""
    if item.nodeid.startswith(SCRIPT_TESTS):
        name, _, parameter = item.nodeid.removesuffix("]").partition("[")
        those, reason = PARAMETERS.get(name.rpartition("::")[2], ({parameter}, ""))
        if parameter not in those:
            return reason
        return next((reason for part, reason in REAL_ONLY.items() if part in name), "")
    return "they run workers, or look at the server itself" if "server" in getattr(item, "fixturenames", ()) else ""
