"""Around every command: errors become one line on stderr and an exit code."""
from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence

from core.errors import RunFailed, UserError, one_line


def guarded(argv: Sequence[str], action: Callable[[], None]) -> int:
    """Run `action`. Returns 0, 2 for a usage or data error, 1 for a run that failed or was interrupted.

    `--debug` among `argv` also shows the traceback.
    """
    try:
        action()
        return 0
    except BrokenPipeError:  # the reader of our output has gone, as in `... | head`
        sys.stderr.close()
        return 1
    except (UserError, RunFailed) as error:
        return _stop(argv, one_line(error), error.exit_code)
    except KeyboardInterrupt:
        return _stop(argv, "interrupted", 1)
    except Exception as error:  # the last resort: still one line, and the way to see more
        return _stop(argv, f"{type(error).__name__}: {one_line(error)}; --debug shows the traceback", 1)


def _stop(argv: Sequence[str], message: str, code: int) -> int:
    if "--debug" in argv:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    return code
