"""What the speed of training is, and that of LMF against TFN."""
import core  # noqa: F401  before all else: it takes the signals of a command
