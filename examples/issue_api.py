"""Paginated HTTP API that often fails, as a process of its own; it prints its port and serves.

`GET /issues?after=<cursor>&size=<n>` answers {"issues": [...], "cursor": ..., "more": ...}. Every ninth request is
answered with 503, every thirteenth gets no answer at all, and more than `RATE` in a second are answered with 429.
`POST /issues?count=<n>` adds issues, and `GET /requests` returns the numbers of requests by answer.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

RATE = 50
ISSUES_AT_FIRST = 1000


class Issues:
    """The API's data: its issues, and the requests so far."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = ISSUES_AT_FIRST
        self.requests: Counter[str] = Counter()
        self.second, self.in_second = 0, 0

    def fault(self) -> str:
        """Return how this request fails: "429", "503", "hang-up", or "" for not at all."""
        now = int(time.monotonic())
        self.second, self.in_second = now, self.in_second + 1 if now == self.second else 1
        number = self.requests.total() + 1
        if self.in_second > RATE:
            return "429"
        return "503" if number % 9 == 0 else "hang-up" if number % 13 == 0 else ""

    def page(self, after: int, size: int) -> dict[str, object]:
        """Return issues after a cursor, which is the number of the last one."""
        last = min(after + size, self.count)
        issues = [{"number": number, "title": f"Issue {number}"} for number in range(after + 1, last + 1)]
        return {"issues": issues, "cursor": str(last), "more": last < self.count}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    issues = Issues()

    def do_GET(self) -> None:
        """Answer with a page, with the counts, or with a fault."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        with self.issues.lock:
            if self.path == "/requests":
                self._answer(200, dict(self.issues.requests))
                return
            fault = self.issues.fault()
            self.issues.requests[fault or f"after {asked['after']}"] += 1
            page = self.issues.page(int(asked["after"]), int(asked["size"]))
        if fault == "hang-up":
            self.close_connection = True
        elif fault:
            self._answer(int(fault), {"error": "not now"})
        else:
            self._answer(200, page)

    def do_POST(self) -> None:
        """Add issues."""
        with self.issues.lock:
            self.issues.count += int(parse_qs(urlsplit(self.path).query)["count"][0])
        self._answer(200, {})

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if status == 429:  # noqa: PLR2004 - Too Many Requests
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the class above
        """Write no line for each request."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
