"""docs/adding_a_model.md does what it says, in a copy of this project; and one without TFN misses nothing else."""
from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.common.rounding import sized
from core.config import build_graph, make_config
from core.models import ALL_KINDS
from core.models.graph import OTHERS, STATISTICS, Builder, Group
from core.runtime.backend import BACKENDS, missing_reason
from core.training.plan import Batch, make_plan
from core.training.state import initial_state
from parity import oracle, rules
from parity.bounds import DRIFT
from tests.running import HANG, ROOT, environment, history, only_error, run_folder

PAGE = (ROOT / "docs" / "adding_a_model.md").read_text(encoding="utf-8")
FENCED = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)  # language, text
COMMANDS = re.findall(r"^    python -m (\S+) (.*)\n(?:    (error: .*)\n)?", PAGE, re.MULTILINE)  # module, flags, error
HERE = [name for name in BACKENDS if not missing_reason(name)]


def copy_to(folder: Path) -> Path:
    """The packages of this project, and the place for its page of keys."""
    for package in ("core", "backends", "parity"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "docs").mkdir()
    return folder


def start(folder: Path, *call: str) -> subprocess.CompletedProcess[str]:
    """`python` in `folder`, whose packages come before this project's own."""
    return subprocess.run([sys.executable, *call], cwd=folder, text=True, capture_output=True, timeout=HANG,
                          env=environment(folder, {"PYTHONPATH": str(folder)}))


def done(folder: Path, *call: str) -> str:
    """What it prints; it has to work."""
    result = start(folder, *call)
    assert result.returncode == 0, f"{call}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def of_page(module: str) -> tuple[str, ...]:
    """The one command of the page that runs `module`, of which nothing is said that it fails."""
    found, = (("-m", module, *shlex.split(flags)) for name, flags, error in COMMANDS if name == module and not error)
    return found


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project with the page's model in it and nothing else changed."""
    folder = copy_to(tmp_path_factory.mktemp("more"))
    (folder / "core" / "models" / "early_fusion.py").write_text(FENCED[0][1])
    (folder / "small.yaml").write_text(next(text for language, text in FENCED if language == "yaml"))
    return folder


def test_what_the_page_quotes_is_there() -> None:
    """Code whose first line names a file stands in that file as it is here."""
    quoted = [text.split("\n", 1) for _, text in FENCED if text.startswith("# ")]
    assert len(quoted) == 4
    for first, code in quoted:
        path = first.removeprefix("# ")
        assert code in (ROOT / path).read_text(encoding="utf-8"), f"{path} has no longer:\n{code}"


def test_the_table_of_blocks_and_the_page_of_keys_have_it(tree: Path) -> None:
    table = done(tree, *of_page("core.models"))
    for word in ("concat", "fusion_layer", "output_layer", "text_subnet.rnn", "group factors: 2048 scalars"):  # 32 x 64
        assert word in table, f"{word} not in\n{table}"
    done(tree, *of_page("core.reference"))
    page = (tree / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert "| `fusion_dim` | integer >= 1, <= 65536 | 32 | 16, 32, 64 | width of the ReLU layer behind" in page
    said = " ".join(done(tree, "-m", f"backends.{HERE[0]}.train", "--help").split())
    assert "--fusion_dim FUSION_DIM width of the ReLU layer behind the concatenation [32]" in said
    space = done(tree, "-c", "from core.config import make_config\n"
                             "from core.studies.search_space import search_space\n"
                             "print(search_space(make_config({'dataset': 'pom', 'model': 'early_fusion'}), {}))")
    assert "'fusion_dim': [16, 32, 64]" in space and "'audio_hidden'" in space and "rank" not in space


def test_the_frameworks_train_it_to_one_curve(tree: Path) -> None:
    """Few steps in float64: losses differ by no more than a first epoch may. A run is evaluated elsewhere, exported."""
    curves = {}
    for name in HERE:
        folder = run_folder(done(tree, *of_page(f"backends.{name}.train")))
        curves[name] = np.array([[row["train_loss"], row["valid_loss"]] for row in history(tree / folder)])
    first, *others = curves.values()
    assert first.shape == (2, 2) and (first[0] != first[1]).all(), "nothing was trained"
    for name, curve in zip(list(curves)[1:], others, strict=True):
        np.testing.assert_allclose(curve, first, rtol=DRIFT["float64"], atol=0, err_msg=name)
    if "torch" in HERE:
        done(tree, *of_page("backends.torch.export"))
        assert (tree / "early_fusion.pt2").stat().st_size > 0
    if {"torch", "paddle"} <= set(HERE):
        assert "checkpoint: torch" in done(tree, *of_page("backends.paddle.evaluate"))


def test_parity_climbs_its_rungs(tree: Path) -> None:
    if len(HERE) < 2:
        pytest.skip("needs two frameworks")
    said = done(tree, *of_page("parity"))
    assert f"pom (synthetic): {', '.join(HERE)} in float64 and float32" in said and "differs" not in said


def test_another_model_s_key_is_refused(tree: Path) -> None:
    wrong, = ((module, flags, error) for module, flags, error in COMMANDS if error)
    result = start(tree, "-m", wrong[0], *shlex.split(wrong[1]))
    assert result.returncode == 2 and only_error(result.stderr).strip() == wrong[2]


def test_the_oracle_judges_the_models_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no other: what it doesn't know is held to the graph's own mathematics."""
    config = make_config({"dataset": "pom", "modalities": "audio"})
    graph = build_graph(config)
    weights = {p.name: np.full(p.shape, 0.5) for p in graph.parameters}
    batch = Batch({"audio": np.ones((2, *graph.inputs[0].shape))}, np.zeros((2, 16)), {})
    known = rules.measured(graph, weights, batch)["output"].value
    monkeypatch.setattr(oracle, "measured", lambda *args: {"output": sized(np.array(7.0))})
    assert rules.measured(graph, weights, batch)["output"].value == 7.0
    monkeypatch.setattr(oracle, "MODELS", ("tfn",))
    np.testing.assert_allclose(rules.measured(graph, weights, batch)["output"].value, known, rtol=1e-12)


def test_statistics_are_reckoned_of_every_norm_that_an_input_goes_into() -> None:
    """By the graph: whatever the blocks are called; of one further in nothing is said."""
    config = make_config({"dataset": "pom", "modalities": "audio"})
    data = config.described
    b = Builder(ALL_KINDS, data, [Group(OTHERS, 0.1, 0.0)])
    outer = b.add("batch_norm", b.input("audio"), name="first")
    inner = b.add("batch_norm", b.add("linear", outer, name="wide", out=4), name="second")
    graph = b.graph("made", b.add("linear", inner, name="last", out=data.task.outputs), ())
    weights = initial_state(graph, 0, "float64").weights
    rows = np.random.default_rng(0).normal(2, 3, (10, *graph.inputs[0].shape))
    found = rules.running_statistics(graph, weights, {"audio": rows}, make_plan(graph, config, 0, 10))
    assert list(found) == ["first.running_mean", "first.running_var"]
    np.testing.assert_allclose(found["first.running_mean"].value, 0.1 * rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found["first.running_var"].value, 0.9 + 0.1 * rows.var(0, ddof=1), rtol=1e-12)
    lmf = build_graph(make_config({"dataset": "pom"}))
    every = {one.name: np.ones((3, *one.shape)) for one in lmf.inputs}
    said = rules.running_statistics(lmf, initial_state(lmf, 0, "float64").weights, every, make_plan(lmf, config, 0, 3))
    assert set(said) == {p.name for p in lmf.group(STATISTICS)} and len(said) == 4


@pytest.fixture(scope="module")
def without_tfn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project without the file that describes TFN, and without the class of its block in each backend."""
    folder = copy_to(tmp_path_factory.mktemp("less"))
    (folder / "core" / "models" / "tfn.py").unlink()
    for path in (folder / "backends").glob("*/fusion.py"):
        text = path.read_text(encoding="utf-8")
        node, = (one for one in ast.parse(text).body if isinstance(one, ast.ClassDef) and one.name == "OuterProduct")
        lines = text.splitlines(keepends=True)
        text = "".join(lines[:node.lineno - 1] + lines[node.end_lineno or 0:])
        entry = ', "outer_product": OuterProduct'
        assert text.count(entry) == 1
        path.write_text(text.replace(entry, ""))
    return folder


def test_a_tree_without_tfn_lacks_nothing_else(without_tfn: Path) -> None:
    """So TFN is one file of core and one class per backend: every module is imported, and LMF trains and is right."""
    done(without_tfn, "-c", "import importlib, pkgutil, core, parity\n"
                            "for package in (core, parity):\n"
                            "    for one in pkgutil.walk_packages(package.__path__, f'{package.__name__}.'):\n"
                            "        if not one.name.endswith('__main__'):\n"
                            "            importlib.import_module(one.name)")
    assert "lmf only" in done(without_tfn, "-m", f"backends.{HERE[0]}.train", "--help")
    few = ("--model", "lmf", "--dataset", "pom", "--data", "synthetic", "--audio_hidden", "4", "--video_hidden", "4",
           "--text_hidden", "8", "--max_len", "5", "--batch_size", "64", "--precision", "float64")
    done(without_tfn, "-m", f"backends.{HERE[0]}.train", *few, "--epochs", "1")
    if len(HERE) > 1:
        done(without_tfn, "-m", "parity", *few, "--rungs", "sets,forward,gradients,drift")


def test_a_tree_without_tfn_refuses_it_by_name(without_tfn: Path) -> None:
    result = start(without_tfn, "-m", f"backends.{HERE[0]}.train", "--model", "tfn", "--dataset", "pom")
    assert result.returncode == 2
    only_error(result.stderr, "model = 'tfn' (from --model)", "'lmf'")
