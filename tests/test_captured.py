"""What a CUDA graph captures, recorded and run again: it needs no CUDA device, and says nothing about one's kernels."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from core.runtime.worker import Worker
from tests.running import needs

CASES = {
    "lmf": {"dataset": "iemocap"},
    "tfn, cosine": {"dataset": "mosi", "model": "tfn", "schedule": "cosine", "weight_decay": 0.01},
    "sequences": {"dataset": "mosi_aligned", "model": "msa", "hidden_dim": 4, "apply_dropout": True},
    "attention": {"dataset": "mosi_aligned", "model": "msa", "hidden_dim": 4, "encoder": "transformer",
                  "attention_heads": 2, "feed_forward_dim": 5, "attention_dropout": 0.2},
    "O1": {"dataset": "iemocap", "amp_level": "O1", "loss_scale": 128},
    "O2, skipping": {"dataset": "iemocap", "amp_level": "O2", "loss_scale": "dynamic", "loss_scale_init": 2.0**27,
                     "loss_scale_interval": 3},
}


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    needs("torch")
    started = Worker("torch")
    yield started
    started.close()


@pytest.mark.parametrize("case", list(CASES))
def test_the_static_step_is_the_step(worker: Worker, case: str) -> None:
    """Two epochs of one recorded step, which takes all from tensors, give what the ordinary steps give, to the bit."""
    ordinary, static = worker.run("tests.captured_steps:both_ways", CASES[case])
    for got, want in zip(static, ordinary, strict=True):
        np.testing.assert_array_equal(got, want)


def test_steps_beside_each_other_are_each_their_own(worker: Worker) -> None:
    """Three seeds in one captured step, each as alone."""
    together, alone = worker.run("tests.captured_steps:seeds_together", CASES["lmf"], [0, 1, 2])
    for got, want in zip(together, alone, strict=True):
        np.testing.assert_array_equal(got, want)
    assert not np.array_equal(alone[0], alone[1])


@pytest.mark.parametrize("case", ["lmf", "O2, skipping"])
def test_fewer_steps_than_the_warm_up(worker: Worker, case: str) -> None:
    """The warm-up before the capture leaves nothing behind, and doesn't run past the end of a short epoch."""
    captured, ordinary = worker.run("tests.captured_steps:few_steps", CASES[case])
    for got, want in zip(captured, ordinary, strict=True):
        np.testing.assert_array_equal(got, want)


def test_streams_fork_and_join(worker: Worker) -> None:
    """The other seeds wait for what was before, and what comes after waits for them: else they are not in the graph."""
    assert worker.run("tests.captured_steps:streams_of_seeds") == [
        "one waits for here", "seed 1, one", "two waits for here", "seed 2, two", "seed 0, here",
        "here waits for one", "here waits for two"]


@pytest.mark.parametrize("case", list(CASES))
def test_the_step_stays_on_its_device(worker: Worker, case: str) -> None:
    """No tensor of the step lies elsewhere, none is made of numbers of the host, and none is read there: a capture
    refuses all of that."""
    assert worker.run("tests.captured_steps:placed_step", CASES[case]) is None
