"""Rung 3: evaluation forward, layer by layer, against the float64 oracle and against torch."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from core import oracle
from parity.bounds import FORWARD
from parity.compare import assert_same
from parity_tests.conftest import ROWS, Lab


@pytest.mark.parametrize("rows", [1, 2, ROWS])
def test_layers_agree_with_the_oracle(lab: Lab, rows: int) -> None:
    batch = lab.batch(slice(0, rows))
    want = oracle.forward(lab.spec, lab.state.weights, batch)
    assert_same(lab.session.forward(batch, False), want, FORWARD[lab.config.precision])


def test_layers_agree_with_torch(lab: Lab, open_lab: Any, backend: str, precision: str, case: str) -> None:
    if backend == "torch":
        pytest.skip("torch is the reference here")
    want = open_lab("torch", precision, case, "reference").session.forward(lab.batch(slice(0, ROWS)), False)
    assert_same(lab.session.forward(lab.batch(slice(0, ROWS)), False), want, FORWARD[precision])


def test_predict_keeps_the_row_order(lab: Lab) -> None:
    want = oracle.forward(lab.spec, lab.state.weights, lab.batch(slice(0, ROWS)))["output"]
    got = lab.session.predict("valid")
    assert got.dtype == np.dtype(lab.config.precision)
    assert_same({"output": got}, {"output": want}, FORWARD[lab.config.precision])


def test_one_row_gives_one_row(lab: Lab) -> None:
    """A bare squeeze() in the original drops the batch axis of a single row; one port returned (1, 2) for two."""
    lab.session.load_data("one", {name: value[:1] for name, value in lab.arrays.items()})
    assert lab.session.predict("one").shape == (1, lab.spec.output_dim)
    lab.session.load_data("two", {name: value[:2] for name, value in lab.arrays.items()})
    assert lab.session.predict("two").shape == (2, lab.spec.output_dim)


def test_more_rows_than_one_evaluation_pass(lab: Lab) -> None:
    """Evaluation runs in passes of 1024 rows: the seams must not show."""
    many = {name: np.concatenate([value] * 60)[:1100] for name, value in lab.arrays.items()}
    lab.session.load_data("many", many)
    want = np.concatenate([lab.session.predict("valid")] * 60)[:1100]
    assert_same({"output": lab.session.predict("many")}, {"output": want}, FORWARD[lab.config.precision])
