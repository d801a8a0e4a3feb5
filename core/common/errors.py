"""The ways a command ends early, and the one line that the user gets."""
from __future__ import annotations

from core.common.text import single_line


class UserError(Exception):
    """A mistake in the call or in the data. The command prints one line and exits with 2."""

    exit_code = 2


class RunFailed(Exception):
    """A run that started and could not finish. The command prints one line and exits with 1."""

    exit_code = 1


class Interrupted(RunFailed):
    """A command that a signal ended. It prints one line and ends as by that signal: for a shell, 128 + its number."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number, self.exit_code = number, 128 + number

    def with_way_on(self, words: str) -> Interrupted:
        return Interrupted(f"{self}; {words}", self.number)


class OutputLost(RunFailed):
    """What is printed finds no place: the reader has gone, or the disk is full."""

    def with_way_on(self, words: str) -> OutputLost:
        return OutputLost(f"{self}; {words}")


def one_line(error: BaseException) -> str:
    """The message of `error` on a single printable line, with its type where the message is empty."""
    return single_line(str(error)) or type(error).__name__
