"""Habits of the published ports, in a few lines each: the check that guards against one must fail on it."""
from __future__ import annotations

import argparse
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import core.training.run_folder
from core.common.arrays import Array
from core.common.constants import ADAM_BETAS, ADAM_EPS
from core.common.rounding import Operand, Sized, sized, sqrt
from core.config.flags import make_parser, read_values
from core.data import load_dataset
from core.models.graph import Group
from core.training.checkpoint import Checkpoint
from core.training.plan import EpochPlan
from core.training.trainer import Trainer
from parity import oracle, rules
from parity_tests import test_9_drift as drift
from parity_tests import test_rungs as rungs
from parity_tests.conftest import ROWS, Lab
from parity_tests.divergences import Altered, fails
from tests import (
    test_checkpoint,
    test_configs,
    test_data_unpickle,
    test_old_flags,
    test_oracle,
    test_train_command,
    test_trainer,
)
from tests.data_samples import config_for, content_of, to_bytes_keys, write

Uncorrected = Callable[..., AbstractContextManager[Lab]]
Written = Callable[[float], None]


@pytest.fixture
def lab(open_lab: Any) -> Lab:
    return open_lab("torch", "float64", "three")


def test_last_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The original's IEMOCAP script tests what the last epoch left."""
    monkeypatch.setattr(test_trainer, "Trainer", type("LastModel", (Trainer,), {
        "_test": lambda self, folder: {
            "test": {"loss": abs(self.session.valid[self.session.mark - 1])},
            "best_valid_loss": self.progress.best_loss, "best_epoch": self.progress.best_epoch}}))
    fails(test_trainer.test_the_best_model_is_the_one_tested, tmp_path, match="2 == 1")


def test_best_on_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Chosen by the test split: the script's losses, seen through a session whose test split is another."""
    def epoch(self: Trainer) -> Any:
        row = Trainer._epoch(self)
        self.progress.best_epoch = self.progress.epoch  # a later epoch had the better test score
        return row

    monkeypatch.setattr(test_trainer, "Trainer", type("BestOnTest", (Trainer,), {"_epoch": epoch}))
    fails(test_trainer.test_the_best_model_is_the_one_tested, tmp_path, match="4 == 2|best_epoch")


def test_post_fusion_dropout_unused(open_lab: Any) -> None:
    lab: Lab = open_lab("torch", "float64", "post fusion")

    def without(batch: Any, train: bool) -> Any:
        return lab.session.forward(replace(batch, masks={k: v for k, v in batch.masks.items() if k != "fusion"}), train)

    fails(rungs.test_train_mode,
          replace(lab, session=Altered(lab.session, forward=without)), ROWS, match="output")


def test_type_bool(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cuda", type=bool)
    assert parser.parse_args(["--cuda", "False"]).cuda is True
    monkeypatch.setattr("core.config.flags._boolean", lambda name, text: bool(text))
    fails(test_old_flags.test_one_warning, capsys, *test_old_flags.WARNED[0], match="cpu")


def test_grid_that_misses_its_own_best() -> None:
    """Draws with replacement repeat themselves. A published audio_hidden of 4 is a value like others here."""
    draws = np.random.default_rng(0).integers(0, 9_000_000, 20_000)
    assert len(np.unique(draws)) < len(draws)
    happy = test_configs.FOLDER / "iemocap" / "happy.yaml"
    test_configs.test_config_files_are_valid_and_name_their_command(happy)
    values, _ = read_values(make_parser("train", "").parse(["--config", str(happy)]))
    assert values["audio_hidden"] == 4


def test_pickle_runs_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(test_data_unpickle, "load_pickle", lambda path: pickle.loads(path.read_bytes()))
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_data_unpickle.test_attack_is_refused_and_does_nothing(tmp_path, 2)
    assert (tmp_path / "pwned").exists()


def test_pickled_checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def save(path: Path, checkpoint: Checkpoint) -> None:
        path.write_bytes(pickle.dumps(dict(checkpoint.state.weights)))

    monkeypatch.setattr(test_checkpoint, "save_checkpoint", save)
    with pytest.raises(Exception, match=r"[Hh]eader|deserializing"):
        test_checkpoint.test_nothing_in_the_file_is_code(tmp_path)


def test_shuffled_evaluation(lab: Lab) -> None:
    order = np.random.default_rng(0).permutation(ROWS)
    shuffled = replace(lab, session=Altered(lab.session, predict=lambda split: lab.session.predict(split)[order]))
    fails(rungs.test_predict, shuffled, ROWS, match="output")


def test_no_seed(lab: Lab) -> None:
    def epoch(plan: EpochPlan) -> Any:
        return lab.session.train_epoch(replace(plan, order=np.random.default_rng().permutation(ROWS)))

    fails(drift.test_two_runs_are_one_bit_for_bit,
          replace(lab, session=Altered(lab.session, train_epoch=epoch)), match="relative to the largest")


def test_adam_of_torch_1(monkeypatch: pytest.MonkeyPatch, lab: Lab, written: Written) -> None:
    """torch 1.0 added eps before the correction: lr sqrt(c2) / c1 m / (sqrt(v) + eps)."""
    def old(group: Group, weight: Operand, exp_avg: Operand, exp_avg_sq: Operand, step: int) -> Sized:
        c1, c2 = (1 - beta**step for beta in ADAM_BETAS)
        return sized(weight) - sized(exp_avg) / (sqrt(sized(exp_avg_sq)) + ADAM_EPS) * (group.rate * np.sqrt(c2) / c1)

    monkeypatch.setattr(rules, "stepped", old)
    fails(rungs.test_adam, lab, "initial", match=": audio_factor")
    written(fails(rungs.test_adam, lab, "tiny weights", match=": audio_factor"))


def test_short_batches_weigh_more(uncorrected: Uncorrected, open_lab: Any, written: Written) -> None:
    """A mean over the batch: MOSI's last batch of 4 counts eight times as much per row as one of 32. Here 2 and 16."""
    whole: Lab = open_lab("torch", "float64", "post fusion")
    batches = [whole.batch(slice(0, rows)) for rows in (16, 2)]
    sums = [whole.session.gradients(batch)[0] for batch in batches]
    with uncorrected("torch", "mean_loss", "float64", "post fusion") as lab:
        fails(rungs.test_loss, lab, 2, match="loss: max abs")
        weights = [lab.session.gradients(batch)[0] / total for batch, total in zip(batches, sums, strict=True)]
    written(weights[1] / weights[0])


def test_restart_in_the_same_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One path for every run: the second would write over the first."""
    monkeypatch.setattr(test_train_command, "new_run_folder", lambda config, backend: tmp_path / "results")
    fails(test_train_command.test_run_folders_are_numbered, tmp_path, match="results")
    assert core.training.run_folder.new_run_folder is not test_train_command.new_run_folder


def test_parameters_by_position(lab: Lab) -> None:
    names = [p.name for p in lab.graph.trainable]
    groups = {"factors": names[:3], "others": names[5:]}
    assert names[3:5] == ["fusion_weights", "fusion_bias"]
    fails(rungs.test_sets,
          replace(lab, session=Altered(lab.session, optimizer_groups=lambda: groups)), match="fusion_")


def test_factors_in_a_plain_list(lab: Lab, workers: Any) -> None:
    names = workers["torch"].run("parity_tests.defaults.torch:plain_list_parameters", 4, 5)
    assert names == ["fusion_weights", "fusion_bias"]
    groups = lab.session.optimizer_groups()
    fails(rungs.test_sets,
          replace(lab, session=Altered(lab.session, optimizer_groups=lambda: {**groups, "factors": []})),
          match="audio_factor")


def test_product_of_sums(monkeypatch: pytest.MonkeyPatch, written: Written) -> None:
    """Equations 6 and 7 in the place of equation 8."""
    def product(graph: Any, w: dict[str, Any], hidden: list[Any]) -> Any:
        parts = [np.einsum("bd,rdo->bo", oracle._with_one(h), w[f"{m}_factor"])
                 for m, h in zip(graph.input_names, hidden, strict=True)]
        return np.prod(parts, axis=0) + w["fusion_bias"]

    monkeypatch.setattr(oracle, "_full_tensor", product)
    fails(test_oracle.test_full_tensor_by_hand, match="Obtained|==")
    size = fails(test_oracle.test_full_tensor_equals_low_rank_form, 4, "audio,video,text", "pom",
                 match="Not equal to tolerance")
    written(size)


def test_emotion_as_text_among_bytes(tmp_path: Path) -> None:
    """The keys of the published pickle are bytes: text never equals them, and the last branch takes all."""
    content = content_of("iemocap")
    write(tmp_path, "iemocap", to_bytes_keys(content))

    def ported(emotion: str) -> Array:
        key = next((key for key in (b"happy",) if key == emotion), b"sad")
        return np.asarray(content[key.decode()]["test"]["label"]).argmax(axis=1)

    def ours(emotion: str) -> Array:
        return load_dataset(config_for(tmp_path, "iemocap", emotion=emotion)).splits["test"].arrays["label"]

    def check(read: Callable[[str], Array]) -> None:
        for emotion, part in content.items():
            np.testing.assert_array_equal(read(emotion), part["test"]["label"].argmax(axis=1))

    check(ours)
    fails(check, ported, match="not equal")
