"""Every rung of parity.ladder, climbed by every backend on every case: those that `python -m parity` climbs."""
from __future__ import annotations

from typing import Any

import pytest

from core.runtime.backend import BACKENDS, missing_reason
from parity.ladder import MIXED, RUNGS, Rung, climb
from parity_tests.conftest import ROWS, Lab

MANY = 1100  # evaluation runs in passes of 1024 rows: the seams must not show


def climbed(lab: Lab, rung: str, rows: int = ROWS, state: str = "initial") -> Rung:
    """By one backend, held to the oracle."""
    (found,) = climb(rung, [lab.subject(rows, state)])
    return found


def hold(lab: Lab, rung: str, rows: int = ROWS, state: str = "initial") -> None:
    """Fail with the first tensor that differs."""
    problem = climbed(lab, rung, rows, state).problem
    assert problem is None, problem


def test_every_rung_has_a_test_here() -> None:
    assert {f"test_{name.replace(' ', '_')}" for name in RUNGS} <= globals().keys()


def test_sets(lab: Lab) -> None:
    """Published ports trained running statistics, or left the fusion weights out."""
    hold(lab, "sets")


@pytest.mark.parametrize("state", ["initial", "anything"])
def test_init(lab: Lab, state: str) -> None:
    hold(lab, "init", state=state)


@pytest.mark.parametrize("rows", [1, 2, ROWS])
def test_forward(lab: Lab, rows: int) -> None:
    hold(lab, "forward", rows)


@pytest.mark.parametrize("rows", [1, 2, ROWS, MANY])
def test_predict(lab: Lab, rows: int) -> None:
    """A bare squeeze() in the original drops the batch axis of a single row; one port returned (1, 2) for two."""
    hold(lab, "predict", rows)


@pytest.mark.parametrize("rows", [1, 2, ROWS])
def test_loss(lab: Lab, rows: int) -> None:
    """Frameworks default to the mean; the original sums, and one port weighted short batches up."""
    hold(lab, "loss", rows)


@pytest.mark.parametrize("rows", [1, 2, ROWS])
def test_gradients(lab: Lab, rows: int) -> None:
    hold(lab, "gradients", rows)


@pytest.mark.parametrize("rows", [1, 2, ROWS])
def test_train_mode(lab: Lab, rows: int) -> None:
    hold(lab, "train mode", rows)


@pytest.mark.parametrize(("rung", "rows"), [("forward", ROWS), ("train mode", 1)])
def test_channels_of_little_variance(lab: Lab, rung: str, rows: int) -> None:
    hold(lab, rung, rows, "little variance")


@pytest.mark.parametrize("state", ["initial", "after nine steps", "small moments", "tiny weights"])
def test_adam(lab: Lab, state: str) -> None:
    hold(lab, "adam", state=state)


def test_decay(lab: Lab) -> None:
    hold(lab, "decay")


@pytest.mark.parametrize("batch_size", [8, 4, 1, ROWS])
def test_statistics(lab: Lab, batch_size: int) -> None:
    """Batches of 8 end in one of 5 rows, batches of 4 in one of a single row."""
    hold(lab, "statistics", batch_size)


@pytest.mark.parametrize(("level", "half"), [("O1", "bfloat16"), ("O2", "float16")])
def test_borders(open_lab: Any, backend: str, case: str, level: str, half: str) -> None:
    """And what else mixed precision is held to: Adam's steps in float32 are those of its own gradients.

    test_borders.py has every kind of block at both levels in both types.
    """
    lab = open_lab(backend, "float32", case, values={"amp_level": level, "amp_dtype": half})
    hold(lab, "borders")
    if (level, half) == ("O2", "float16"):  # the rest doesn't depend on them
        for rung in MIXED:
            hold(lab, rung)
        hold(lab, "init", state="anything")
        hold(lab, "adam", state="after nine steps")


@pytest.mark.parametrize("batch_size", [8, 4])
def test_drift(open_lab: Any, precision: str, case: str, batch_size: int) -> None:
    """Of all installed backends together: the middle of three judges."""
    labs = [open_lab(name, precision, case) for name in BACKENDS if not missing_reason(name)]
    if len(labs) < 2:
        pytest.skip("the ladder compares two backends or more")
    problems = [rung.problem for rung in climb("drift", [lab.subject(batch_size) for lab in labs])]
    assert problems == [None] * len(labs)
