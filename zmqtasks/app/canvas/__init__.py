"""Calls as values: signatures, and groups of them."""
