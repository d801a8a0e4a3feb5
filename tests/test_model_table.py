"""`python -m core.models`: a row per block, and totals that its rows add up to."""
from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core.config import build_graph, make_config
from core.model_table import main, published_inputs, read
from core.models.graph import DROPOUT, Graph
from tests.running import environment, only_error

Rows = list[list[str]]
CASES: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
    ("lmf", ("--dataset", "pom"), {}),
    ("lmf", ("--dataset", "mosi", "--apply_post_fusion_dropout", "--rank", "7", "--modalities", "audio,text",
             "--frozen", "audio_factor,text_subnet.linear_1.bias", "--max_len", "5"),
     {"apply_post_fusion_dropout": True, "rank": 7, "modalities": "audio,text", "max_len": 5,
      "frozen": "audio_factor,text_subnet.linear_1.bias"}),
    ("tfn", ("--dataset", "iemocap", "--post_fusion_dim", "6"), {"post_fusion_dim": 6}),
    ("tfn", ("--dataset", "mosi", "--post_fusion_dim", "0", "--modalities", "video"),
     {"post_fusion_dim": 0, "modalities": "video"}),
]


SAID = {"lstm": "hidden", "low_rank_fusion": "rank", "linear": "activation", DROPOUT: "rate"}


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[Rows, list[str]]:
    """The cells of the table's lines, the first of them the head, and the lines below it."""
    assert main(argv) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    rows = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines if line[0] in "│┃"]
    return rows, lines[max(place for place, line in enumerate(lines) if line[0] == "└") + 1:]


def expected(graph: Graph) -> Rows:
    """The lines of all blocks, in words of this test."""
    def size(shape: tuple[int, ...]) -> str:
        return " x ".join(str(n) for n in shape)

    names = [*graph.input_names, *(node.name for node in graph.nodes)]
    rows: Rows = [[one.name, "input", "", size(one.shape), "", "", "", ""] for one in graph.inputs]
    for node in graph.nodes:
        option = SAID.get(node.kind, "")
        value = node["site"].rate if node.kind == DROPOUT else node.options.get(option)
        kind = f"{node.kind} ({option} {value})" if value is not None else node.kind
        left = [node.name, kind, "", size(node.output.shape) + (" output" if node is graph.nodes[-1] else "")]
        right = [[p.name.removeprefix(f"{node.name}.") + " " + size(p.shape), str(math.prod(p.shape)), p.group]
                 for p in node.parameters]
        takes = [names[place] for place in node.inputs]
        for line in range(max(1, len(takes), len(right))):
            start = left if line == 0 else ["", "", "", ""]
            rows.append([*start[:2], takes[line] if line < len(takes) else "", start[3],
                         *(right[line] if line < len(right) else ["", "", ""]), node.half if line == 0 else ""])
    return rows


@pytest.mark.parametrize(("model", "flags", "values"), CASES)
def test_every_block_has_its_row(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: str,
                                 flags: tuple[str, ...], values: dict[str, Any]) -> None:
    """On a narrow terminal too, where nothing may be cut."""
    monkeypatch.setenv("COLUMNS", "40")
    config = make_config({"dataset": flags[1], "model": model, **values})
    graph = build_graph(config, published_inputs(config))
    (head, *rows), below = shown(capsys, model, *flags)
    assert head == ["block", "kind", "takes", "gives", "parameters", "scalars", "group", "half from"]
    assert rows == expected(graph)
    counts = {group: sum(int(row[5]) for row in rows if row[6] == group)
              for group in ("factors", "others", "frozen", "statistics")}
    trained = counts["factors"] + counts["others"]
    assert trained == graph.parameter_count
    assert below[0] == f"{trained} trained scalars, {counts['frozen']} frozen, {counts['statistics']} of statistics"
    assert sorted(below[1:3]) == [f"group factors: {counts['factors']} scalars, learning rate 0.0005, weight decay 0",
                                  f"group others: {counts['others']} scalars, learning rate 0.001, weight decay 0"]
    sites = [f"{site.name} {site.rate:g} of" for site in graph.dropout_sites]
    assert below[3].startswith("dropout: ") and all(site in below[3] for site in sites) and len(below) == 4


def test_widths_are_published_and_steps_those_that_are_kept() -> None:
    assert [one.shape for one in published_inputs(make_config({"dataset": "pom", "max_len": 9}))] == [
        (43,), (43,), (9, 300)]


def test_without_dropout(capsys: pytest.CaptureFixture[str]) -> None:
    rows, below = shown(capsys, "--dataset", "mosi", "--modalities", "text", "--text_dropout", "0")
    assert below[-1] == "dropout: none" and not any("dropout" in row[1] for row in rows)


def test_where_the_model_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("dataset: mosi\nmodel: tfn\n")
    for argv in (["tfn", "--dataset", "mosi"], ["--dataset", "mosi", "tfn"], ["--dataset", "mosi", "--model", "tfn"],
                 ["tfn", "--dataset", "mosi", "--model", "tfn"], ["--config", str(file)],
                 ["tfn", "--config", str(file)]):
        assert read(argv) == make_config({"dataset": "mosi", "model": "tfn"}), argv
    assert read(["--dataset", "mosi"]).model == "lmf"


@pytest.mark.parametrize(("argv", "words"), [
    (["lmf"], ("--dataset is required",)),
    (["gnn", "--dataset", "mosi"], ("model = 'gnn' (from the first argument)", "'msa' or 'tfn'")),
    (["tfn", "--dataset", "mosi", "--model", "lmf"], ("model = 'lmf' (from --model)", "argument says 'tfn'; give one")),
    (["tfn", "--dataset", "mosi", "--rank", "3"], ("rank = 3: tfn has no rank",)),
    (["lmf", "tfn", "--dataset", "mosi"], ("'tfn'", "--help")),
    (["lmf", "--datset", "mosi"], ("did you mean --dataset?",)),
    (["lmf", "--dataset", "mosi", "--frozen", "x"], ("no trained parameter 'x'", "audio_factor")),
    (["lmf", "--config", "none.yaml"], ("none.yaml", "can't be read")),
])
def test_mistakes_get_one_line(capsys: pytest.CaptureFixture[str], argv: list[str], words: tuple[str, ...]) -> None:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    only_error(captured.err, *words)


def test_as_a_user_runs_it(tmp_path: Path) -> None:
    """In a process of its own, where no framework is imported."""
    code = ("import runpy, sys; sys.argv = ['core.models', 'lmf', '--dataset', 'pom']\n"
            "try:\n    runpy.run_module('core.models', run_name='__main__', alter_sys=True)\n"
            "except SystemExit as end:\n    assert not end.code\n"
            "loaded = {name.split('.')[0] for name in sys.modules} & {'torch', 'mindspore', 'paddle', 'tensorboardX'}\n"
            "assert not loaded, loaded")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(tmp_path, {}), text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("LMF on pom: low-rank fusion") and "low_rank_fusion (rank 4)" in done.stdout
    done = subprocess.run([sys.executable, "-m", "core.models", "--help"], cwd=tmp_path, text=True,
                          env=environment(tmp_path, {}), capture_output=True)
    assert done.returncode == 0 and "MODEL" in done.stdout and "--post_fusion_dim" in done.stdout
