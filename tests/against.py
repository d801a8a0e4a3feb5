"""`python -m tests.against COMMIT`: this tree gives the same results as an earlier commit, bit for bit.

Per backend, model, data set and precision one short run in each tree, through the commands alone, one after the other
and in one environment. Compared are losses, metrics, predictions, and every tensor of both checkpoints. In float64 the
folder of the earlier commit, as it stood after its first epochs, is also continued by this tree, which has to end where
the earlier commit did; and its checkpoint is evaluated by this tree; in float32 where the runs differ. Three more cells
per backend hold weight decay with frozen weights and the post-fusion dropout, two modalities, and TFN without layers
after its fusion. All take some ten minutes of one core, `--precisions float64 --datasets pom` three.

In float64 every difference is an error. In float32 another order of a sum is none: a difference is told, and is an
error where the evaluation of the same weights differs by more than FORWARD, or losses of the first epoch by more than
DRIFT (both parity/bounds.py; a loss of an epoch has Adam's steps in it). Exits with 1 on an error.
"""
from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.common.errors import RunFailed, UserError, one_line
from core.common.guard import guarded
from core.runtime.backend import BACKENDS, missing_reason
from parity.bounds import DRIFT, FORWARD
from tests.differences import Difference, evaluation_differences, history, run_differences

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 5
BATCHES = {"pom": "64", "mosi": "128", "iemocap": "256"}  # ten steps an epoch, the last one smaller
SMALL = ("--audio_hidden", "4", "--video_hidden", "3", "--text_hidden", "5", "--max_len", "8", "--epochs", str(EPOCHS))
MODELS = {"lmf": ("--rank", "2"), "tfn": ("--post_fusion_dim", "4")}
MORE = {  # what else is trained on the first data set, in the first precision
    "decay, frozen, dropout": ("lmf", (*MODELS["lmf"], "--weight_decay", "0.01", "--frozen",
                                       "fusion_weights,fusion_bias", "--apply_post_fusion_dropout", "true")),
    "audio and video": ("lmf", (*MODELS["lmf"], "--modalities", "audio,video")),
    "no layers": ("tfn", ("--post_fusion_dim", "0")),
}
PLACE = ("--output_path", "runs", "--run_id", "1")
ATTEMPTS = 20  # to stop a run after its first epoch and before its last; one or two are usual


@dataclass(frozen=True)
class Cell:
    """One run, as both trees train it."""

    backend: str
    model: str
    dataset: str
    precision: str
    name: str
    flags: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.backend:10}{self.model:5}{self.dataset:9}{self.precision:9}{self.name:24}"


@dataclass(frozen=True)
class Tree:
    """A checkout, and what its commands are told of the data."""

    root: Path
    data: tuple[str, ...]

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(self.root), *filter(None, [os.environ.get("PYTHONPATH")])])
        return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": path}

    def check(self) -> None:
        """Raises RunFailed when Python would take the project from elsewhere: a tree would be compared with itself."""
        script = "import core, pathlib; print(pathlib.Path(core.__file__).parents[1])"
        found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=self.root.parent,
                               check=True, env=self.environment).stdout.strip()
        if not self.root.samefile(found):
            raise RunFailed(f"{self.root}: Python takes the project from {found} instead; uninstall it there")

    @contextlib.contextmanager
    def running(self, here: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """`python -m command` in the new folder `here`, and its end. Raises RunFailed, with its last line, when it
        exits with anything but 0."""
        here.mkdir(parents=True)
        with open(here / "log", "wb") as log:
            process = subprocess.Popen([sys.executable, "-m", *command], cwd=here, stdout=log,
                                       stderr=subprocess.STDOUT, env=self.environment)
        try:
            yield process
            process.wait()
        finally:
            process.kill()  # no effect on one that has ended
            process.wait()
        if process.returncode:
            lines = (here / "log").read_text(errors="replace").splitlines() or ["nothing printed"]
            raise RunFailed(f"{command[0]} in {here}: exit {process.returncode}: {lines[-1]}")

    def run(self, here: Path, *command: str) -> None:
        with self.running(here, *command, *self.data):
            pass

    def train(self, cell: Cell, here: Path) -> Path:
        """The folder of a run."""
        self.run(here, f"backends.{cell.backend}.train", *cell.flags, *PLACE)
        return next((here / "runs").iterdir())

    def train_and_copy(self, cell: Cell, here: Path, copy: Path) -> Path:
        """The same; its folder is copied as it stands after some of its epochs."""
        for attempt in range(ATTEMPTS):
            place = here / f"{attempt}"
            with self.running(place, f"backends.{cell.backend}.train", *cell.flags, *PLACE, *self.data) as process:
                caught = copy_in_the_middle(process, place / "runs", copy)
            if caught:
                return next((place / "runs").iterdir())
        raise RunFailed(f"{here}: none of {ATTEMPTS} runs could be stopped between its first epoch and its last")


def copy_in_the_middle(process: subprocess.Popen[bytes], runs: Path, copy: Path) -> bool:
    """Copy the run folder in `runs` while its process is stopped: what a kill -9 would leave. Whether it came between
    the first epoch and the last."""
    while process.poll() is None:
        if any(path.stat().st_size for path in runs.glob("*/history.jsonl")):
            os.kill(process.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)  # until it has stopped, or ended
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(next(runs.iterdir()), copy)
            os.kill(process.pid, signal.SIGCONT)
            return len(history(copy)) < EPOCHS
        time.sleep(0.0005)
    return False


def compare(cell: Cell, old: Tree, new: Tree, here: Path) -> tuple[list[str], list[str]]:
    """Train and cross over. Returns what was the same and what differs; the latter's errors begin with a !"""
    exact, same, differs = cell.precision == "float64", [], []

    def judge(what: str, found: Sequence[Difference], bounds: Mapping[str, float]) -> None:
        beyond = [d for d in found if exact or d.relative > bounds.get(d.where, sys.float_info.max)]
        if not found:
            same.append(what)
        elif beyond:
            differs.append(f"! {what}: {beyond[0]}")
        else:
            differs.append(f"{what}: {found[0]}, within the bounds")

    stopped = here / "stopped"
    before = old.train_and_copy(cell, here / "old", stopped) if exact else old.train(cell, here / "old")
    losses = {f"history.jsonl epoch 1 {key}": DRIFT[cell.precision] for key in ("train_loss", "valid_loss")}
    trained = run_differences(before, new.train(cell, here / "new"))
    judge("trained", trained, losses)
    if exact:
        new.run(here / "resumed", f"backends.{cell.backend}.train", "--resume", str(stopped))
        judge("resumed", run_differences(before, stopped), {})
    if exact or trained:
        new.run(here / "scored", f"backends.{cell.backend}.evaluate", "--checkpoint", str(before), "--output", "test")
        scored = {"metrics.json test loss": FORWARD[cell.precision], "predictions_test.npy": FORWARD[cell.precision]}
        judge("evaluated", evaluation_differences(before, here / "scored" / "test"), scored)
    return same, differs


def cells(backends: Sequence[str], models: Sequence[str], datasets: Sequence[str], precisions: Sequence[str],
          modalities: str | None) -> Iterator[Cell]:
    for backend in backends:
        for precision in precisions:
            for dataset in datasets:
                flags = ("--dataset", dataset, "--batch_size", BATCHES[dataset], "--precision", precision, *SMALL,
                         *(("--modalities", modalities) if modalities else ()))
                named = {model: (model, MODELS[model]) for model in models}
                if (dataset, precision) == (datasets[0], precisions[0]):
                    named |= {name: more for name, more in MORE.items() if more[0] in models}
                for name, (model, more) in named.items():
                    yield Cell(backend, model, dataset, precision, "" if name == model else name,
                               (*flags, "--model", model, *more))


@contextlib.contextmanager
def worktree(commit: str, folder: Path) -> Iterator[Path]:
    """A checkout of `commit` in `folder`, away again at the end. Raises UserError when there is no such commit."""

    def git(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True)

    done = git("worktree", "add", "--detach", str(folder), commit)
    try:
        if done.returncode:
            raise UserError(f"{commit}: git makes no worktree of it ({done.stderr.strip().splitlines()[-1]})")
        yield folder
    finally:
        git("worktree", "remove", "--force", str(folder))


def chosen(text: str | None, known: Sequence[str], flag: str) -> list[str]:
    """The names in a comma-separated list, all of them without one. Raises UserError for an unknown one."""
    names = text.split(",") if text else list(known)
    for name in names:
        if name not in known:
            raise UserError(f"--{flag} {name}: expected some of {','.join(known)}")
    return names


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.against", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", metavar="COMMIT")
    for flag, known in (("backends", BACKENDS), ("models", MODELS), ("datasets", BATCHES), ("precisions", DRIFT)):
        parser.add_argument(f"--{flag}", metavar="NAMES", help=f"comma-separated [{','.join(known)}]")
    parser.add_argument("--data_dir", type=Path, help="real data: those data sets whose pickles are there [synthetic]")
    parser.add_argument("--modalities", help="for data of which one can't be used: real POM without its text [all]")
    return parser.parse_args(argv)


def main(given: argparse.Namespace) -> None:
    """Raises RunFailed when anything differs that should not."""
    have = [name for name in BATCHES if given.data_dir is None or (given.data_dir / f"{name}.pkl").is_file()]
    wanted = [chosen(given.backends, list(BACKENDS), "backends"), chosen(given.models, list(MODELS), "models"),
              chosen(given.datasets, have, "datasets"), chosen(given.precisions, list(DRIFT), "precisions")]
    for reason in filter(None, map(missing_reason, wanted[0])):
        print(f"left out: {reason}", flush=True)
    wanted[0] = [name for name in wanted[0] if not missing_reason(name)]
    work = Path(tempfile.mkdtemp(prefix="lmf-against-"))
    kept: list[str] = []
    try:
        with worktree(given.commit, work / "tree") as tree:
            kept = compare_all(list(cells(*wanted, given.modalities)), tree, work, given.data_dir)
    finally:
        if not kept:
            shutil.rmtree(work)
    if kept:
        raise RunFailed(f"results are not those of {given.commit}: {', '.join(kept)}; the runs are kept in {work}")


def compare_all(todo: Sequence[Cell], tree: Path, work: Path, data_dir: Path | None) -> list[str]:
    """Compare cell by cell, printing a line for each. Returns the numbers of those that fail."""
    old, new = (Tree(root, ("--data", "synthetic") if data_dir is None else (
        "--data_dir", str(data_dir.resolve()), "--store_dir", str(work / name)))
        for name, root in (("store-old", tree), ("store-new", ROOT)))
    failed, start = [], time.monotonic()
    for place in (old, new):
        place.check()
    for number, cell in enumerate(todo, 1):
        begin, here = time.monotonic(), work / f"cell-{number}"
        try:
            same, differs = compare(cell, old, new, here)
        except (RunFailed, OSError, LookupError) as error:  # the latter: a file, or a key in it, is not there any more
            same, differs = [], [f"! {type(error).__name__}: {one_line(error)}"]
        if any(line.startswith("! ") for line in differs):
            failed.append(here.name)
        else:
            shutil.rmtree(here)
        said = "; ".join([*([f"same bits ({', '.join(same)})"] if same else []), *differs])
        print(f"{number:3d}/{len(todo)} {cell} {time.monotonic() - begin:4.0f} s  {said}", flush=True)
    print(f"{len(todo)} cells, {len(failed)} with errors, {time.monotonic() - start:.0f} s")
    return failed


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # away with the worktree then, too
    arguments = parsed(sys.argv[1:])
    sys.exit(guarded(sys.argv[1:], lambda: main(arguments)))
