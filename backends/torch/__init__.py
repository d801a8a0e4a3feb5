"""LMF and TFN in PyTorch."""
