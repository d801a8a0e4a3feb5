"""What runs, plans and searches leave and read again, and the flags of the commands."""
from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core import commands
from core.config import make_config, to_values
from core.config.flags import make_parser, read_values
from core.data import load_dataset
from core.data.tables import TABLES
from core.models.precision import Observed
from core.studies import search
from core.studies.search_confirm import open_confirmation
from core.studies.search_space import search_space
from core.studies.search_worker import Task, base_config, open_study, release_lost
from core.studies.tables.assemble import build_tables
from core.studies.tables.checks import data_key, split_finished
from core.studies.tables.equivalence import compare_backends
from core.studies.tables.figures import classes, rounded, sign
from core.studies.tables.frames import equivalence_sheet, table_sheet
from core.studies.tables.plan import distinct_runs, load_plan, refuse_mixture
from core.studies.tables.render import csv_text, latex, markdown
from core.studies.tables.request import parser, read_request
from core.studies.tables.results import load_entries
from core.training.checkpoint import load_checkpoint
from core.training.run_folder import RunFolder
from core.training.selection import for_selection, selection_of
from core.training.trainer import Trainer
from tests.fuzz.formats import Format, written
from tests.fuzz.mutate import undigested
from tests.table_folders import finish, job, plan
from tests.test_journal import make_journal
from tests.test_trainer import Scripted, trainer_of


def runs(folder: Path) -> Format:
    """A run folder that is to be resumed."""
    session: Any = Scripted([3, 2, 1])

    def write(place: Path) -> None:
        trainer = trainer_of(Scripted([3, 2, 1]), place / "run", epochs=3)
        trainer.run_folder.write_start(trainer.config, trainer.dataset, "torch", 1, Observed("cpu", "float32"))
        trainer.run(lambda row: None)

    files = written(write, folder / "run")
    files = {name: raw for name, raw in files.items() if "tensorboard" not in name}
    whole = trainer_of(session, folder / "other", epochs=3)

    def read(_: int) -> None:
        config, path = commands._start("torch", {"resume": "run"})
        run = RunFolder(path or Path(), config)
        trainer = Trainer(session, whole.graph, config, whole.dataset, run, "torch")
        trainer.resume()
        load_checkpoint(run.best)
        for row in trainer.progress.history:
            row["train_loss"] + row["valid_loss"] + row["epoch"]
        trainer._finished()

    damaged = {"run/config.yaml": "yaml", "run/history.jsonl": "lines", "run/last.safetensors": "safetensors",
               "run/best.safetensors": "safetensors"}
    older = {**files, **{name: undigested(files[name]) for name in files if name.endswith(".safetensors")}}
    return Format([files, older], damaged, read)


def tables(folder: Path) -> Format:
    """The output folder of a plan."""
    jobs = [*(job("mosi", seed=seed, backend=backend) for seed in (1, 2) for backend in ("torch", "paddle")),
            job("pom", "vivid"), job("iemocap", "happy"), job("iemocap", "sad")]

    def write(place: Path) -> None:
        plan(place, *jobs, failures={jobs[-1].run: "x"})
        for one in jobs[:-1]:
            finish(place, one, predictions=True)
        for path in (place / "runs").iterdir():
            (path / "predictions_test.npy").unlink()

    files = written(write, folder / "tables")
    first = f"runs/{jobs[0].run}"
    kinds = {"metrics.json": "json", "run.json": "json", "history.jsonl": "lines", "predictions_test.csv": "bytes"}
    damaged = {"plan.json": "json", "failures.json": "json", f"{first}/config.yaml": "yaml",
               f"runs/{jobs[5].run}/predictions_test.csv": "bytes",
               **{f"{first}/{name}": kind for name, kind in kinds.items()}}
    files[f"{first}/config.yaml"] = json.dumps(to_values(jobs[0].made)).encode()
    planned = distinct_runs([jobs[0]])

    def read(seed: int) -> None:
        here = Path()
        entries = load_entries(here)
        sheets = [*map(table_sheet, build_tables(entries)), equivalence_sheet(compare_backends(entries))] \
            if seed == 0 else []  # it takes ten times as long as all the rest
        for sheet in sheets:
            markdown(sheet), latex(sheet), csv_text(sheet.tidy)
        for entry in entries:
            if entry.run:
                entry.run.history()
            if entry.run and entry.job.table == "mosi":
                sign(entry.run, TABLES["mosi"]), rounded(entry.run, TABLES["mosi"])
            if entry.run and entry.job.table == "iemocap":
                classes(entry.run)
        refuse_mixture(here, load_plan(here))
        split_finished(here, planned, {data_key(planned[0].config): "f" * 64})

    return Format([files] * 5, damaged, read)


def journals(folder: Path) -> Format:
    """The journal of a search, which goes on."""
    raw = make_journal(folder / "s.journal").read_text()
    raw = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22,}", "worker", raw)
    raw = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", "2026-01-01T00:00:00.000000+00:00", raw)
    fixed = {"dataset": "mosi", "modalities": "audio", "data": "synthetic"}
    task = Task("torch", "s.journal", "s", fixed, 3, 0)
    dataset, space = for_selection(load_dataset(base_config(task))), search_space(base_config(task), task.fixed)

    def read(_: int) -> None:
        study = open_study(task)
        search._refuse_other(study, task, space, dataset)
        search.check_trials(study, space, task.fixed, task.storage)
        release_lost(study)
        trials = sorted(study.get_trials(states=(search.TrialState.COMPLETE,)), key=lambda trial: trial.value or 0.0)
        if trials:
            search._print_best(trials[:5], space, dataset, selection_of(base_config(task)))
            search.found_file(study, task, trials[0], None, dataset, Path("found.yaml"))
        trial = study.ask()
        for key, choices in space.items():
            trial.suggest_categorical(key, choices)
        open_confirmation(task)

    return Format([{"s.journal": raw.encode()}], {"s.journal": "lines"}, read)


def flags(_: Path) -> Format:
    """The command lines, as far as they can be read without data."""
    lines = ["--dataset mosi --rank 4 --modalities audio,text --learning_rate 1e-3 --config x.yaml --seed 3",
             "--dataset iemocap --emotion sad --cuda true --num_workers 3 --data_path data --signiture a --epochs none",
             "--checkpoint run --split valid --output here/out --device_target CPU", "--resume run --epochs 5",
             "--table pom --seeds 1-3,7 --backend torch --cells vivid --modalities audio;text --rank 3 --jobs 2",
             "--table iemocap --variant ascend --backend torch --cells sad --configs configs --output out",
             "--dataset pom --trials 3 --jobs 2 --storage s.journal --search_seed 5 --confirm 2x3 --rank 3",
             "--input x.pkl --output x.safetensors --dataset mosi --emotion none"]

    def train(argv: list[str]) -> None:
        given = commands._train_parser("train").parse(argv)
        commands._start("torch", given)

    def evaluate(argv: list[str]) -> None:
        given = commands._evaluate_parser("evaluate").parse(argv)
        if "output" in given:
            commands._stem(given["output"])
        commands._open_checkpoint(given)

    def plans(argv: list[str]) -> None:
        read_request(parser().parse(argv))

    def searches(argv: list[str]) -> None:
        given = search._parser().parse(argv)
        task = search._task(given)
        confirming = search.read_confirm(given.get("confirm", "8x5"))
        if confirming:
            search.confirm_seeds(task, confirming[1])

    def conversions(argv: list[str]) -> None:
        made = make_parser("convert", "")
        made.add_argument("--input")
        made.add_argument("--output")
        make_config(*read_values(made.parse(argv)))

    readers: list[Callable[[list[str]], None]] = [train, train, evaluate, train, plans, plans, searches, conversions]

    def read(seed: int) -> None:
        argv = Path("argv").read_bytes().decode("utf-8", "surrogateescape").split("\0")
        try:
            readers[seed](argv)
        except SystemExit as error:  # argparse, on --help
            if error.code:
                raise

    files = [{"argv": line.replace(" ", "\0").encode(), "x.yaml": b"rank: 3\n"} for line in lines]
    return Format(files, {"argv": "flags"}, read)
