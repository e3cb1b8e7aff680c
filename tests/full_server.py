"""A server that is full, and has room again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.scripts_world import World


def fill(world: World) -> None:
    """Let the server have no memory left: it may use less than it does now."""
    world.client.config_set("maxmemory-policy", "noeviction")
    world.client.config_set("maxmemory", world.client.info("memory")["used_memory"] // 2)


def free(world: World) -> None:
    """Let it have room again."""
    world.client.config_set("maxmemory", 0)
