"""What is known about the published data sets: tasks, labels, shapes, sizes and hashes of the files."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

SPLITS = ("train", "valid", "test")
FEATURE_KEYS = {"audio": ("covarep", "audio"), "video": ("facet", "video"), "text": ("glove", "text")}
LABEL_KEYS = ("label",)
REPAIR = "repair the file; the README lists under Data what it has to hold"  # users' own data: no way out but theirs
POM_TRAITS = (
    "confident", "passionate", "pleasant", "dominant", "credible", "vivid", "expertise", "entertaining",
    "reserved", "trusting", "relaxed", "outgoing", "thorough", "nervous", "persuasive", "humorous",
)


@dataclass(frozen=True)
class Published:
    """One published data set.

    rows: of train, valid and test; widths: audio, video, text; steps: text steps; label_range: the
    bounds that a regression label has to keep; file_bytes and sha256: of the published pickle.
    """

    name: str
    label_names: tuple[str, ...]
    label_range: tuple[float, float] | None
    rows: tuple[int, int, int]
    widths: tuple[int, int, int]
    steps: int
    file_bytes: int
    sha256: str

    @property
    def task(self) -> str:
        """`regression`, or `classification` where labels are one-hot."""
        return "classification" if self.label_range is None else "regression"

    @property
    def outputs(self) -> int:
        """Columns of the label."""
        return len(self.label_names)

    @property
    def file(self) -> str:
        """How to know the published file."""
        return f"the published {self.name}.pkl ({self.file_bytes} bytes, sha256 {self.sha256})"

    def way_out_of_damage(self, path: Path) -> str:
        """For a file that is no whole pickle: under the published name it may be a broken copy of that one."""
        published = f"; {self.file} can be fetched again" if path.name == f"{self.name}.pkl" else ""
        return f"write it again with pickle.dump{published}"


# POM's scale is nominally 1 to 7, but its labels are means of raters and go down to 0.67: hence 0 to 7.
PUBLISHED = {
    "mosi": Published(
        "mosi", ("sentiment",), (-3.0, 3.0), (1284, 229, 686), (5, 20, 300), 20, 368824398,
        "9640616a5b136bf0e3ce8696847f561fd15d252aacce92757f1c35f0cb904b69"),
    "pom": Published(
        "pom", POM_TRAITS, (0.0, 7.0), (600, 100, 203), (43, 43, 300), 20, 144511035,
        "53745af979d114cc0832f83b4a0ceb787445c4bfba6a7f8f75b3ee22edbbd759"),
    "iemocap": Published(
        "iemocap", ("not_X", "X"), None, (2717, 798, 938), (74, 35, 300), 20, 764739145,
        "7f20c9f5245c3bcb3a4638e8577f0c81ee2dbdede56d44f165ce9ae69a9c5ad9"),
}


def beyond_label(dataset: str, output: npt.NDArray[Any]) -> str | None:
    """A sentence about predictions (N, O) beyond the labels' range; None where none is, or where labels are classes."""
    bounds = PUBLISHED[dataset].label_range
    if bounds is None:
        return None
    beyond = (output < bounds[0]) | (output > bounds[1])
    if not beyond.any():
        return None
    rows = int(beyond.any(axis=1).sum())
    return (f"{int(beyond.sum())} of {output.size} predictions, in {rows} of {len(output)} rows, lie beyond the "
            f"labels' range of {bounds[0]:g} to {bounds[1]:g}: from {output.min():.4g} to {output.max():.4g}")


def label_names(dataset: str, emotion: str | None) -> tuple[str, ...]:
    """Names of the outputs: the traits, `sentiment`, or the two logits of an emotion."""
    return tuple(name.replace("X", emotion or "X") for name in PUBLISHED[dataset].label_names)
