"""Rung 11: one checkpoint, evaluated everywhere, prints one table."""
from __future__ import annotations

from typing import Any

from core.metrics import evaluate
from parity.runs import printed
from parity_tests.conftest import Lab


def test_metrics_agree_to_the_last_printed_digit(lab: Lab, open_lab: Any, precision: str, case: str) -> None:
    reference = open_lab("torch", precision, case, "reference")
    names = [f"output {i}" for i in range(1 if lab.spec.output_dim == 1 else lab.spec.output_dim)]
    for one in (lab, reference):  # weights after a little training, so that predictions vary
        one.session.load_state(reference.state)
    reference.session.train_epoch(reference.plan(0, 8))
    lab.session.load_state(reference.session.state())
    tables = [printed(evaluate(one.spec.task, one.session.predict("valid"), one.arrays["label"], names))
              for one in (lab, reference)]
    assert tables[0] == tables[1]
