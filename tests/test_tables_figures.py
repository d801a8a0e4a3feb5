"""Figures: every run is in them, and their counts are those of scikit-learn."""
from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.collections import PathCollection
from sklearn.metrics import confusion_matrix

from core.common.errors import UserError
from core.common.figures import inline_svg, plain
from core.data.tables import TABLES
from core.studies.tables import figures
from core.studies.tables.assemble import build_tables
from core.studies.tables.plan import run_path
from core.studies.tables.results import Run, load_entries
from tests.table_folders import finish, job, outputs_of, plan


@pytest.fixture
def mosi(tmp_path: Path) -> Run:
    finish(tmp_path, job("mosi"), noise=2.5, predictions=True)
    plan(tmp_path, job("mosi"))
    run = load_entries(tmp_path)[0].run
    assert run is not None
    return run


def test_sign_counts(mosi: Run) -> None:
    scores, label = outputs_of("mosi", 1, 2.5)
    labels, counts = figures.sign(mosi, TABLES["mosi"])
    assert labels == ["< 0", "≥ 0"]
    np.testing.assert_array_equal(counts, confusion_matrix(label[:, 0] >= 0, scores[:, 0] >= 0))
    assert counts[0, 1] != counts[1, 0], "or a transposed matrix would pass"


def test_seven_class_counts(mosi: Run) -> None:
    scores, label = outputs_of("mosi", 1, 2.5)
    assert np.abs(scores).max() > 3.5
    labels, counts = figures.rounded(mosi, TABLES["mosi"])
    truth, found = (np.round(np.clip(values[:, 0], -3, 3)) for values in (label, scores))
    np.testing.assert_array_equal(counts, confusion_matrix(truth, found, labels=[int(name) for name in labels]))


def test_emotion_counts(tmp_path: Path) -> None:
    finish(tmp_path, job("iemocap", "sad"), noise=1.5, predictions=True)
    plan(tmp_path, job("iemocap", "sad"))
    run = load_entries(tmp_path)[0].run
    assert run is not None
    logits, label = outputs_of("iemocap", 1, 1.5)
    labels, counts = figures.classes(run)
    assert labels == ["not_sad", "sad"]
    np.testing.assert_array_equal(counts, confusion_matrix(label, logits.argmax(axis=1)))
    assert counts[0, 1] != counts[1, 0]


def test_every_run_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two curves a run, one point a seed, one cloud a run; the confusion is the sum over seeds."""
    jobs = [job("mosi", "", backend, seed) for backend in ("torch", "paddle") for seed in (1, 2, 3)]
    for one in jobs:
        finish(tmp_path, one, draw=one.seed, predictions=True)
    plan(tmp_path, *jobs)
    drawn = []
    monkeypatch.setattr(figures, "inline_svg", lambda figure: drawn.append(figure) or "")
    entries = load_entries(tmp_path)
    figures.draw(build_tables(entries)[0], entries)
    points, curves, confusion, scatter = drawn
    assert [sum(len(cloud.get_offsets()) for cloud in axes.collections if isinstance(cloud, PathCollection))
            for axes in points.axes] == [6] * 7
    assert [len(axes.lines) for axes in curves.axes] == [6, 6]
    np.testing.assert_array_equal(curves.axes[0].lines[0].get_xdata(), [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(curves.axes[0].lines[0].get_ydata(), [3, 2, 1, 2, 3])  # validation
    assert [len(axes.collections) for axes in scatter.axes] == [3, 3]
    one = [run for entry in entries if (run := entry.run) and entry.job.backend == "torch"]
    total = np.sum([figures.sign(run, TABLES["mosi"])[1] for run in one], axis=0)
    assert [int(text.get_text()) for text in confusion.axes[0].texts] == total.ravel().tolist()
    for figure in drawn:
        pyplot.close(figure)


def test_predictions_that_are_gone_are_named(mosi: Run) -> None:
    (mosi.path / "predictions_test.csv").unlink()
    with pytest.raises(UserError, match=r"predictions_test\.csv: can't be read"):
        mosi.predictions()


def test_a_report_of_a_run_without_predictions_is_refused(tmp_path: Path) -> None:
    finish(tmp_path, job("mosi"))
    plan(tmp_path, job("mosi"))
    entries = load_entries(tmp_path)
    path = run_path(tmp_path, job("mosi").run) / "predictions_test.csv"
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))}: can't be read \(No such file or directory\); move"):
        figures.draw(build_tables(entries)[0], entries)


def test_formulas_stay_text_and_markup_is_escaped() -> None:
    figure = pyplot.figure()
    figure.suptitle(plain("a $x_1$ <script> b"))
    svg = re.sub(r"<!--.*?-->", "", inline_svg(figure))  # matplotlib repeats a formula there
    assert "a $x_1$ &lt;script&gt; b" in svg and "<script" not in svg
