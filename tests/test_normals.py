"""Normals made of + - * / and sqrt: how exact they are, and that no CPU has a say in their bits."""
from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from decimal import Decimal, localcontext

import numpy as np
import pytest
from numpy.core._multiarray_umath import (  # type: ignore[attr-defined]
    __cpu_baseline__,
    __cpu_dispatch__,
    __cpu_features__,
)

from core.common.arrays import F64
from core.common.normals import cos_of_turns, log, normals
from core.config import build_graph, make_config
from core.data.published import feature_inputs
from core.data.synthetic import synthetic
from core.training.randomness import initial_weights
from tests.running import ROOT, environment

PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494")
EDGES = [0.0, 2.0**-53, 0.125 - 2.0**-53, 0.125, 0.125 + 2.0**-53, 0.25, 0.25 + 2.0**-53, 0.375, 0.5, 0.625, 0.75,
         0.875, 1 - math.sqrt(0.5), 1 - 2.0**-53]
BOUND = 2.0**-50  # derived in core/common/normals.py
PINNED = {  # float64: a last bit that changes is seen here
    "audio_factor": "736b8b66765e500c",
    "text_factor": "434848062d64e9be",
    "fusion_weights": "f5274ab4012335ae",
    "synthetic audio": "7af745a2d29a6e3d",
}
DISPATCHED = [name for name in __cpu_dispatch__ if __cpu_features__[name] and name not in __cpu_baseline__]


def digests() -> dict[str, str]:
    """Of float64 weights of a network at published sizes, and of synthetic data."""
    config = make_config({"dataset": "iemocap", "rank": 16, "data": "synthetic"})
    weights = initial_weights(build_graph(config, feature_inputs(74, 35, 300, 20)), 7, "float64")
    found = {name: hashlib.sha256(weights[name].tobytes()).hexdigest()[:16] for name in PINNED if name in weights}
    audio = synthetic(config).splits["valid"].arrays["audio"]
    return {**found, "synthetic audio": hashlib.sha256(audio.tobytes()).hexdigest()[:16]}


def cosine(turns: float) -> Decimal:
    """cos(2 pi v) to the precision of the context, by its series."""
    x = 2 * PI * Decimal(turns)
    term = total = Decimal(1)
    k = 0
    while abs(term) > Decimal(10)**-58:
        k += 2
        term = -term * x * x / (k * (k - 1))
        total += term
    return total


def draws(count: int) -> tuple[F64, F64]:
    """Uniforms on the grid that the stream has, all pairs of edges among them."""
    random = np.random.default_rng(0).integers(0, 2**53, (2, count)) * 2.0**-53
    pairs = np.array([(one, other) for one in EDGES for other in EDGES]).T
    first, second = np.concatenate([pairs, random], axis=1)
    return first, second


def test_normals_are_box_and_mullers() -> None:
    first, second = draws(2000)
    with localcontext() as context:
        context.prec = 60
        for got, u, v in zip(normals(first, second), first, second, strict=True):
            radius = (-2 * (1 - Decimal(float(u))).ln()).sqrt()
            want = radius * cosine(v)
            if v in (0.25, 0.75) or radius == 0:  # the cosine of a quarter turn is 0, and 60 digits of pi don't say so
                assert got == 0
            else:
                assert abs(Decimal(float(got)) - want) <= Decimal(BOUND) * abs(want), (u, v)


def test_log_and_cosine_beside_numpys() -> None:
    """NumPy's are within a unit in the last place of the truth; cos(2 pi v) carries the rounding of 2 pi v."""
    first, second = draws(20_000)
    x = 1 - first
    np.testing.assert_allclose(log(x), np.log(x), rtol=BOUND, atol=0)
    np.testing.assert_allclose(cos_of_turns(second), np.cos(2 * np.pi * second), rtol=0, atol=8 * 2.0**-52)


def test_pinned_bits() -> None:
    """A change of any of these makes float64 runs irreproducible."""
    assert digests() == PINNED


@pytest.mark.skipif(not DISPATCHED, reason="this CPU has nothing beyond NumPy's baseline to switch off")
def test_the_same_bits_without_the_cpus_extensions() -> None:
    """NumPy's own log and cos differ here on a machine with AVX-512."""
    code = "from tests.test_normals import digests; print(digests())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True,
                          env=environment(ROOT, {"NPY_DISABLE_CPU_FEATURES": " ".join(DISPATCHED)}))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(digests())
