"""Read README.md and the pages of docs/: their programs, commands, links, and the names they mention."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))}
# Their code blocks are edits and settings, which tests of their own apply.
TESTED_ELSEWHERE = {"docs/operations.md", "docs/extending.md", "docs/deployments.md", "docs/frameworks.md"}
REDIS = "redis://127.0.0.1:6379"
APP = "shop"
"""The program with the Celery app that the others share."""
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A command of a console block.

    Attributes:
        page: Where it stands.
        line: What is typed.
        shown: The output shown below it.
    """

    page: str
    line: str
    shown: str


def blocks(page: str) -> list[tuple[str, str]]:
    """The code blocks of a page: language and text."""
    return BLOCK.findall(PAGES[page])


def programs() -> dict[str, str]:
    """Every Python block by the file name in its first line."""
    found: dict[str, str] = {}
    for page in PAGES.keys() - TESTED_ELSEWHERE:
        for language, code in blocks(page):
            if language == "python":
                name = code.splitlines()[0].removeprefix("# ")
                assert re.fullmatch(r"\w+\.py", name), f"{page}: a Python block begins with its file's name: {name}"
                assert name not in found, f"{page}: another block is called {name}"
                found[name] = code
    return found


def commands() -> list[Command]:
    """Every command of a console block, with the output shown below it."""
    found = []
    for page in sorted(PAGES.keys() - TESTED_ELSEWHERE):
        for language, text in blocks(page):
            if language == "console":
                before, *parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
                assert not before, f"{page}: a console block begins with a command: {text}"
                found += [Command(page, *(part.partition("\n")[::2])) for part in parts]
    return found


def prose(page: str) -> str:
    """A page without its code blocks."""
    return BLOCK.sub("", PAGES[page])


def named(page: str) -> list[str]:
    """What stands between single backticks."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def links(page: str) -> list[str]:
    """Targets of the links, relative to the page."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def headings(text: str) -> set[str]:
    """The anchors of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
