"""What LMF's and TFN's originals share: a subnet per modality, its keys, and the group of what fuses them.

Source: Liu & Shen et al., ACL 2018, and Zadeh et al., EMNLP 2017, and the authors' code of both.
"""
from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from core.common.errors import UserError
from core.common.keys import Keys, Probability, Rate, Width, searched
from core.data.specs import DataSpec, InputSpec
from core.models.graph import Builder, Ref

DROPOUTS = (0.0, 0.1, 0.15, 0.2, 0.3, 0.5)
RATES = (0.0003, 0.0005, 0.001, 0.003)
FUSION = "fusion"  # the mask on what is fused, and the value it falls on


class Subnet(NamedTuple):
    """hidden: of the LSTM; out: what the subnet gives, and the width of dense layers."""

    hidden: int
    out: int
    dropout: float


class SubnetKeys(Keys):
    """Defaults are the POM "confident" setting of the original authors' hyperparams.txt."""

    audio_hidden: Width = Field(16, description="width of the audio subnet", json_schema_extra=searched(4, 8, 16))
    video_hidden: Width = Field(16, description="width of the video subnet", json_schema_extra=searched(4, 8, 16))
    text_hidden: Width = Field(64, description="hidden size of the text LSTM",
                               json_schema_extra=searched(64, 128, 256))
    text_out: Width = Field(default_factory=lambda given: max(1, given["text_hidden"] // 2),
                            description="width of the text subnet (default: text_hidden // 2)")
    audio_dropout: Probability = Field(0.3, description="dropout on the normalised audio features",
                                       json_schema_extra=searched(*DROPOUTS))
    video_dropout: Probability = Field(0.5, description="dropout on the normalised video features",
                                       json_schema_extra=searched(*DROPOUTS))
    text_dropout: Probability = Field(0.2, description="dropout on the last LSTM state",
                                      json_schema_extra=searched(*DROPOUTS))
    post_fusion_dropout: Probability = Field(
        0.5, description="dropout on what is fused (LMF: rank terms, TFN: outer product); idle unless "
                         "apply_post_fusion_dropout")
    apply_post_fusion_dropout: bool = Field(
        False, description="the original builds the post-fusion dropout and never applies it; true applies it")
    factor_learning_rate: Rate = Field(
        0.0005, description="Adam's rate for what fuses (LMF: the factors, TFN: the fusion tensor)",
        json_schema_extra=searched(*RATES))

    def subnet(self, one: InputSpec) -> Subnet:
        """The keys of an input. Raises UserError for one that has none."""
        known = {
            "audio": Subnet(self.audio_hidden, self.audio_hidden, self.audio_dropout),
            "video": Subnet(self.video_hidden, self.video_hidden, self.video_dropout),
            "text": Subnet(self.text_hidden, self.text_out, self.text_dropout),
        }
        if one.settings not in known:
            raise UserError(f"input {one.name}: this model has keys for {', '.join(known)} alone; say in the data "
                            f"description whose keys {one.name} takes, `keys: audio` for example, or choose another "
                            "--model")
        return known[one.settings]

    def fused_dropout(self) -> float:
        """The rate on what is fused."""
        return self.post_fusion_dropout if self.apply_post_fusion_dropout else 0.0


def subnets(b: Builder, keys: SubnetKeys, data: DataSpec) -> list[Ref]:
    """A subnet per input: rows through BatchNorm and three linear layers, a sequence through an LSTM and one. (B, H)"""
    hidden = []
    for one in data.inputs:
        net, name = keys.subnet(one), f"{one.name}_subnet"
        if one.layout == "sequence":
            x = b.add("lstm", b.input(one.name), name=f"{name}.rnn", hidden=net.hidden)  # (B, T, D) -> (B, L)
            x = b.dropout(x, net.dropout, name)
            x = b.add("linear", x, name=f"{name}.linear_1", out=net.out)  # (B, H)
        else:
            x = b.add("batch_norm", b.input(one.name), name=f"{name}.norm")  # (B, A)
            x = b.dropout(x, net.dropout, name)
            for layer in ("linear_1", "linear_2", "linear_3"):
                x = b.add("linear", x, name=f"{name}.{layer}", out=net.out, activation="relu")  # (B, H)
        hidden.append(x)
    return hidden
