"""What core.training.scale refuses for its scale is what BatchNorm loses in every backend."""
from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from core.common.errors import UserError
from core.training.scale import scale_notes
from parity_tests.conftest import ROWS


@pytest.mark.parametrize("scale", [1e-2, 1e17, 1e20, 1e30])
def test_what_is_refused_for_its_scale_is_lost(open_lab: Any, backend: str, precision: str, scale: float) -> None:
    """Where the sum of squares overflows, every backend normalises all rows to the same; just there core refuses."""
    lab = open_lab(backend, precision, "audio video")
    audio = lab.arrays["audio"] * np.asarray(scale, precision)
    batch = lab.batch(slice(0, ROWS))
    normal = lab.session.forward(replace(batch, inputs={**batch.inputs, "audio": audio}), True)["audio_subnet.norm"]
    lost = bool((normal == normal[0]).all())
    assert lost is (precision == "float32" and scale > 1e18)
    with pytest.raises(UserError) if lost else nullcontext():
        scale_notes({**lab.arrays, "audio": audio}, lab.graph, lab.config, "here")


@pytest.mark.parametrize("scale", [1e-2, 1e17, 1e20, 1e30])
def test_what_is_refused_before_layer_norm_is_lost(open_lab: Any, backend: str, precision: str, scale: float) -> None:
    """Every step becomes LayerNorm's bias, or NaN."""
    lab = open_lab(backend, precision, "course")
    vision = lab.arrays["vision"] * np.asarray(scale, precision)
    batch = lab.batch(slice(0, ROWS))
    normal = lab.session.forward(replace(batch, inputs={**batch.inputs, "vision": vision}), True)["vision_norm"]
    lost = bool(np.isnan(normal).any() or (normal == lab.state.weights["vision_norm.bias"]).all())
    assert lost is (precision == "float32" and scale > 1e18)
    with pytest.raises(UserError) if lost else nullcontext():
        scale_notes({**lab.arrays, "vision": vision}, lab.graph, lab.config, "here")
