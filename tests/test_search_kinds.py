"""A search over kinds of blocks: which keys a trial has, what it is judged by, and that it stays the same search."""
from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from core.common.errors import UserError
from core.config import build_graph, make_config
from core.config.flags import read_yaml
from core.studies.journal import check_trials
from core.studies.search import main
from core.studies.search_confirm import Confirmed, Setting, _choose
from core.studies.search_space import default_setting, drawn, search_space
from core.studies.search_worker import Task, best_value, open_study
from core.training.progress import Progress
from core.training.selection import selection_of
from tests.running import needs, only_error

MSA = {"dataset": "mosi_aligned", "model": "msa"}
SMALL = ("--dataset", "mosi_aligned", "--model", "msa", "--data", "synthetic", "--modalities", "text", "--max_len", "2",
         "--hidden_dim", "8", "--batch_size", "128", "--epochs", "2")
ATTENTION = {"attention_heads", "attention_dropout", "norm_order"}
LAYERS = {"feed_forward_dim", "encoder_layers"}
TRAINING = {"hidden_dim", "learning_rate", "weight_decay", "batch_size"}
KINDS = {"encoder", "layer_norm", "fusion", "apply_dropout"}


def space_of(**more: Any) -> dict[str, list[Any]]:
    return search_space(make_config({**MSA, **more}), {**MSA, **more})


def keys_drawn(wanted: Mapping[str, Any]) -> set[str]:
    """Of a trial that draws `wanted`, and otherwise the first choices."""
    return set(drawn(space_of(), MSA, lambda key, choices: wanted.get(key, choices[0])))


def test_the_space_has_the_keys_of_the_ablations() -> None:
    space = space_of()
    assert set(space) == KINDS | ATTENTION | LAYERS | TRAINING | {"dropout"}
    assert space["encoder"] == ["lstm", "transformer"] and space["layer_norm"] == [True, False]
    assert list(space)[:5] == ["norm_order", "encoder", "layer_norm", "fusion", "apply_dropout"], "or seeds draw others"


@pytest.mark.parametrize(("wanted", "keys"), [
    ({}, set()), ({"apply_dropout": True}, {"dropout"}), ({"encoder": "transformer"}, ATTENTION | LAYERS),
    ({"fusion": "self_attention"}, ATTENTION), ({"fusion": "cross_attention"}, ATTENTION)],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "")
def test_a_trial_has_the_keys_that_have_a_use(wanted: dict[str, Any], keys: set[str]) -> None:
    assert keys_drawn(wanted) == KINDS | TRAINING | keys


@pytest.mark.parametrize("kinds", [{}, {"encoder": "transformer"}, {"fusion": "self_attention"},
                                   {"apply_dropout": True}])
def test_idle_keys_are_exactly_those_that_change_no_network(kinds: dict[str, Any]) -> None:
    """For every key of the model, any other of its choices is tried."""
    config = make_config({**MSA, **kinds})
    for key, choices in space_of().items():
        if key not in TRAINING - {"hidden_dim"} and key not in kinds:
            other = next(choice for choice in choices if choice != getattr(config, key))
            changed = build_graph(make_config({**MSA, **kinds, key: other})) != build_graph(config)
            assert changed == (key not in config.idle), key


def test_choices_that_inputs_can_t_take_or_tell_apart_are_left_out() -> None:
    assert space_of(modalities="text")["fusion"] == ["sum_lstm", "self_attention"]
    assert space_of(modalities="text,audio")["fusion"] == space_of()["fusion"]
    assert "apply_dropout" not in space_of(dropout=0.0), "nothing to apply"
    assert "encoder" not in space_of(encoder="transformer")
    assert default_setting(space_of(encoder="transformer"), {**MSA, "encoder": "transformer"}).keys() >= LAYERS


def test_models_without_idle_keys_draw_what_they_drew() -> None:
    fixed = {"dataset": "mosi"}
    space = search_space(make_config(fixed), fixed)
    asked: list[str] = []
    drawn(space, fixed, lambda key, choices: asked.append(key) or choices[0])  # type: ignore[func-returns-value]
    assert asked == list(space)


def test_the_value_is_what_selects_the_epoch() -> None:
    rows = [{"valid_loss": 1.0, "valid_Corr": 0.1}, {"valid_loss": 2.0, "valid_Corr": 0.3}]
    progress = Progress(2, 2.0, 2, 0, rows)
    assert best_value(selection_of(make_config(MSA)), progress) == 0.3
    assert best_value(selection_of(make_config({**MSA, "selection": "loss"})), progress) == 2.0
    task = Task("torch", "", "s", MSA, 1, 0, "max")
    assert sorted([0.1, None, 0.3], key=task.rank) == [0.3, 0.1, None]


def test_the_highest_mean_is_chosen_and_better_is_above() -> None:
    default, other = Setting({"encoder": "lstm"}), Setting({"encoder": "transformer"}, 1, 0.9)
    confirmed = [Confirmed(other, (0.51, 0.52, 0.53)), Confirmed(default, (0.30, 0.31, 0.33))]
    outcome = _choose(Task("torch", "", "s", MSA, 1, 0, "max"), 1, (1, 2, 3), confirmed, default)
    assert outcome.chosen.setting is other and outcome.verdict().endswith("better than the default")
    turned = _choose(Task("torch", "", "s", {**MSA, "selection": "loss"}, 1, 0), 1, (1, 2, 3), confirmed, default)
    assert turned.chosen is turned.default and "lowest mean" in turned.verdict()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four trials, and the best again beside the default one."""
    needs("torch")
    folder = tmp_path_factory.mktemp("kinds")
    search(folder, "torch", "4", "1x2")
    return folder


def search(folder: Path, backend: str, trials: str, confirm: str, *more: str) -> None:
    assert main([*SMALL, "--backend", backend, "--trials", trials, "--confirm", confirm, "--storage",
                 str(folder / f"{backend}.journal"), "--study", "k", "--search_seed", "5", "--found",
                 str(folder / f"{backend}.yaml"), *more]) == 0


def task_of(folder: Path, backend: str = "torch") -> Task:
    return Task(backend, str(folder / f"{backend}.journal"), "k", {}, 0, 0, "max")


def test_the_highest_correlation_is_found(found: Path) -> None:
    trials = open_study(task_of(found)).trials
    assert {trial.state for trial in trials} == {TrialState.COMPLETE} and len(trials) == 4
    best = max(trials, key=lambda trial: trial.value or -9.0)
    text = (found / "torch.yaml").read_text()
    assert f"Trial {best.number} of 4 (4 complete), run seed {best.user_attrs['seed']}" in text
    assert f"the one with the highest validation Corr, {best.value:.5f}" in text
    assert "chosen by the highest mean validation Corr" in text
    values = read_yaml(found / "torch.yaml")
    config = make_config(values)
    assert config.selection == "Corr" and not config.idle & set(values), "no key that has no use"
    for trial in trials:
        assert set(trial.intermediate_values) == {1, 2}
        given = {**MSA, "modalities": "text", "hidden_dim": 8, "batch_size": 128, **trial.params}
        assert not make_config(given).idle & set(trial.params)
    assert len({frozenset(trial.params) for trial in trials}) > 1, "settings of different keys"


def test_it_goes_on_and_is_the_same_again(found: Path, tmp_path: Path) -> None:
    for name in ("torch.journal", "torch.yaml"):
        shutil.copy(found / name, tmp_path)
    search(tmp_path, "torch", "4", "1x2")
    assert (tmp_path / "torch.yaml").read_text().replace(str(tmp_path), "") == \
        (found / "torch.yaml").read_text().replace(str(found), "")
    (tmp_path / "again").mkdir()
    search(tmp_path / "again", "torch", "2", "none")
    first = [(trial.params, trial.value) for trial in open_study(task_of(found)).trials[:2]]
    assert [(trial.params, trial.value) for trial in open_study(task_of(tmp_path / "again")).trials] == first


def test_another_selection_is_another_study(found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(found / "torch.journal", tmp_path)
    flags = [*SMALL, "--storage", str(tmp_path / "torch.journal"), "--study", "k", "--selection", "loss"]
    assert main(flags) == 2
    only_error(capsys.readouterr().err, "study k", "another program or selection", "doesn't minimise")
    assert main([*flags[:-1], "MAE"]) == 2


@pytest.mark.parametrize("change", ["more", "fewer"])
def test_a_trial_with_other_keys_than_had_a_use_is_refused(change: str, found: Path, tmp_path: Path) -> None:
    shutil.copy(found / "torch.journal", tmp_path)
    fixed = {**MSA, "modalities": "text", "hidden_dim": 8, "batch_size": 128}
    study, space = open_study(task_of(tmp_path)), search_space(make_config(fixed), fixed)
    check_trials(study, space, fixed, "here")
    params = drawn(space, fixed, lambda key, choices: choices[0])
    if change == "more":
        params["attention_heads"] = 4  # beside an LSTM that is summed
    else:
        del params["learning_rate"]
    study.add_trial(create_trial(value=0.5, params=params, user_attrs={"seed": 1, "best_epoch": 1}, distributions={
        key: CategoricalDistribution(space[key]) for key in params}))
    with pytest.raises(UserError, match=r"trial 4: isn't one of this search \(its setting"):
        check_trials(study, space, fixed, "here")


@pytest.mark.parametrize("backend", ["mindspore", "paddle"])
def test_every_backend_makes_the_same_search(backend: str, found: Path, tmp_path: Path) -> None:
    """The first settings are drawn from the search seed alone; float32 runs of two epochs differ by rounding.

    Measured: Corr at most 4e-7 apart in six trials; some hundred times that is allowed.
    """
    needs(backend)
    search(tmp_path, backend, "2", "none")
    for mine, reference in zip(open_study(task_of(tmp_path, backend)).trials, open_study(task_of(found)).trials,
                               strict=False):
        assert mine.params == reference.params
        assert mine.value == pytest.approx(reference.value, abs=1e-4)


def test_data_of_one_s_own_by_a_file_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker stands in another folder than the call; what is found says all that the file says, and needs it no more.
    """
    content = {"name": "own", "file": "own.pkl", "label": "y", "outputs": ["calm"], "range": [1, 5],
               "inputs": [{"name": "text", "shape": [4, 3]}], "synthetic_rows": [40, 12, 8]}
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(yaml.safe_dump(content))
    assert main(["--dataset", "own.yaml", *SMALL[2:], "--trials", "1", "--confirm", "none", "--found", "f.yaml"]) == 0
    Path("own.yaml").unlink()
    found = make_config(read_yaml(Path("f.yaml")))
    assert found.known.task.label_range == (1, 5) and found.described.inputs[0].shape == (4, 3)
