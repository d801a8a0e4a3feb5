"""Every file under configs/: valid, headed by its command, and holding the published digits."""
from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.commands import COMMANDS
from core.config import Config, make_config
from core.config.flags import read_values, read_yaml
from core.data.published import POM_TRAITS
from core.studies.search_space import search_space
from core.training.run_folder import base_name
from tests.running import ROOT

FOLDER = ROOT / "configs"
DESCRIPTIONS = sorted((FOLDER / "data").glob("*.yaml"))
CONFIGS = sorted(set(FOLDER.rglob("*.yaml")) - set(DESCRIPTIONS))
KEYS = ("audio_hidden", "video_hidden", "text_hidden", "audio_dropout", "video_dropout", "text_dropout",
        "factor_learning_rate", "learning_rate", "rank", "batch_size", "weight_decay")

# Typed from the published sources, apart from the files: columns as in KEYS, then the seed where a port gives one.
POM = """
confident     16 16  64   .3  .5  .2   .0005 .001    4  16 0
passionate    16 16  64   .3  .5  .2   .0005 .001    4  16 0
pleasant      16 16 256   .1  .15 .5   .0003 .003    1 128 0
dominant       8  8  64   .1  .2  .2   .003  .0003   4   8 0
credible      16 16  64   .3  .5  .2   .0005 .001    4  16 0
vivid         16  8  64   .15 .15 .15  .003  .0005  16  32 .01
expertise      8 16  64   .2  .15 .3   .003  .0003  16  16 .001
entertaining   8  8  64   .2  .2  .15  .0005 .001    8   8 0
reserved       8 16  64   .5  .1  .15  .003  .0003  16   8 .001
trusting      16  8 128   .1  .5  .15  .0003 .001   16  16 0
relaxed        8  8  64   .5  .1  .2   .0005 .0003   8  16 0
outgoing      16 16 256   .1  .15 .2   .003  .0005   4  16 .01
thorough      16 16  64   .3  .5  .2   .0005 .001    4  16 0
nervous        4  8 256   0   .5  .1   .003  .003    8  64 0
persuasive    16 16  64   .3  .5  .2   .0005 .001    4  16 0
humorous       8  8  64   .5  .2  .15  .003  .001    4   4 .001
sentiment     16 16  64   .5  .5  .2   .003  .001    4   8 .002
"""
IEMOCAP = """
angry              8  4  64   .3  .1  .15  .003  .0005   8  64 .001
sad                8  4 128   0   0   0    .0005 .003    4  64 .002
happy              4 16 128   .3  .1  .5   .003  .001    1 128 .002
neutral           32  8  64   .2  .5  .2   .003  .0005  16  16 .002
ascend/angry       8  4  64   .3  .1  .15  .003  .0005   8  64 .001
ascend/sad         8  4 128   .3  0   0    .0005 .002    4 256 .002
ascend/sad_readme  8  4 128   0   0   0    .0005 .003    4 256 .002
ascend/happy       4 16 128   .3  .1  .5   .003  .001    1 256 .002
ascend/neutral    32  8  64   .2  .5  .2   .003  .0005  16 256 .002
paddle/angry       8  4  64   .3  .1  .15  .003  .0005   8  64 .001  2528475277
paddle/sad         8  4 128   0   0   0    .002  .001    4  64 .002  2290532931
paddle/happy       4 16 128   .3  .1  .5   .001  .001    1 128 .002  2967694878
paddle/neutral    32  8  64   .2  .5  .2   .003  .0005  16  16 .002  3202492277
"""
BACKENDS = {"ascend": "mindspore", "paddle": "paddle"}  # all others: torch
PRECISION = {"ascend": {"amp_level": "O2", "loss_scale": 128}}  # all others: the defaults
WORDS = {  # what the header has to say of a source that differs from the original authors' file
    "ascend": ("Ascend port", "best test F1 of up to 100 restarts", "validation loss selects", "O2, loss scale 128"),
    "paddle": ("Paddle port", "never took effect", "base rate, 0.001", "repeats no run"),
    "pom": ("hyperparams.txt of the original authors",),
    "iemocap": ("hyperparams.txt of the original authors",),
}


def cells() -> dict[str, dict[str, float]]:
    """Path below configs/ -> what its file has to hold."""
    rows = [(f"{dataset}/{row.split()[0]}.yaml", [float(number) for number in row.split()[1:]])
            for dataset, table in (("pom", POM), ("iemocap", IEMOCAP)) for row in table.strip().splitlines()]
    return {path: dict(zip((*KEYS, "seed"), numbers, strict=False)) for path, numbers in rows}


CELLS = cells()


def header_of(path: Path) -> list[str]:
    """The comment lines at the top of a file."""
    lines = path.read_text().splitlines()
    return lines[:next(index for index, line in enumerate(lines) if not line.startswith("#"))]


def command_of(path: Path) -> tuple[str, Config]:
    """The backend and the configuration of the command in the first line, as that backend's parser reads it."""
    header = header_of(path)[0]
    match = re.fullmatch(r"# python -m backends\.(torch|mindspore|paddle)\.train (.*)", header)
    assert match, f"{path}: the first line isn't a command: {header!r}"
    parser, _ = COMMANDS["train"]
    given: dict[str, Any] = parser(f"python -m backends.{match[1]}.train").parse(shlex.split(match[2]))
    assert given["config"] == str(path.relative_to(ROOT))
    return match[1], make_config(*read_values({**given, "config": str(path)}))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_config_files_are_valid_and_name_their_command(path: Path) -> None:
    make_config(read_yaml(path))
    _, config = command_of(path)
    assert config.data == ("synthetic" if "synthetic" in path.name else "published")
    assert len(header_of(path)) > 1, f"{path}: the second line names no source"


def test_every_cell_has_its_file_and_every_file_its_cell() -> None:
    """16 traits and sentiment, four emotions, and what the ports have differently."""
    names = {dataset: {path.removeprefix(f"{dataset}/").removesuffix(".yaml") for path in CELLS if dataset in path}
             for dataset in ("pom", "iemocap")}
    assert names["pom"] == {*POM_TRAITS, "sentiment"} and len(POM_TRAITS) == 16
    assert {name for name in names["iemocap"] if "/" not in name} == {"happy", "sad", "angry", "neutral"}
    assert {str(path.relative_to(FOLDER)) for name in names for path in (FOLDER / name).rglob("*.yaml")} == set(CELLS)


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_holds_the_published_digits(name: str) -> None:
    """All eleven values stand in the file, a port's precision, and nothing that was not published."""
    folder, cell = Path(name).parts[-2:]
    loaded = read_yaml(FOLDER / name)
    emotion = re.sub(r"(_readme)?\.yaml", "", cell)
    data = {"dataset": "pom"} if folder == "pom" else {"dataset": "iemocap", "emotion": emotion}
    assert loaded == {**data, **CELLS[name], **PRECISION.get(folder, {})}
    backend, config = command_of(FOLDER / name)
    assert backend == BACKENDS.get(folder, "torch")
    assert (config.text_out, config.patience) == (config.text_hidden // 2, 20)
    assert config.epochs == (500 if config.dataset == "pom" else 100)
    assert config.model == "lmf" and not config.apply_post_fusion_dropout
    header = " ".join(line.removeprefix("# ") for line in header_of(FOLDER / name)[1:])
    for words in WORDS[folder]:
        assert words in header, f"{name}: the header does not say {words!r}"


@pytest.mark.parametrize("path", sorted((FOLDER / "mosi").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_found_cell_says_how_it_was_found(path: Path) -> None:
    """MOSI's published setting is lost: these are of the searched space, whole, and their headers tell the search."""
    loaded = read_yaml(path)
    config = make_config(loaded)
    assert path.stem == "_".join(config.modalities), "the plan finds a file by its modalities"
    space = search_space(config, {"dataset": "mosi", "modalities": "", "data_dir": ""})
    assert set(loaded) == {"dataset", "modalities", *space}
    for key, choices in space.items():
        assert loaded[key] in choices, f"{path}: {key} = {loaded[key]!r} was never searched"
    header = " ".join(line.removeprefix("# ") for line in header_of(path))
    for words in ("python -m core.search --dataset mosi", "--trials ", "--confirm 8x5", "validation loss", "Verdict: ",
                  "The test split was not read", "fingerprint", "not the published file"):
        assert words in header, f"{path}: the header does not say {words!r}"


def test_sentiment_is_no_trait() -> None:
    assert "not among the 16 traits" in " ".join(header_of(FOLDER / "pom" / "sentiment.yaml"))


def test_no_two_files_name_their_runs_alike() -> None:
    """`--resume` without a path takes the newest run of a name: a name has to mean one file."""
    named: dict[str, Path] = {}
    for path in CONFIGS:
        backend, config = command_of(path)
        name = base_name(config, backend)
        assert name not in named, f"{path} and {named[name]}: both make runs {name}-N; give one another --signature"
        named[name] = path


@pytest.mark.parametrize("path", DESCRIPTIONS, ids=lambda path: path.stem)
def test_descriptions_of_data_are_valid_and_called_as_their_files(path: Path) -> None:
    config = make_config({"dataset": str(path)})
    assert config.dataset == path.stem and config.known.file_names == (f"{path.stem}.pkl",)


def test_pom_s_sequences_have_its_traits() -> None:
    config = make_config({"description": str(FOLDER / "data/pom_sequences.yaml")})
    assert config.dataset == "pom_sequences" and config.described.task.names == POM_TRAITS
    assert config.known.label_columns == tuple(column for column in range(17) if column != 14)


def test_the_page_shows_the_description_that_is_there() -> None:
    shown = re.search(r"```yaml\n(.*?)```", (ROOT / "docs/data.md").read_text(), re.DOTALL)
    assert shown and yaml.safe_load(shown[1]) == yaml.safe_load((FOLDER / "data/pom_sequences.yaml").read_text())
