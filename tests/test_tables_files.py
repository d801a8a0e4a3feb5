"""The files of a table: the same values and caveats in Markdown, CSV, LaTeX and HTML."""
from __future__ import annotations

import csv
import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from core.data.published import POM_TRAITS
from core.studies.tables.plan import Job, run_path
from core.studies.tables.report import main, write_tables
from tests.conftest import Run
from tests.running import HANG, environment, only_error
from tests.table_folders import LEAK, NO_TEXT, NOT_PUBLISHED, finish, job, plan

AV = ("audio", "video")
HOSTILE = "<script>alert(1)</script> | a & b $x_1$ 50% #1 {c} \\d ~ ^ `e` [f]* <img src=x>"
LATEX = {r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<",
         r"\textgreater{}": ">", "{[}": "[", "{]}": "]", r"$\pm$": "±", r"$\downarrow$": "↓", r"$\uparrow$": "↑",
         r"$\leq$": "≤", "--": "\N{EN DASH}", **{f"\\{char}": char for char in "&%$#_{}"}}
Cells = list[list[str]]


class Page(HTMLParser):
    """The tables of a page by name, head first, and everything that it would fetch or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, Cells] = {}
        self.fetched: list[str] = []
        self.tags: set[str] = set()
        self._cell: list[str] | None = None
        self._rows: Cells | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        self.fetched += [value or "" for name, value in found.items() if name in ("src", "href", "xlink:href")]
        if tag == "table":
            self._rows = self.tables.setdefault(found.get("data-name") or "", [])
        elif tag == "tr" and self._rows is not None:
            self._rows.append([])
        elif tag in ("td", "th"):
            self._cell = []

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._rows and self._cell is not None:
            self._rows[-1].append(" ".join("".join(self._cell).split()))
            self._cell = None


def from_markdown(text: str) -> Cells:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[html.unescape(re.sub(r"\\(.)", r"\1", cell.strip())) for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
             for line in lines]
    return [cells[0], *cells[2:]]


def from_latex(text: str) -> Cells:
    head = text[text.index(r"\toprule"):text.index(r"\endfirsthead")]
    body = text[text.index(r"\endlastfoot"):text.index(r"\end{longtable}")]
    lines = [line.removesuffix(r" \\") for line in (head + body).splitlines() if line.endswith(r" \\")]
    known = re.compile("|".join(re.escape(mark) for mark in sorted(LATEX, key=len, reverse=True)))
    return [[known.sub(lambda found: LATEX[found[0]], cell.strip()) for cell in re.split(r"(?<!\\)&", line)]
            for line in lines]


def from_csv(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with every caveat: leaking MOSI, POM without text, synthetic IEMOCAP, a failed seed, two backends."""
    output = tmp_path_factory.mktemp("tables")
    jobs: list[Job] = []
    failed = job("mosi", backend="paddle", seed=3)
    for seed in (1, 2, 3, 4, 5):
        for backend in ("torch", "paddle"):
            jobs += [job("mosi", "", backend, seed), job("iemocap", "happy", backend, seed, data="synthetic")]
        jobs += [job("pom", trait, seed=seed, modalities=AV) for trait in POM_TRAITS if seed < 3]
    for one in jobs:
        notes = {"mosi": [LEAK, NOT_PUBLISHED, HOSTILE], "pom": [NO_TEXT], "iemocap": []}[one.table]
        if one != failed:
            finish(output, one, draw=10 * one.seed + (one.backend == "paddle"), notes=notes, predictions=True)
    plan(output, *jobs, failures={failed.run: f"epoch 2: {HOSTILE}"})
    write_tables(output)
    return output


def test_every_file_is_written_whole(written: Path) -> None:
    names = {f"{name}.{ending}" for name in ("mosi", "pom", "pom_traits", "iemocap", "equivalence")
             for ending in ("md", "csv", "tex")}
    systems = {f"{name}_systems.csv" for name in ("mosi", "pom", "iemocap")}
    assert {path.name for path in written.iterdir()} == {
        *names, *systems, "report.html", "plan.json", "failures.json", "runs"}


@pytest.mark.parametrize("name", ["mosi", "pom", "pom_traits", "iemocap", "equivalence"])
def test_markdown_latex_and_html_say_the_same(written: Path, name: str) -> None:
    markdown = from_markdown((written / f"{name}.md").read_text())
    latex = from_latex((written / f"{name}.tex").read_text())
    page = Page((written / "report.html").read_text()).tables[name]
    assert len(markdown) > 1 and len({len(line) for line in markdown}) == 1
    assert markdown == latex == page


@pytest.mark.parametrize("name", ["mosi", "pom", "iemocap"])
def test_csv_holds_the_numbers_of_the_text(written: Path, name: str) -> None:
    head, *lines = from_markdown((written / f"{name}.md").read_text())
    records = from_csv(written / f"{name}.csv")
    assert len(lines) == len(records)
    for line, record in zip(lines, records, strict=True):
        shown = dict(zip(head, line, strict=True))
        assert (shown["system"], shown["cell"], shown["metric"][:-2]) == (
            record["system"], record["cell"], record["metric"])
        assert {"lower": "↓", "higher": "↑"}[record["better"]] == shown["metric"][-1]
        for backend in ("torch", "paddle"):
            if backend in head and record[f"{backend}_mean"]:
                mean, std, low, high = (f"{float(record[f'{backend}_{part}']):.4f}"
                                        for part in ("mean", "std", "low", "high"))
                assert shown[backend] == f"{mean} ± {std} [{low}, {high}]"
                seeds = json.loads(record[f"{backend}_seeds"])
                values = json.loads(record[f"{backend}_values"])
                assert len(values) == len(seeds) and sum(values) / len(values) == pytest.approx(
                    float(record[f"{backend}_mean"]))
            elif backend in head:
                assert shown[backend] == "\N{EN DASH}"
        for column in ("paper", "PyTorch rerun", "MindSpore port", "Paddle port", "Ascend port, NPU"):
            if column in head:
                published = record[column]
                assert shown[column] == "\N{EN DASH}" if not published else float(shown[column]) == float(published)
    assert any(record["paper"] for record in records)


def test_csv_of_the_traits_holds_the_numbers_of_the_text(written: Path) -> None:
    head, *lines = from_markdown((written / "pom_traits.md").read_text())
    records = {(record["cell"], record["metric"]): record for record in from_csv(written / "pom_traits.csv")}
    assert len(lines) == 16 and len(records) == 48 and head[1:6] == ["trait", "backend", "MAE ↓", "Corr ↑", "Acc ↑"]
    for line in lines:
        for column, metric in zip(line[3:6], ("MAE", "Corr", "Acc"), strict=True):
            record = records[line[1], metric]
            assert column.startswith(f"{float(record['torch_mean']):.4f} ± {float(record['torch_std']):.4f} [")


def test_csv_of_the_equivalence_holds_the_numbers_of_the_text(written: Path) -> None:
    head, *lines = from_markdown((written / "equivalence.md").read_text())
    records = from_csv(written / "equivalence.csv")
    assert len(lines) == len(records) == 8 + 3  # MOSI's and IEMOCAP's metrics, and their validation losses
    for line, record in zip(lines, records, strict=True):
        shown = dict(zip(head, line, strict=True))
        assert shown["difference"] == f"{float(record['difference']):.4f}"
        assert shown["90 % interval"] == f"[{float(record['low']):.4f}, {float(record['high']):.4f}]"
        assert (shown["verdict"], shown["largest"]) == (record["verdict"], f"{float(record['largest']):.4f}")
        assert shown["same bits"] == f"{record['identical']} of {record['pairs']}"
        assert shown["same digits"] == f"{record['same_digits']} of {record['pairs']}"
    told = [record["verdict"] for record in records]
    assert (f"11 comparisons: {told.count('equivalent')} equivalent, {told.count('not shown')} not shown, "
            f"{told.count('different')} different.") in (written / "equivalence.md").read_text()


@pytest.mark.parametrize(("name", "words"), [
    ("mosi", ["LEAKING", "mosi.pkl is not the published file"]), ("pom", ["pom without text"]),
    ("pom_traits", ["pom without text"]), ("iemocap", ["synthetic"])])
def test_every_row_of_ours_says_what_made_it(written: Path, name: str, words: list[str]) -> None:
    """In every format, in the row itself, of the table and of the comparison."""
    page = Page((written / "report.html").read_text()).tables
    formats = [from_markdown((written / f"{name}.md").read_text()), from_latex((written / f"{name}.tex").read_text()),
               page[name], [[], *([*record.values()] for record in from_csv(written / f"{name}.csv"))]]
    for cells in formats:
        ours = [" ".join(line) for line in cells[1:] if "published only" not in " ".join(line)]
        assert ours
        for line in ours:
            assert all(word in line for word in words), line
    for cells in (from_markdown((written / "equivalence.md").read_text()), page["equivalence"],
                  [[], *([*record.values()] for record in from_csv(written / "equivalence.csv"))]):
        assert all("LEAKING" in " ".join(line) or "synthetic" in " ".join(line) for line in cells[1:])


def test_rows_beside_published_numbers_say_that_they_can_t_be_compared(written: Path) -> None:
    head, *lines = from_markdown((written / "mosi.md").read_text())
    ours = [dict(zip(head, line, strict=True)) for line in lines if "published only" not in line[0]]
    assert [line["metric"] for line in ours if "not comparable with published numbers" in line["remarks"]] == [
        "MAE ↓", "Corr ↑", "Has0_acc_2 ↑", "Has0_F1_score ↑", "Acc-7 ↑"]
    assert [line["metric"] for line in ours if "no published counterpart" in line["remarks"]] == [
        "Non0_acc_2 ↑", "Non0_F1_score ↑"]


def test_figures_say_what_made_them(written: Path) -> None:
    """In the picture itself, which may be copied without its caption."""
    page = (written / "report.html").read_text()
    figures = re.findall(r"<figure>(<svg.*?</svg>)\s*<figcaption>(.*?)</figcaption>", page, re.DOTALL)
    assert len(figures) == 4 + 1 + 3 + 3  # MOSI, POM's mean, its traits, IEMOCAP
    for svg, caption in figures:
        word = next(word for start, word in (("MOSI", "LEAKING"), ("POM", "without text"), ("IEMOCAP", "synthetic"))
                    if f". {start}" in caption)
        assert word in caption and word in html.unescape(re.sub(r"<[^>]*>", "", svg))


def test_missing_seeds_and_few_seeds_are_told(written: Path) -> None:
    head, *lines = from_markdown((written / "mosi.md").read_text())
    ours = dict(zip(head, lines[0], strict=True))
    assert ours["seeds"] == "torch n = 5 (1 to 5); paddle n = 4 of 5 (1, 2, 4, 5)"
    assert "paddle: seed 3 failed" in ours["remarks"] and "paddle: fewer than 5 seeds" in ours["remarks"]
    assert "torch: fewer" not in ours["remarks"]
    pom = from_markdown((written / "pom.md").read_text())
    assert "n = 2 (1, 2)" in pom[1] and "fewer than 5 seeds" in pom[1]
    for text in ((written / "mosi.md").read_text(), (written / "mosi.tex").read_text(),
                 (written / "report.html").read_text()):
        assert "Missing: LMF audio+video+text, mosi, paddle, seed 3: failed: epoch 2: " in text
    assert json.loads(from_csv(written / "mosi.csv")[0]["paddle_missing"])["3"].startswith("failed: epoch 2: <script>")


def test_every_column_names_its_selection_rule(written: Path) -> None:
    """Published systems and ours, in every format."""
    rule = "best test F1 of up to 100 restarts"
    records = from_csv(written / "iemocap_systems.csv")
    assert [record["column"] for record in records] == [
        "paper", "paper", "paper", "PyTorch rerun", "MindSpore port", "Paddle port", "Ascend port, GPU",
        "Ascend port, NPU", "torch, paddle"]
    assert rule in records[7]["selection"] and "lowest validation loss" in records[8]["selection"]
    for name in ("iemocap.md", "iemocap.tex", "report.html"):
        text = (written / name).read_text()
        assert rule in text and "Selection of ours: the epoch with the lowest validation loss" in text
    assert {record["selection"] for record in from_csv(written / "mosi.csv")} == {"validation loss", ""}


def test_names_can_t_break_out_of_a_format(written: Path) -> None:
    page = Page((written / "report.html").read_text())
    assert not page.tags & {"script", "img", "iframe", "link"}
    for name in ("mosi.md", "report.html"):
        assert "<script" not in (written / name).read_text() and "&lt;script&gt;" in (written / name).read_text()
    table = (written / "mosi.tex").read_text()
    assert r"\textbackslash{}d" in table and r"\{c\}" in table and r"\$x\_1\$" in table and r"50\%" in table
    assert not re.search(r"(?<!\\)#", table)
    plain = re.sub(r"\\[\\{}]", "", table)
    assert plain.count("{") == plain.count("}")
    math = re.sub(r"\\\$", "", table)
    assert math.count("$") % 2 == 0


def test_latex_is_one_environment_in_another(written: Path) -> None:
    for path in written.glob("*.tex"):
        open_ones: list[str] = []
        for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", path.read_text()):
            if kind == "begin":
                open_ones.append(name)
            else:
                assert open_ones.pop() == name
        assert not open_ones
        assert not re.search(r"[^\x00-\x7f]", path.read_text()), "a sign that LaTeX may not have"


def test_the_page_fetches_nothing(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert all(value.startswith(("#", "data:")) for value in Page(page).fetched)
    assert "@import" not in page and not re.search(r"url\((?!#|['\"]?#)", page)


def test_nothing_finished_still_makes_tables(tmp_path: Path) -> None:
    plan(tmp_path, job("mosi"), job("mosi", seed=3), job("pom", "vivid"))
    assert {path.name for path in write_tables(tmp_path)} >= {"mosi.md", "pom.md", "equivalence.md", "report.html"}
    head, first, *_ = from_markdown((tmp_path / "mosi.md").read_text())
    shown = dict(zip(head, first, strict=True))
    assert (shown["torch"], shown["seeds"], shown["paper"]) == ("\N{EN DASH}", "n = 0 of 2", "0.912")
    assert "seeds 1, 3 not started" in shown["remarks"]
    assert not list(tmp_path.glob("iemocap*"))
    assert "Nothing to compare" in (tmp_path / "equivalence.md").read_text()


def test_undefined_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.studies.tables.report.draw", lambda table, entries: [])
    for seed in (1, 2):
        finish(tmp_path, job("mosi", seed=seed), test={"Corr": None if seed == 2 else 0.5})
    plan(tmp_path, job("mosi", seed=1), job("mosi", seed=2))
    write_tables(tmp_path)
    head, *lines = from_markdown((tmp_path / "mosi.md").read_text())
    shown = dict(zip(head, lines[1], strict=True))
    assert shown["torch"] == "undefined (1 of 2 seeds)" and "Corr of seed 2 undefined" in shown["remarks"]
    record = from_csv(tmp_path / "mosi.csv")[1]
    assert (record["torch_mean"], record["torch_undefined"], record["torch_values"]) == ("", "1", "[0.5, null]")


def test_writing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    finish(tmp_path, job("iemocap", "sad"), predictions=True)
    plan(tmp_path, job("iemocap", "sad"))
    first = {path: path.read_bytes() for path in write_tables(tmp_path)}
    assert {path: path.read_bytes() for path in write_tables(tmp_path)} == first


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    only_error(capsys.readouterr().err, "plan.json", "no such file")
    assert main([]) == 2
    only_error(capsys.readouterr().err, "expected one folder, found nothing", "usage: python -m core.tables.report")
    plan(tmp_path, job("iemocap", "sad"))
    done = subprocess.run([sys.executable, "-m", "core.tables.report", str(tmp_path)], capture_output=True, text=True,
                          env=environment(tmp_path, {}), cwd=tmp_path, timeout=HANG)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.splitlines()[-1] == f"wrote {tmp_path / 'report.html'}"


def test_real_runs(scored: Run, classified: Run, tmp_path: Path) -> None:
    """Folders of the trainer itself, tiny ones: what it writes is what the tables read."""
    trait, emotion = job("pom", "vivid"), job("iemocap", "happy")
    for one, made in ((trait, scored), (emotion, classified)):
        run_path(tmp_path, one.run).parent.mkdir(parents=True, exist_ok=True)
        run_path(tmp_path, one.run).symlink_to(made.here / made.folder)
    plan(tmp_path, trait, emotion)
    write_tables(tmp_path)
    for one, file, metric, key in ((trait, "pom_traits.csv", "MAE", "MAE vivid"), (emotion, "iemocap.csv", "F1", "F1")):
        stored = json.loads((run_path(tmp_path, one.run) / "metrics.json").read_text())
        row = next(row for row in from_csv(tmp_path / file) if row["metric"] == metric)
        assert float(row["torch_mean"]) == stored["test"][key]
        assert row["torch_parameters"] == f"[{stored['parameters']}]"
        assert f"{one.table}.pkl is not the published file" in row["caveats"] and row["comparable"] == "False"
    assert (tmp_path / "report.html").read_text().count("<figure>") == 6
