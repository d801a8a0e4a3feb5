"""LMF in Paddle."""
from __future__ import annotations

import os
import warnings

from core.config import Config


def prepare(config: Config) -> None:
    """Set what Paddle reads once, when imported, and silence what it says then about other uses than ours."""
    os.environ["MKL_NUM_THREADS"] = str(config.threads)  # this one sets its threads
    os.environ["OMP_NUM_THREADS"] = "1"  # above 1 Paddle prints a warning about data-parallel training
    warnings.filterwarnings("ignore", message="No ccache found", category=UserWarning)  # nothing is compiled here
