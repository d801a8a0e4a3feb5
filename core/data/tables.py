"""What each table shows: a data set, its cells, the metrics that are reported, how its classes are made."""
from __future__ import annotations

from dataclasses import dataclass, replace

from core.data.published import DATASETS
from core.data.specs import DataSpec


@dataclass(frozen=True)
class TableSpec:
    """A table: the papers' of a data set, in which every cell has hyperparameters of its own; or that of a model.

    A cell is a part of the data set; or one of its scores, where it has several: a run gives them all, and the cell
    reads its own; or else the data set itself. cell: what cells are called. metrics: those of our rows;
    unreported: those among them that no publication has. classes: ways to make classes of its scores
    (core.studies.tables.figures). claimed: whether publications claim numbers of parameters for it.

    A model's table has settings side by side, each a file of `folder` and a row: `base` is the one that the others are
    compared with, and planned alone unless `every` or the command says otherwise. It may be made of other data too.
    """

    name: str
    data: DataSpec
    title: str
    metrics: tuple[str, ...]
    cell: str = ""
    unreported: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    claimed: bool = False
    folder: str = ""
    base: str = ""
    every: bool = False

    def on(self, data: DataSpec) -> TableSpec:
        """The table of the same model on other data: its metrics, where it has others."""
        if data == self.data:
            return self
        task = data.task
        metrics = self.metrics if set(self.metrics) <= set(task.metrics) else task.chosen or task.measures
        return replace(self, data=data, metrics=metrics, cell="part" if data.parts else "output", unreported=(),
                       classes=self.classes if metrics == self.metrics else ())

    @property
    def key_of_files(self) -> str:
        """How its files are called, and what published numbers know it by."""
        return self.name if self.data == TABLES[self.name].data else f"{self.name}_{self.data.name}"

    @property
    def heading(self) -> str:
        """`MOSI`, `MSA on mosi_aligned`."""
        return f"{self.title} on {self.data.name}" if self.base else self.title

    @property
    def by_score(self) -> bool:
        """Whether a cell is one of several scores."""
        return self.data.task.kind == "regression" and self.data.task.outputs > 1

    @property
    def whole(self) -> bool:
        """Whether the only cell is the data set itself; each choice of inputs may then have a file of its own."""
        return not self.data.parts and not self.by_score

    @property
    def cells(self) -> tuple[str, ...]:
        return (self.data.name,) if self.whole else self.data.parts or self.data.task.names

    @property
    def mean(self) -> str:
        """How the mean over cells is called; empty where none is reported, because cells have data of their own."""
        return f"mean of {len(self.cells)} {self.cell}s" if self.by_score else ""

    @property
    def reported(self) -> dict[str, tuple[str, ...]]:
        """Cell -> metrics that publications may have numbers of; the cell of a mean is `mean`."""
        metrics = tuple(metric for metric in self.metrics if metric not in self.unreported)
        return dict.fromkeys(("mean",) if self.mean else self.cells, metrics)

    def part(self, cell: str) -> str | None:
        """The part of the data set that a cell is."""
        return cell if self.data.parts else None

    def key(self, metric: str, cell: str) -> str:
        """The name of a cell's `metric` among those of a run."""
        return f"{metric} {cell}" if self.by_score else metric

    def score(self, cell: str) -> str:
        """The name of the score that a cell is about."""
        return cell if self.by_score else self.data.task.names[0]


COURSE = ("Non0_acc_2", "Non0_F1_score", "Non0_F1_score_swapped", "Mult_acc_5", "Mult_acc_7", "MAE", "Corr")
TABLES = {spec.name: spec for spec in (
    TableSpec("mosi", DATASETS["mosi"], "MOSI",
              ("MAE", "Corr", "Has0_acc_2", "Has0_F1_score", "Acc-7", "Non0_acc_2", "Non0_F1_score"),
              unreported=("Non0_acc_2", "Non0_F1_score"), classes=("sign", "seven classes"), claimed=True),
    TableSpec("pom", DATASETS["pom"], "POM", ("MAE", "Corr", "Acc"), "trait"),
    TableSpec("iemocap", DATASETS["iemocap"], "IEMOCAP", ("F1", "Acc-2"), "emotion"),
    TableSpec("msa", DATASETS["mosi_aligned"], "MSA", COURSE,
              unreported=("Non0_F1_score", "Non0_F1_score_swapped", "Mult_acc_5"), classes=("sign", "seven classes"),
              folder="msa", base="course"),
    TableSpec("msa_ablations", DATASETS["mosi_aligned"], "Ablations of MSA", COURSE,
              folder="msa/ablations", base="base", every=True),
)}
PAPERS = tuple(name for name, spec in TABLES.items() if not spec.base)  # what `all` stands for


def two_ended(names: tuple[str, ...]) -> str:
    """`a, b and c`."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
