"""LMF and TFN: a package per framework, all with the same files and functions."""
import core  # noqa: F401  before all else: it takes the signals of a command
