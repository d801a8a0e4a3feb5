"""The schema, its two doors (file and flags) and the line that a mistake gets."""
from __future__ import annotations

from pathlib import Path

import pytest

from core.common.errors import UserError
from core.config import Config, all_keys, make_config, to_values
from core.config.flags import make_parser, read_values
from core.config.reference import configuration_page
from tests.running import ROOT, Refuse, run


def read(*flags: str) -> Config:
    return make_config(*read_values(make_parser("train", "").parse(flags)))


def yaml(folder: Path, text: str) -> str:
    path = folder / "given.yaml"
    path.write_text(text)
    return str(path)


def test_defaults_then_file_then_flags_in_any_order(tmp_path: Path) -> None:
    file = yaml(tmp_path, "dataset: mosi\nrank: 7\nbatch_size: 9\n")
    parts = [["--rank", "3"], ["--config", file], ["--seed", "5"]]
    for order in ([0, 1, 2], [1, 0, 2], [2, 1, 0], [2, 0, 1]):
        config = read(*[flag for index in order for flag in parts[index]])
        assert (config.rank, config.batch_size, config.seed, config.text_hidden) == (3, 9, 5, 64)


def test_none_takes_a_file_s_value_back(tmp_path: Path) -> None:
    file = yaml(tmp_path, "dataset: iemocap\nepochs: 3\n")
    assert read("--config", file).epochs == 3
    assert read("--config", file, "--epochs", "none").epochs == 100


def test_every_value_reads_the_same_from_file_and_flag(tmp_path: Path) -> None:
    given = read("--dataset", "pom", "--modalities", "text,audio", "--apply_post_fusion_dropout", "--amp_level", "O1",
                 "--loss_scale", "dynamic", "--learning_rate", "1e-3", "--output_path", "x/y")
    file = yaml(tmp_path, "dataset: pom\nmodalities: [audio, text]\napply_post_fusion_dropout: true\namp_level: O1\n"
                          "loss_scale: dynamic\nlearning_rate: 0.001\noutput_path: x/y\n")
    assert given == read("--config", file)
    assert given.modalities == ("audio", "text")


def test_a_configuration_survives_its_own_yaml(tmp_path: Path) -> None:
    config = make_config({"dataset": "iemocap", "emotion": "sad", "model_path": "m"})
    assert make_config(to_values(config)) == config


def test_every_key_has_a_flag_and_a_line_in_the_docs() -> None:
    options = {option for action in make_parser("train", "")._actions for option in action.option_strings}
    page = (ROOT / "docs/configuration.md").read_text()
    for name, field in all_keys().items():
        assert f"--{name}" in options
        assert f"| `{name}` |" in page
        assert field.description and field.description in page
    assert page == configuration_page(), "docs/configuration.md is out of date: make docs"


FLAGS: list[tuple[list[str], tuple[str, ...]]] = [
    ([], ("--dataset is required",)),
    (["--dataset", "mosei"], ("dataset = 'mosei'", "(from --dataset)", "'mosi', 'pom'", "or 'mosei_aligned'")),
    (["--dataset", "mosi", "--rnak", "4"], ("'--rnak'", "did you mean --rank?")),
    (["--dataset", "mosi", "--zzzz"], ("'--zzzz'", "--help lists all flags")),
    (["--dataset", "mosi", "--epoch", "4"], ("'--epoch'", "did you mean --epochs?")),
    (["--dataset", "mosi", "stray"], ("'stray'",)),
    (["--dataset", "mosi", "--rank"], ("--rank: expected one argument",)),
    (["--dataset", "mosi", "--rank", "four"], ("rank = 'four'", "--rank", "integer")),
    (["--dataset", "mosi", "--rank", "1.5"], ("rank = '1.5'", "integer")),
    (["--dataset", "mosi", "--rank", "0"], ("rank = '0'", "greater than or equal to 1")),
    (["--dataset", "mosi", "--seed", "-1"], ("seed = '-1'", "greater than or equal to 0")),
    (["--dataset", "mosi", "--seed", str(2**63)], (f"seed = '{2**63}'", "less than")),
    (["--dataset", "mosi", "--audio_dropout", "1"], ("audio_dropout = '1'", "less than 1")),
    (["--dataset", "mosi", "--learning_rate", "nan"], ("learning_rate = 'nan'", "finite")),
    (["--dataset", "mosi", "--learning_rate", "0"], ("learning_rate = '0'", "greater than 0")),
    (["--dataset", "mosi", "--signature", "../up"], ("signature = '../up'", "pattern")),
    (["--dataset", "mosi", "--modalities", "audio,smell"], ("modalities = 'audio,smell'", "mosi has no input 'smell'",
                                                           "it has audio, video, text")),
    (["--dataset", "mosi", "--modalities", "text,text"], ("modalities = 'text,text'", "different names")),
    (["--dataset", "iemocap", "--emotion", "bored"], ("emotion = 'bored'", "'happy', 'sad', 'angry' or 'neutral'")),
    (["--dataset", "mosi", "--emotion", "sad"], ("emotion = 'sad'", "iemocap", "--emotion")),
    (["--dataset", "pom", "--output_dim", "15"], ("output_dim = 15", "pom has 16 outputs", "--output_dim")),
    (["--dataset", "pom", "--amp_level", "O1", "--precision", "float64"], ("amp_level = 'O1'", "float32")),
    (["--dataset", "pom", "--amp_level", "O1", "--loss_scale", "0"], ("loss_scale = 0.0", "dynamic")),
    (["--dataset", "pom", "--loss_scale", "8"], ("loss_scale = 8.0", "amp_level")),
    (["--dataset", "pom", "--loss_scale", "big"], ("loss_scale = 'big'", "--loss_scale")),
]


@pytest.mark.parametrize(("flags", "words"), FLAGS, ids=lambda value: " ".join(value))
def test_a_wrong_flag_gets_one_line(refuse: Refuse, flags: list[str], words: tuple[str, ...]) -> None:
    refuse("train", *flags, words=words)


FILES: list[tuple[str, tuple[str, ...]]] = [
    ("dataset: mosi\nrnak: 4", ("'rnak'", "did you mean 'rank'?")),
    ("dataset: mosi\nzzzz: 4", ("'zzzz'", "docs/configuration.md")),
    ("dataset: mosi\n4: 4", ("unknown key 4",)),
    ("dataset: mosi\nrank: four", ("rank = 'four'", "integer")),
    ("dataset: mosi\nrank: [4]", ("rank = [4]", "integer")),
    ("dataset: mosi\nrank: true", ("rank = True", "truth value")),
    ("dataset: mosi\nrank: 0", ("rank = 0", "greater than or equal to 1")),
    ("dataset: mosi\ndata_dir: 5", ("data_dir = 5", "path")),
    ("dataset: mosi\nmodalities: [audio, [text]]", ("modalities = ", "audio")),
    ("dataset: mosi\nmodalities: []", ("modalities = []", "one or more out of audio, video, text")),
    ("dataset: mosi\nmodalities: {audio: 1}", ("modalities = {'audio': 1}",)),
    ("dataset: mosi\nloss_scale: [1]", ("loss_scale = [1]",)),
    ("dataset: mosi\nloss_scale: nothing", ("loss_scale = 'nothing'",)),
    ("dataset: mosi\nsignature: 12", ("signature = 12", "string")),
    ("dataset: mosi\nemotion: bored", ("emotion = 'bored'",)),
    ("dataset: mosi\nemotion: sad", ("emotion = 'sad'", "iemocap")),
    ("dataset: mosi\noutput_dim: 2", ("output_dim = 2",)),
    ("dataset: mosi\nlearning_rate: .inf", ("learning_rate = inf", "finite")),
    ("- dataset\n- mosi", ("holds a list", "mapping")),
    ("", ("holds a NoneType", "mapping")),
    ("dataset: [mosi\nrank: 3", ("is not YAML",)),
    ("dataset: !!python/object/apply:os.getcwd []", ("is not YAML",)),
]


@pytest.mark.parametrize(("text", "words"), FILES, ids=lambda value: repr(value))
def test_a_wrong_file_gets_one_line_that_names_it(
        refuse: Refuse, tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    file = yaml(tmp_path, text)
    refuse("train", "--config", file, words=(file, *words))


def test_files_that_can_t_be_read(refuse: Refuse, tmp_path: Path) -> None:
    refuse("train", "--config", str(tmp_path / "none.yaml"), words=("none.yaml", "can't be read"))
    refuse("train", "--config", str(tmp_path), words=(str(tmp_path), "can't be read"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00rank")
    refuse("train", "--config", str(tmp_path / "binary.yaml"), words=("binary.yaml",))


def test_all_wrong_keys_share_the_line(refuse: Refuse) -> None:
    refuse("train", "--dataset", "mosi", "--rank", "0", "--epochs", "x", words=("rank = '0'", "epochs = 'x'"))


def test_a_configuration_can_t_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        make_config({"dataset": "mosi"}).rank = 3  # type: ignore[misc]


def test_an_unknown_key_of_a_dict() -> None:
    with pytest.raises(UserError, match="unknown key 'rnak'"):
        make_config({"dataset": "mosi", "rnak": 3})


def test_help_lists_all_flags(tmp_path: Path) -> None:
    """As a user sees it, in a process; help needs no framework."""
    done = run(tmp_path, "torch", "train", "--help")
    assert done.stderr == ""
    for name in [*all_keys(), "config", "resume", "debug", "signiture", "cuda", "num_workers"]:
        assert f"  --{name}" in done.stdout, name


def test_a_mistake_as_a_user_sees_it(tmp_path: Path) -> None:
    """No traceback without --debug, one with it; the line stays the last."""
    line = run(tmp_path, "torch", "train", "--rank", "3", code=2)
    assert line.stdout == "" and line.stderr.startswith("error: ") and len(line.stderr.splitlines()) == 1
    debug = run(tmp_path, "torch", "train", "--rank", "3", "--debug", code=2)
    assert debug.stderr.startswith("Traceback") and debug.stderr.splitlines()[-1] == line.stderr.strip()
