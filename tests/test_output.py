"""Output that finds no place: a reader that has gone, a full disk, a full pipe, a closed stdout."""
from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import running, write_command
from tests.conftest import TWELVE, Run
from tests.running import HANG, assert_same_run, heed_signals, history, only_error, run, train_flags

LINES = ("for number in range(100_000):", "    print('a line of output')")


def broken_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full_pipe() -> int:
    """One that doesn't block, and that nobody reads."""
    _, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETFL, os.O_NONBLOCK)
    return writer


PLACES = [(broken_pipe, "Broken pipe"), (full_pipe, "without blocking|temporarily unavailable"),
          (lambda: os.open("/dev/full", os.O_WRONLY), "No space left on device")]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("place", "reason"), PLACES, ids=["closed", "full pipe", "full disk"])
def test_one_line(place: Callable[[], int], reason: str, unbuffered: str, tmp_path: Path) -> None:
    tiny, stdout = write_command(tmp_path, *LINES), place()
    with running(tmp_path, tiny, stdout=stdout, PYTHONUNBUFFERED=unbuffered) as process:
        os.close(stdout)
        _, err = process.communicate(timeout=HANG)
    assert process.returncode == 1
    assert re.search(f"stdout: can't be written .*({reason})", only_error(err))


@pytest.mark.parametrize("line", ["print('short')", "raise SystemExit", "Console().print('short')"])
def test_what_is_written_at_the_end_counts(line: str, tmp_path: Path) -> None:
    """So little that it waits in a buffer, as the text of --help does; rich has its own way with a closed pipe."""
    tiny, stdout = write_command(tmp_path, "from rich.console import Console", "print('x')", line), broken_pipe()
    with running(tmp_path, tiny, stdout=stdout, PYTHONUNBUFFERED="") as process:
        os.close(stdout)
        _, err = process.communicate(timeout=HANG)
    assert (process.returncode, err) == (1, "error: stdout: can't be written (Broken pipe)\n")


def test_what_a_thread_writes_counts(tmp_path: Path) -> None:
    """Who writes next hears of it too: a search with many workers comes to its end."""
    tiny = write_command(tmp_path, "from concurrent.futures import ThreadPoolExecutor",
                         "with ThreadPoolExecutor(1) as pool: pool.submit(print, 'x', flush=True)",
                         "if len(sys.argv) > 1:", "    print('y', flush=True)", "    open('went_on', 'w').close()")
    for flags in ((), ("--another",)):
        stdout = broken_pipe()
        with running(tmp_path, tiny, *flags, stdout=stdout) as process:
            os.close(stdout)
            _, err = process.communicate(timeout=HANG)
        assert (process.returncode, err) == (1, "error: stdout: can't be written (Broken pipe)\n")
    assert not (tmp_path / "went_on").exists()


def test_streams_that_are_closed(tmp_path: Path) -> None:
    """Without stdout nothing is begun; without stderr its number is nobody's, least of all a checkpoint's."""
    tiny = write_command(tmp_path, "with open('file', 'w') as file: file.write(str(file.fileno()))")

    def without(number: int) -> tuple[int, str]:
        def prepare() -> None:
            heed_signals()
            os.close(number)

        with running(tmp_path, tiny, prepare=prepare) as process:
            _, err = process.communicate(timeout=HANG)
            return process.returncode, err

    assert without(1) == (1, "error: stdout is closed; give the output a place, a file or /dev/null\n")
    assert not (tmp_path / "file").exists()
    for number in (0, 2):
        assert without(number)[0] == 0 and int((tmp_path / "file").read_text()) > 2


def test_an_error_that_nobody_can_read_keeps_its_exit_code(tmp_path: Path) -> None:
    tiny = write_command(tmp_path, "from core.common.errors import UserError", "raise UserError('x')")

    def prepare() -> None:
        heed_signals()
        os.dup2(os.open("/dev/full", os.O_WRONLY), 2)

    with running(tmp_path, tiny, prepare=prepare, PYTHONUNBUFFERED="") as process:
        assert process.wait(HANG) == 2


def test_a_training_that_nobody_listens_to(classified: Run, data: Path, tmp_path: Path) -> None:
    """The pipe is full after some epochs. What the line says to do leads to the same run as without."""
    reader, stdout = os.pipe()
    room = 480  # two lines of 160 characters together, then 45 each
    fcntl.fcntl(stdout, fcntl.F_SETFL, os.O_NONBLOCK)
    os.write(stdout, b"x" * (fcntl.fcntl(stdout, fcntl.F_SETPIPE_SZ, 4096) - room))
    flags = train_flags("iemocap", data, Path("runs"), *TWELVE)
    with running(tmp_path, "backends.torch.train", *flags, stdout=stdout) as process:
        os.close(stdout)
        _, err = process.communicate(timeout=HANG)
    os.close(reader)
    folder = tmp_path / "runs" / "iemocap-happy-torch-1"
    kept = len(history(folder))
    assert process.returncode == 1 and 0 < kept < 12
    only_error(err, "stdout: can't be written", f"; finished epochs: {kept}, kept in runs/iemocap-happy-torch-1; ")
    _, command = err.strip().split("continue with: python -m backends.torch.")
    assert f"going on after epoch {kept}" in run(tmp_path, "torch", *command.split()).stdout
    assert_same_run(folder, classified.folder)
