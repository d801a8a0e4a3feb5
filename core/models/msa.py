"""MSA, the LSTM fusion model of a course on multimodal sentiment analysis, for aligned sequences, and its ablations.

Per modality LayerNorm, a linear layer with ReLU and an LSTM over all steps; the outputs are added, and the last state
of a second LSTM over the sum gives the score. Names of parameters are those of the course's code, so its checkpoints
can be converted.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from core.common.errors import UserError
from core.common.keys import Probability, Width, searched
from core.data.specs import DataSpec, InputSpec
from core.models.graph import Builder, Ref
from core.models.model import Model
from core.models.transformer import TransformerKeys, encoder, residual_attention

FUSIONS = ("sum_lstm", "concat_lstm", "self_attention", "cross_attention")


class MSAKeys(TransformerKeys):
    """Defaults are the course's model."""

    encoder: Literal["lstm", "transformer"] = Field(
        "lstm", description="what reads a modality's steps", json_schema_extra=searched("lstm", "transformer"))
    layer_norm: bool = Field(True, description="LayerNorm on the features, in front of the linear layer",
                             json_schema_extra=searched(True, False))
    fusion: Literal["sum_lstm", "concat_lstm", "self_attention", "cross_attention"] = Field(
        "sum_lstm", description="sum_lstm, concat_lstm: an LSTM over the modalities' steps, added or side by side; "
                                "self_attention: all steps of all modalities attend to each other, their mean counts; "
                                "cross_attention: each modality attends to the others, then as sum_lstm",
        json_schema_extra=searched(*FUSIONS))
    hidden_dim: Width = Field(128, description="width of the linear layers, the encoders and the fusion",
                              json_schema_extra=searched(32, 64, 128, 256))
    dropout: Probability = Field(
        0.1, description="dropout between encoders and fusion; idle unless apply_dropout",
        json_schema_extra=searched(0.1, 0.3, 0.5))
    apply_dropout: bool = Field(
        False, description="the course gives its one-layer LSTMs a dropout of 0.1, which no framework applies to one "
                           "layer; true applies it between encoders and fusion",
        json_schema_extra=searched(False, True))

    @property
    def idle(self) -> frozenset[str]:
        """Keys of attention without attention, and the dropout that isn't applied."""
        found = super().idle
        if not _attends(self):
            found |= {"attention_heads", "attention_dropout", "norm_order"}
        if self.encoder != "transformer":
            found |= {"feed_forward_dim", "encoder_layers"}
        return found if self.apply_dropout else found | {"dropout"}


def msa(b: Builder, keys: MSAKeys, data: DataSpec) -> Ref:
    """y = low + (high - low) sigmoid(W h + b), h the last state of an LSTM over the sum of what the encoders give.

    Without a sigmoid where the outputs are logits of classes.
    """
    _check(keys, data)
    encoded, real = [], []
    for one in data.inputs:
        x = b.input(one.name)
        steps = b.add("real_steps", x, name=f"{one.name}_real") if _attends(keys) else x  # (B, T)
        x = b.add("layer_norm", x, name=f"{one.name}_norm") if keys.layer_norm else x  # (B, T, D)
        x = b.add("linear", x, name=f"{one.name}_fc", out=keys.hidden_dim, activation="relu")  # (B, T, E)
        if keys.encoder == "lstm":
            x = b.add("lstm", x, name=f"{one.name}_lstm", hidden=keys.hidden_dim, sequence=True)
        else:
            x = encoder(b, x, steps, f"{one.name}_transformer", keys)
        encoded.append(b.dropout(x, keys.dropout if keys.apply_dropout else 0.0, f"{one.name}_dropout"))
        real.append(steps)
    h = _fused(b, keys, data.names, encoded, real)  # (B, E)
    y = b.add("linear", h, name="fc", out=data.task.outputs)  # (B, O)
    if data.task.label_range is None:
        return y
    low, high = data.task.label_range
    return b.add("scaled_sigmoid", y, name="scores", low=low, high=high)


def _attends(keys: MSAKeys) -> bool:
    return keys.encoder == "transformer" or keys.fusion in ("self_attention", "cross_attention")


def _fused(b: Builder, keys: MSAKeys, names: Sequence[str], xs: Sequence[Ref], real: Sequence[Ref]) -> Ref:
    """(B, T, E) of each modality -> (B, E)."""
    if keys.fusion == "self_attention":
        steps = _joined(b, "concat", real, "mm_real")
        x = _joined(b, "concat_steps", xs, "mm_steps")  # (B, M T, E)
        x = residual_attention(b, x, x, steps, "mm_attention", keys, "norm1")
        return b.add("mean_steps", x, steps, name="mm_mean")
    if keys.fusion == "cross_attention":
        attended = []
        for place, name in enumerate(names):
            others = [*xs[:place], *xs[place + 1:]]
            steps = _joined(b, "concat", [*real[:place], *real[place + 1:]], f"{name}_others_real")
            memory = _joined(b, "concat_steps", others, f"{name}_others")  # (B, (M - 1) T, E)
            attended.append(residual_attention(b, xs[place], memory, steps, f"{name}_attention", keys, "norm1"))
        xs = attended
    x = _joined(b, "concat" if keys.fusion == "concat_lstm" else "add", xs, "mm_input")  # (B, T, E), or (B, T, M E)
    return b.add("lstm", x, name="mm_lstm", hidden=keys.hidden_dim)


def _joined(b: Builder, kind: str, xs: Sequence[Ref], name: str) -> Ref:
    """One value of several; one alone stays what it is."""
    return b.add(kind, *xs, name=name) if len(xs) > 1 else xs[0]


def _check(keys: MSAKeys, data: DataSpec) -> None:
    """Raises UserError, one line, for data or keys that don't go together."""
    names = ", ".join(data.names)
    for one in data.inputs:
        if one.layout != "sequence":
            others = ",".join(other.name for other in data.inputs if other.layout == "sequence")
            raise UserError(f"{one.name}: one vector of {one.width} numbers per row; msa takes sequences, (rows, "
                            f"steps, width); use model lmf or tfn{f', or --modalities {others}' if others else ''}")
    if keys.fusion == "cross_attention" and len(data.inputs) < 2:
        raise UserError(f"fusion = 'cross_attention': {names} has no other modality to attend to; use fusion "
                        "self_attention, or add a modality")
    if keys.fusion != "self_attention" and len({one.shape[0] for one in data.inputs}) > 1:
        raise UserError(f"fusion = {keys.fusion!r}: joins modalities step by step, but there are "
                        f"{_steps(data.inputs)}; align them, or use fusion self_attention")
    if _attends(keys) and keys.hidden_dim % keys.attention_heads:
        raise UserError(f"attention_heads = {keys.attention_heads}: does not divide hidden_dim, {keys.hidden_dim}; "
                        "choose heads that do")


def _steps(inputs: Sequence[InputSpec]) -> str:
    return ", ".join(f"{one.shape[0]} steps of {one.name}" for one in inputs)


MODEL = Model(
    "msa", "LSTM or attention fusion of aligned sequences (a course's model)", MSAKeys, msa, sequences=True,
    defaults={"loss": "mse", "loss_reduction": "mean", "schedule": "cosine", "epochs": 20, "selection": "Corr"})
