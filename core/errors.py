"""The two ways a command ends early, and the one line that the user gets."""
from __future__ import annotations

from core.text import single_line


class UserError(Exception):
    """A mistake in the call or in the data. The command prints one line and exits with 2."""

    exit_code = 2


class RunFailed(Exception):
    """A run that started and could not finish. The command prints one line and exits with 1."""

    exit_code = 1


def one_line(error: BaseException) -> str:
    """The message of `error` on a single printable line, with its type where the message is empty."""
    return single_line(str(error)) or type(error).__name__
