"""Is it one result? The ladder of checks between two backends, whole runs side by side, and the report."""
import core  # noqa: F401  before all else: it takes the signals of a command
