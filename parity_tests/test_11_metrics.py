"""Rung 11: one checkpoint, evaluated everywhere, prints one table."""
from __future__ import annotations

from typing import Any

import pytest

from core.training.metrics import evaluate
from parity.runs import printed
from parity_tests.conftest import Lab

HALF_A_DIGIT = 0.5e-4  # of the four that are printed


def test_metrics_agree_to_the_last_printed_digit(lab: Lab, open_lab: Any, precision: str, case: str) -> None:
    """In float32 the CPU decides which digit is printed of a value between two: there they agree to half a digit.

    No prediction lies within 1e-2 of where a rounded or signed score changes, so that accuracies are the same.
    """
    reference = open_lab("torch", precision, case, "reference")
    for one in (lab, reference):  # weights after a little training, so that predictions vary
        one.session.load_state(reference.state)
    reference.session.train_epoch(reference.plan(0, 8))
    lab.session.load_state(reference.session.state())
    got, want = (evaluate(one.graph.task, one.session.predict("valid"), one.arrays["label"])
                 for one in (lab, reference))
    if precision == "float64":
        assert printed(got) == printed(want)
    assert got == pytest.approx(want, rel=0, abs=HALF_A_DIGIT)
