"""Crawl a site while worker nodes are killed; see README.md beside this file."""

from __future__ import annotations

import argparse
import itertools
import secrets
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from tasks import Page, app, crawl, task_id  # the same module that the workers load
from website import Website

from zmqtasks import AsyncResult

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from support import PrivateMesh  # noqa: E402 - found through the line above

WORKERS = [
    (name, "--role", "worker", "--app", "tasks", "--concurrency", "2")
    for name in ("worker-1", "worker-2")
]
#: No page is that slow, even when its worker dies a few times.
PAGE_TIMEOUT_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Crawl a site while its workers are killed.")
    parser.add_argument("--pages", type=int, default=400, help="size of the site (400)")
    parser.add_argument(
        "--kill-every", type=float, default=1.0, metavar="SECONDS",
        help="kill a worker that often (1.0)",
    )  # fmt: skip
    options = parser.parse_args()
    console = Console()
    with PrivateMesh(HERE) as mesh, Website(options.pages) as site:
        mesh.start(*WORKERS)
        killer = Killer(mesh, options.kill_every)
        with console.status("crawling") as status, killer:
            pages = crawl_all(site.url, lambda text: status.update(text + killer.describe()))
        mesh.stop()
        check(pages, site.expected())
    links_count = sum(len(page["links"]) for page in pages.values())
    again = site.requests_count - len(pages)
    console.print(
        f"{len(pages):,} pages found, all there are; they have {links_count:,} links\n"
        f"{killer.count} workers were killed; {again} pages had to be fetched again\n"
        "all nodes stopped cleanly",
        highlight=False,
    )


def crawl_all(start: str, tell: Callable[[str], None]) -> dict[str, Page]:
    """Submit the first page, then follow what the tasks submit by themselves.

    This process owns all of these tasks: what a task submits belongs to whoever owns the
    task. A task's result comes after its owner has taken over what it submitted, so the
    tasks for a page's links are known here once the page is.
    """
    job = secrets.token_hex(4)  # another crawl of the same site is another job
    crawl.apply_async((job, start), task_id=task_id(job, start))
    pages: dict[str, Page] = {}
    open_urls, seen = [start], {start}
    while open_urls:
        url = open_urls.pop(0)
        page: Page = AsyncResult(task_id(job, url), app).get(timeout=PAGE_TIMEOUT_S)
        pages[url] = page
        new = [link for link in page["links"] if link not in seen]
        seen.update(new)
        open_urls += new
        tell(f"{len(pages):,} pages done, {len(open_urls):,} on their way")
    return pages


def check(pages: dict[str, Page], expected: dict[str, int]) -> None:
    """Compare with what the site knows about itself."""
    found = {url: page["status"] for url, page in pages.items()}
    if found != expected:
        missing = sorted(expected.items() - found.items())
        sys.exit(f"wrong: {len(missing)} of {len(expected)} pages missing: {missing[:5]}")


class Killer:
    """Kills one worker after the other without warning and starts it again."""

    def __init__(self, mesh: PrivateMesh, every_s: float) -> None:
        self.count = 0
        self._mesh = mesh
        self._every_s = every_s
        self._ended = threading.Event()
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> Killer:
        self._work = self._thread.submit(self._kill)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._work.result()
        self._thread.shutdown()

    def _kill(self) -> None:
        for worker in itertools.cycle(WORKERS):
            if self._ended.wait(self._every_s):
                return
            self._mesh.kill(worker[0])
            self.count += 1
            self._mesh.start(worker)

    def describe(self) -> str:
        """For the line on the screen."""
        return f", {self.count} workers killed"


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
