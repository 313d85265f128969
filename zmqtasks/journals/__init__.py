"""Journals: where an owner keeps its open tasks, to have them again after it died."""
