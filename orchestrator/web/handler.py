"""Base of the tab's pages: Flower's handler with our headers, our check of every post, and Redis asked in threads."""

from __future__ import annotations

import asyncio
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import tornado.web
from flower.views import BaseHandler

from orchestrator.client import Orchestrator
from orchestrator.engine import Engine
from orchestrator.errors import ConfigurationError, StoreError, UnknownFlow, UnknownRun
from orchestrator.web import rights, texts
from orchestrator.web.marks import RUN_TONES, TONES
from orchestrator.web.run_page import DamagedRunError

if TYPE_CHECKING:
    from collections.abc import Callable

Answer = TypeVar("Answer")
P = ParamSpec("P")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Content security policy of every page: nothing from elsewhere, nothing inline, nothing evaluated."""
AWAY = 503
# Not Flower's executor: a Redis that does not answer must not take the threads of its own pages.
THREADS = ThreadPoolExecutor(8, thread_name_prefix="flows")


class PageProblem(tornado.web.HTTPError):
    """Something that the reader is told instead of a page: a status and a sentence."""


class FlowsHandler(BaseHandler):
    """One page of the tab."""

    tab = ""
    fresh_s = 0
    """Seconds for which an open page is not read anew: of a page whose reading costs much."""
    threads = THREADS

    def set_default_headers(self) -> None:
        """Forbid whatever a page of ours does not do; other sites never read it, even where Flower's API is open."""
        super().set_default_headers()
        for name in ("Access-Control-Allow-Origin", "Access-Control-Allow-Headers", "Access-Control-Allow-Methods"):
            self.clear_header(name)
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("Cache-Control", "no-store")
        self.set_header("Referrer-Policy", "same-origin")

    def check_xsrf_cookie(self) -> None:
        """Check that a post comes from a page of ours: in every mode, unlike Flower's own check."""
        foreign = rights.why_foreign(self.request.headers, self.request.host)
        if foreign:
            raise PageProblem(403, f"Refused: {foreign}.")
        tornado.web.RequestHandler.check_xsrf_cookie(self)

    @property
    def refusal(self) -> str:
        """Why nobody may act from this page; empty if the reader may."""
        return rights.why_not(self.application.options, self.request.headers)

    @property
    def actor(self) -> str:
        """Who acts; empty if Flower asks nobody."""
        return rights.name_of(self.current_user, self.request.headers, self.application.options)

    def refuse_unless_allowed(self) -> None:
        """Refuse an action that is not allowed.

        Raises:
            PageProblem: The reader may not act; the text says why.
        """
        if self.refusal:
            raise PageProblem(403, self.refusal)

    @property
    def orchestrator(self) -> Orchestrator:
        """The orchestrator of Flower's app; found in a thread, since it may import the flows.

        Raises:
            PageProblem: The app has none.
        """
        found = find_orchestrator(self.capp)
        if found is None:
            raise PageProblem(
                404,
                f"The Celery app {self.capp.main!r} has no orchestrator. Start Flower with the module that calls "
                "Orchestrator(app): celery -A shop flower",
            )
        return found

    async def ask(
        self, function: Callable[Concatenate[Orchestrator, P], Answer], *args: P.args, **kw: P.kwargs
    ) -> Answer:
        """Call a function with the orchestrator in a thread, for Redis is never asked on the loop.

        Raises:
            PageProblem: There is no such run or flow, it cannot be shown, or Redis did not answer.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self.threads, lambda: function(self.orchestrator, *args, **kw))
        except (UnknownRun, UnknownFlow) as error:
            raise PageProblem(404, f"{str(error).partition(' [run')[0][:500]}.") from error
        except DamagedRunError as error:
            raise PageProblem(500, str(error)) from error
        except StoreError as error:
            raise PageProblem(AWAY, str(error)) from error
        except ConfigurationError as error:
            raise PageProblem(500, str(error)) from error

    def argument(self, name: str) -> str:
        """Return an argument of the address, as it was sent."""
        return self.get_query_argument(name, "") or ""

    def show(self, template: str, **values: Any) -> None:
        """Write a page."""
        self.render(
            template,
            t=texts,
            flows_tab=self.tab,
            flows_static=self.static_address,
            tones=TONES,
            run_tones=RUN_TONES,
            refusal=self.refusal,
            read_only=self.application.options.read_only,
            **values,
        )

    @property
    def moment(self) -> str:
        """End of the versions that are given out now; it changes every `fresh_s`."""
        return f"~{int(time.time() / self.fresh_s)}" if self.fresh_s else ""

    def is_fresh(self) -> bool:
        """Whether an open page was read a moment ago; it is told then that nothing is new."""
        if not self.moment or not self.argument("live").endswith(self.moment):
            return False
        self.set_status(204)
        return True

    def show_live(self, template: str, fragment: str, version: str, **values: Any) -> None:
        """Write a page, or for one that is open the part that lives: nothing if it has this version."""
        known = self.argument("live")
        version += self.moment
        if not known:
            self.show(template, version=version, **values)
        elif known == version:
            self.set_status(204)
            self.finish()
        else:
            self.show(fragment, version=version, **values)

    def static_address(self, name: str) -> str:
        """Return the address of one of our files; it changes with the file."""
        return f"{self.reverse_url('flows-static', name)}?v={_fingerprint(name)}"

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Tell a problem on a page of ours."""
        error = kwargs.get("exc_info", (None, None))[1]
        if not isinstance(error, PageProblem):
            super().write_error(status_code, **kwargs)
            return
        if not hasattr(self, "_current_user"):
            self.current_user = None
        self.set_status(status_code)
        text = texts.visible(error.log_message or "")
        if "/flows/api/" in self.request.path:
            self.finish({"error": text})
        else:
            will_retry = status_code == AWAY and self.request.method == "GET"
            self.show("flows_message.html", text=text, status=status_code, will_retry=will_retry)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Keep what the reader was told out of the log."""
        if not isinstance(value, PageProblem):
            super().log_exception(typ, value, tb)


def find_orchestrator(app: Any) -> Orchestrator | None:
    """Return the orchestrator of a Celery app, with the flows that it finds registered; None if it has none."""
    engine: Engine | None = getattr(app, Engine.ATTRIBUTE, None)
    if engine is None:
        return None
    engine.discovery.catch_up()
    return Orchestrator(app, engine.store.address.url, engine.settings)


@cache
def _fingerprint(name: str) -> str:
    try:
        content = files("orchestrator.web").joinpath("static", name).read_bytes()
    except OSError:
        return ""
    return hashlib.sha256(content).hexdigest()[:12]
