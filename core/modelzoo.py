"""`python -m core.modelzoo acc|perf`: a training as the scripts of Ascend's ModelZoo do it, for `ports/ascend`.

It reads the port's flags and parameter file, trains by core.commands, and reports in ModelZoo's words: the lines of its
"Final result", and its log files in OUTPUT_PATH,

    train_0.log                         what was printed; 0 is ASCEND_DEVICE_ID
    LMF_for_PyTorch_bs256_1p_acc.log    the result, or ..._perf.log; only of a training that ended well
    LMF_for_PyTorch_bs256_1p_acc_loss.txt    the training loss of each epoch

Lines that begin with # say what the number below them measures.
"""
from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO, cast

from core.commands import follow
from core.common.errors import UserError, one_line
from core.common.files import naming_errors, write_text
from core.common.guard import guarded
from core.common.text import printable, say, shown
from core.config import Config, make_config
from core.config.flags import Parser, make_parser, read_values, read_yaml, whole
from core.data.keys import as_text
from core.data.parameter_file import EMOTION, ROWS, read_parameters
from core.runtime.backend import BACKENDS, missing_reason
from core.training.run_folder import Row
from core.training.trainer import Trainer

EPOCHS = {"acc": 500, "perf": 2}  # the port's, where none are asked for
FRAMEWORKS = {"torch": "PyTorch", "mindspore": "MindSpore", "paddle": "Paddle"}
DEVICE_ID = "ASCEND_DEVICE_ID"


class Line(NamedTuple):
    """A number of the result. shown: how it is called on stdout, logged: in the log; empty where it isn't there."""

    meaning: str
    shown: str
    logged: str
    value: str


@dataclass(frozen=True)
class Epoch:
    """What is kept of an epoch: its training loss per row, and the seconds that all up to its end trained."""

    loss: float
    until: float


def main(argv: Sequence[str] | None = None) -> int:
    """0: trained, and reported. 2: a usage or data error. 1: the run failed. 128 + n: signal n ended it."""
    argv = sys.argv[1:] if argv is None else list(argv)
    return guarded(argv, lambda: measure(parser().parse(argv)))


def parser() -> Parser:
    made = make_parser("python -m core.modelzoo", "Train once and report in the words of Ascend's ModelZoo.",
                         without=("para_path",))
    made.add_argument("case", choices=list(EPOCHS), help=f"acc: a full training, of at most {EPOCHS['acc']} epochs "
                        f"unless said otherwise; perf: a short one for its speed, of {EPOCHS['perf']}")
    made.add_argument("--backend", choices=list(BACKENDS), default="torch", help="[torch]")
    made.add_argument("--settings", metavar="DIR", help="folder of the port's settings, a file EMOTION.yaml each")
    made.add_argument("--para_path", metavar="FILE", help="CSV with the settings of an emotion in each of four rows, "
                        f"{', '.join(ROWS)}; they win over those of DIR; --config wins over both, flags over all")
    return made


def measure(given: Mapping[str, Any]) -> None:
    """Train, then report. Raises UserError and RunFailed; then OUTPUT_PATH holds no result of this case."""
    start = time.perf_counter()
    backend, case, device = given["backend"], given["case"], device_id() or "0"
    config = read_config(given)
    reason = missing_reason(backend)
    if reason:
        raise UserError(reason)
    output, name = config.output_path, case_name(backend, config, case)
    result, losses = output / f"{name}.log", output / f"{name}_loss.txt"
    for old in (result, losses):
        with naming_errors(old):
            output.mkdir(parents=True, exist_ok=True)
            old.unlink(missing_ok=True)
    epochs: list[Epoch] = []

    def heard(trainer: Trainer, row: Row) -> None:
        epochs.append(Epoch(row["train_loss"], trainer.timing["train_seconds"]))

    with _kept(output / f"train_{device}.log"):
        trainer, metrics = follow(backend, config, heard=heard)
        lines = result_lines(config, trainer, metrics, epochs, time.perf_counter() - start)
        if case == "perf":
            lines = [line._replace(logged="") if line.logged == "TrainAccuracy" else line for line in lines]
        say("------------------ Final result ------------------")
        say(f"# data: {trainer.dataset.title}; computed: {trainer.session.observed()}")
        for line in lines:
            if line.shown:
                say(f"# {line.meaning}")
                say(f"{line.shown} : {line.value}")
        write_text(losses, "".join(f"{epoch.loss}\n" for epoch in epochs))
        write_text(result, _log(backend, config, trainer, name, lines))  # last: where it is, nothing went wrong


def read_config(given: Mapping[str, Any]) -> Config:
    """The port's settings for the emotion < its parameter file < --config < flags. Raises UserError."""
    values, origin = read_values({key: value for key, value in given.items() if key != "para_path"})
    if "settings" not in given:
        raise UserError("--settings is required: the folder of the port's settings, such as configs/iemocap/ascend")
    emotion = as_text(values.get("emotion", EMOTION))
    if emotion not in ROWS:
        raise UserError(f"emotion = {shown(emotion)}: expected one of {', '.join(ROWS)}")
    file = Path(given["settings"]) / f"{emotion}.yaml"
    below = {**read_yaml(file), "epochs": EPOCHS[given["case"]],
             "output_path": f"test/output/{device_id() or '0'}"}
    told = dict.fromkeys(below, str(file))
    if values.get("amp_level") == "O0":
        below.pop("loss_scale", None)  # it belongs to the port's level
    if device_id():
        below["device"], told["device"] = f"npu:{device_id()}", DEVICE_ID
    if "para_path" in given:
        path = Path(given["para_path"])
        row = read_parameters(path)[emotion]
        below.update(row)
        told.update(dict.fromkeys(row, f"{path}, row {ROWS.index(emotion) + 1}, {emotion}"))
    return make_config({**below, **values}, {**told, **origin})


def device_id() -> str:
    """The NPU that the environment names, as ModelZoo's scripts have it; empty where it names none."""
    found = os.environ.get(DEVICE_ID, "")
    if found and whole(found) is None:
        raise UserError(f"{DEVICE_ID} = {shown(found)}: expected the number of an NPU such as 0; unset it to train "
                        "elsewhere")
    return found


def network_name(backend: str, config: Config) -> str:
    """`LMF_for_PyTorch`."""
    return f"{config.model.upper()}_for_{FRAMEWORKS[backend]}"


def case_name(backend: str, config: Config, case: str) -> str:
    """`LMF_for_PyTorch_bs256_1p_acc`; of synthetic data it says so."""
    synthetic = "_synthetic" if config.data == "synthetic" else ""
    return f"{network_name(backend, config)}{synthetic}_bs{config.batch_size}_1p_{case}"


def result_lines(config: Config, trainer: Trainer, metrics: Mapping[str, Any], epochs: Sequence[Epoch],
                 seconds: float) -> list[Line]:
    """The numbers of a finished run. Its speed is that of the epochs after the first, if there are any."""
    rows = trainer.dataset.splits["train"].rows
    steps = -(-rows // config.batch_size)
    timed = len(epochs) - 1 or 1
    train = epochs[-1].until - (epochs[0].until if len(epochs) > 1 else 0)
    which = "all whole epochs but the first" if len(epochs) > 1 else "the one epoch, in which frameworks still warm up"
    return [
        Line(f"training rows per second over {which}: batches, forward, backward and optimizer step",
             "Final Performance images/sec", "ActualFPS", f"{timed * rows / train:.2f}"),
        Line(f"seconds per training step: the same time over its steps, {timed * steps} in all",
             "Final Performance sec/step", "TrainingTime", f"{train / (timed * steps):.6f}"),
        Line("training loss per row in the last epoch", "", "ActualLoss", f"{epochs[-1].loss:.6f}"),
        Line("seconds of the whole command, from its flags to the complete run folder", "E2E Training Duration sec",
             "E2ETrainingTime", f"{seconds:.2f}"),
        Line(f"weighted F1 on the test split of {trainer.dataset.title}, of epoch {metrics['best_epoch']} of "
             f"{metrics['epochs']}, chosen by {trainer.selection.extreme}; one run, seed {config.seed}",
             "Final Train Accuracy", "TrainAccuracy", f"{metrics['test']['F1']:.4f}"),
    ]


def _log(backend: str, config: Config, trainer: Trainer, name: str, lines: Sequence[Line]) -> str:
    observed = trainer.session.observed()
    head = {"Network": network_name(backend, config), "Emotion": config.emotion, "Data": trainer.dataset.title,
            "RankSize": 1, "BatchSize": config.batch_size, "DeviceType": observed.device, "CaseName": name}
    text = [f"# computed: {observed}; run folder: {trainer.run_folder.path}",
            *(f"# note: {note}" for note in trainer.dataset.notes),
            *(f"{key} = {value}" for key, value in head.items())]
    for line in lines:
        text += [f"# {line.meaning}", f"{line.logged} = {line.value}"] if line.logged else []
    return "".join(f"{printable(line)}\n" for line in text)


@contextlib.contextmanager
def _kept(path: Path) -> Iterator[None]:
    """Within: what is printed also goes to `path`, and so does the error that ends it."""
    with naming_errors(path):
        file = open(path, "w", encoding="utf-8")  # noqa: SIM115
    with file, contextlib.redirect_stdout(cast(Any, _Twice(sys.stdout, file, path))):
        try:
            say(f"### get your log here : {path}")
            yield
        except BaseException as error:
            with naming_errors(path):
                file.write(f"error: {one_line(error)}\n")
            raise


class _Twice:
    """A stream that also writes into a file."""

    def __init__(self, stream: TextIO, file: TextIO, path: Path) -> None:
        self._stream, self._file, self._path = stream, file, path

    def write(self, text: str) -> int:
        with naming_errors(self._path):
            self._file.write(text)
        return self._stream.write(text)

    def flush(self) -> None:
        with naming_errors(self._path):
            self._file.flush()
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


if __name__ == "__main__":
    sys.exit(main())
