from parity.bounds import FORWARD, GRADIENT, STATISTICS  # noqa: F401
