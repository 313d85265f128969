"""What users import: App, tasks, handles of results."""
