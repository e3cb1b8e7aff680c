"""Distribution of the tests over processes: those that share a world stay together, and the longest come first.

A module's tests run in one process, one after the other; so do those of the modules that are put together here, as
each process that needs a world starts it anew. What lasts for as long as all others together must not come last.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

TOGETHER = {
    "tests/chaos/test_clients.py": "plain world",
    "tests/chaos/test_leaders.py": "plain world",
    "tests/chaos/test_load.py": "plain world",
    "tests/chaos/test_points.py": "plain world",
    "tests/chaos/test_tree_points.py": "plain world",
    "tests/chaos/test_lost_replies.py": "network world",
    "tests/chaos/test_network.py": "network world",
    "tests/integration/bad_input/": "bad input",
    "tests/integration/flows_tab/": "flows tab",
    "tests/guide/": "guide",
}


class WorldScheduling(LoadScopeScheduling):
    """Units of work are modules, or modules that share a world.

    `--dist loadgroup` with its marker does not work: xdist 3.8 renames items in a way that pytest 9.2 does not read.
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return next((world for place, world in TOGETHER.items() if module.startswith(place)), module)
