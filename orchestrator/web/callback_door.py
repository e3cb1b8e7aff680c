"""Door for webhooks: `POST /flows/api/complete/<callback>` completes the node that waits for a callback.

It alone of the tab is open: who has the text of a callback may complete its node, so nobody is asked who they are or
where they come from. The text therefore gets into no log, and nobody who has not the whole of it learns anything.
"""

from __future__ import annotations

import json
import logging
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import tornado.web

from orchestrator import answers
from orchestrator.errors import InvalidInput, PayloadTooLarge, StaleCallback, UnknownRun
from orchestrator.web import texts
from orchestrator.web.handler import AWAY, FlowsHandler, PageProblem, find_orchestrator

if TYPE_CHECKING:
    from orchestrator.client import Orchestrator

logger = logging.getLogger(__name__)

LONGEST_TEXT = 4096
BODY_WITHIN_S = 30
GONE, TOO_LARGE, UNFIT = 410, 413, 422
CLOSED = "Callbacks are not taken over HTTP here."
STALE = "Nobody waits for this callback, or not any more."
# Not those of the pages: what calls from outside must not take their threads.
THREADS = ThreadPoolExecutor(4, thread_name_prefix="callbacks")


@tornado.web.stream_request_body
class Complete(FlowsHandler):
    """Completes the node of a callback with the JSON of the body; an empty body is null."""

    threads = THREADS

    def initialize(self) -> None:
        """Take the text of the callback out of what logs and errors show of the request, before anything can fail."""
        place = self.reverse_url("flows-complete", "")
        self.request.uri = self.request.path = f"{place}***"
        self.request.query = ""
        self.body = bytearray()
        self.most = 0

    def check_xsrf_cookie(self) -> None:
        """Ask for no token of a page: the text of the callback is the right."""

    async def prepare(self) -> None:
        """Refuse what can be refused before the body is read."""
        if self.request.method != "POST":
            return
        if self.application.options.read_only:
            raise PageProblem(403, "Flower runs with --read-only.")
        self.most = await self.ask(most_bytes)
        length = self.request.headers.get("Content-Length", "0")
        if not length.isdecimal() or len(length) > len(str(self.most)) or int(length) > self.most:
            raise PageProblem(TOO_LARGE, f"The body has more than {self.most} bytes.")
        connection: Any = self.request.connection
        connection.set_body_timeout(BODY_WITHIN_S)

    def data_received(self, chunk: bytes) -> None:
        """Keep the body as far as it may be taken: a chunked one has not said how long it is."""
        if len(self.body) <= self.most:
            self.body += chunk

    async def post(self, text: str) -> None:
        """Complete the node; 204 once it is done, 410 if nobody waits, 422 if the value does not fit."""
        if len(self.body) > self.most:
            raise PageProblem(TOO_LARGE, f"The body has more than {self.most} bytes.")
        try:
            value = json.loads(bytes(self.body)) if self.body.strip() else None
        except (ValueError, RecursionError) as error:
            raise PageProblem(400, "The body is no JSON.") from error
        await self.ask(complete, text, value)
        self.set_status(204)
        self.finish()

    @property
    def orchestrator(self) -> Orchestrator:
        """The orchestrator of Flower's app; who calls from outside is not told what that is called."""
        found = find_orchestrator(self.capp)
        if found is None:
            raise PageProblem(404, CLOSED)
        return found

    async def ask(self, *args: Any, **kw: Any) -> Any:
        """Ask as pages do, but tell nobody outside where Redis is or what the app is called."""
        try:
            return await super().ask(*args, **kw)
        except PageProblem as problem:
            if problem.status_code in {AWAY, 500}:
                raise PageProblem(AWAY, "The runs cannot be reached; try again later.") from problem
            raise

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log what was not foreseen by its type and place: its message may have the text of the callback."""
        if not isinstance(value, PageProblem | tornado.web.HTTPError):
            last = traceback.extract_tb(tb)[-1:]
            logger.error("completing a callback failed with %s at %s", typ.__name__, last)


def most_bytes(orchestrator: Orchestrator) -> int:
    """Return how many bytes a body may have.

    Raises:
        PageProblem: A setting has closed the door.
    """
    settings = orchestrator._engine.settings  # noqa: SLF001 - a door asks the engine directly
    if not settings.http_callbacks:
        raise PageProblem(404, CLOSED)
    return settings.max_payload_bytes


def complete(orchestrator: Orchestrator, text: str, value: Any) -> None:
    """Complete the node of a callback.

    Raises:
        PageProblem: Nobody waits for it, or the value cannot be taken.
        StoreError: Redis.
    """
    engine = orchestrator._engine  # noqa: SLF001 - a door asks the engine directly
    try:
        # First: only who has the secret is told what the value has to be.
        if len(text) > LONGEST_TEXT or not answers.is_open_to(engine, text):
            raise PageProblem(GONE, STALE)
        orchestrator.complete(text, value)
    except (StaleCallback, UnknownRun) as error:
        raise PageProblem(GONE, STALE) from error
    except PayloadTooLarge as error:
        raise PageProblem(TOO_LARGE, f"The value has more than {error.limit} bytes.") from error
    except InvalidInput as error:
        raise PageProblem(UNFIT, texts.error_text(error.message)) from error
