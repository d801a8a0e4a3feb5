"""The commands behind `python -m backends.<framework>.train`, `.evaluate`, `.infer` and `.export`."""
from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from core import api
from core.common.errors import UserError
from core.common.files import write_json
from core.common.guard import guarded, resumable
from core.common.text import say
from core.config import Config, changed, make_config
from core.config.flags import Parser, make_parser, read_saved, read_values
from core.console import print_beyond, print_cleaning, print_epoch, print_findings, print_header, print_metrics
from core.data.sequences import pooled_note
from core.runtime.backend import missing_reason
from core.training.checkpoint import Checkpoint, load_checkpoint
from core.training.run_folder import Row, newest_run, write_predictions
from core.training.trainer import Trainer, refuse_changes

Given = dict[str, Any]


def main(command: str, backend: str, argv: Sequence[str] | None = None) -> int:
    """Run a command and turn every error into one line on stderr and an exit code.

    0: done. 2: a usage or data error. 1: a run that failed. 128 + n: signal n ended it.
    """
    argv = sys.argv[1:] if argv is None else list(argv)

    def run() -> None:
        parser, action = COMMANDS[command]
        given = parser(f"python -m backends.{backend}.{command}").parse(argv)
        reason = missing_reason(backend)
        if reason:
            raise UserError(reason)
        action(backend, given)

    return guarded(argv, run)


def _train_parser(prog: str) -> Parser:
    parser = make_parser(prog, "Train a model; ends with a table of metrics and the path of the run folder.")
    parser.add_argument("--resume", nargs="?", const="", metavar="RUN",
                        help="continue after the last finished epoch; without RUN, the newest run of that name")
    return parser


def train(backend: str, given: Given) -> None:
    """Train, or continue a run."""
    follow(backend, *_start(backend, given), "resume" in given)


def follow(backend: str, config: Config, path: Path | None = None, resume: bool = False,
           heard: Callable[[Trainer, Row], object] = lambda trainer, row: None) -> tuple[Trainer, dict[str, Any]]:
    """Train as core.api.train does, and print what happens. `heard` gets every epoch.

    Returns the trainer, for its data and its timing, and what metrics.json holds.
    """
    began: list[Trainer] = []

    def started(trainer: Trainer) -> None:
        began.append(trainer)
        print_header(backend, config, trainer.dataset, trainer.graph, trainer.run_folder.path, trainer.progress.epoch,
                     trainer.session.observed())
        print_cleaning(trainer.dataset)
        print_findings(trainer.dataset)

    def report(row: Row) -> None:
        print_epoch(row)
        heard(began[0], row)

    def way_on() -> str:
        if not began:
            return ""
        place = began[0].run_folder.path
        return (f"finished epochs: {began[0].progress.epoch}, kept in {place}; continue with: "
                f"python -m backends.{backend}.train --resume {place}")

    with resumable(way_on):
        metrics = api.train(backend, config, path, resume, started, report)
        dataset = began[0].dataset
        print_metrics(metrics["test"], f"{dataset.title} test, {backend}, best of {metrics['epochs']} epochs: "
                                       f"{metrics['best_epoch']}", dataset.notes)
        say(f"computed: {began[0].session.observed()}")
        say(f"run folder: {began[0].run_folder.path}")
        return began[0], metrics


def _start(backend: str, given: Given) -> tuple[Config, Path | None]:
    """The configuration, and the folder of the run to continue. Flags win over the run's own file."""
    values, origin = read_values(given)
    if "resume" not in given:
        return make_config(values, origin), None
    path = Path(given["resume"]) if given["resume"] else newest_run(make_config(values, origin), backend)
    if not os.path.isfile(path / "config.yaml"):
        raise UserError(f"--resume {path}: not a run folder (no config.yaml); give the path that the run printed")
    saved = read_saved(path)
    config = changed(saved, values, origin)
    refuse_changes(config, saved)
    return config, path


def _checkpoint_parser(prog: str, description: str) -> Parser:
    parser = make_parser(prog, description)
    parser.add_argument("--checkpoint", metavar="FILE", help="checkpoint of any backend, or a run folder (its best)")
    return parser


def _open_checkpoint(given: Given) -> tuple[Checkpoint, Config]:
    """The checkpoint, and its configuration with this call's flags on top."""
    if "checkpoint" not in given:
        raise UserError("--checkpoint is required: a checkpoint file, or a run folder")
    checkpoint = load_checkpoint(Path(given["checkpoint"]))
    values, origin = read_values(given)
    return checkpoint, changed(checkpoint.config, values, origin)


def _evaluate_parser(prog: str) -> Parser:
    parser = _checkpoint_parser(prog, "Evaluate a checkpoint, of this or another backend, on one split.")
    parser.add_argument("--split", choices=["train", "valid", "test"], default="test", help="[test]")
    parser.add_argument("--output", metavar="STEM", help="also write STEM.json, STEM.npy and STEM.csv")
    return parser


def evaluate(backend: str, given: Given) -> None:
    """Print the metrics of a checkpoint on a split."""
    checkpoint, config = _open_checkpoint(given)
    name = given["split"]
    found = api.evaluate(backend, checkpoint, config, name)
    dataset, split = found.dataset, found.dataset.splits[name]
    print_cleaning(dataset)
    print_beyond(split.inputs, found.output, checkpoint)
    print_metrics(found.metrics, f"{dataset.title} {name}, {backend}, checkpoint: {checkpoint.backend}", dataset.notes)
    say(f"computed: {found.computed}")
    if "output" in given:
        stem = _stem(given["output"])
        write_json(stem.with_name(stem.name + ".json"),
                   {"data": dataset.title, "synthetic": dataset.synthetic, "split": name, "backend": backend,
                    "computed": str(found.computed), "checkpoint": given["checkpoint"], "metrics": found.metrics})
        write_predictions(stem, found.output, split.arrays["label"], dataset.task)


def _stem(text: str) -> Path:
    """What the files of an --output begin with. Raises UserError for a folder."""
    if not Path(text).name:
        raise UserError(f"--output {text!r}: expected the beginning of a file's name, such as results/valid")
    return Path(text)


def _infer_parser(prog: str) -> Parser:
    parser = _checkpoint_parser(prog, "Predict unlabelled rows: probabilities (IEMOCAP) or scores, in row order.")
    parser.add_argument("--input", metavar="FILE", help=".npz, .safetensors or .pkl with audio, video, text arrays")
    parser.add_argument("--output", metavar="STEM", help="write STEM.npy and STEM.csv [predictions]")
    return parser


def infer(backend: str, given: Given) -> None:
    """Write predictions for the rows of a file."""
    checkpoint, config = _open_checkpoint(given)
    if "input" not in given:
        raise UserError("--input is required: a .npz, .safetensors or .pkl file with the modalities' arrays")
    stem = _stem(given.get("output", "predictions"))
    found = api.infer(backend, checkpoint, config, Path(given["input"]))
    files = write_predictions(stem, found.output, None, config.described.task)
    for name, counts in found.cleaned.items():
        if any(counts.values()):
            say(f"cleaned to 0: {name} {json.dumps(counts)}")
    print_beyond(found.arrays, found.output, checkpoint)
    for note in pooled_note(checkpoint.inputs):
        say(f"note: {note}")
    say(f"computed: {found.computed}")
    say(f"wrote {files[0]} and {files[1]}: {len(found.output)} rows")


def _export_parser(prog: str) -> Parser:
    parser = _checkpoint_parser(prog, "Write the network of a checkpoint in the framework's deployment format.")
    parser.add_argument("--output", metavar="FILE", help="file to write; its ending names the form")
    return parser


def export(backend: str, given: Given) -> None:
    """Write the network for deployment."""
    checkpoint, config = _open_checkpoint(given)
    if "output" not in given:
        raise UserError("--output is required: the file to write")
    files = api.export(backend, checkpoint, config, Path(given["output"]))
    say("wrote " + " and ".join(map(str, files)))


COMMANDS: dict[str, tuple[Callable[[str], Parser], Callable[[str, Given], None]]] = {
    "train": (_train_parser, train), "evaluate": (_evaluate_parser, evaluate),
    "infer": (_infer_parser, infer), "export": (_export_parser, export),
}
