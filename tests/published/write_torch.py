"""Writes what users of the original have. Run as `python write_torch.py SIZES`, beside rows.npz."""
from __future__ import annotations

import copy
import json
import sys

import model  # beside this file
import numpy as np
import torch

torch.manual_seed(1)
sizes = json.loads(sys.argv[1])
network = model.LMF(sizes)
rows = {name: torch.from_numpy(value) for name, value in np.load("rows.npz").items()}
with torch.no_grad():
    for name, buffer in network.named_buffers():  # statistics as after some training
        buffer.copy_(torch.rand(buffer.shape) + 0.2 if name.endswith("var") else torch.randn(buffer.shape))
    for name, value in network.named_parameters():
        if ".norm." in name:
            value.add_(torch.randn(value.shape) * 0.2)
    network.eval()
    double = copy.deepcopy(network).double()
    np.save("torch.npy", double(*(rows[name] for name in ("audio", "video", "text"))).numpy())
legacy = {"_use_new_zipfile_serialization": False}
torch.save(network, "module_zip.pt")
torch.save(network, "module_legacy.pt", **legacy)
torch.save({"epoch": 3, "model": network}, "module_wrapped.pt")
torch.save(network.state_dict(), "dict_zip.pt")
torch.save(network.state_dict(), "dict_legacy.pt", **legacy)
torch.save(double.state_dict(), "dict_double.pt")
torch.save({"epoch": 3, "state_dict": network.state_dict(),
            "optimizer": torch.optim.Adam(network.parameters()).state_dict()}, "wrapped.pt")
torch.save(torch.nn.DataParallel(network), "parallel.pt")
torch.save(torch.nn.DataParallel(network).state_dict(), "parallel_dict.pt")
torch.save({name: value.bfloat16() for name, value in network.state_dict().items()}, "dict_bfloat16.pt")
