"""Keys per model: refused by name where the model lacks them, taken over from files that earlier versions wrote."""
from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from core.common.errors import UserError
from core.config import (
    Config,
    all_keys,
    changed,
    changes,
    grouped_keys,
    identity,
    make_config,
    models_with,
    own_keys,
    schema,
    to_values,
)
from core.config.flags import make_parser, read_saved, read_values
from core.config.reference import configuration_page
from core.models import MODELS
from tests.running import Refuse, run

SHARED = ("text_out", "audio_hidden", "factor_learning_rate", "apply_post_fusion_dropout")
RANK = "rank = 8: tfn has no rank; models with it: lmf"
EARLIER = {  # the keys that a run of TFN wrote when all models shared one schema
    "dataset": "iemocap", "emotion": "sad", "data": "published", "data_dir": "data", "store_dir": None,
    "modalities": ["audio", "text"], "max_len": 20, "synthetic_seed": 0, "model": "tfn", "audio_hidden": 4,
    "video_hidden": 16, "text_hidden": 64, "text_out": 32, "rank": 4, "post_fusion_dim": 8, "output_dim": 2,
    "audio_dropout": 0.3, "video_dropout": 0.5, "text_dropout": 0.2, "post_fusion_dropout": 0.5,
    "apply_post_fusion_dropout": False, "frozen": [], "learning_rate": 0.001, "factor_learning_rate": 0.0005,
    "weight_decay": 0.0, "batch_size": 16, "epochs": 100, "patience": 20, "seed": 0, "device": "cpu",
    "precision": "float32", "amp_level": "O0", "loss_scale": 1.0, "threads": 1, "run_id": None, "signature": "",
    "output_path": "runs", "model_path": None,
}


def test_a_schema_has_the_keys_of_its_model_and_no_others() -> None:
    assert models_with("rank") == ("lmf",) and models_with("post_fusion_dim") == ("tfn",)
    assert models_with("audio_hidden") == ("lmf", "tfn") and models_with("nothing") == ()
    assert models_with("epochs") == tuple(MODELS)
    for model in MODELS:
        assert set(schema(model).model_fields) == {key for key in all_keys() if model in models_with(key)}
        config = make_config({"dataset": "mosi", "model": model})
        assert type(config) is schema(model) and isinstance(config, Config) and isinstance(config, MODELS[model].keys)
    assert not hasattr(make_config({"dataset": "mosi", "model": "tfn"}), "rank")


def test_keys_in_groups_by_their_models() -> None:
    groups = grouped_keys()
    assert next(iter(groups)) == () and {("lmf",), ("msa",), ("tfn",), ("lmf", "tfn")} == set(groups) - {()}
    assert sorted(key for fields in groups.values() for key in fields) == sorted(all_keys())
    assert list(groups[("lmf",)]) == ["rank"] and list(groups[("tfn",)]) == ["post_fusion_dim"]
    assert set(SHARED) <= set(groups[("lmf", "tfn")]) and {"model", "seed", "frozen", "loss"} <= set(groups[()])


@pytest.mark.parametrize(("values", "words"), [
    ({"model": "tfn", "rank": 8}, f"{RANK}; leave it out"), ({"post_fusion_dim": 0}, "post_fusion_dim = 0: lmf has n"),
    ({"model": "lmf", "post_fusion_dim": None}, "post_fusion_dim = None: lmf has no"),
    ({"model": "tfn", "rnak": 8}, "unknown key 'rnak'"), ({"model": "gnn", "rank": 8}, "model = 'gnn'"),
    ({"model": 3}, "model = 3"), ({"model": ["tfn"], "rank": 2}, "model = ['tfn']"),
])
def test_another_model_s_key_in_a_dict(values: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as caught:
        make_config({"dataset": "mosi", **values})
    assert words in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_another_model_s_key_from_flags_and_files(refuse: Refuse, tmp_path: Path) -> None:
    """Named with where it came from; in `--help` and the file alike."""
    file = tmp_path / "mine.yaml"
    file.write_text("dataset: mosi\nrank: 8\n")
    given = ("--dataset", "mosi", "--model", "tfn")
    refuse("train", *given, "--rank", "8", words=(f"{RANK} (from --rank); leave it out",))
    refuse("train", "--config", str(file), "--model", "tfn", words=(f"{RANK} (from {file}); leave it out",))
    refuse("train", "--config", str(file), "--post_fusion_dim", "3", words=(
        "post_fusion_dim = 3: lmf has no post_fusion_dim; models with it: tfn (from --post_fusion_dim)",))
    file.write_text("dataset: mosi\nmodel: tfn\npost_fusion_dim: 3\n")
    assert make_config(*read_values({"config": str(file)})) == make_config(
        {"dataset": "mosi", "model": "tfn", "post_fusion_dim": 3})


def test_files_that_runs_of_earlier_versions_wrote(refuse: Refuse, tmp_path: Path) -> None:
    """They hold all models' keys, say so in their first line, and mean what they meant; a user's file is held to its
    word."""
    path = tmp_path / "config.yaml"
    path.write_text("# made by a run of the torch backend; run it again with --config on this file\n"
                    + yaml.safe_dump(EARLIER, sort_keys=False))
    config = read_saved(tmp_path)
    assert config == make_config({key: value for key, value in EARLIER.items() if key != "rank"})
    assert to_values(config).items() >= {key: value for key, value in EARLIER.items() if key != "rank"}.items()
    assert make_config(*read_values({"config": str(path), "seed": "3"})).seed == 3
    (tmp_path / "user.yaml").write_text(yaml.safe_dump(EARLIER))
    refuse("train", "--config", str(tmp_path / "user.yaml"), words=("rank = 4: tfn has no rank", "user.yaml"))
    refuse("train", "--config", str(path), "--rank", "8", words=(f"{RANK} (from --rank)",))
    assert own_keys({**EARLIER, "model": "lmf"}).keys() == EARLIER.keys() - {"post_fusion_dim"}
    assert own_keys({"wrong": 1, "rank": 2, "model": "tfn"}) == {"wrong": 1, "model": "tfn"}, "unknown ones stay"


def test_defaults_that_other_keys_decide() -> None:
    config = make_config({"dataset": "iemocap", "text_hidden": 9})
    assert (config.emotion, config.epochs, config.output_dim, config.loss) == ("happy", 100, 2, "cross_entropy")
    assert to_values(config)["text_out"] == 4
    none = dict.fromkeys(("emotion", "epochs", "output_dim", "text_out", "loss"))
    assert make_config({"dataset": "iemocap", "text_hidden": 9, **none}) == config
    pom = make_config({"dataset": "pom"})
    assert (pom.emotion, pom.epochs, pom.output_dim, pom.loss) == (None, 500, 16, "l1")


def test_changed_keeps_what_the_other_model_has_too() -> None:
    lmf = make_config({"dataset": "mosi", "rank": 8, "audio_hidden": 5, "seed": 3})
    tfn = changed(lmf, {"model": "tfn", "post_fusion_dim": 9})
    assert tfn == make_config({"dataset": "mosi", "model": "tfn", "post_fusion_dim": 9, "audio_hidden": 5, "seed": 3})
    assert changed(tfn, {"model": "lmf"}) == make_config({"dataset": "mosi", "audio_hidden": 5, "seed": 3})
    assert changed(lmf, {"rank": 2}) == make_config({"dataset": "mosi", "rank": 2, "audio_hidden": 5, "seed": 3})
    assert changed(lmf, {}) == lmf
    with pytest.raises(UserError, match=RANK):
        changed(tfn, {"rank": 8})
    with pytest.raises(UserError, match=RANK):
        changed(lmf, {"model": "tfn", "rank": 8})


def test_changes_name_keys_that_only_one_of_the_models_has() -> None:
    lmf, tfn = (make_config({"dataset": "mosi", "model": model}) for model in ("lmf", "tfn"))
    assert changes(tfn, lmf) == {"model": ("lmf", "tfn"), "post_fusion_dim": (None, 32), "rank": (4, None)}
    assert changes(lmf, lmf) == {} and changes(changed(lmf, {"data_dir": "elsewhere", "run_id": 3}), lmf) == {}
    assert identity(lmf)["modalities"] == ["audio", "video", "text"] and "run_id" not in identity(lmf)


def test_help_and_the_page_are_in_groups(tmp_path: Path) -> None:
    done = run(tmp_path, "torch", "train", "--help")
    titles = [f"configuration{owners}:" for owners in ("", ", lmf and tfn only", ", lmf only", ", msa only",
                                                        ", tfn only")]
    lines = done.stdout.splitlines()
    places = {title: lines.index(title) for title in titles}
    for flag, title in (("--seed", titles[0]), ("--text_out", titles[1]), ("--rank", titles[2]),
                        ("--hidden_dim", titles[3]), ("--post_fusion_dim", titles[4])):
        place = next(place for place, line in enumerate(lines) if line.startswith(f"  {flag} "))
        assert title == max((one for one in titles if places[one] < place), key=lambda one: places[one]), flag
    page = configuration_page()
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert headings == ["## Keys of every run", "## Keys of LMF and TFN", "## Keys of LMF", "## Keys of MSA",
                        "## Keys of TFN", "## Flags of the published ports"]
    assert page.index("## Keys of LMF\n") < page.index("| `rank` |") < page.index("## Keys of TFN")
    assert "derived" in next(line for line in page.splitlines() if line.startswith("| `text_out` |"))


def test_every_key_is_a_flag_once() -> None:
    options = [option for action in make_parser("train", "")._actions for option in action.option_strings]
    assert len(options) == len(set(options)) and {f"--{key}" for key in all_keys()} <= set(options)
