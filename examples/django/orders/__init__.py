"""Orders, which are confirmed by a task."""
