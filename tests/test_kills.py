"""The campaign of kills, a few of them."""
from __future__ import annotations

from pathlib import Path

import pytest

from tests import kills
from tests.running import needs


def test_a_short_campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the moments are that two kills fall on."""
    needs("torch")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert kills.main(["--kills", "2", "--only", "torch train mosi"]) == 0
    assert "\n2 kills, 0 differences\n" in capsys.readouterr().out and not list(tmp_path.iterdir())
