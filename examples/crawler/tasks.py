"""What the workers do: fetch a page and submit a task for every link on it."""

from __future__ import annotations

import http.client
from html.parser import HTMLParser
from typing import TypedDict
from urllib.parse import urldefrag, urljoin, urlsplit

from zmqtasks import App

app = App("crawler")

PAGE_BYTES_MAX = 1024 * 1024
TIMEOUT_S = 10.0


class Page(TypedDict):
    """What is left of a page: a task returns plain data."""

    status: int
    links: list[str]


def task_id(job: str, url: str) -> str:
    """One task a page: however often it is submitted, the same id means the same task."""
    return f"{job} {url}"


@app.task
def crawl(job: str, url: str) -> Page:
    """Fetch a page and let others fetch what it links to.

    Many pages link to the same one, and this task itself may run twice, when its worker
    dies before the result is out: then it submits the same ids again, which changes
    nothing.
    """
    page = fetch(url)
    for link in page["links"]:
        crawl.apply_async((job, link), task_id=task_id(job, link))
    return page


def fetch(url: str) -> Page:
    """Status and links of a page; a redirect is a page with one link."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_S)
    try:
        connection.request("GET", parts.path or "/")
        response = connection.getresponse()
        text = response.read(PAGE_BYTES_MAX).decode("utf-8", errors="replace")
        location = response.getheader("Location")
    finally:
        connection.close()
    found = [location] if location else links_in(text)
    absolute = (urldefrag(urljoin(url, link)).url for link in found)
    # In order, each once, and none that leads away from this site.
    own = dict.fromkeys(link for link in absolute if urlsplit(link)[:2] == parts[:2])
    return {"status": response.status, "links": list(own)}


def links_in(text: str) -> list[str]:
    """The targets of all links of a HTML page."""
    parser = _Links()
    parser.feed(text)
    return parser.found


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]
