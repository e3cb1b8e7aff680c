"""Paginated node: its function, the page that one call returns, and the output that all pages add up to.

The engine makes each page durable and keeps the cursor of a source.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from pydantic import BaseModel

from orchestrator.definition.codecs import codec_of
from orchestrator.definition.node import In, Node, Out
from orchestrator.definition.signature import BadFunction, Contract, input_of, style_of
from orchestrator.errors import InvalidInput, type_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    """What one call of `fetch_page` returns.

    Attributes:
        items: The page's items.
        next_cursor: Where the next page begins; needed with `has_more`.
        has_more: Whether there is a next page.
    """

    items: list[T]
    next_cursor: str | None = None
    has_more: bool = False


class Pages(BaseModel, Generic[T]):
    """The output of a paginated node.

    Attributes:
        items: The items of all pages, in order.
        final_cursor: The cursor that came with the last page or, if it had none, the one it was fetched with.
        page_count: Pages fetched.
        total_items: Length of `items`.
    """

    items: list[T]
    final_cursor: str | None
    page_count: int
    total_items: int


class PagedNode(Node[In, Out]):
    """A node whose function is called once for each page; made by `paginate`.

    Attributes:
        max_pages: Pages at most, None for all.
        page_size: The function's `ctx.page_size`.
        cursor_source: Name under which a run that succeeds stores its last cursor; None stores none.
    """

    max_pages: int | None
    page_size: int | None
    cursor_source: str | None

    def _read_contract(self) -> Contract:
        contract = super()._read_contract()
        if not contract.parameters:
            raise BadFunction("bad-function", "it takes no cursor; give it a parameter for it, cursor: str | None")
        cursor, *others = contract.parameters
        _refuse_other_cursor(cursor.annotation)
        parameters = tuple(others)
        return replace(
            contract,
            style=style_of(parameters),
            input=input_of(parameters),
            parameters=parameters,
            output=codec_of(Pages[_item_type(contract.output.annotation)]),  # type: ignore[misc]
            page=contract.output,
        )


def _refuse_other_cursor(annotation: Any) -> None:
    codec = codec_of(annotation)
    try:
        is_fit = codec.check(None) is None and codec.check("a cursor") == "a cursor"
    except InvalidInput:
        is_fit = False
    if not is_fit:
        message = f"its cursor is annotated {type_name(annotation)}; annotate it str | None: None begins the first page"
        raise BadFunction("bad-function", message)


def _item_type(annotation: Any) -> Any:
    is_page = isinstance(annotation, type) and issubclass(annotation, Page)
    if not is_page or Page not in (annotation, annotation.__pydantic_generic_metadata__["origin"]):
        raise BadFunction("bad-type", f"it returns {type_name(annotation)}; annotate it with Page[the type of an item]")
    return (*annotation.__pydantic_generic_metadata__["args"], Any)[0]


@overload
def paginate(
    name: str,
    fetch_page: Callable[..., Awaitable[Page[T]]],
    max_pages: int | None = ...,
    page_size: int | None = ...,
    cursor_source: str | None = ...,
) -> Node[Any, Pages[T]]: ...
@overload
def paginate(
    name: str,
    fetch_page: Callable[..., Page[T]],
    max_pages: int | None = ...,
    page_size: int | None = ...,
    cursor_source: str | None = ...,
) -> Node[Any, Pages[T]]: ...
def paginate(
    name: str,
    fetch_page: Any,
    max_pages: int | None = None,
    page_size: int | None = None,
    cursor_source: str | None = None,
) -> Node[Any, Any]:
    """Make a node that calls a function for page after page and returns the items of all pages as `Pages`.

    Each page is stored when it is fetched: a retry, a crash or a resume continues at the page that is missing. Timeout,
    attempts and rate limits are those of one page.

    Args:
        name: Name of the node.
        fetch_page: `fetch_page([ctx,] cursor: str | None[, input]) -> Page[T]`; the first cursor is None.
        max_pages: Stop after so many pages.
        page_size: For the function, as `ctx.page_size`.
        cursor_source: Name of the source: the first cursor is where the flow's last successful run ended.
    """
    made: PagedNode[Any, Any] = PagedNode(name, fetch_page)
    made.__dict__.update(max_pages=max_pages, page_size=page_size, cursor_source=cursor_source)
    return made
