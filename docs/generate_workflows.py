"""Write docs/reference/workflows.md: what becomes of workflows, by shape.

Its cells are those that tests/e2e/test_workflow_table.py tries. ``make reference`` runs it; a
test checks that the committed page is current.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.e2e.workflow_table import OUTCOMES, SHAPES, WORDS, cell

PAGE: Final = Path(__file__).parent / "reference" / "workflows.md"

_HEAD = """\
# What becomes of workflows

<!-- Made by docs/generate_workflows.py from tests/e2e/workflow_table.py; change it there. -->

What `get()` of the result returns or raises. Each cell is tried with real nodes. How workflows
are made is told in [Workflows](../howto/canvas.md).

"""
_TAIL = """
* Of a group `get()` raises what the first call that failed raised; the other calls go on, and
  `get(propagate=False)` has their values.
* What comes after a failed call does not run, and ends as FAILURE, or as REVOKED after one that
  was revoked. [Callbacks and errbacks](../howto/canvas.md#callbacks-and-errbacks) says which
  `link_error` is called.
* The call that a killed worker ran is run again elsewhere, unless it is not idempotent: then it
  ends as `WorkerLostError`, and the workflow as after any failure.
* The owner in the last column is a broker with its journal on disk. A script that ends hands its
  calls on in the same way.
"""


def page() -> str:
    """The whole page."""
    heads = ["shape", *OUTCOMES.values()]
    lines = [_row(heads), _row(["---"] * len(heads))]
    for name, shape in SHAPES.items():
        shown = name.replace(" | ", " \\| ")
        lines.append(_row([shown, *(WORDS[cell(shape, outcome)] for outcome in OUTCOMES)]))
    return _HEAD + "\n".join(lines) + "\n" + _TAIL


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
