"""Everything that decides a result, computed once, without any deep-learning framework."""
import sys

if sys.argv[:1] == ["-m"]:  # Python looks for a command, as in `python -m core.search`, and this is its first line
    from core.common import signals

    signals.take()
