"""A site to crawl, served on loopback: pages with many links, and some trouble."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: Seconds that a page takes, so that a crawl is long enough to be disturbed.
PAGE_S, SLOW_PAGE_S = 0.05, 0.5


class Website:
    """Serves while it is used as a context manager.

    Args:
        pages_count: numbered pages; there are four more with a meaning of their own.
    """

    def __init__(self, pages_count: int) -> None:
        self._count = pages_count
        self.requests_count = 0
        self._lock = threading.Lock()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Website:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where it begins."""
        return f"http://127.0.0.1:{self._server.server_port}/"

    def expected(self) -> dict[str, int]:
        """{url: status} of all that a complete crawl finds."""
        found = {f"{self.url}page/{number}": 200 for number in range(self._count)}
        found[self.url] = found[f"{self.url}slow"] = 200
        found[f"{self.url}moved"] = 301
        found[f"{self.url}missing"] = 404
        return found

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request; called by the server's threads."""
        with self._lock:
            self.requests_count += 1
        path = request.path
        status = self.expected().get(self.url + path.removeprefix("/"), 404)
        time.sleep(SLOW_PAGE_S if path == "/slow" else PAGE_S)
        body = self._page(path).encode() if status == 200 else b""
        try:
            request.send_response(status)
            if status == 301:
                request.send_header("Location", "/page/1")
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            request.wfile.write(body)
        except ConnectionError:
            request.close_connection = True  # the worker that asked has been killed

    def _page(self, path: str) -> str:
        """Every page is reached from one with a smaller number, and links to others too."""
        if path == "/":
            links = ["page/0", "page/0", "slow", "moved", "missing", "http://other.invalid/"]
        elif path == "/slow":
            links = ["/"]
        else:
            number = int(path.rpartition("/")[2])
            children = [n for n in range(3 * number + 1, 3 * number + 4) if n < self._count]
            links = [f"{n}" for n in children] + [f"{n}#top" for n in children]
            links += ["/", f"/page/{number // 2}", f"/page/{number * 7 % self._count}"]
        items = "".join(f'<li><a href="{link}">{link}</a></li>' for link in links)
        return f"<!doctype html><title>{path}</title><ul>{items}</ul>"
