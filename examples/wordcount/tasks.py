"""What the workers do: count the words of one text."""

from __future__ import annotations

import re
from collections import Counter

from zmqtasks import App

app = App("wordcount")

WORD = re.compile(r"[^\W\d_]+")


@app.task
def count_words(text: str) -> dict[str, int]:
    """How often each word occurs, in lower case."""
    return dict(Counter(WORD.findall(text.lower())))
