"""The suite for real devices, on the CPU: all of it on a few rows, and what it does where something is wrong.

Half kernels of a device are stood in for by those that PyTorch has for a CPU, which no run here uses otherwise.
"""
from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.device_cells import FULL, networks
from benchmarks.device_report import RATE, TIMES, goals
from benchmarks.device_speed import Seeds, Speed
from benchmarks.rounds import Spread
from core.runtime.worker import Worker
from tests.running import HANG, environment, needs, only_error

QUICK = ("--device", "cpu", "--quick")
BROKEN = """
import sys
from benchmarks import device
from core.common.guard import guarded
def broken():
{lines}
if __name__ == "__main__":  # not in the worker, which has the reference
    broken()
    sys.exit(guarded(sys.argv[1:], device.main))
"""
WRONG = {
    "graph: the step after the first takes the rows of the first": (
        "from backends.torch.captured import StaticStep",
        "fill = StaticStep.fill",
        "def wrong(self, plan, first, last):",
        "    fill(self, plan, first, last)",
        "    self.order[self.rows:] = self.order[0]",
        "StaticStep.fill = wrong"),
    "eager: a mask is left out": (
        "from backends.torch.session import TorchSession",
        "batches = TorchSession.batches",
        "def wrong(self, plan, first, last):",
        "    for batch in batches(self, plan, first, last):",
        "        yield batch if self.capture else batch._replace(masks=dict(list(batch.masks.items())[1:]))",
        "TorchSession.batches = wrong"),
    "O1: the copies in half are those of the first step": (
        "from backends.torch.model import Copies",
        "from backends.torch.session import TorchSession",
        "refresh = Copies.refresh",
        "TorchSession.train_steps = (lambda kept: lambda self, *one: [setattr(Copies, 'refresh', lambda self: None),",
        "    *kept(self, *one), setattr(Copies, 'refresh', refresh)][1:-1])(TorchSession.train_steps)"),
}


def test_all_of_it(tmp_path: Path) -> None:
    needs("torch")
    done = subprocess.run([sys.executable, "-m", "benchmarks.device", *QUICK, "--output", "found.json"], cwd=tmp_path,
                          text=True, capture_output=True, timeout=HANG, env=environment(tmp_path, {}), check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert (tmp_path / "found.txt").read_text() in done.stdout
    stated = found["stated"]
    assert stated["float32"] == "cpu, float32" and stated["half"] == "O2, float16, emulated on cpu"
    assert stated["graph"] == "the step of the graph, not captured: cpu"
    assert stated["command"].endswith("--device cpu --quick --output found.json") and "no result" in stated["quick"]
    checked = {(one["network"], one["way"], one["name"].split(" (")[0]) for one in found["checks"]}
    names = {"lmf happy", "lmf neutral", "tfn", "msa", "msa transformer"}
    assert {network for network, _, _ in checked} == names
    for network in names:
        assert {name for one, way, name in checked if (one, way) == (network, "")} == {
            "sets", "init", "forward", "predict", "loss", "gradients", "train mode"}
        for way in ("graph", "eager"):
            assert {name for one, by, name in checked if (one, by) == (network, way)} == {
                "adam", "statistics", "losses of an epoch's steps", "weights after an epoch",
                "a run beside the floor of half"}
    assert all(0 <= one["share"] <= 1 for one in found["checks"])
    speeds = found["samples_per_second"]
    assert len({(one["emotion"], one["batch"], one["precision"], one["measure"], one["way"]) for one in speeds}) \
        == len(speeds) == 2 * 2 * 3 * 3 * 2
    assert all(len(one["rounds"]) == found["rounds"] and min(one["rounds"]) > 0 for one in speeds)
    assert len(found["seeds"]) == 2 * 2 and len(found["goals"]) == 2 * 2
    assert re.search(r"^│ happy .* O2, float16, emulated ", done.stdout, re.M)
    assert len(re.findall("^(reached|missed): ", done.stdout, re.M)) == 4
    assert "the goals are those of one H200" in done.stdout


@pytest.mark.parametrize("what", list(WRONG))
def test_what_is_wrong_ends_it_before_anything_is_timed(tmp_path: Path, what: str) -> None:
    needs("torch")
    (tmp_path / "broken.py").write_text(BROKEN.format(lines="\n".join(f"    {line}" for line in WRONG[what])))
    done = subprocess.run([sys.executable, "broken.py", *QUICK, "--output", "found.json"], cwd=tmp_path, text=True,
                          capture_output=True, timeout=HANG, env=environment(tmp_path, {}), check=False)
    assert done.returncode == 1
    error = only_error(done.stderr)
    assert "lmf happy" in error and what.split(":")[0] in error
    assert "samples per second" not in done.stdout and not (tmp_path / "found.json").exists()


@pytest.mark.parametrize("flags, named", [
    (("--device", "cuda:99"), "device = 'cuda:99'"), (("--device", "quantum"), "device = 'quantum'"),
    (("--device", "cpu", "--backend", "mindspore"), "--backend mindspore: expected one of torch, paddle"),
    (("--device", "cpu", "--output", "found.html"), "--output found.html: expected a name that ends in .json")])
def test_a_wrong_call_is_one_line(tmp_path: Path, flags: tuple[str, ...], named: str) -> None:
    needs("torch")
    done = subprocess.run([sys.executable, "-m", "benchmarks.device", *flags], cwd=tmp_path, text=True,
                          capture_output=True, timeout=HANG, env=environment(tmp_path, {}), check=False)
    assert done.returncode == 2 and named in only_error(done.stderr) and not done.stdout


def test_half_kernels_stay_within_the_floor() -> None:
    """Real kernels in half, with their own roundings, pass; a loss scale that isn't divided off, say, would not."""
    needs("torch")
    worker = Worker("torch")
    try:
        shares = worker.run("tests.half_kernels:shares", "lmf happy")
    finally:
        worker.close()
    assert len(shares) == 2 * 2 * 2
    assert all(0 < share <= 1 for share in shares)  # not the emulated numbers: else it would be 0


def test_a_full_run_has_all_cells_as_published() -> None:
    found = networks(FULL, "cuda", 1)
    assert [name for name in found if name.startswith("lmf")] == ["lmf happy", "lmf sad", "lmf angry", "lmf neutral"]
    assert [found[f"lmf {emotion}"]["batch_size"] for emotion in FULL.emotions] == [128, 64, 64, 16]
    assert FULL.batches == (64, 256) and FULL.seeds == 16 and FULL.epoch_rows == 2717


def test_goals_take_the_largest_batch_in_float32() -> None:
    def speed(batch: int, precision: str, measure: str, way: str, rate: float) -> Speed:
        return Speed("happy", batch, precision, measure, way, [rate / 2, rate, rate * 3])

    speeds = [speed(64, "float32", "step", "graph", 9e6), speed(256, "O2", "step", "graph", 9e6),
              speed(256, "float32", "epoch", "graph", 9e6), speed(256, "float32", "step", "eager", RATE / 3),
              speed(256, "float32", "step", "graph", RATE - 1)]
    seeds = [Seeds("happy", 64, 16, Spread(9, 9, 9)), Seeds("happy", 256, 16, Spread(TIMES, 1, 9))]
    rate, ratio = goals(speeds, seeds)
    assert (rate.found, rate.reached) == (RATE - 1, False) and "(graph)" in rate.words
    assert (ratio.found, ratio.reached) == (TIMES, True)
    assert goals([*speeds[:-1], speed(256, "float32", "step", "graph", RATE)], seeds)[0].reached
