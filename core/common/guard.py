"""Around every command: errors become one line on stderr and an exit code."""
from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from core.common import signals
from core.common.errors import Interrupted, OutputLost, RunFailed, UserError, one_line


def guarded(argv: Sequence[str], action: Callable[[], None]) -> int:
    """Run `action`. Returns 0; 2 for a usage or data error; 1 for a run that failed, or whose output can't be written.

    After SIGINT (Ctrl-C), SIGTERM or SIGHUP, 128 + the signal's number, and the process then ends as by that signal
    (core.common.signals): the same for a shell, whose loops stop too. `--debug` among `argv` also shows the traceback.
    """
    if sys.stdout is None:
        return _stop(argv, "stdout is closed; give the output a place, a file or /dev/null", 1)
    if sys.stdin is None or sys.stderr is None:  # else the next file that is opened would be stderr to a framework
        while os.open(os.devnull, os.O_RDWR) <= 2:
            pass
    output = Output(sys.stdout)
    try:
        with signals.raised(), contextlib.redirect_stdout(cast(Any, output)):
            try:
                action()
            except SystemExit as end:  # --help
                if end.code:
                    raise
            output.flush()
        if signals.received():  # what was raised got lost
            raise KeyboardInterrupt
        return 0
    except BaseException as error:
        ended = _from_outside(error) or error
        if isinstance(ended, (UserError, RunFailed)):
            return _stop(argv, one_line(ended), ended.exit_code)
        # the last resort: still one line, and the way to see more
        return _stop(argv, f"{type(ended).__name__}: {one_line(ended)}; --debug shows the traceback", 1)


@contextlib.contextmanager
def resumable(way_on: Callable[[], str]) -> Iterator[None]:
    """Within: when the command is ended from outside, its line also says the `way_on`, unless that is empty.

    Raises Interrupted after a signal, OutputLost when stdout can't be written.
    """
    try:
        yield
    except BaseException as error:
        ended = _from_outside(error)
        if ended is None:
            raise
        words = way_on()
        raise (ended.with_way_on(words) if words else ended) from error


class Output:
    """A stream whose errors say that it is the output: after the first one, every call raises OutputLost."""

    def __init__(self, stream: Any) -> None:
        if isinstance(getattr(stream, "buffer", None), io.RawIOBase):  # python -u: lines lost in a full pipe, silently
            stream = open(stream.fileno(), "w", 1, stream.encoding, stream.errors, closefd=False)  # noqa: SIM115
        self._stream = stream
        self._lost = ""

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, action: Callable[[], object]) -> None:
        if not self._lost:
            try:
                action()
                return
            except OSError as error:  # no reader any more, no space, a full pipe that doesn't block
                self._lost = f"stdout: can't be written ({error.strerror})"
                _point_nowhere(self._stream)
        raise OutputLost(self._lost)


def _point_nowhere(stream: Any) -> None:
    """Lose what `stream` still holds: at its exit Python tries again to write it, and complains."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _from_outside(error: BaseException) -> Interrupted | OutputLost | None:
    """What ended the command from outside, a signal or the loss of its output; None when `error` is its own."""
    if isinstance(error, Interrupted):
        return error
    number = signals.received() or (signal.SIGINT if isinstance(error, KeyboardInterrupt) else 0)
    if number:
        return Interrupted(signals.words(number), number)
    return error if isinstance(error, OutputLost) else None


def _stop(argv: Sequence[str], message: str, code: int) -> int:
    if "--debug" in argv:
        traceback.print_exc()
    if signals.received():
        signals.say(f"error: {message}")
    elif sys.stderr is not None:  # else there is no place for it
        try:
            print(f"error: {message}", file=sys.stderr, flush=True)
        except OSError:  # nor here
            _point_nowhere(sys.stderr)
    return code
