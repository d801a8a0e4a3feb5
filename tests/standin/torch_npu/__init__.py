"""A stand-in for torch_npu on host memory, which only tests put on the path. Importing it makes the device `npu`."""
from pathlib import Path

import torch

torch.ops.load_library(str(Path(__file__).with_name("standin.so")))
torch.utils.rename_privateuse1_backend("npu")

from torch_npu import npu  # noqa: E402  # what it asks has a name from here on

torch._register_device_module("npu", npu)
torch.utils.generate_methods_for_privateuse1_backend()
