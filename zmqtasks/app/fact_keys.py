"""Facts of calls that only applications know of. Source: docs/protocol.md, ``ext`` of
TaskRecord."""

from __future__ import annotations

from typing import Final

#: What it returns is not kept.
IGNORED_KEY: Final = "ir"
#: The text to show in place of its name.
SHADOW_KEY: Final = "sh"
#: It is a member of a chord's header.
CHORD_KEY: Final = "ch"
