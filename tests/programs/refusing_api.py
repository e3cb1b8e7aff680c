"""An HTTP server with a limit nobody knows: `GET /` is 200 or 429, `GET /limit/<n>` sets it, `GET /log` tells all."""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BURST = 3.0


class Bucket:
    """Tokens at a rate a second."""

    def __init__(self) -> None:
        self.rate, self.tokens, self.at = 20.0, BURST, time.monotonic()
        self.log: list[tuple[float, int]] = []
        self.lock = threading.Lock()

    def answer(self) -> int:
        """200, or 429 when there is no token."""
        with self.lock:
            now = time.monotonic()
            self.tokens = min(BURST, self.tokens + (now - self.at) * self.rate)
            self.at = now
            status = 200 if self.tokens >= 1 else 429
            self.tokens -= status == 200
            self.log.append((now, status))
            return status


BUCKET = Bucket()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    def do_GET(self) -> None:
        """Answer."""
        if self.path.startswith("/limit/"):
            with BUCKET.lock:
                BUCKET.rate = float(self.path.removeprefix("/limit/"))
            self.reply(200, time.monotonic())
        elif self.path == "/log":
            self.reply(200, BUCKET.log)
        else:
            time.sleep(0.02)
            self.reply(BUCKET.answer(), None)

    def reply(self, status: int, value: object) -> None:
        """Send JSON."""
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Stay quiet."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    server.serve_forever()
