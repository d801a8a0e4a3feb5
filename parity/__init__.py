"""Is it one result? The ladder of checks between two backends, whole runs side by side, and the report."""
