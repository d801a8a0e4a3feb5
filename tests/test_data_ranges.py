"""What lies beyond the training range: counted, and the furthest value named."""
from __future__ import annotations

import numpy as np
import pytest

from core.common.arrays import Array
from core.data import ranges
from core.data.published import DATASETS, beyond_label
from core.data.ranges import outside, ranges_of

TRAIN: dict[str, Array] = {
    "audio": np.array([[0, -1, 5], [2, 1, 5]], np.float32),
    "text": np.array([[[0, 1], [2, 3]], [[4, -5], [0, 0]]], np.float32),
}


def rows(*values: list[float]) -> Array:
    return np.array(values, np.float32)


def test_ranges_are_per_feature_over_rows_and_steps() -> None:
    found = {key: value.tolist() for key, value in ranges_of(TRAIN).items()}
    assert found == {"audio_low": [0, -1, 5], "audio_high": [2, 1, 5], "text_low": [0, -5], "text_high": [4, 3]}


def test_training_rows_lie_within() -> None:
    """Both ends belong to the range, and a constant feature may stay as it is."""
    for modality, array in TRAIN.items():
        assert outside(modality, array, ranges_of(TRAIN)) is None


def test_counts_and_the_furthest() -> None:
    """Distances are in widths of the feature's own range: 3 beyond a width of 2 is less than 2.5 beyond that of 2."""
    found = outside("audio", rows([0, 0, 5], [5, 0, 5], [-1, -6, 5], [1, 1, 5]), ranges_of(TRAIN))
    assert found is not None
    assert (found.values, found.total, found.rows, found.of_rows) == (3, 12, 2, 4)
    assert (found.place, found.value, found.low, found.high, found.widths) == ((2, 1), -6, -1, 1, 2.5)
    assert str(found) == ("audio: 3 of 12 values (25 %), in 2 of 4 rows, lie beyond the training range; the "
                          "furthest, 2.5 widths of it beyond: row 2, column 1 is -6, trained on -1 to 1")


def test_text_names_row_step_and_column() -> None:
    found = outside("text", np.array([[[0, 0], [0, 0]], [[0, 0], [0, 11]]], np.float32), ranges_of(TRAIN))
    assert found is not None and found.rows == 1
    assert found.furthest == "row 1, step 1, column 1 is 11, trained on -5 to 3"


def test_a_constant_feature_is_measured_by_the_others() -> None:
    found = outside("audio", rows([0, 0, 9]), ranges_of(TRAIN))
    assert found is not None and found.widths == 2  # 4 beyond, the others are 2 wide
    assert found.furthest == "row 0, column 2 is 9, trained on 5 alone"
    alone = ranges_of({"audio": np.full((2, 1), 5, np.float32)})
    assert outside("audio", rows([8]), alone).widths == 3  # type: ignore[union-attr]


def test_many_rows_are_looked_at_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    train, test = draw.normal(size=(50, 4, 3)).astype(np.float32), draw.normal(size=(33, 4, 3)).astype(np.float32)
    kept = ranges_of({"text": train})
    want = outside("text", test, kept)
    beyond = (test < train.min((0, 1))) | (test > train.max((0, 1)))
    assert want and (want.values, want.rows) == (beyond.sum(), beyond.any((1, 2)).sum()) and want.values > 2
    monkeypatch.setattr(ranges, "CHUNK", 60)  # five rows
    assert outside("text", test, kept) == want


def test_only_some_rows_keep_their_numbers() -> None:
    array = rows([9, 0, 5], [0, 0, 5], [3, 0, 5])
    found = outside("audio", array, ranges_of(TRAIN), [1, 2])
    assert found is not None and (found.place, found.rows, found.of_rows) == ((2, 0), 1, 2)


@pytest.mark.parametrize(("dataset", "values", "words"), [
    ("mosi", [[3], [-3], [0]], None), ("iemocap", [[50, -50]], None),
    ("mosi", [[3.5], [-4], [0]], "2 of 3 predictions, in 2 of 3 rows, lie beyond the labels' range of -3 to 3: from -4 "
                                 "to 3.5"),
    ("pom", [[7.5] * 16, [1] * 16], "16 of 32 predictions, in 1 of 2 rows, lie beyond the labels' range of 0 to 7"),
])
def test_predictions_beyond_the_labels(dataset: str, values: list[list[float]], words: str | None) -> None:
    said = beyond_label(DATASETS[dataset].task, np.array(values))
    assert said is None if words is None else said is not None and words in said
