"""The commands behind `python -m backends.<framework>.train`, `.evaluate`, `.infer` and `.export`."""
from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.backend import Session, missing_reason, open_session
from core.checkpoint import Checkpoint, load_checkpoint
from core.config import Config, make_config
from core.console import print_beyond, print_cleaning, print_epoch, print_findings, print_header, print_metrics
from core.data import Dataset, load_dataset
from core.data.published import label_names
from core.data.ranges import outside
from core.data.unlabelled import read_unlabelled
from core.errors import RunFailed, UserError
from core.files import write_json
from core.flags import Parser, make_parser, read_saved, read_values
from core.guard import guarded, resumable
from core.losses import mean_loss
from core.metrics import evaluate as all_metrics
from core.models import build_spec
from core.randomness import Array
from core.run_folder import newest_run, write_predictions
from core.state import check_weights
from core.text import say
from core.trainer import full_state, refuse_changes, start_run

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
    config, path = _start(backend, given)
    trainer = start_run(backend, config, path, "resume" in given)
    dataset, path = trainer.dataset, trainer.run_folder.path
    with resumable(lambda: f"finished epochs: {trainer.progress.epoch}, kept in {path}; continue with: "
                           f"python -m backends.{backend}.train --resume {path}"):
        print_header(backend, config, dataset, trainer.spec, path, trainer.progress.epoch)
        print_cleaning(dataset)
        print_findings(dataset)
        metrics = trainer.run(print_epoch)
        print_metrics(metrics["test"], f"{dataset.title} test, {backend}, best of {metrics['epochs']} epochs: "
                                       f"{metrics['best_epoch']}", dataset.notes)
        say(f"run folder: {path}")


def _start(backend: str, given: Given) -> tuple[Config, Path | None]:
    """The configuration, and the folder of the run to continue. Flags win over the run's own file."""
    values, origin = read_values(given)
    if "resume" not in given:
        return make_config(values, origin), None
    path = Path(given["resume"]) if given["resume"] else newest_run(make_config(values, origin), backend)
    if not os.path.isfile(path / "config.yaml"):
        raise UserError(f"--resume {path}: not a run folder (no config.yaml); give the path that the run printed")
    saved = read_saved(path)
    config = make_config({**saved.model_dump(mode="json"), **values}, origin)
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
    return checkpoint, make_config({**checkpoint.config.model_dump(mode="json"), **values}, origin)


def _open_trained(backend: str, checkpoint: Checkpoint, config: Config, dataset: Dataset | None = None) -> Session:
    """A session with the weights of `checkpoint`, refused where they don't fit the data or the flags."""
    spec = build_spec(config, dataset.dims if dataset else checkpoint.dims)
    check_weights(spec, checkpoint.state.weights, "checkpoint")
    session = open_session(backend, spec, config)
    session.load_state(full_state(checkpoint, spec, config))
    return session


def _evaluate_parser(prog: str) -> Parser:
    parser = _checkpoint_parser(prog, "Evaluate a checkpoint, of this or another backend, on one split.")
    parser.add_argument("--split", choices=["train", "valid", "test"], default="test", help="[test]")
    parser.add_argument("--output", metavar="STEM", help="also write STEM.json, STEM.npy and STEM.csv")
    return parser


def evaluate(backend: str, given: Given) -> None:
    """Print the metrics of a checkpoint on a split."""
    checkpoint, config = _open_checkpoint(given)
    dataset, name = load_dataset(config), given["split"]
    session = _open_trained(backend, checkpoint, config, dataset)
    split = dataset.splits[name]
    session.load_data(name, split.arrays)
    output, label = session.predict(name), split.arrays["label"]
    metrics = {"loss": mean_loss(output, label), **all_metrics(dataset.task, output, label, dataset.label_names)}
    print_cleaning(dataset)
    print_beyond(split.inputs, output, checkpoint)
    print_metrics(metrics, f"{dataset.title} {name}, {backend}, checkpoint: {checkpoint.backend}", dataset.notes)
    if "output" in given:
        stem = _stem(given["output"])
        write_json(stem.with_name(stem.name + ".json"),
                   {"data": dataset.title, "synthetic": dataset.synthetic, "split": name, "backend": backend,
                    "checkpoint": given["checkpoint"], "metrics": metrics})
        write_predictions(stem, output, label, dataset.task, dataset.label_names)


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
    arrays, cleaned = read_unlabelled(Path(given["input"]), config.modalities, checkpoint.dims, config.max_len)
    session = _open_trained(backend, checkpoint, config)
    session.load_data("input", arrays)
    output = session.predict("input")
    _refuse_broken(given["input"], arrays, output, checkpoint)
    files = write_predictions(stem, output, None, config.task,
                              label_names(config.dataset, config.emotion))
    for modality, counts in cleaned.items():
        if any(counts.values()):
            say(f"cleaned to 0: {modality} {json.dumps(counts)}")
    print_beyond(arrays, output, checkpoint)
    say(f"wrote {files[0]} and {files[1]}: {len(next(iter(arrays.values())))} rows")


def _refuse_broken(path: str, arrays: Mapping[str, Array], output: Array, checkpoint: Checkpoint) -> None:
    """Raises RunFailed naming the first row without a finite prediction, and its furthest value where that is known."""
    broken = np.flatnonzero(~np.isfinite(output).all(axis=1))
    if not len(broken):
        return
    row = int(broken[0])
    found = [f"; {modality} {beyond.furthest}" for modality, array in arrays.items()
             if checkpoint.ranges and (beyond := outside(modality, array, checkpoint.ranges, [row]))]
    raise RunFailed(f"{path}: row {row} has no finite prediction ({len(broken)} of {len(output)} rows){''.join(found)}"
                    "; repair, rescale or drop these rows, nothing was written")


def _export_parser(prog: str) -> Parser:
    parser = _checkpoint_parser(prog, "Write the network of a checkpoint in the framework's deployment format.")
    parser.add_argument("--output", metavar="FILE", help="file to write; its ending names the form")
    return parser


def export(backend: str, given: Given) -> None:
    """Write the network for deployment."""
    checkpoint, config = _open_checkpoint(given)
    if "output" not in given:
        raise UserError("--output is required: the file to write")
    path = Path(given["output"])
    session = _open_trained(backend, checkpoint, config)
    files = session.export(path, path.suffix.removeprefix("."))
    say("wrote " + " and ".join(map(str, files)))


COMMANDS: dict[str, tuple[Callable[[str], Parser], Callable[[str, Given], None]]] = {
    "train": (_train_parser, train), "evaluate": (_evaluate_parser, evaluate),
    "infer": (_infer_parser, infer), "export": (_export_parser, export),
}
