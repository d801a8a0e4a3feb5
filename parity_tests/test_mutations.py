"""The ladder finds each fault in each backend and lays it to that backend alone, torch too."""
from __future__ import annotations

import pytest

from core.runtime.backend import BACKENDS, missing_reason
from core.runtime.worker import Worker
from parity.ladder import PLAIN
from parity_tests.mutations import FAULTS
from parity_tests.mutations.climbing import accused, climbed


@pytest.fixture
def all_workers(workers: dict[str, Worker]) -> dict[str, Worker]:
    """Of every installed backend."""
    for name in BACKENDS:
        if name not in workers and not missing_reason(name):
            workers[name] = Worker(name)
    if len(workers) < 2:
        pytest.skip("the ladder compares two backends or more")
    return workers


def test_without_a_fault_nobody_is_accused(all_workers: dict[str, Worker], precision: str) -> None:
    rungs = climbed(all_workers, precision, list(PLAIN))
    assert len(rungs) == len(PLAIN) * len(all_workers)
    assert accused(rungs) == {}, [rung.problem for rung in rungs if rung.problem]


@pytest.mark.parametrize(("fault", "precision"), [(key, precision) for key, fault in FAULTS.items()
                                                  for precision in fault.precisions])
def test_the_faulty_backend_is_named(all_workers: dict[str, Worker], backend: str, fault: str, precision: str) -> None:
    if backend not in all_workers:
        pytest.skip(str(missing_reason(backend)))
    expected = list(FAULTS[fault].rungs)
    rungs = climbed(all_workers, precision, expected, backend, fault)
    assert accused(rungs) == {backend: expected}
    assert all(str(rung.problem).startswith(f"{backend} ") for rung in rungs if rung.problem)


def test_without_an_oracle_two_backends_accuse_nobody(all_workers: dict[str, Worker]) -> None:
    """Losses of a whole epoch: the middle of three names the one that is wrong, two are both in doubt."""
    assert accused(climbed(all_workers, "float64", ["drift"], "torch", "mask_scale")) == (
        {"torch": ["drift"]} if len(all_workers) > 2 else {name: ["drift"] for name in all_workers})
    two = {name: all_workers[name] for name in ("torch", next(name for name in all_workers if name != "torch"))}
    rungs = climbed(two, "float64", ["drift"], "torch", "mask_scale")
    problems = [rung.problem for rung in rungs if rung.problem]
    assert len(problems) == 1 and str(problems[0]).startswith(f"{' or '.join(two)} (one more backend would tell) drift")
