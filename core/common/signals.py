"""The signals that end a command: SIGINT (Ctrl-C), SIGTERM, SIGHUP. One line on stderr, and an end as by that signal.

A thread of its own takes them, from the first line of this project on, and all other threads have them blocked. So
neither imports, which take seconds, nor a long call in C, nor a framework that answers a signal in its own way
(MindSpore SIGINT, Paddle SIGTERM) stands between. The first signal is raised in the main thread as `Signalled`; where
nothing needs to be put away, before a command has begun and while a framework is imported, it ends the process at
once, and so does every later one.

A signal that was ignored when the process began, as under nohup or in the background of a script, stays ignored.
"""
from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

TYPE_CHECKING = False  # typing itself takes as long to import as all of the above
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if os.name == "posix" else (signal.SIGINT,)
_taken: set[int] = set()  # those of ENDING that this command answers; empty in a library and in a worker
_received = 0  # the first signal that came
_raising = False  # whether it is raised in the main thread, or ends the process at once
_said = threading.Lock()  # held once the one line is printed


class Signalled(KeyboardInterrupt):
    """Raised where the main thread is when the first signal comes."""


def take() -> None:
    """Take the signals: this process is a command. Called once, before anything else is imported."""
    if os.name != "posix":  # Ctrl-C remains Python's KeyboardInterrupt
        return
    _taken.update(number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, _taken)
    for number in _taken:  # in case somebody unblocks them in a thread
        signal.signal(number, lambda number, frame: _receive(number))
    signal.signal(signal.SIGURG, _raise)
    atexit.register(_end_as_signal)  # first, so that it runs last: what imports registered comes before
    threading.Thread(target=_watch, name="signals", daemon=True).start()


def received() -> int:
    """The number of the signal that ends this command; 0 while none has come."""
    return _received


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Within: the first signal is raised in the main thread, so that it can put away what it works on."""
    with _mode(True):
        yield


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Within, too, a signal ends the process at once. For imports: what they do with an exception is up to them."""
    with _mode(False):
        yield


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Within: this thread doesn't get them, and what it starts never does."""
    if os.name != "posix":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def say(line: str) -> None:
    """Print the one line about the signal on stderr, unless it is printed already."""
    if _said.acquire(blocking=False):
        with contextlib.suppress(OSError):  # a terminal that has gone: SIGHUP
            os.write(2, f"{line}\n".encode(errors="backslashreplace"))


def words(number: int) -> str:
    """What happened, for the line."""
    return "interrupted" if number == signal.SIGINT else f"interrupted by {signal.Signals(number).name}"


@contextlib.contextmanager
def _mode(raising: bool) -> Iterator[None]:
    global _raising
    before, _raising = _raising, raising and bool(_taken)
    try:
        yield
    finally:
        _raising = before


def _watch() -> None:
    """The thread that takes the signals."""
    while True:
        _receive(signal.sigwait(_taken))


def _receive(number: int) -> None:
    """The first one, while they are raised: wake the main thread up. Else: the end."""
    global _received
    first, _received = not _received, _received or number
    if first and _raising:
        main = threading.main_thread().ident
        assert main is not None  # it is running
        signal.pthread_kill(main, signal.SIGURG)
        return
    say(f"error: {words(number)}")
    _end_as(number)


def _raise(number: int, frame: FrameType | None) -> None:
    """In the main thread."""
    if not _received:  # SIGURG from elsewhere, which has no meaning here
        return
    if not _raising:  # the command came to its end just now
        say(f"error: {words(_received)}")
        _end_as(_received)
    raise Signalled(_received)


def _end_as_signal() -> None:
    """The last thing at exit: a process that a signal ended says so to its parent, and a shell's loop stops too."""
    if _received:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # full, closed, or not there
                stream.flush()
        _end_as(_received)


def _end_as(number: int) -> NoReturn:
    """End as `number` ends a process, from any thread; where that can't be (process 1), with exit code 128 + number."""
    import ctypes  # late: the first lines of a command are quick

    ctypes.pythonapi.PyOS_setsig(number, None)  # the default; signal.signal does it in the main thread alone
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    os._exit(128 + number)
