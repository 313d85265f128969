"""What the worker does: fetch a page, as one of a thousand coroutines in one process."""

from __future__ import annotations

import asyncio
from typing import TypedDict
from urllib.parse import urlsplit

from zmqtasks import App

app = App("async_crawl")


class Page(TypedDict):
    """What is left of a page: a task returns plain data."""

    status: int
    size: int


@app.task(soft_time_limit=30)
async def fetch(url: str) -> Page:
    """Fetch a page; while it waits for the server, the others run."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        request = f"GET {parts.path or '/'} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n"
        writer.write(request.encode())
        answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return {"status": int(head.split()[1]), "size": len(body)}
