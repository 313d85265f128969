"""Count the words of many files on a small mesh; see README.md beside this file."""

from __future__ import annotations

import argparse
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from tasks import count_words  # the same module that the workers load

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from support import PrivateMesh  # noqa: E402 - found through the line above

NODES = (
    ("worker-1", "--role", "worker", "--app", "tasks", "--concurrency", "1"),
    ("worker-2", "--role", "worker", "--app", "tasks", "--concurrency", "1"),
    ("store", "--role", "store"),
)
#: A task's arguments may have 16 MiB; larger files are left out, and said so.
FILE_BYTES_MAX = 15 * 1024 * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description="Count words on two worker nodes and a store.")
    parser.add_argument(
        "directory", nargs="?", type=Path, default=Path(sysconfig.get_path("stdlib")),
        help="where to look for text files (default: the standard library of this Python)",
    )  # fmt: skip
    directory = parser.parse_args().directory.resolve()
    console = Console()
    files = list(text_files(directory))
    if not files:
        sys.exit(f"there are no text files under {directory}")

    with PrivateMesh(HERE) as mesh:
        with console.status("starting two workers and a store"):
            mesh.start(*NODES)
        started = time.perf_counter()
        words = count_on_mesh(files, console)
        seconds = time.perf_counter() - started
        with console.status("checking with a count in this process alone"):
            check(files, words)
        mesh.stop()

    size = sum(file.stat().st_size for file in files)
    console.print(table_of(words))
    console.print(
        f"{len(files):,} files, {size:,} bytes, {words.total():,} words of {directory}\n"
        f"{len(files):,} tasks in {seconds:.2f} s: {len(files) / seconds:,.0f} tasks/s\n"
        "same total as a count in one process; all nodes stopped cleanly",
        highlight=False,
        soft_wrap=True,
    )


def count_on_mesh(files: list[Path], console: Console) -> Counter[str]:
    """One task a file; the counts are merged in the order in which they come."""
    words: Counter[str] = Counter()
    # The files are read while the first ones are already being counted.
    results = count_words.delay_many((read(file),) for file in files)
    with Progress(console=console) as progress:
        bar = progress.add_task("counting", total=len(files))
        for _position, result in results.as_completed(timeout=600):
            words.update(result.get())
            progress.advance(bar)
    return words


def check(files: list[Path], words: Counter[str]) -> None:
    """Compare with a count that uses no mesh: calling a task runs it here and now."""
    expected: Counter[str] = Counter()
    for file in files:
        expected.update(count_words(read(file)))
    if words != expected:
        sys.exit(f"wrong: the mesh counted {words.total()} words, not {expected.total()}")


def text_files(directory: Path) -> Iterator[Path]:
    """Files that do not begin like pictures or programs; no installed packages."""
    for file in sorted(directory.rglob("*")):
        if "site-packages" in file.parts[len(directory.parts) :] or not file.is_file():
            continue
        try:
            with file.open("rb") as stream:
                is_text = b"\0" not in stream.read(8192)
        except OSError as exc:
            print(f"left out: {exc}", file=sys.stderr)
            continue
        if is_text and file.stat().st_size > FILE_BYTES_MAX:
            print(f"left out, too large: {file}", file=sys.stderr)
        elif is_text:
            yield file


def read(file: Path) -> str:
    """The text; bytes that are no UTF-8 become U+FFFD, which is in no word."""
    return file.read_text(encoding="utf-8", errors="replace")


def table_of(words: Counter[str]) -> Table:
    """The twenty most frequent words."""
    table = Table("word", title="Most frequent words")
    table.add_column("times", justify="right")
    for word, count in sorted(words.items(), key=lambda item: (-item[1], item[0]))[:20]:
        table.add_row(word, f"{count:,}")
    return table


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
