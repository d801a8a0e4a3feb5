"""Tolerances, relative to the largest magnitude of the tensor, with their reasons.

float64 decides semantics: a wrong constant (BatchNorm's biased variance, Adam's eps within the root) shows
at 1e-2 to 1e-8, rounding at 1e-16 times the length of the longest sum. 1e-12 lies between by orders.

float32 has a unit roundoff of 6e-8. Measured against float64 on these shapes and on the published ones:
forward up to 9e-7 (the LSTM's 20 steps), gradients up to 3e-6. The bounds are three times that.
"""
FORWARD = {"float64": 1e-12, "float32": 3e-6}
GRADIENT = {"float64": 1e-12, "float32": 1e-5}
STATISTICS = {"float64": 1e-12, "float32": 1e-6}  # measured 3.5e-7
# Losses within the first epoch, and state after one Adam step, which divides a gradient by its own size and so turns
# a rounding of the smallest gradients into one of the update. Measured within 200 steps: float64 4e-15 on MOSI, POM
# and IEMOCAP, float32 up to 5e-5.
DRIFT = {"float64": 1e-12, "float32": 1e-4}
