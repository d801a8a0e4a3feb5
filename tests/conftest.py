"""Fixtures of the command tests: data and one finished run of each task, made once."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.running import content_of, needs, refuse, run, run_folder, train_flags, write_pickle

__all__ = ["refuse"]

TWELVE = ("--epochs", "12", "--patience", "12", "--learning_rate", "0.01", "--factor_learning_rate", "0.01")


@dataclass(frozen=True)
class Run:
    """A finished training: where it ran, what it was given, what it printed, what it left."""

    here: Path
    flags: list[str]
    stdout: str
    stderr: str
    folder: Path


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny mosi.pkl, pom.pkl and iemocap.pkl."""
    folder = tmp_path_factory.mktemp("data")
    for dataset in ("mosi", "pom", "iemocap"):
        write_pickle(folder, dataset, content_of(dataset))
    return folder


def finished(dataset: str, data: Path, here: Path, *flags: str) -> Run:
    needs("torch")
    given = train_flags(dataset, data, here / "runs", *flags)
    done = run(here, "torch", "train", *given)
    return Run(here, given, done.stdout, done.stderr, run_folder(done.stdout))


@pytest.fixture(scope="session")
def classified(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """IEMOCAP, 12 epochs in torch, never interrupted."""
    return finished("iemocap", data, tmp_path_factory.mktemp("classified"), *TWELVE)


@pytest.fixture(scope="session")
def scored(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """POM, stopped early."""
    return finished("pom", data, tmp_path_factory.mktemp("scored"), "--epochs", "200", "--patience", "3",
                    "--learning_rate", "0.02", "--factor_learning_rate", "0.02")
