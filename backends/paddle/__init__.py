"""LMF and TFN in Paddle."""
from __future__ import annotations

import os
import warnings

from core.config import Config

# Paddle looks for a compiler cache when imported; nothing is compiled here.
warnings.filterwarnings("ignore", message="No ccache found", category=UserWarning)


def prepare(config: Config) -> None:
    """Before `import paddle`, which reads them once: MKL_NUM_THREADS is the one that sets its threads.

    With OMP_NUM_THREADS above 1 it prints a warning about data-parallel training, which isn't done here.
    """
    os.environ["MKL_NUM_THREADS"] = str(config.threads)
    os.environ["OMP_NUM_THREADS"] = "1"
    if config.device.startswith("cuda") and not config.tf32:
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # Paddle's LSTM asks cuDNN for its default, which is TF32
