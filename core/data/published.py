"""The published data sets, described: inputs, tasks, sizes and hashes of the files."""
from __future__ import annotations

import numpy as np

from core.common.arrays import Array
from core.data.specs import DataSpec, InputSpec, Published, Task

SPLITS = ("train", "valid", "test")
FEATURE_KEYS = {"audio": ("covarep", "audio"), "video": ("facet", "video", "vision"), "text": ("glove", "text"),
                "vision": ("vision", "video", "facet")}  # what an input may be called in a file
MODALITIES = ("audio", "video", "text")
ALIGNED_LABELS = ("regression_labels", "labels", "label")
REPAIR = "repair the file; the README lists under Data what it has to hold"  # users' own data: no way out but theirs
POM_TRAITS = (
    "confident", "passionate", "pleasant", "dominant", "credible", "vivid", "expertise", "entertaining",
    "reserved", "trusting", "relaxed", "outgoing", "thorough", "nervous", "persuasive", "humorous",
)


def feature_inputs(audio: int = 0, video: int = 0, text: int = 0, steps: int = 0) -> tuple[InputSpec, ...]:
    """The inputs of these widths: a vector per row of audio and video, a sequence of text. Width 0: left out."""
    made = (InputSpec("audio", (audio,)), InputSpec("video", (video,)), InputSpec("text", (steps, text), "sequence"))
    return tuple(one for one in made if one.width)


def aligned(name: str, files: tuple[str, ...], epochs: int, rows: tuple[int, int, int]) -> DataSpec:
    """Sequences of 50 words with what is heard and seen at each, padding in front; a sentiment from -3 to 3.

    The files of MultiBench, and of MMSA, which has other widths and calls its labels `regression_labels`.
    """
    inputs = (InputSpec("vision", (50, 35), "sequence", keys="video", pooled="mean"),
              InputSpec("text", (50, 300), "sequence"), InputSpec("audio", (50, 74), "sequence", pooled="mean"))
    return DataSpec(name, inputs, Task("regression", ("sentiment",), (-3.0, 3.0)), defaults={"epochs": epochs},
                    files=files, label_keys=ALIGNED_LABELS, padding="front", published=Published(rows))


def keys_in_files(one: InputSpec) -> tuple[str, ...]:
    """What an input may be called in a file, the likeliest first."""
    return one.called or FEATURE_KEYS.get(one.name, (one.name,))


# POM's scale is nominally 1 to 7, but its labels are means of raters and go down to 0.67: hence 0 to 7.
DATASETS = {spec.name: spec for spec in (
    DataSpec("mosi", feature_inputs(5, 20, 300, 20), Task("regression", ("sentiment",), (-3.0, 3.0)),
             defaults={"epochs": 500, "max_len": 20}, published=Published(
                 (1284, 229, 686), 368824398, "9640616a5b136bf0e3ce8696847f561fd15d252aacce92757f1c35f0cb904b69")),
    DataSpec("pom", feature_inputs(43, 43, 300, 20), Task("regression", POM_TRAITS, (0.0, 7.0)),
             defaults={"epochs": 500, "max_len": 20}, published=Published(
                 (600, 100, 203), 144511035, "53745af979d114cc0832f83b4a0ceb787445c4bfba6a7f8f75b3ee22edbbd759")),
    DataSpec("iemocap", feature_inputs(74, 35, 300, 20), Task("classification", ("not_X", "X")),
             defaults={"epochs": 100, "max_len": 20}, grids={"audio_hidden": [8, 16, 32]},
             parts=("happy", "sad", "angry", "neutral"), published=Published(
                 (2717, 798, 938), 764739145, "7f20c9f5245c3bcb3a4638e8577f0c81ee2dbdede56d44f165ce9ae69a9c5ad9")),
    aligned("mosi_aligned", ("mosi_raw.pkl", "mosi_data.pkl", "aligned_50.pkl"), 500, (1284, 229, 686)),
    aligned("mosei_aligned", ("mosei_raw.pkl", "mosei_data.pkl", "mosei_senti_data.pkl", "aligned_50.pkl"), 100,
            (16265, 1869, 4643)),  # MultiBench's 22,777 rows; MMSA keeps 22,856
)}


def beyond_label(task: Task, output: Array) -> str | None:
    """A sentence about predictions (N, O) beyond the labels' range; None where none is, or where labels are classes."""
    if task.label_range is None:
        return None
    values = np.asarray(output, np.float64)
    low, high = task.label_range
    beyond = (values < low) | (values > high)
    if not beyond.any():
        return None
    rows = int(beyond.any(axis=1).sum())
    return (f"{int(beyond.sum())} of {values.size} predictions, in {rows} of {len(values)} rows, lie beyond the "
            f"labels' range of {low:g} to {high:g}: from {values.min():.4g} to {values.max():.4g}")
