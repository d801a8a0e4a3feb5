"""Ctrl-C, SIGTERM and SIGHUP: one line and an end as by that signal, at every moment and in every command."""
from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from core.common import signals
from core.common.guard import guarded
from core.common.signals import ENDING
from core.runtime.backend import BACKENDS
from core.runtime.worker import Crew
from tests.commands import running, write_command
from tests.planned import plan_flags, wait_until_gone, write_configs
from tests.running import HANG, heed_signals, needs, only_error, train_flags, wait_for

COMMANDS = [f"backends.{backend}.{command}" for backend in BACKENDS
            for command in ("train", "evaluate", "infer", "export")] + [
    "parity", "core.reproduce", "core.search", "core.convert", "core.tables.report", "core.reference", "core.models",
    "benchmarks.training_speed", "benchmarks.fusion_efficiency"]


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, and what was printed."""
    out, err = process.communicate(timeout=HANG)
    return process.returncode, out, err


@pytest.mark.parametrize("module", COMMANDS)
def test_a_command_that_has_not_begun(module: str, tmp_path: Path) -> None:
    """Its imports take a second; here the signal comes in the midst of them."""
    number = ENDING[COMMANDS.index(module) % 3]
    with running(tmp_path, module, SIGNAL_AT="pydantic", SIGNAL=str(int(number))) as process:
        code, out, err = ended(process)
    assert (code, out, err) == (-number, "", f"error: {signals.words(number)}\n")


@pytest.mark.parametrize(("backend", "moment", "number"), [
    ("torch", "torch.nn", signal.SIGINT), ("torch", "backends.torch.model", signal.SIGHUP),
    ("mindspore", "mindspore.ops", signal.SIGTERM), ("mindspore", "restore_interrupt", signal.SIGINT),
    ("paddle", "paddle.nn", signal.SIGINT), ("paddle", "paddle.distributed", signal.SIGTERM),
])
def test_while_a_framework_is_imported(backend: str, moment: str, number: signal.Signals, data: Path, tmp_path: Path
                                       ) -> None:
    """Also where it answers a signal in its own way already. Nothing has been begun, and nothing is left."""
    needs(backend)
    flags = train_flags("mosi", data, tmp_path / "runs")
    with running(tmp_path, f"backends.{backend}.train", *flags, SIGNAL_AT=moment, SIGNAL=str(int(number)),
                 SIGNAL_CALLS="1" if moment == "restore_interrupt" else "") as process:
        code, out, err = ended(process)
    assert (code, out, err) == (-number, "", f"error: {signals.words(number)}\n")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("moment", "number"), [("optuna", signal.SIGINT), ("torch", signal.SIGTERM)])
def test_a_search_whose_workers_begin(moment: str, number: signal.Signals, data: Path, tmp_path: Path) -> None:
    """To the whole group: the workers say nothing, and end with their parent."""
    needs("torch")
    with running(tmp_path, "core.search", "--dataset", "mosi", "--modalities", "audio", "--data_dir", str(data),
                 "--jobs", "2", SIGNAL_AT=moment, SIGNAL=str(int(number)), SIGNAL_WHO="worker") as process:
        code, _, err = ended(process)
        wait_until_gone(process.pid)
    assert code == -number
    only_error(err, signals.words(number), "finished trials are kept in", "the same command goes on")


def test_a_plan_whose_workers_begin(data: Path, tmp_path: Path) -> None:
    needs("torch")
    flags = plan_flags(write_configs(tmp_path / "configs"), data, tmp_path / "out")
    with running(tmp_path, "core.reproduce", *flags, SIGNAL_AT="core.studies.tables.pool",
                 SIGNAL=str(int(signal.SIGHUP)), SIGNAL_WHO="worker") as process:
        code, _, err = ended(process)
        wait_until_gone(process.pid)
    assert code == -signal.SIGHUP
    only_error(err, "interrupted by SIGHUP; 0 of 4 runs are finished", "continue with: python -m core.reproduce")


def test_a_comparison_whose_workers_begin(data: Path, tmp_path: Path) -> None:
    needs("torch")
    needs("paddle")
    with running(tmp_path, "parity", "--dataset", "mosi", "--data_dir", str(data), "--backends", "torch,paddle",
                 SIGNAL_AT="paddle", SIGNAL=str(int(signal.SIGINT)), SIGNAL_WHO="worker") as process:
        code, _, err = ended(process)
        wait_until_gone(process.pid)
    assert (code, err) == (-signal.SIGINT, "error: interrupted\n")


def test_a_crew_ends_workers_that_are_just_being_started(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[str] = []

    class Fake:
        def __init__(self, backend: str) -> None:
            self.backend = backend
            if backend == "late":
                crew.stop()  # the signal comes here, in the main thread

        def terminate(self) -> None:
            killed.append(self.backend)

        close = terminate

    monkeypatch.setattr("core.runtime.worker.Worker", Fake)
    crew = Crew()
    for backend in ("early", "ended", "late"):
        worker = crew.start(backend)
        if backend == "ended":
            crew.end(worker)
            killed.clear()
    assert killed == ["early", "late"]


def begun(process: subprocess.Popen[str]) -> None:
    assert process.stdout and process.stdout.readline() == "begun\n"


@pytest.mark.parametrize("number", ENDING)
def test_what_a_command_works_on_is_put_away(number: signal.Signals, tmp_path: Path) -> None:
    tiny = write_command(tmp_path, "import threading", "try:", "    print('begun', flush=True)",
                         "    threading.Event().wait()", "finally:", "    print('put away')")
    with running(tmp_path, tiny) as process:
        begun(process)
        process.send_signal(number)
        assert ended(process) == (-number, "put away\n", f"error: {signals.words(number)}\n")


def test_the_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """Whatever is still to be put away: here that never ends."""
    tiny = write_command(tmp_path, "import threading", "try:", "    print('begun', flush=True)",
                         "    threading.Event().wait()", "finally:", "    print('begun', flush=True)",
                         "    threading.Event().wait()")
    with running(tmp_path, tiny) as process:
        begun(process)
        process.send_signal(signal.SIGINT)
        begun(process)
        process.send_signal(signal.SIGTERM)
        assert ended(process) == (-signal.SIGTERM, "", "error: interrupted by SIGTERM\n")


def test_a_signal_that_other_code_swallows_still_counts(tmp_path: Path) -> None:
    tiny = write_command(tmp_path, "import threading", "try:", "    print('begun', flush=True)",
                         "    threading.Event().wait()", "except BaseException:", "    print('swallowed')")
    with running(tmp_path, tiny) as process:
        begun(process)
        process.send_signal(signal.SIGINT)
        assert ended(process) == (-signal.SIGINT, "swallowed\n", "error: interrupted\n")


def test_an_error_that_a_signal_caused_is_called_by_its_cause(tmp_path: Path) -> None:
    tiny = write_command(tmp_path, "import threading", "with resumable(lambda: 'go on'):", "    try:",
                         "        print('begun', flush=True)", "        threading.Event().wait()",
                         "    except BaseException as error:", "        raise ImportError('multiarray') from error")
    with running(tmp_path, tiny) as process:
        begun(process)
        process.send_signal(signal.SIGTERM)
        assert ended(process) == (-signal.SIGTERM, "", "error: interrupted by SIGTERM; go on\n")


def test_a_main_thread_that_doesn_t_come_back(tmp_path: Path) -> None:
    """As in a call in C that takes no notice. The first signal can't be raised there; the second needs nobody."""
    tiny = write_command(tmp_path, "import signal, threading",
                         "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGURG})",
                         "print('begun', flush=True)", "threading.Event().wait()")
    with running(tmp_path, tiny) as process:
        begun(process)
        process.send_signal(signal.SIGINT)
        status = Path(f"/proc/{process.pid}/status")
        wait_for(lambda: not int(status.read_text().split("ShdPnd:\t")[1].split()[0], 16), process)  # it was taken
        process.send_signal(signal.SIGINT)
        assert ended(process) == (-signal.SIGINT, "", "error: interrupted\n")


def test_signals_that_are_ignored_stay_so(tmp_path: Path) -> None:
    """As under nohup, and in the background of a script."""
    def prepare() -> None:
        heed_signals()
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    tiny = write_command(tmp_path, "import threading", "print('begun', flush=True)", "threading.Event().wait()")
    with running(tmp_path, tiny, prepare=prepare) as process:
        begun(process)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
        assert ended(process) == (-signal.SIGTERM, "", "error: interrupted by SIGTERM\n")


def test_a_library_leaves_signals_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Here, where it is imported and no command; Ctrl-C has its exit code all the same."""
    assert not signals._taken and signal.getsignal(signal.SIGURG) is signal.SIG_DFL

    def interrupted() -> None:
        raise KeyboardInterrupt

    assert guarded([], interrupted) == 128 + signal.SIGINT
    only_error(capsys.readouterr().err, "interrupted")
