"""Checks of paginated nodes: usable numbers and names, and a place where pages can be fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.definition.checks.locations import find_places, is_exclusive
from orchestrator.definition.pagination import PagedNode
from orchestrator.definition.wording import NAME_RULE, call, is_a, is_name, is_whole, show
from orchestrator.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.definition.checks.locations import Place
    from orchestrator.definition.flow import Flow


def check_pages(flow: Flow) -> Iterator[Problem]:
    """A paginated node has usable sizes, and is neither a map's node nor a compensation."""
    for place in find_places(flow):
        node = place.node
        if not is_a(node, PagedNode):
            continue
        for what, number in (("max_pages", node.max_pages), ("page_size", node.page_size)):
            if number is not None and (not is_whole(number) or number < 1):
                message = f"{what}={show(number)}; use a whole number of at least 1, or leave it out"
                yield Problem(place.where, "bad-batch", message)
        if node.cursor_source is not None and not is_name(node.cursor_source):
            message = f"the cursor_source {show(node.cursor_source)} is not valid; use {NAME_RULE}"
            yield Problem(place.where, "bad-name", message)
        if place.is_mapped or place.undoes is not None:
            what = "be called for each item of a map" if place.is_mapped else "compensate another node"
            message = f"a paginated node cannot {what}; fetch the pages inside a plain function"
            yield Problem(place.where, "bad-function", message)


def check_sources(flow: Flow) -> Iterator[Problem]:
    """No two nodes of one run share a cursor_source."""
    readers: dict[str, list[Place]] = {}
    for place in find_places(flow):
        source = place.node.cursor_source if is_a(place.node, PagedNode) else None
        if not is_a(source, str):
            continue
        rivals = readers.setdefault(source, [])
        rival = next((each for each in rivals if not is_exclusive(each.path, place.path)), None)
        if rival is not None:
            message = f"node {call(rival.node.name)} has the cursor_source {call(source)} too; rename one of them"
            yield Problem(place.where, "duplicate-key", message)
        rivals.append(place)
