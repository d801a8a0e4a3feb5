"""Correct backends raise no alarm, whatever the seed; an alarm would be counted."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.runtime.backend import BACKENDS, missing_reason
from parity.ladder import RUNGS
from parity_tests import alarms

ROOT = Path(__file__).parents[1]
ONE_CELL = {"pom": {"dataset": "pom", "data": "synthetic", "modalities": "audio,video"}}


def test_alarms_are_counted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Allowed nothing, evaluation differs from the oracle in every backend; train mode, as it is, does not."""
    installed = [name for name in BACKENDS if not missing_reason(name)]
    if len(installed) < 2:
        pytest.skip("the ladder compares two backends or more")
    monkeypatch.setitem(RUNGS, "forward", (RUNGS["forward"][0], {"float32": 0.0}))
    monkeypatch.setattr(alarms, "CELLS", ONE_CELL)
    monkeypatch.setattr(sys, "argv", ["alarms", "--seeds", "2", "--rungs", "forward,train mode"])
    assert alarms.main() == 1
    shown, said = capsys.readouterr()
    climbed = 2 * len(installed)
    assert f"| pom | 16 | forward | {climbed} | {climbed} |" in shown
    assert f"| pom | 128 | train mode | {climbed} | 0 |" in shown
    assert shown.endswith(f"{2 * climbed} alarms\n") and said.count("torch forward, float32: ") == 4


@pytest.mark.slow
def test_no_alarm_over_200_seeds(tmp_path: Path) -> None:
    """Real MOSI and POM, synthetic IEMOCAP, batches of 16 and of 128."""
    real = Path(os.environ.get("LMF_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not (real / "build_reference_pickles.py").is_file():
        pytest.skip(f"no real data in {real}; LMF_REAL_DATA names its folder")
    subprocess.run([sys.executable, str(real / "build_reference_pickles.py"), str(tmp_path)], check=True)
    done = subprocess.run([sys.executable, "-m", "parity_tests.alarms", "--data_dir", str(tmp_path)], cwd=ROOT,
                          capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
