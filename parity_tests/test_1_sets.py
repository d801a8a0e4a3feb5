"""Rung 1: which tensors there are, and which optimizer group holds each."""
from __future__ import annotations

from parity_tests.conftest import Lab


def test_names_shapes_and_dtypes(lab: Lab) -> None:
    state = lab.session.state()
    shapes = {name: value.shape for name, value in state.weights.items()}
    assert shapes == {p.name: p.shape for p in lab.spec.parameters}
    for moments in (state.exp_avg, state.exp_avg_sq):
        assert {name: value.shape for name, value in moments.items()} == {p.name: p.shape for p in lab.spec.trainable}
    for part in (state.weights, state.exp_avg, state.exp_avg_sq):
        assert {str(value.dtype) for value in part.values()} == {lab.config.precision}


def test_each_trainable_parameter_is_in_exactly_one_group(lab: Lab) -> None:
    """Published ports trained running statistics, or left the fusion weights out."""
    groups = lab.session.optimizer_groups()
    assert set(groups) == {p.group for p in lab.spec.trainable}
    for name, members in groups.items():
        assert sorted(members) == sorted(p.name for p in lab.spec.parameters if p.group == name)
        assert len(members) == len(set(members))
