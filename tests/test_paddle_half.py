"""Paddle's blocks on half tensors: on a stand-in for the kernels that CUDA has and its CPU lacks."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from core.common.half import FORMATS, HalfType
from core.models.precision import Level
from core.runtime.worker import Worker
from tests.running import needs
from tests.test_precision import LMF, Trial

MSA = {**LMF, "model": "msa"}


@pytest.fixture(scope="module")
def workers() -> Iterator[list[Worker]]:
    """Paddle, and Paddle whose CPU has half kernels."""
    needs("paddle")
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(contextlib.closing(Worker("paddle"))) for _ in range(2)]
        found[1].run("tests.paddle_half:install")
        yield found


@pytest.mark.parametrize(("level", "kind"), [("O1", "bfloat16"), ("O2", "float16")])
@pytest.mark.parametrize("values", [
    LMF, {**LMF, "model": "tfn"}, {**MSA, "fusion": "self_attention"},
    {**MSA, "encoder": "transformer", "fusion": "cross_attention", "apply_dropout": True},
], ids=["lmf", "tfn", "self", "cross"])
def test_real_half_computes_what_emulated_half_does(workers: list[Worker], level: Level, kind: HalfType,
                                                    values: dict[str, Any]) -> None:
    """With half kernels every operation of a block rounds, not its border alone: a few roundings where there was one.
    The rows of one sequence end in padding, which has to stay hidden from attention.
    """
    given = []
    for worker in workers:
        trial = Trial(worker, {**values, "amp_level": level, "amp_dtype": kind, "loss_scale": 16})
        given.append((trial.session.forward(trial.batch(trial.plan()), True)["output"], trial.session.predict("test"),
                      trial.session.train_epoch(trial.plan())))
    bound = 4 * FORMATS[kind].unit_roundoff * len(trial.graph.nodes)
    (output, scores, emulated), (real_output, real_scores, result) = given
    np.testing.assert_allclose(real_output, output, atol=bound * np.abs(output).max(), rtol=0)
    np.testing.assert_allclose(real_scores, scores, atol=bound * np.abs(scores).max(), rtol=0)
    np.testing.assert_allclose(result.losses, emulated.losses, rtol=bound)
    assert result.skipped == emulated.skipped == 0
    assert str(trial.session.observed()) == f"cpu, {level}, {kind}"
