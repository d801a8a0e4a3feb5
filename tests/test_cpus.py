"""`make test-cpus`: its environments reach the libraries, keep the cores busy, and tell what failed in which."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import cpus
from tests.running import HANG, ROOT, environment, needs

LOOK = """
import numpy.core._multiarray_umath as umath, threadpoolctl, torch
print("numpy", *(name for name in umath.__cpu_dispatch__ if umath.__cpu_features__[name]))
print("openblas", *(one["architecture"] for one in threadpoolctl.threadpool_info() if "openblas" in one["prefix"]))
print("torch", torch.backends.cpu.get_cpu_capability())
torch.nn.LSTM(1, 1)(torch.ones(1, 1, 1))
"""
TAKEN_FOR = {  # torch's capability, the end of what oneDNN calls the CPU, OpenBLAS's kernels
    "avx2": ("AVX2", "AVX2", {"Haswell"}),
    "lowest": ("DEFAULT", "SSE4.1", {"Prescott", "Katmai"}),  # two names of the same kernels
}


@pytest.mark.parametrize("name", cpus.LEVELS)
def test_libraries_take_this_cpu_for_an_older_one(tmp_path: Path, name: str) -> None:
    needs("torch")
    reason = cpus.missing(name)
    if reason:
        pytest.skip(reason)
    done = subprocess.run([sys.executable, "-W", "error::ImportWarning", "-c", LOOK], capture_output=True, text=True,
                          env=environment(tmp_path, {**cpus.variables(name), "ONEDNN_VERBOSE": "1"}), timeout=HANG)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    said = {line.split()[0]: line.split()[1:] for line in lines if line}
    capability, isa, kernels = TAKEN_FOR[name]
    assert said["torch"] == [capability] and set(said["openblas"]) <= kernels
    assert any(line.startswith("onednn_verbose") and f"isa:Intel {isa}" in line for line in lines), done.stdout
    assert not any(feature.startswith("AVX512") for feature in said["numpy"])
    if name == "lowest":
        assert said["numpy"] == []


def test_an_environment_that_fails_fails_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "test_one.py"
    path.write_text("import os\ndef test_one() -> None:\n    assert os.environ['ATEN_CPU_CAPABILITY'] == 'default'\n")
    monkeypatch.setattr(cpus, "SHORT", (str(path),))
    monkeypatch.setattr(cpus, "missing", lambda name: None)
    monkeypatch.setattr(cpus, "variables", cpus.LEVELS.__getitem__)
    assert cpus.main(["--short", "avx2", "lowest"]) == 1
    avx2, lowest = capsys.readouterr().out.splitlines()[-2:]
    assert avx2.startswith("avx2    FAILED  1 failed in") and lowest.startswith("lowest  passed  1 passed in")
    monkeypatch.setattr(cpus, "SHORT", (str(tmp_path / "test_none.py"),))
    assert cpus.main(["--short", "lowest"]) == 1, "there was nothing to run"
    assert "(exit 4)" in capsys.readouterr().out


def test_what_this_machine_cannot_show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert cpus.main(["avx2", "lowest"]) == 0
    assert capsys.readouterr().out.count("not run: its variables mean nothing to a CPU of kind aarch64") == 2
    with pytest.raises(SystemExit, match="2"):
        cpus.main(["avx512"])
    assert "unknown environment 'avx512'; expected avx2, lowest, busy" in capsys.readouterr().err


def test_what_is_chosen_and_left_out_exists() -> None:
    assert all((ROOT / chosen.partition("::")[0]).is_file() for chosen in cpus.SHORT)
    assert all((ROOT / "tests" / f"test_{name}.py").is_file() for name in cpus.OTHERS)


def state_of(pid: int) -> tuple[str, int]:
    """State of a process, "" once it is gone, and its processor time in clock ticks."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return "", 0
    return fields[0], int(fields[11])


def until(condition: Callable[[], bool]) -> None:
    """Wait for it; a hang ends the test."""
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="no /proc: processes can't be looked at here")
def test_every_core_is_kept_busy_until_the_end() -> None:
    with cpus.busy_cores() as processes:
        pids = [process.pid for process in processes if process.pid]
        # each on a core of its own, once it has started, which is work too
        until(lambda: sorted(core for pid in pids for core in os.sched_getaffinity(pid))
              == sorted(os.sched_getaffinity(0)))
        started = [state_of(pid)[1] for pid in pids]
        until(lambda: all(state_of(pid)[1] > ticks + 10 for pid, ticks in zip(pids, started, strict=True)))
    assert [state_of(pid)[0] for pid in pids] == [""] * len(pids)


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="no /proc: processes can't be looked at here")
def test_cores_rest_when_the_command_was_killed(tmp_path: Path) -> None:
    code = ("from tests.cpus import busy_cores\n"
            "if __name__ == '__main__':\n"
            "    with busy_cores() as processes:\n"
            "        print(*(process.pid for process in processes), flush=True)\n"
            "        input()\n")
    (tmp_path / "busy.py").write_text(code)
    with subprocess.Popen([sys.executable, "busy.py"], cwd=tmp_path, env=environment(tmp_path, {}), text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as command:
        assert command.stdout is not None
        pids = [int(word) for word in command.stdout.readline().split()]
        assert pids
        until(lambda: all(state_of(pid)[1] > 10 for pid in pids))
        command.send_signal(signal.SIGKILL)
    until(lambda: all(state_of(pid)[0] in ("", "Z") for pid in pids))
