"""The version of this package; the wire protocol has its own (``wire/codec.py``)."""

from __future__ import annotations

__version__ = "0.1.0"
