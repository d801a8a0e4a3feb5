"""A process that reads one damaged input after another, and says what became of each."""
from __future__ import annotations

import contextlib
import io
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from core.common.errors import RunFailed, UserError, one_line
from core.common.text import LONGEST
from tests.fuzz import faulty, formats, formats_runs
from tests.fuzz.formats import Files, Format
from tests.fuzz.mutate import damaged

MEMORY = 1 << 30  # bytes beyond what the process has
MAKERS: dict[str, Callable[[Path], Format]] = {
    "yaml": formats.configurations, "pickle": formats.published, "unlabelled": formats.unlabelled,
    "store": formats.store, "checkpoint": formats.checkpoints, "foreign": formats.foreign_checkpoints,
    "run": formats_runs.runs, "tables": formats_runs.tables, "journal": formats_runs.journals,
    "flags": formats_runs.flags,
}
SHORT = ("flags", "yaml", "run", "tables")  # formats of which the schema says what it expects, and no more
STARTS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.spawn", "os.startfile",
          "subprocess.Popen", "pty.spawn", "socket.connect", "socket.bind", "pickle.find_class", "ctypes.dlopen")
GONE, PIPE, FOLDER = b"@gone@", b"@pipe@", b"@folder@"  # instead of a file
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "shutil.rmtree")


@dataclass
class Outcome:
    """Of one input. `fault`: "" when all is well; `kind`: read, refused or failed."""

    name: str
    kind: str = "read"
    fault: str = ""
    seconds: float = 0.0
    megabytes: int = 0
    said: str = ""


@dataclass
class Watch:
    """An audit hook: it can't be removed, so it is armed for as long as an input is read."""

    folder: str
    armed: bool = False
    seen: list[str] = field(default_factory=list)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        if event in STARTS or (event == "os.kill" and arguments[1] != 0):
            self.seen.append(f"{event}{arguments!r}"[:300])
        elif event == "open":
            path, _, how = arguments
            if how & (os.O_WRONLY | os.O_RDWR) and isinstance(path, (str, bytes)):
                self._inside(event, path)
        elif event in CHANGES:
            for path in arguments[:2]:
                if isinstance(path, (str, bytes)):
                    self._inside(event, path)

    def _inside(self, event: str, path: str | bytes) -> None:
        name = os.path.abspath(os.fsdecode(path))
        if name != os.devnull and not name.startswith(self.folder):
            self.seen.append(f"{event} of {name}")


def serve(connection: Connection, folder: str, seed: int) -> None:
    """Answer names of inputs with their outcomes, until there are no more."""
    sys.modules["fuzz_canary"] = canary = types.ModuleType("fuzz_canary")
    canary.fire = canary.Fire = lambda *_: canary.__dict__.update(fired=True)  # type: ignore[attr-defined]
    here, cache = Path(folder) / "case", {}
    watch = Watch(os.path.abspath(folder))
    sys.addaudithook(watch.hook)
    warnings.simplefilter("ignore")  # zipfile's, of the damage
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while (message := connection.recv()) is not None:
        name, keep = message
        kind = name.partition(":")[0]
        if kind not in cache:
            maker = MAKERS[kind] if kind in MAKERS else faulty.maker(kind)
            cache[kind] = maker(Path(folder) / f"seeds-{kind}")
            for place, files in enumerate(cache[kind].seeds):  # what is imported late is imported now
                with _within(here, files), contextlib.suppress(UserError), contextlib.redirect_stdout(io.StringIO()), \
                        contextlib.redirect_stderr(io.StringIO()):
                    cache[kind].read(place)
            connection.send(None)  # ready: the time that this took isn't the input's
        form: Format = cache[kind]
        draw = random.Random(f"{seed}/{name}")
        place = draw.randrange(len(form.seeds))
        files = _damage(draw, form, place)
        if keep:
            _write(Path(keep) / name.replace(":", "-"), files)
        with _within(here, files):
            outcome = _read(form, place, name, watch)
        if "fired" in canary.__dict__ or (here / "fired").exists():
            outcome.fault = outcome.fault or "something in the file was run"
        connection.send(outcome)


def _damage(draw: random.Random, form: Format, place: int) -> Files:
    files = dict(form.seeds[place])
    names = [name for name in form.damaged if name in files]
    for name in draw.sample(names, min(len(names), draw.choice((1, 1, 1, 2)))):
        if form.damaged[name] != "flags" and draw.random() < 0.06:  # gone, or something else in its place
            files[name] = draw.choice((GONE, FOLDER) if name == "x.yaml" else (GONE, FOLDER, PIPE))
            continue  # a shell makes a pipe of `--config <(...)`, and that is read
        others = [seed[name] for seed in form.seeds if name in seed]
        files[name] = damaged(draw, files[name], form.damaged[name], others)
    return files


def _read(form: Format, place: int, name: str, watch: Watch) -> Outcome:
    outcome, out, before = Outcome(name), io.StringIO(), _memory("VmRSS")
    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + MEMORY, resource.RLIM_INFINITY))
    peak, start = _memory("VmHWM"), time.process_time()
    signal.setitimer(signal.ITIMER_PROF, form.seconds)  # nothing handles it: the process ends, whatever it is doing
    watch.armed = True
    error: BaseException | None = None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            form.read(place)
    except (UserError, RunFailed) as caught:
        error, outcome.kind, outcome.said = caught, "refused", one_line(caught)
        outcome.fault = _fault(caught, name)
    except BaseException as caught:
        error, outcome.kind = caught, "failed"
        outcome.fault = f"{type(caught).__name__}: {''.join(traceback.format_exception(caught))[-3000:]}"
    finally:
        watch.armed = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    outcome.seconds = time.process_time() - start
    outcome.megabytes = max(0, _memory("VmHWM") - before) >> 20 if _memory("VmHWM") > peak else 0
    while error is not None:
        if isinstance(error, MemoryError):
            outcome.fault = f"asked for more than {MEMORY >> 20} MiB"
        error = error.__cause__ or error.__context__
    if outcome.megabytes > MEMORY >> 20:
        outcome.fault = f"took {outcome.megabytes} MiB"
    if watch.seen:
        outcome.fault, watch.seen = f"it did: {'; '.join(watch.seen)}", []
    if not all(line.isprintable() for line in out.getvalue().splitlines()):
        outcome.fault = outcome.fault or f"it printed {out.getvalue()!r}"
    return outcome


def _fault(error: BaseException, name: str) -> str:
    """What is wrong with a message, if anything."""
    line = one_line(error)
    if not line.isprintable() or len(line) > LONGEST:
        return f"the message is no printable line: {line!r}"
    if type(error) is UserError and ";" not in line and not name.startswith(SHORT):
        return f"the message names no way out: {line}"
    return ""


@contextlib.contextmanager
def _within(folder: Path, files: Files) -> Iterator[None]:
    """Stand in `folder`, which holds `files` and nothing else."""
    _write(folder, files)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(folder.parent)


def _write(folder: Path, files: Files) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, raw in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if raw == PIPE:
            os.mkfifo(path)
        elif raw == FOLDER:
            path.mkdir()
        elif raw != GONE:
            path.write_bytes(raw)


def _memory(key: str) -> int:
    """Bytes, from Linux's own record of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) << 10
    raise AssertionError(f"no {key}")
