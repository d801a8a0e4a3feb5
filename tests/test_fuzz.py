"""Damaged inputs of every format are read or refused, and nothing else; and the harness would see it."""
from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from core.common.errors import UserError
from tests.fuzz.__main__ import fuzz, inputs, main
from tests.fuzz.child import MAKERS
from tests.fuzz.faulty import FAULTY


def test_two_thousand_damaged_inputs() -> None:
    names = inputs(2000, list(MAKERS))
    outcomes = []
    faults = fuzz(names, seed=0, jobs=2, report=outcomes.append)
    assert sorted(outcome.name for outcome in outcomes) == sorted(names)
    assert not faults, [f"{fault.name}: {fault.fault}" for fault in faults]
    for kind in MAKERS:  # damage that is always refused, or never, would test little; a damaged store is made anew
        found = {outcome.kind for outcome in outcomes if outcome.name.startswith(f"{kind}:")}
        assert found >= ({"read"} if kind == "store" else {"read", "refused"}), (kind, found)


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "flags"])
def test_what_is_damaged_was_sound(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    form = MAKERS[kind](tmp_path / "seeds")
    for place, files in enumerate(form.seeds):
        here = tmp_path / str(place)
        for name, raw in files.items():
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            (here / name).write_bytes(raw)
        monkeypatch.chdir(here)
        form.read(place)


def test_the_flags_are_read_as_far_as_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    form, refusals = MAKERS["flags"](tmp_path), []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text("rank: 3\n")
    for place, files in enumerate(form.seeds):
        (tmp_path / "argv").write_bytes(files["argv"])
        with contextlib.suppress(UserError):
            form.read(place)
            continue
        refusals.append(place)
    assert refusals == [2, 3, 5], "these name a checkpoint, a run and a folder of configurations"


def test_every_fault_is_found(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                              ) -> None:
    monkeypatch.chdir(tmp_path)
    outcomes = fuzz([f"{name}:0" for name in FAULTY], seed=1, jobs=2, report=lambda outcome: None)
    found = {outcome.name.partition(":")[0]: outcome.fault for outcome in outcomes}
    for name, (_, words) in FAULTY.items():
        assert words in found[name], (name, found.get(name))
    assert main(["--only", "raises:1", "--seed", "1"]) == 1
    assert "again: python -m tests.fuzz --seed 1 --only raises:1" in capsys.readouterr().out


def test_an_input_follows_from_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever process and order: so that one at fault can be looked at."""
    monkeypatch.chdir(tmp_path)
    kept = []
    for names in (["journal:3"], ["journal:2", "journal:3"]):
        fuzz(names, seed=4, jobs=1, report=lambda outcome: None, keep="fuzzed")
        kept.append({path.name: path.read_bytes() for path in (tmp_path / "fuzzed/journal-3").rglob("*")
                     if path.is_file()})
    assert kept[0] and kept[0] == kept[1]
