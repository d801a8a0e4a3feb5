"""Running `python -m core.reproduce` in a process of its own, on a plan of three small POM cells."""
from __future__ import annotations

import os
import re
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from core.studies.tables.plan import Job
from core.studies.tables.request import parser, read_request
from tests.commands import running
from tests.running import HANG, wait_for

SIZES = "audio_hidden: 4\nvideo_hidden: 3\ntext_hidden: 5\nbatch_size: 10\n"
CELLS = {"confident": "rank: 2\n", "passionate": "rank: 2\n", "vivid": "rank: 3\n"}  # the first two share their runs
EPOCHS = 6

# Python imports this by itself, in the command and in its workers. When a file whose path ends with DIE_AT is given
# its place for the DIE_COUNT-th time in a process, the process kills itself, or with DIE_WHO=parent the command.
DIE = """
import os, signal, time
replace, left = os.replace, [int(os.environ.get("DIE_COUNT", 1))]
def dying(source, target, **more):
    if "DIE_AT" in os.environ and str(target).endswith(os.environ["DIE_AT"]):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getppid() if os.environ.get("DIE_WHO") == "parent" else os.getpid(), signal.SIGKILL)
            while True:  # of a worker whose parent was killed no more should be seen
                time.sleep(60)
    replace(source, target, **more)
os.replace = dying
"""


def write_configs(folder: Path, **more: str) -> Path:
    """A folder of configurations; `more` adds lines to single cells."""
    (folder / "pom").mkdir(parents=True)
    for name, text in CELLS.items():
        (folder / "pom" / f"{name}.yaml").write_text(f"dataset: pom\n{SIZES}{text}{more.get(name, '')}")
    return folder


def plan_flags(configs: Path, data: Path, output: Path, *flags: str) -> list[str]:
    """Three cells, two seeds: six jobs in four runs."""
    return ["--table", "pom", "--cells", ",".join(CELLS), "--backend", "torch", "--seeds", "2", "--epochs",
            str(EPOCHS), "--configs", str(configs), "--data_dir", str(data), "--output", str(output), *flags]


def started(folder: Path, *flags: str, **extra: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """The command, with DIE in it and in its workers."""
    return running(folder, "core.reproduce", *flags, hook=DIE, **extra)


def reproduce(folder: Path, *flags: str, code: int = 0, **extra: str) -> tuple[str, str]:
    """Run the command to its end; it has to exit with `code`. Returns what it printed."""
    with started(folder, *flags, **extra) as process:
        out, err = process.communicate(timeout=HANG)
    assert process.returncode == code, f"exit {process.returncode}, expected {code}\n{out}\n{err}"
    return out, err


def run_names(out: str) -> list[str]:
    """The runs of which a line says that they finished, in that order."""
    return re.findall(r"^\d+/\d+ (\S+): finished in ", out, re.MULTILINE)


def workers(parent: int) -> list[int]:
    """Process ids of the workers of `parent`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            mother = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if mother == parent and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # gone meanwhile
            continue
    return found


def wait_until_gone(group: int) -> None:
    """Every process of the group ends."""
    def gone() -> bool:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        return False

    wait_for(gone)


def mosi_configs(folder: Path) -> Path:
    configs = write_configs(folder / "configs")
    (configs / "mosi").mkdir()
    (configs / "mosi" / "audio_text.yaml").write_text("dataset: mosi\nmodalities: audio,text\nrank: 2\n")
    (configs / "mosi" / "audio_video_text.yaml").write_text("dataset: mosi\nrank: 3\nepochs: 9\n")
    return configs


def jobs_of(*flags: str) -> list[Job]:
    """The jobs that a command line asks for."""
    return read_request(parser().parse(flags)).jobs


@pytest.fixture
def every_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is imported by a plan, so nothing has to be installed for its tests."""
    monkeypatch.setattr("core.studies.tables.request.missing_reason", lambda backend: None)
