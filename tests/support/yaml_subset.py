"""Reads as much of YAML as the compose file uses: nested mappings, lists in brackets,
anchors and merges. PyYAML is no dependency for one file."""

from __future__ import annotations

import re
from typing import Any

_LINE = re.compile(r"^( *)([\w.<-]+):(?: +(.*))?$")


def load(text: str) -> dict[str, Any]:
    """The document as plain data.

    Raises:
        ValueError: a line is not of that subset.
    """
    root: dict[str, Any] = {}
    anchors: dict[str, dict[str, Any]] = {}
    #: (indentation, mapping) of all mappings that the current line is in.
    stack: list[tuple[int, dict[str, Any]]] = [(-2, root)]
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.match(line)
        if match is None or len(match[1]) % 2:
            raise ValueError(f"line {number}: {line!r}")
        indent, key, value = len(match[1]), match[2], match[3] or ""
        while stack[-1][0] >= indent:
            stack.pop()
        if indent != stack[-1][0] + 2:
            raise ValueError(f"line {number} is indented too far: {line!r}")
        target = stack[-1][1]
        if key in target and "<<" not in target:
            raise ValueError(f"line {number}: {key} is there twice")
        if key == "<<":
            target.update(anchors[value.removeprefix("*")])
        elif value == "" or value.startswith("&"):
            child: dict[str, Any] = {}
            target[key] = child
            stack.append((indent, child))
            if value:
                anchors[value.removeprefix("&")] = child
        else:
            target[key] = _value(value)
    return root


def _value(text: str) -> Any:
    if text == "{}":
        return {}
    if text.startswith("["):
        if not text.endswith("]"):
            raise ValueError(f"a list must end on its line: {text!r}")
        return [_value(item.strip()) for item in text[1:-1].split(",") if item.strip()]
    if text.startswith('"'):
        if len(text) < 2 or not text.endswith('"') or '"' in text[1:-1]:
            raise ValueError(f"a text is not closed: {text!r}")
        return text[1:-1]
    if text in ("true", "false"):
        return text == "true"
    if re.search(r"[:#]\s|[{}\[\]&*!|>'%@`]", text):
        raise ValueError(f"needs quotes: {text!r}")
    return int(text) if text.isdigit() else text
