"""Fetch a thousand slow pages at once with one worker; see README.md beside this file."""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from tasks import fetch  # the same module that the worker loads

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from support import PrivateMesh  # noqa: E402 - found through the line above

WORKER = ("worker", "--role", "worker", "--app", "tasks", "--pool", "asyncio")


class SlowSite:
    """A site on loopback whose pages take a second each, in a thread of its own."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.open_count = 0
        #: The most requests that were open at the same time.
        self.most_count = 0

    def __enter__(self) -> SlowSite:
        self._thread.start()
        start = asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=4096)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result()
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_count += 1
        self.most_count = max(self.most_count, self.open_count)
        request = await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(self._seconds)
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nthis is " + request.split()[1])
        self.open_count -= 1
        writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch slow pages, all at once.")
    parser.add_argument("--pages", type=int, default=1000, help="how many (1000)")
    parser.add_argument("--seconds", type=float, default=1.0, help="that each takes (1.0)")
    options = parser.parse_args()
    console = Console()
    with PrivateMesh(HERE) as mesh, SlowSite(options.seconds) as site:
        mesh.start(WORKER)
        begun = time.monotonic()
        with console.status("fetching"):
            urls = [f"{site.url}/{number}" for number in range(options.pages)]
            pages = fetch.delay_many([(url,) for url in urls]).get(timeout=120)
        took_s = time.monotonic() - begun
        mesh.stop()
    assert all(page["status"] == 200 for page in pages)
    console.print(
        f"{len(pages):,} pages of {options.seconds:g} s each in {took_s:.1f} s by one worker\n"
        f"up to {site.most_count:,} were open at the same time\n"
        "all nodes stopped cleanly",
        highlight=False,
    )


if __name__ == "__main__":
    main()
