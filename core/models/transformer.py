"""The Transformer encoder (Vaswani et al., NeurIPS 2017) as blocks: what torch.nn.TransformerEncoder computes.

Activation ReLU, LayerNorm eps 1e-5; dropout stands on what attention and feed-forward layers give, not on the
attention's weights and not between the two linear layers.
"""
from __future__ import annotations

from typing import Literal

from pydantic import Field

from core.common.keys import Keys, Probability, Width, searched
from core.models.graph import Builder, Ref


class TransformerKeys(Keys):
    """What attention blocks have."""

    attention_heads: Width = Field(4, description="heads of attention; they divide hidden_dim",
                                   json_schema_extra=searched(1, 4, 8))
    feed_forward_dim: Width = Field(256, description="inner width of the Transformer's feed-forward layers",
                                    json_schema_extra=searched(128, 256, 512))
    encoder_layers: Width = Field(1, description="layers of the Transformer encoder",
                                  json_schema_extra=searched(1, 2))
    norm_order: Literal["post", "pre"] = Field(
        "post", description="LayerNorm behind the sum with what a layer was given, as in the paper, or in front of the "
                            "layer, with one more behind the last",
        json_schema_extra=searched("post", "pre"))
    attention_dropout: Probability = Field(
        0.0, description="dropout on what attention and feed-forward layers give",
        json_schema_extra=searched(0.0, 0.1, 0.3))


def encoder(b: Builder, x: Ref, real: Ref, name: str, keys: TransformerKeys) -> Ref:
    """(B, T, E), its real steps (B, T) -> (B, T, E)."""
    x = b.add("positions", x, name=f"{name}.positions")
    for place in range(keys.encoder_layers):
        layer = f"{name}.layers.{place}"
        x = residual_attention(b, x, x, real, layer, keys, "norm1")
        x = _feed_forward(b, x, layer, keys)
    return b.add("layer_norm", x, name=f"{name}.norm") if keys.norm_order == "pre" else x


def residual_attention(b: Builder, query: Ref, memory: Ref, real: Ref, name: str, keys: TransformerKeys,
                       norm: str) -> Ref:
    """(B, T, E), what it attends to (B, S, D), its real steps (B, S) -> (B, T, E): attention, added to the query."""
    before = query
    if keys.norm_order == "pre":
        query = b.add("layer_norm", before, name=f"{name}.{norm}")
        memory = query if memory is before else memory
    y = b.add("attention", query, memory, real, name=f"{name}.self_attn" if memory is query else f"{name}.cross_attn",
              heads=keys.attention_heads)
    y = b.dropout(y, keys.attention_dropout, f"{name}.dropout1")
    y = b.add("add", before, y, name=f"{name}.sum1")
    return y if keys.norm_order == "pre" else b.add("layer_norm", y, name=f"{name}.{norm}")


def _feed_forward(b: Builder, x: Ref, name: str, keys: TransformerKeys) -> Ref:
    """(B, T, E) -> (B, T, E): two linear layers, added to what they were given."""
    y = b.add("layer_norm", x, name=f"{name}.norm2") if keys.norm_order == "pre" else x
    y = b.add("linear", y, name=f"{name}.linear1", out=keys.feed_forward_dim, activation="relu")  # (B, T, F)
    y = b.add("linear", y, name=f"{name}.linear2", out=x.shape[-1])
    y = b.dropout(y, keys.attention_dropout, f"{name}.dropout2")
    y = b.add("add", x, y, name=f"{name}.sum2")
    return y if keys.norm_order == "pre" else b.add("layer_norm", y, name=f"{name}.norm2")
