"""Mistakes in a plan are one line, before anything has begun."""
from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import core.runtime.backend
from core.studies.reproduce import main
from core.studies.tables.plan import save_plan
from tests.planned import every_framework, jobs_of, mosi_configs, plan_flags, write_configs
from tests.running import ROOT, content_of, only_error, write_pickle

__all__ = ["every_framework"]
Captured = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("every_framework")


POM = ("--table", "pom", "--backend", "torch")
MISTAKES: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    ((), ("--table is required", "mosi, pom, iemocap, msa, msa_ablations or all")),
    (("--table", "mosei"), ("--table mosei", "'mosei'", "mosi, pom, iemocap")),
    (("--table", "pom", "--backend", "jax"), ("--backend jax", "'jax'", "torch, mindspore, paddle")),
    (("--table", "pom", "--backend", "torch,torch"), ("--backend torch,torch", "twice")),
    (("--table", "pom,"), ("--table pom,", "unknown ''")),
    ((*POM, "--cells", "vivd"), ("--cells vivd", "no such cell in pom", "vivid")),
    ((*POM, "--cells", "happy"), ("--cells happy", "no such cell in pom")),
    ((*POM, "--cells", "vivid,vivid"), ("--cells vivid,vivid", "twice")),
    ((*POM, "--variant", "ascend"), ("--variant ascend", "only iemocap, msa", "ends in .yaml")),
    (("--table", "pom,msa", "--variant", "course"), ("--variant course", "one table", "pom, msa")),
    (("--table", "msa", "--variant", "best"), ("configs/msa/best.yaml: no such file", "other settings with --variant")),
    (("--table", "msa", "--variant", "a/x.yaml,x"), ("two rows would be called x",)),
    (("--table", "pom", "--dataset", "mosi"), ("--dataset mosi", "is about pom", "--table msa")),
    (("--table", "msa", "--dataset", "nothing"), ("dataset = 'nothing' (from --dataset)",)),
    (("--table", "iemocap", "--backend", "torch", "--variant", "huawei"), ("--variant huawei", "ascend or ")),
    (("--table", "iemocap", "--backend", "torch", "--variant", "ascend_readme", "--cells", "angry"),
     ("--cells angry", "variant ascend_readme doesn't have it", "sad")),
    ((*POM, "--seeds", "0"), ("--seeds 0", "at least 1")),
    ((*POM, "--seeds", "five"), ("--seeds five", "'five' is no seed", "7,9")),
    ((*POM, "--seeds", "3-1"), ("--seeds 3-1", "is no seed")),
    ((*POM, "--seeds", "1-3,2"), ("--seeds 1-3,2", "2 stands there twice")),
    ((*POM, "--seeds", "2967694878"), ("--seeds 2967694878", "is a count", "2967694878-2967694878")),
    ((*POM, "--seeds", f"{2**63}-{2**63}"), ("below 2^63",)),
    ((*POM, "--jobs", "0"), ("--jobs 0", "at least 1")),
    ((*POM, "--jobs", "two"), ("--jobs two", "whole number")),
    ((*POM, "--model", "mfn"), ("--model mfn", "lmf, msa, tfn")),
    ((*POM, "--modalities", "audio,smell"), ("--modalities audio,smell", "'smell'", "audio, video, text")),
    ((*POM, "--modalities", "audio;audio"), ("--modalities audio;audio", "twice")),
    ((*POM, "--rank", "0"), ("rank = '0' (from --rank)", "greater than or equal to 1")),
    ((*POM, "--rank", "8", "--model", "tfn"), ("rank = 8: tfn has no rank; models with it: lmf (from --rank)",)),
    ((*POM, "--post_fusion_dim", "8"), ("post_fusion_dim = 8: lmf has no post_fusion_dim; models with it: tfn",)),
    ((*POM, "--rank", "0", "--model", "tfn,lmf"), ("rank = '0' (from --rank)", "greater than or equal to 1")),
    ((*POM, "--amp_level", "O1", "--precision", "float64"), ("amp_level", "float32")),
    ((*POM, "--seed", "3"), ("unknown flag '--seed'", "--seeds")),
    ((*POM, "--emotion", "sad"), ("unknown flag '--emotion'",)),
    ((*POM, "--configs", "nowhere"), ("--configs nowhere", "no such folder")),
    ((*POM, "--data_dir", "nowhere"), ("--table pom", "nowhere/pom.pkl: no such file", "--data synthetic")),
]


@pytest.mark.parametrize(("flags", "words"), MISTAKES, ids=lambda value: " ".join(value)[-30:])
def test_mistakes_are_one_line(flags: tuple[str, ...], words: tuple[str, ...], tmp_path: Path, capsys: Captured,
                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(flags) == 2
    only_error(capsys.readouterr().err, *words)
    assert not list(tmp_path.iterdir()), "nothing was begun"


def test_a_name_that_one_of_the_models_lacks(data: Path, tmp_path: Path, capsys: Captured) -> None:
    """`frozen` fits the first of the two runs, and not the second, of the same data."""
    flags = ("--table", "mosi", "--backend", "torch", "--model", "lmf,tfn", "--frozen", "fusion_bias", "--seeds", "1",
             "--data_dir", str(data), "--output", str(tmp_path / "tables"))
    assert main(flags) == 2
    only_error(capsys.readouterr().err.splitlines(True)[-1], "frozen: no trained parameter 'fusion_bias'",
               "post_fusion_layer_1.weight")
    assert not (tmp_path / "tables").exists()


def test_a_missing_framework_stops_the_plan(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setitem(core.runtime.backend.BACKENDS, "paddle", "a_framework_that_nobody_has")
    monkeypatch.chdir(tmp_path)
    assert main(["--table", "pom", "--backend", "torch,paddle", "--data", "synthetic"]) == 2
    only_error(capsys.readouterr().err, "paddle is not installed", "pip install -c constraints.txt -e '.[paddle]'")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("text", "words"), [
    (None, ("vivid.yaml: no such file", "the pom table needs it", "--configs")),
    ("dataset: mosi\n", ("vivid.yaml", "dataset = 'mosi', expected 'pom'")),
    ("dataset: pom\nrank: -1\n", ("vivid.yaml", "rank = -1")),
    ("dataset: pom\nmodel: tfn\nrank: -1\n", ("vivid.yaml", "rank = -1")),
    ("dataset: pom\nranks: 1\n", ("vivid.yaml", "unknown key 'ranks'", "'rank'")),
    ("dataset: pom\nmodel_path: x\n", ("vivid.yaml", "model_path = 'x'", "remove the key")),
])
def test_a_cell_s_file_is_checked(text: str | None, words: tuple[str, ...], data: Path, tmp_path: Path,
                                  capsys: Captured) -> None:
    configs = write_configs(tmp_path / "configs")
    path = configs / "pom" / "vivid.yaml"
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    assert main(plan_flags(configs, data, tmp_path / "out")) == 2
    only_error(capsys.readouterr().err, *words)
    assert not (tmp_path / "out").exists()


def test_all_tables_need_all_data(data: Path, tmp_path: Path, capsys: Captured) -> None:
    """With the data of one table missing, `all` begins nothing, and says which file it is."""
    configs = mosi_configs(tmp_path)
    for folder in ("pom", "iemocap"):
        shutil.copytree(ROOT / "configs" / folder, configs / folder, dirs_exist_ok=True)
    some = tmp_path / "some"
    some.mkdir()
    for name in ("mosi", "pom"):
        shutil.copy(data / f"{name}.pkl", some)
    assert main(["--table", "all", "--backend", "torch", "--configs", str(configs), "--data_dir", str(some), "--output",
                 str(tmp_path / "out")]) == 2
    only_error(capsys.readouterr().err, "--table iemocap", f"{some / 'iemocap.pkl'}: no such file",
               "no run was started")
    assert main(["--table", "iemocap", "--backend", "torch", "--configs", str(configs), "--data_dir", str(data),
                 "--output", str(tmp_path / "out")]) == 2
    only_error(capsys.readouterr().err, "--table iemocap", "no such emotion", "choose one of these with --cells")
    assert not (tmp_path / "out").exists()


def test_text_of_zeros_names_the_way_out(tmp_path: Path, capsys: Captured) -> None:
    content = content_of("pom")
    for split in content.values():
        split[b"glove"] *= 0
    data = write_pickle(tmp_path / "data", "pom", content).parent
    configs = write_configs(tmp_path / "configs")
    flags = plan_flags(configs, data, tmp_path / "out", "--dry_run")
    assert main(flags) == 2
    only_error(capsys.readouterr().err, "--table pom: ", "pom.pkl", "with --modalities audio,video")
    assert main([*flags, "--modalities", "audio,video"]) == 0
    assert "note: pom: pom without text" in capsys.readouterr().out


def test_rows_are_not_mixed(data: Path, tmp_path: Path, capsys: Captured) -> None:
    """Other hyperparameters in another seed or backend are refused; another device for another backend is not."""
    configs = write_configs(tmp_path / "configs")
    flags = plan_flags(configs, data, tmp_path, "--cells", "vivid", "--dry_run")
    save_plan(tmp_path, jobs_of(*flags))
    for more, words in ((("--rank", "7"), "rank = 3 in torch, now 7 in torch"),
                        (("--rank", "7", "--backend", "paddle"), "rank = 3 in torch, now 7 in paddle"),
                        (("--precision", "float64", "--seeds", "9-9"), '"float32" in torch, now "float64"')):
        assert main([*flags, *more]) == 2
        only_error(capsys.readouterr().err, "plan.json: pom vivid (lmf, audio+video+text)", words, "another --output")
    assert main([*flags, "--precision", "float64", "--backend", "paddle"]) == 0
    assert main([*flags, "--post_fusion_dim", "7", "--model", "tfn"]) == 0, "another row"
