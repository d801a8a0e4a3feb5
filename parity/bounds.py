"""Tolerances, relative to what was summed into each element (core.common.rounding), with their reasons.

float64 decides semantics: a wrong constant (BatchNorm's biased variance, Adam's eps within the root) shows
at 1e-2 to 1e-8, rounding at 1e-16 times the length of the longest sum. 1e-12 lies between by orders.

float32 has a unit roundoff u of 6e-8. Kernels add up in their own order; the worst takes n terms of one sign one after
the other, which is off by about sqrt(n / 3) u of their sum. 3e-6 is 50 u and holds for sums of 7,500 terms: rows of a
batch, inputs of a layer. How much of it is used: `python -m parity_tests.alarms`.
"""
FORWARD = {"float64": 1e-12, "float32": 3e-6}
STATISTICS = FORWARD  # means over a batch
# A gradient sums over the rows what a channel's mean and deviation have gone into, and these are off in all rows alike:
# so by sqrt(rows) more than independent roundings are. Where rounding can turn a ReLU on or off, its jump is allowed.
GRADIENT = {"float64": 1e-12, "float32": 1e-5}
# One Adam step link by link: some ten operations, nothing summed. 16 u and 90 u; a second moment whose 1 - beta2 was
# taken of a rounded beta2 is 1.3e-5 off.
STEP = {"float64": 1e-14, "float32": 1e-6}
# Losses within the first epoch, relative to themselves. Adam divides a gradient by its own size and so turns a rounding
# of the smallest gradients into one of the update. Measured within 200 steps: float64 3e-14 on MOSI, POM and IEMOCAP,
# float32 up to 5e-5.
DRIFT = {"float64": 1e-12, "float32": 1e-4}
