"""What several of these tests use."""

from __future__ import annotations

from tests.support.faulty_disk import faulty_disk

__all__ = ["faulty_disk"]
